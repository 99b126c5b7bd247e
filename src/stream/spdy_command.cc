// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <chrono>

#include "stream/process_session.h"
#include "stream/remote_command.h"
#include "stream/spdy_session.h"
#include "stream/status.h"

namespace caisson::stream {
namespace {

constexpr size_t kInputBytes = 64 << 10;  // that wait for room in the FIFO; beyond that the client is not read from

enum Kind { kError, kStdin, kStdout, kStderr, kResize, kKinds };
constexpr std::array<std::string_view, kKinds> kKindNames = {"error", "stdin", "stdout", "stderr", "resize"};

class SpdyCommand final : public LinkUser, private SpdyHandler, private ProcessClient {
 public:
  SpdyCommand(const Loop& loop, Link& link, int version, ExecTarget target, bool attach)
      : link_(link), spdy_(link, *this), version_(version), creation_(*loop.context) {
    wanted_[kError] = true;
    wanted_[kStdin] = target.in;
    wanted_[kStdout] = target.out;
    wanted_[kStderr] = target.err && !target.tty;
    wanted_[kResize] = target.tty && version >= 3;
    ProcessClient& client = *this;
    session_ = std::make_shared<ProcessSession>(loop, client, std::move(target), attach);
    creation_.expires_after(std::chrono::milliseconds(loop.options.creation_timeout_millis));
    // Where the session is, its link is too. (A cancelled timer may have its success under way already.)
    creation_.async_wait([&link, weak = std::weak_ptr(session_)](const boost::system::error_code& error) {
      if (!error && !weak.expired()) link.Abort();
    });
  }
  ~SpdyCommand() override { session_->Stop(); }

  void OnReceive(std::string_view data) override { spdy_.Receive(data); }
  void OnWritable() override {
    spdy_.OnWritable();
    OnSendable();
  }

 private:
  bool OnStream(uint32_t id, const SpdyHeaders& headers) override;
  void OnStreamReady(uint32_t id) override;
  void OnData(uint32_t id, std::string_view data, bool fin) override;
  void OnReset(uint32_t id) override;
  void OnSendable() override {
    if (started_ && !over_) session_->OnWritable();
  }

  void SendOutput(Output which, std::string_view data) override { spdy_.Send(IdOf(which), data, false); }
  bool OutputCongested(Output which) const override { return spdy_.Congested(IdOf(which)); }
  void OnInputTaken(size_t bytes) override;
  void OnOutcome(const Result<int>& exit_code) override;

  uint32_t IdOf(Output which) const { return ids_[which == Output::kOut ? kStdout : kStderr]; }

  Link& link_;
  SpdySession spdy_;
  const int version_;
  std::shared_ptr<ProcessSession> session_;
  std::array<bool, kKinds> wanted_ = {};
  std::array<uint32_t, kKinds> ids_ = {};  // 0: not there (yet)
  bool started_ = false, over_ = false;
  boost::asio::steady_timer creation_;
};

bool SpdyCommand::OnStream(uint32_t id, const SpdyHeaders& headers) {
  std::string_view type = SpdyHeader(headers, "streamtype");
  for (size_t kind = 0; kind < kKinds; ++kind) {
    if (kKindNames[kind] != type) continue;
    if (!wanted_[kind] || ids_[kind] != 0) return false;
    ids_[kind] = id;
    return true;
  }
  return false;
}

void SpdyCommand::OnStreamReady(uint32_t) {
  for (size_t kind = 0; kind < kKinds; ++kind) {
    if (wanted_[kind] && ids_[kind] == 0) return;
  }
  if (started_) return;
  started_ = true;
  creation_.cancel();
  session_->Start();
}

void SpdyCommand::OnData(uint32_t id, std::string_view data, bool fin) {
  if (over_) return spdy_.Consumed(id, data.size());
  if (id != ids_[kStdin]) {
    if (id == ids_[kResize]) session_->OnTerminalSize(data);
    return spdy_.Consumed(id, data.size());
  }
  if (session_->OnInput(data)) {
    spdy_.Consumed(id, data.size());
  } else if (session_->input_queued() > kInputBytes) {
    spdy_.SetBacklogged(true);
  }
  if (fin) session_->OnInputEnd();
}

void SpdyCommand::OnInputTaken(size_t bytes) {
  spdy_.Consumed(ids_[kStdin], bytes);
  spdy_.SetBacklogged(false);
}

void SpdyCommand::OnReset(uint32_t id) {
  // A client that gives up its input has sent all it will. One that gives up an output hears no more of it.
  if (id == ids_[kStdin] && !over_) session_->OnInputEnd();
}

void SpdyCommand::OnOutcome(const Result<int>& exit_code) {
  over_ = true;
  for (Kind kind : {kStdout, kStderr}) {
    if (ids_[kind] != 0) spdy_.Send(ids_[kind], {}, true);
  }
  spdy_.Send(ids_[kError], version_ >= 4 ? StatusJson(exit_code) : StatusText(exit_code), true);
  spdy_.Finish();
}

struct Protocol {
  std::string_view name;
  int version;
};
constexpr Protocol kProtocols[] = {
    {"v4.channel.k8s.io", 4}, {"v3.channel.k8s.io", 3}, {"v2.channel.k8s.io", 2}, {"channel.k8s.io", 1}};

}  // namespace

std::vector<std::string_view> SpdyCommandProtocols() {
  std::vector<std::string_view> names;
  for (const Protocol& protocol : kProtocols) names.push_back(protocol.name);
  return names;
}

std::unique_ptr<LinkUser> MakeSpdyCommand(const Loop& loop, Link& link, std::string_view protocol, ExecTarget target,
                                          bool attach) {
  int version = 1;
  for (const Protocol& known : kProtocols) {
    if (known.name == protocol) version = known.version;
  }
  return std::make_unique<SpdyCommand>(loop, link, version, std::move(target), attach);
}

}  // namespace caisson::stream
