// SPDX-License-Identifier: Apache-2.0
#include "cri/pod_forward.h"

#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "caisson/pod/v1/pod.pb.h"
#include "sys/socket.h"

namespace caisson::cri {
namespace {

constexpr int kBacklog = 1;
// For the companion's answer, which has the same deadline for its own work.
constexpr int64_t kForwardAnswerMillis = limits::kForwardConnectMillis + 2'000;

// The companion has connected before it answered.
Result<UniqueFd> Accept(const Result<std::string>& reply, int listener, uint16_t port) {
  if (!reply) return Error(reply.error()).Within(fmt::format("forward port {} of the pod", port));
  UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd) return ErrnoError("the companion has not connected port {} of the pod", port);
  return fd;
}

}  // namespace

void ForwardThroughCompanion(std::weak_ptr<sys::EventLoop> loop, std::shared_ptr<ShimClient> shim, const std::string& socket_path,
                             uint16_t port, std::function<void(Result<UniqueFd>)> done) {
  auto listener = shim ? sys::ListenUnix(socket_path, 0600, kBacklog)
                       : Result<UniqueFd>(MakeError(Code::kUnavailable, "the pod has no companion process"));
  // Owned by what runs last: the answer's callback.
  auto socket = std::make_shared<UniqueFd>(listener ? std::move(*listener) : UniqueFd());
  auto finish = [loop = std::move(loop), socket, socket_path, port, done = std::move(done)](Result<std::string> reply) {
    if (auto alive = loop.lock()) {
      alive->Post([socket, socket_path, port, done, reply = std::make_shared<Result<std::string>>(std::move(reply))] {
        auto fd = Accept(*reply, socket->get(), port);
        // What connects after this is refused.
        socket->Reset();
        unlink(socket_path.c_str());
        done(std::move(fd));
      });
    }
  };
  if (!listener) return finish(std::move(listener.error()));
  pod::v1::ForwardRequest request;
  request.set_port(port);
  request.set_socket_path(socket_path);
  request.set_deadline_millis(limits::kForwardConnectMillis);
  shim->ttrpc().Call(service::kPod, "Forward", request.SerializeAsString(), kForwardAnswerMillis, std::move(finish));
}

}  // namespace caisson::cri
