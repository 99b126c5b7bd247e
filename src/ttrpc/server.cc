// SPDX-License-Identifier: Apache-2.0
#include "ttrpc/server.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <map>
#include <set>
#include <utility>

#include "google/rpc/status.pb.h"
#include "ttrpc/connection.h"
#include "ttrpc/ttrpc.pb.h"

namespace caisson::ttrpc {
namespace {

class ServerImpl : public Server {
 public:
  explicit ServerImpl(sys::EventLoop* loop) : loop_(loop) {}
  ~ServerImpl() override {
    if (listener_) loop_->Unwatch(listener_.get());
    for (auto& [connection, peer] : peers_) connection->Close();
  }

  void Handle(std::string_view service, std::string_view method, Handler handler) override {
    handlers_[Name(service, method)] = std::move(handler);
  }

  Result<> Listen(UniqueFd listener) override {
    listener_ = std::move(listener);
    return loop_->Watch(listener_.get(), EPOLLIN, [this](uint32_t) { Accept(); });
  }

  Result<> Serve(UniqueFd socket, std::function<void()> on_end) override {
    auto connection = std::make_shared<Connection>(loop_, std::move(socket));
    auto peer = std::make_shared<Peer>();
    auto* key = connection.get();
    TRY(connection->Start([this, key](Frame frame) { OnFrame(key, std::move(frame)); }, [this, key](const Error&) { Drop(key); }));
    peer->connection = connection;
    peer->on_end = std::move(on_end);
    peers_[key] = std::move(peer);
    return {};
  }

 private:
  struct Peer {
    std::shared_ptr<Connection> connection;
    uint32_t last_stream = 0;
    std::set<uint32_t> pending;
    std::function<void()> on_end;
  };

  static std::string Name(std::string_view service, std::string_view method) {
    return std::string(service) + "/" + std::string(method);
  }

  void Accept() {
    for (;;) {
      UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket) return;  // EAGAIN, or a peer that has gone already
      if (peers_.size() >= kMaxConnections) continue;
      (void)Serve(std::move(socket), nullptr);  // fails only if epoll does; the peer sees its connection end
    }
  }

  void Drop(Connection* key) {
    auto found = peers_.find(key);
    if (found == peers_.end()) return;
    // The connection may be on the stack: let go of it when it is not.
    loop_->Post([peer = std::move(found->second)] {
      if (peer->on_end) peer->on_end();
    });
    peers_.erase(found);
  }

  void OnFrame(Connection* key, Frame frame) {
    auto& peer = *peers_.at(key);
    // Streams of a client are odd and grow; a server never sees a response; data frames need a streaming method, and
    // there is none.
    bool fresh = frame.type == FrameType::kRequest && frame.stream % 2 == 1 && frame.stream > peer.last_stream;
    if (!fresh) {
      // Late data of a stream that was refused is no offence: a client may have sent it before it knew.
      if (frame.type == FrameType::kData && frame.stream <= peer.last_stream) return;
      peer.connection->Close();
      return Drop(key);
    }
    peer.last_stream = frame.stream;
    ::ttrpc::Request request;
    if (!request.ParseFromString(frame.payload)) {
      return Answer(key, frame.stream, MakeError(Code::kInvalidArgument, "the ttRPC request does not parse"));
    }
    if (peer.pending.size() >= kMaxPending) {
      return Answer(key, frame.stream, MakeError(Code::kResourceExhausted, "{} requests are in work on this connection", kMaxPending));
    }
    auto handler = handlers_.find(Name(request.service(), request.method()));
    if (handler == handlers_.end()) {
      return Answer(key, frame.stream, MakeError(Code::kUnimplemented, "method {}/{} is not implemented",
                                                 request.service().substr(0, 128), request.method().substr(0, 128)));
    }
    peer.pending.insert(frame.stream);
    std::weak_ptr<Peer> weak = peers_.at(key);
    handler->second(request.payload(), [this, weak, key, stream = frame.stream](Result<std::string> payload) {
      auto alive = weak.lock();
      if (!alive || alive->pending.erase(stream) == 0) return;  // gone, or answered already
      if (peers_.contains(key)) Answer(key, stream, std::move(payload));
    });
  }

  void Answer(Connection* key, uint32_t stream, Result<std::string> payload) {
    ::ttrpc::Response response;
    if (payload) {
      *response.mutable_payload() = std::move(*payload);
    } else {
      response.mutable_status()->set_code(static_cast<int>(payload.error().code));
      response.mutable_status()->set_message(MessageForClients(payload.error()));
    }
    auto& connection = peers_.at(key)->connection;
    auto sent = connection->Send(Frame{stream, FrameType::kResponse, 0, response.SerializeAsString()});
    if (!sent) {
      ::ttrpc::Response failed;
      failed.mutable_status()->set_code(static_cast<int>(sent.error().code));
      failed.mutable_status()->set_message(sent.error().message);
      (void)connection->Send(Frame{stream, FrameType::kResponse, 0, failed.SerializeAsString()});  // small: always fits
    }
  }

  sys::EventLoop* loop_;
  UniqueFd listener_;
  std::map<std::string, Handler> handlers_;
  std::map<Connection*, std::shared_ptr<Peer>> peers_;
};

}  // namespace

std::unique_ptr<Server> Server::Create(sys::EventLoop* loop) { return std::make_unique<ServerImpl>(loop); }

}  // namespace caisson::ttrpc
