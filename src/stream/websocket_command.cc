// SPDX-License-Identifier: Apache-2.0
#include "base/limits.h"
#include "stream/channel_codec.h"
#include "stream/process_session.h"
#include "stream/remote_command.h"
#include "stream/status.h"

namespace caisson::stream {
namespace {

enum Channel : uint8_t { kStdin = 0, kStdout = 1, kStderr = 2, kError = 3, kResize = 4, kCloseSignal = 255 };

struct Protocol {
  std::string_view name;
  bool base64, json_status, close_signal;
};
constexpr Protocol kProtocols[] = {
    {"v5.channel.k8s.io", false, true, true},        {"v4.channel.k8s.io", false, true, false},
    {"v4.base64.channel.k8s.io", true, true, false}, {"channel.k8s.io", false, false, false},
    {"base64.channel.k8s.io", true, false, false},   {"", false, false, false}};

class WebSocketCommand final : public LinkUser, private ProcessClient {
 public:
  WebSocketCommand(const Loop& loop, Link& link, const Protocol& protocol, ExecTarget target, bool attach)
      : link_(link), protocol_(protocol) {
    ProcessClient& client = *this;
    session_ = std::make_shared<ProcessSession>(loop, client, std::move(target), attach);
    // Clients take an empty message on the first channel that they read as the sign that the server is there.
    const ExecTarget& wanted = session_->target();
    Send(wanted.out ? kStdout : wanted.err ? kStderr : kError, {});
    session_->Start();
  }
  ~WebSocketCommand() override { session_->Stop(); }

  void OnReceive(std::string_view data) override;
  void OnWritable() override {
    if (!over_) session_->OnWritable();
  }

 private:
  void SendOutput(Output which, std::string_view data) override {
    const ExecTarget& wanted = session_->target();
    if (which == Output::kOut ? wanted.out : wanted.err) Send(which == Output::kOut ? kStdout : kStderr, data);
  }
  bool OutputCongested(Output) const override { return link_.Congested(); }
  void OnInputTaken(size_t) override { link_.PauseReading(false); }
  void OnOutcome(const Result<int>& exit_code) override;

  void Send(Channel channel, std::string_view data) {
    std::string message = EncodeChannelMessage(channel, data, protocol_.base64);
    if (protocol_.base64) {
      link_.SendText(std::move(message));
    } else {
      link_.Send(std::move(message));
    }
  }

  Link& link_;
  const Protocol& protocol_;
  std::shared_ptr<ProcessSession> session_;
  bool over_ = false;
};

void WebSocketCommand::OnReceive(std::string_view data) {
  if (over_) return;
  auto message = DecodeChannelMessage(data, protocol_.base64);
  if (!message) return;
  if (protocol_.close_signal && message->channel == kCloseSignal) {
    // A close of any other channel tells nothing that matters here.
    if (message->data.size() != 1) return link_.Abort();
    if (message->data[0] == kStdin) session_->OnInputEnd();
  } else if (message->channel == kResize) {
    session_->OnTerminalSize(message->data);
  } else if (message->channel == kStdin) {
    if (!session_->OnInput(message->data) && session_->input_queued() > limits::kStreamBacklogBytes) {
      link_.PauseReading(true);
    }
  }
}

void WebSocketCommand::OnOutcome(const Result<int>& exit_code) {
  over_ = true;
  std::string status = protocol_.json_status ? StatusJson(exit_code) : StatusText(exit_code);
  if (!status.empty()) Send(kError, status);
  link_.Finish();
}

}  // namespace

std::vector<std::string_view> WebSocketCommandProtocols() {
  std::vector<std::string_view> names;
  for (const Protocol& protocol : kProtocols) names.push_back(protocol.name);
  return names;
}

std::unique_ptr<LinkUser> MakeWebSocketCommand(const Loop& loop, Link& link, std::string_view protocol,
                                               ExecTarget target, bool attach) {
  const Protocol* chosen = &kProtocols[std::size(kProtocols) - 1];
  for (const Protocol& known : kProtocols) {
    if (known.name == protocol) chosen = &known;
  }
  return std::make_unique<WebSocketCommand>(loop, link, *chosen, std::move(target), attach);
}

}  // namespace caisson::stream
