// SPDX-License-Identifier: Apache-2.0
#include "base/limits.h"
#include "stream/channel_codec.h"
#include "stream/forward.h"
#include "stream/port_forward.h"

namespace caisson::stream {
namespace {

class WebSocketForward final : public LinkUser {
 public:
  WebSocketForward(const Loop& loop, Link& link, bool base64, const PortForwardTarget& target)
      : link_(link), base64_(base64) {
    open_ = target.ports.size();
    for (size_t i = 0; i < target.ports.size(); ++i) {
      uint16_t port = target.ports[i];
      const char little_endian[] = {static_cast<char>(port & 0xff), static_cast<char>(port >> 8)};
      for (size_t channel : {2 * i, 2 * i + 1}) Send(channel, std::string_view(little_endian, 2));
      forwards_.push_back(MakeForward(loop, i));
      forwards_.back()->Start(target.pod_id, port, nullptr);
    }
  }
  ~WebSocketForward() override {
    for (auto& forward : forwards_) forward->Stop();
  }

  void OnReceive(std::string_view data) override;
  void OnWritable() override {
    for (auto& forward : forwards_) forward->PauseReading(false);
  }

 private:
  std::shared_ptr<Forward> MakeForward(const Loop& loop, size_t i) {
    Forward::Events events;
    events.data = [this, i](std::string_view data) {
      Send(2 * i, data);
      if (link_.Congested()) forwards_[i]->PauseReading(true);
    };
    events.end = [this] { OnEnd(); };
    events.failure = [this, i](const std::string& why) {
      Send(2 * i + 1, why);
      OnEnd();
    };
    events.taken = [this](size_t) {
      for (auto& forward : forwards_) {
        if (forward->queued() > limits::kStreamBacklogBytes) return;
      }
      link_.PauseReading(false);
    };
    return std::make_shared<Forward>(loop, std::move(events));
  }

  // This protocol cannot close a channel. When the last connection has ended the session has.
  void OnEnd() {
    if (--open_ == 0) link_.Finish();
  }

  void Send(size_t channel, std::string_view data) {
    std::string message = EncodeChannelMessage(static_cast<uint8_t>(channel), data, base64_);
    if (base64_) {
      link_.SendText(std::move(message));
    } else {
      link_.Send(std::move(message));
    }
  }

  Link& link_;
  const bool base64_;
  std::vector<std::shared_ptr<Forward>> forwards_;
  size_t open_ = 0;
};

void WebSocketForward::OnReceive(std::string_view data) {
  auto message = DecodeChannelMessage(data, base64_);
  if (!message || message->channel % 2 != 0 || message->channel / 2u >= forwards_.size()) return;
  Forward& forward = *forwards_[message->channel / 2];
  if (!forward.Write(message->data) && forward.queued() > limits::kStreamBacklogBytes) link_.PauseReading(true);
}

}  // namespace

std::vector<std::string_view> WebSocketForwardProtocols() {
  return {kTunnelProtocol, "v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""};
}

std::unique_ptr<LinkUser> MakeWebSocketForward(const Loop& loop, Link& link, std::string_view protocol,
                                               PortForwardTarget target) {
  if (protocol == kTunnelProtocol) return MakeSpdyForward(loop, link, std::move(target));
  return std::make_unique<WebSocketForward>(loop, link, protocol == "v4.base64.channel.k8s.io", target);
}

}  // namespace caisson::stream
