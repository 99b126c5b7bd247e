// SPDX-License-Identifier: Apache-2.0
#include "shim/guest_forward.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "base/limits.h"
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
  std::string id = fmt::format("forward-{}", ++count_);
  guest::v1::DialRequest dial;
  dial.set_id(id);
  dial.set_port(request.port());
  dial.set_deadline_millis(deadline);
  client_->Call<guest::v1::DialResponse>(guest_service::kGuest, "Dial", dial, deadline + kGraceMillis,
                                         [this, id, path = request.socket_path(), done](Result<guest::v1::DialResponse> dialed) {
                                           if (!dialed) return done(std::move(dialed.error()));
                                           auto connected = Connect(id, path);
                                           if (connected) return done(pod::v1::ForwardResponse());
                                           End(id);
                                           done(std::move(connected.error()));
                                         });
}

Result<> GuestForwards::Connect(const std::string& id, const std::string& socket_path) {
  UniqueFd socket = TRY(sys::ConnectUnix(socket_path));
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
