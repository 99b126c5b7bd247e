// SPDX-License-Identifier: Apache-2.0
//
// ForeignClient: typed calls of the Task service to another project's shim, on the companion's loop. What it answers is bounded by the frame's
// limit and parsed strictly. Every call but Wait has a deadline; a shim that lets one of Call pass is given up: `on_silent` runs. When the
// shim has ended every call, also those under way, fails with kUnavailable and the reason. One thread, the loop's.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "ttrpc/client.h"

namespace caisson::shim {

class ForeignClient {
 public:
  // Runs with what was not answered; not within a call.
  using OnSilent = std::function<void(const std::string& what)>;

  explicit ForeignClient(OnSilent on_silent) : on_silent_(std::move(on_silent)) {}

  // `version` of the Task service: 2 or 3.
  void Connect(std::shared_ptr<ttrpc::Client> client, int version) {
    client_ = std::move(client);
    service_ = version == 2 ? "containerd.task.v2.Task" : "containerd.task.v3.Task";
  }
  void End(std::string reason) {
    if (ended()) return;
    reason_ = std::move(reason);
    if (client_) client_->Close();
  }
  bool ended() const { return !reason_.empty(); }
  const std::string& reason() const { return reason_; }

  template <class Response, class Request>
  void Call(const char* method, const Request& request, int64_t timeout_millis, std::function<void(Result<Response>)> done) {
    Send<Response>(method, request, timeout_millis, [this, done = std::move(done)](Result<Response> answer) {
      if (answer || ended() || answer.error().code != Code::kDeadlineExceeded) return done(std::move(answer));
      std::string what = answer.error().message;
      done(std::move(answer));
      on_silent_(what);
    });
  }

  // A call whose failure has no consequences.
  template <class Response, class Request>
  void Ask(const char* method, const Request& request, int64_t timeout_millis, std::function<void(Result<Response>)> done) {
    Send<Response>(method, request, timeout_millis, std::move(done));
  }

 private:
  template <class Response, class Request>
  void Send(const char* method, const Request& request, int64_t timeout_millis, std::function<void(Result<Response>)> done) {
    if (ended() || !client_) return done(Unavailable());
    client_->Call(service_, method, request.SerializeAsString(), timeout_millis, [this, method = std::string(method), done = std::move(done)](Result<std::string> payload) {
      if (!payload && ended()) return done(Unavailable());
      if (!payload) return done(std::move(payload.error()));
      Response response;
      if (!response.ParseFromString(*payload)) return done(MakeError(Code::kInternal, "the shim's answer to {} does not parse", method));
      done(std::move(response));
    });
  }
  Error Unavailable() const { return MakeError(Code::kUnavailable, "{}", ended() ? reason_ : "the shim has not been started"); }

  OnSilent on_silent_;
  std::shared_ptr<ttrpc::Client> client_;
  std::string reason_, service_;
};

}  // namespace caisson::shim
