// SPDX-License-Identifier: Apache-2.0
//
// A ttRPC server on an event loop: accepts on a unix socket that is already listening, dispatches requests to handlers
// by "service/method", and sends each reply when its handler says so, at once or later. One thread, the loop's.
//
// A peer that breaks the framing (docs/ttrpc.md) loses its connection and nothing else. An unknown method answers
// kUnimplemented. At most kMaxPending requests per connection are in work; more are refused with kResourceExhausted.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sys/event_loop.h"

namespace caisson::ttrpc {

// Answers one request, once, on the loop's thread. If the client has gone the answer is dropped. Copyable.
using Reply = std::function<void(Result<std::string> payload)>;

class Server {
 public:
  using Handler = std::function<void(std::string_view payload, Reply reply)>;

  static constexpr int kMaxPending = 1024;
  static constexpr int kMaxConnections = 256;

  // `loop` outlives the server.
  static std::unique_ptr<Server> Create(sys::EventLoop* loop);
  virtual ~Server() = default;

  // Registers a handler of e.g. ("containerd.task.v2.Task", "Create"); before Listen.
  virtual void Handle(std::string_view service, std::string_view method, Handler handler) = 0;
  // Accepts on `listener` (a listening, non-blocking SOCK_STREAM socket) from now on; takes it over.
  virtual Result<> Listen(UniqueFd listener) = 0;
  // Serves one connected socket, or a guest's channel that is one stream; takes it over. `on_end` runs once, on the loop,
  // when the connection has ended and its descriptor is closed.
  virtual Result<> Serve(UniqueFd connection, std::function<void()> on_end = nullptr) = 0;

  // The typed form: parses Request, passes Response's bytes on. A payload that does not parse is kInvalidArgument.
  template <class Request, class Response>
  void HandleTyped(std::string_view service, std::string_view method,
                   std::function<void(const Request&, std::function<void(Result<Response>)>)> handler) {
    Handle(service, method, [handler = std::move(handler)](std::string_view payload, Reply reply) {
      Request request;
      if (!request.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
        return reply(MakeError(Code::kInvalidArgument, "the request does not parse as its message type"));
      }
      handler(request, [reply = std::move(reply)](Result<Response> response) {
        if (!response) return reply(std::move(response.error()));
        reply(response->SerializeAsString());
      });
    });
  }
};

}  // namespace caisson::ttrpc
