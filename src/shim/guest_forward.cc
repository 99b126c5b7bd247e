// SPDX-License-Identifier: Apache-2.0
#include "shim/guest_forward.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "caisson/guest/v1/guest.pb.h"
#include "sys/socket.h"

namespace caisson::shim {
namespace {
// From the port's own deadline to that of the call.
constexpr int64_t kGraceMillis = 5'000;
}  // namespace

struct GuestForwards::Forward {
  UniqueFd socket;  // each direction has a descriptor of its own
  std::unique_ptr<GuestInput> in;
  std::shared_ptr<GuestOutput> out;
};

void GuestForwards::Start(const pod::v1::ForwardRequest& request, Done done) {
  int64_t deadline = request.deadline_millis() > 0 ? request.deadline_millis() : limits::kForwardConnectMillis;
  Dial(request.port(), deadline, [path = request.socket_path()] { return sys::ConnectUnix(path); }, [done](Result<> connected) {
    if (!connected) return done(std::move(connected.error()));
    done(pod::v1::ForwardResponse());
  });
}

void GuestForwards::Dial(uint32_t port, int64_t deadline_millis, Socket other_end, std::function<void(Result<>)> done) {
  std::string id = fmt::format("forward-{}", ++count_);
  guest::v1::DialRequest dial;
  dial.set_id(id);
  dial.set_port(port);
  dial.set_deadline_millis(deadline_millis);
  client_->Call<guest::v1::DialResponse>(guest_service::kGuest, "Dial", dial, deadline_millis + kGraceMillis,
                                         [this, id, other_end = std::move(other_end), done = std::move(done)](Result<guest::v1::DialResponse> dialed) {
                                           if (!dialed) return done(std::move(dialed.error()));
                                           auto other = other_end();
                                           auto connected = other ? Connect(id, std::move(*other)) : Result<>(std::move(other.error()));
                                           if (!connected) End(id);
                                           done(std::move(connected));
                                         });
}

Result<> GuestForwards::Listen() {
  local_ = TRY(net::ListenOnAnyPort());
  return loop_->Watch(local_->listener.get(), EPOLLIN, [this](uint32_t) { Accept(); });
}

void GuestForwards::StopListening() {
  if (local_) loop_->Unwatch(local_->listener.get());
  local_.reset();
}

void GuestForwards::Accept() {
  auto accepted = net::AcceptAny(*local_);
  if (!accepted && accepted.error().code == Code::kUnavailable) return;
  if (!accepted) {
    // It would be told of again and again.
    log::Error("ports are not forwarded by localhost any more: {}", accepted.error().message);
    return StopListening();
  }
  // Who is refused hears of it: the connection ends.
  if (forwards_.size() + dialling_ >= limits::kLocalForwards) return log::Warn("port {}: {} connections are forwarded already", accepted->port, limits::kLocalForwards);
  ++dialling_;
  auto socket = std::make_shared<UniqueFd>(std::move(accepted->socket));
  Dial(accepted->port, limits::kForwardConnectMillis, [socket]() -> Result<UniqueFd> { return std::move(*socket); }, [this](Result<> connected) {
    --dialling_;
    if (!connected) log::Debug("forward a connection to localhost: {}", connected.error().message);
  });
}

Result<> GuestForwards::Connect(const std::string& id, UniqueFd socket) {
  auto forward = std::make_shared<Forward>();
  UniqueFd reader(fcntl(socket.get(), F_DUPFD_CLOEXEC, 3)), writer(fcntl(socket.get(), F_DUPFD_CLOEXEC, 3));
  if (!reader || !writer) return ErrnoError("duplicate a socket");
  forward->socket = std::move(socket);
  // When the port's side has ended the caller is told; when the caller's has too, all is over.
  auto on_end = [this, id] {
    auto found = forwards_.find(id);
    if (found == forwards_.end()) return;
    shutdown(found->second->socket.get(), SHUT_WR);
    if (!found->second->in || found->second->in->ended()) End(id);
  };
  forward->out = std::make_shared<GuestOutput>(loop_, StreamPipe(client_, id), SinkTo(loop_, std::move(writer), [this, id] { End(id); }), on_end);
  forward->in = std::make_unique<GuestInput>(loop_, StreamPipe(client_, id), std::move(reader), [this, id] {
    auto found = forwards_.find(id);
    if (found != forwards_.end() && found->second->out->ended()) End(id);
  });
  forwards_[id] = forward;
  forward->in->Start();
  forward->out->Start();
  return {};
}

void GuestForwards::End(const std::string& id) {
  auto node = forwards_.extract(id);
  // One of its directions may be on the stack.
  if (!node.empty()) {
    loop_->Post([forward = std::move(node.mapped())] { forward->out->Stop(); });
  }
  guest::v1::CloseStreamRequest close;
  close.set_id(id);
  client_->Call<guest::v1::CloseStreamResponse>(guest_service::kGuest, "CloseStream", close, GuestClient::kTimeoutMillis,
                                                [](Result<guest::v1::CloseStreamResponse>) {});
}

}  // namespace caisson::shim
