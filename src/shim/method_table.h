// SPDX-License-Identifier: Apache-2.0
//
// MethodTable: services that nobody is connected to: who has registered them with it calls them. One thread.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "ttrpc/server.h"

namespace caisson::shim {

class MethodTable : public ttrpc::Server {
 public:
  void Handle(std::string_view service, std::string_view method, Handler handler) override { methods_[{std::string(service), std::string(method)}] = std::move(handler); }
  Result<> Listen(UniqueFd) override { return Refuse(); }
  Result<> Serve(UniqueFd, std::function<void()>) override { return Refuse(); }

  // kUnimplemented: nobody has registered it. `reply` may run before it returns.
  void Call(std::string_view service, std::string_view method, std::string_view payload, ttrpc::Reply reply) const {
    auto found = methods_.find(std::pair(std::string(service), std::string(method)));
    if (found == methods_.end()) return reply(MakeError(Code::kUnimplemented, "method {}/{} is not implemented", service, method));
    found->second(payload, std::move(reply));
  }
  template <class Response, class Request>
  void Call(std::string_view service, std::string_view method, const Request& request, std::function<void(Result<Response>)> done) const {
    Call(service, method, request.SerializeAsString(), [method = std::string(method), done = std::move(done)](Result<std::string> payload) {
      if (!payload) return done(std::move(payload.error()));
      Response response;
      if (!response.ParseFromString(*payload)) return done(MakeError(Code::kInternal, "the answer to {} does not parse", method));
      done(std::move(response));
    });
  }

 private:
  static Result<> Refuse() { return MakeError(Code::kUnimplemented, "these methods are served to nobody"); }

  std::map<std::pair<std::string, std::string>, Handler> methods_;
};

}  // namespace caisson::shim
