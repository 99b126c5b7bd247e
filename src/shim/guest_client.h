// SPDX-License-Identifier: Apache-2.0
//
// GuestClient: typed calls to the agent in a VM, on the companion's loop. Answers are hostile: they are bounded by the frame's
// limit and parsed strictly, and what they say is never a path of the host's. When the VM has ended every call, also those
// under way, fails with kUnavailable and the reason. One thread, the loop's.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "shim/call_counts.h"
#include "ttrpc/client.h"

namespace caisson::shim {

namespace guest_service {
inline constexpr std::string_view kGuest = "caisson.guest.v1.Guest";
inline constexpr std::string_view kTask = "containerd.task.v3.Task";
inline constexpr std::string_view kPod = "caisson.pod.v1.Pod";
}  // namespace guest_service

class GuestClient {
 public:
  static constexpr int64_t kTimeoutMillis = 30'000;
  using Reply = std::function<void(Result<std::string>)>;

  // The agent has been greeted.
  void Connect(std::shared_ptr<ttrpc::Client> client) { client_ = std::move(client); }
  // There is no agent any more, another will come. The former connection, closed, whose callback we may be in.
  [[nodiscard]] std::shared_ptr<ttrpc::Client> Disconnect() {
    if (client_) client_->Close();
    return std::exchange(client_, nullptr);
  }
  // Ends all calls with this reason.
  void End(std::string reason) {
    reason_ = std::move(reason);
    if (client_) client_->Close();
  }
  bool ended() const { return !reason_.empty(); }
  const std::string& reason() const { return reason_; }
  // Of the calls so far.
  const CallCounts& counts() const { return counts_; }

  // `timeout_millis` ttrpc::Client::kNoTimeout: until the VM ends.
  void Call(std::string_view service, std::string_view method, std::string payload, int64_t timeout_millis, Reply reply) {
    if (ended() || !client_) return reply(Unavailable());
    auto call = counts_.Begin(service, method);
    client_->Call(service, method, std::move(payload), timeout_millis, [this, call, reply = std::move(reply)](Result<std::string> payload) {
      CallCounts::End(call, payload.has_value());
      if (!payload && payload.error().code == Code::kUnavailable && ended()) return reply(Unavailable());
      reply(std::move(payload));
    });
  }

  template <class Response, class Request>
  void Call(std::string_view service, std::string_view method, const Request& request, int64_t timeout_millis,
            std::function<void(Result<Response>)> done) {
    Call(service, method, request.SerializeAsString(), timeout_millis, [method = std::string(method), done = std::move(done)](Result<std::string> payload) {
      if (!payload) return done(std::move(payload.error()));
      Response response;
      if (!response.ParseFromString(*payload)) return done(MakeError(Code::kInternal, "the guest's answer to {} does not parse", method));
      done(std::move(response));
    });
  }

 private:
  Error Unavailable() const { return MakeError(Code::kUnavailable, "{}", ended() ? reason_ : "the VM has not been started"); }

  std::shared_ptr<ttrpc::Client> client_;
  std::string reason_;
  CallCounts counts_;
};

}  // namespace caisson::shim
