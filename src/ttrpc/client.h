// SPDX-License-Identifier: Apache-2.0
//
// A ttRPC client: one connected socket, many calls at once. Works on an event loop of the caller's; Call may be made
// from any thread, the callback runs on the loop's thread. CallSync blocks the calling thread (never the loop's).
//
// Every call has a deadline. When the connection ends each pending call fails with kUnavailable.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sys/event_loop.h"

namespace caisson::ttrpc {

class Client {
 public:
  using Callback = std::function<void(Result<std::string> payload)>;
  // Wait-like calls: no deadline but the connection's end.
  static constexpr int64_t kNoTimeout = 0;

  // Takes over `socket`, a connected SOCK_STREAM socket. `loop` outlives the client.
  static Result<std::shared_ptr<Client>> Create(sys::EventLoop* loop, UniqueFd socket);
  virtual ~Client() = default;

  // Sends a request; `callback` runs exactly once. `timeout_millis` also travels to the server.
  virtual void Call(std::string_view service, std::string_view method, std::string payload, int64_t timeout_millis,
                    Callback callback) = 0;
  // Runs once when the connection ends (now, if it already has). Replaces an earlier callback.
  virtual void OnClosed(std::function<void()> callback) = 0;
  virtual bool closed() const = 0;
  // Ends the connection; pending calls fail with kUnavailable. Idempotent.
  virtual void Close() = 0;

  Result<std::string> CallSync(std::string_view service, std::string_view method, std::string payload,
                               int64_t timeout_millis);

  template <class Response, class Request>
  Result<Response> CallSyncTyped(std::string_view service, std::string_view method, const Request& request,
                                 int64_t timeout_millis) {
    std::string payload = TRY(CallSync(service, method, request.SerializeAsString(), timeout_millis));
    Response response;
    if (!response.ParseFromString(payload)) {
      return MakeError(Code::kInternal, "{}/{}: the response does not parse", service, method);
    }
    return response;
  }
};

}  // namespace caisson::ttrpc
