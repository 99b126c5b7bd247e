// SPDX-License-Identifier: Apache-2.0
#include "ttrpc/client.h"

#include <condition_variable>
#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "google/rpc/status.pb.h"
#include "ttrpc/connection.h"
#include "ttrpc/ttrpc.pb.h"

namespace caisson::ttrpc {
namespace {

class ClientImpl : public Client, public std::enable_shared_from_this<ClientImpl> {
 public:
  explicit ClientImpl(sys::EventLoop* loop) : loop_(loop) {}
  ~ClientImpl() override {
    // The connection belongs to the loop's thread, and so does its end.
    if (connection_) loop_->Post([connection = std::move(connection_)] { connection->Close(); });
  }

  void Start(UniqueFd socket) {
    auto shared = std::make_shared<UniqueFd>(std::move(socket));
    loop_->Post([self = shared_from_this(), shared] {
      auto connection = std::make_shared<Connection>(self->loop_, std::move(*shared));
      std::weak_ptr<ClientImpl> weak = self;
      auto started = connection->Start(
          [weak](Frame frame) {
            if (auto client = weak.lock()) client->OnFrame(std::move(frame));
          },
          [weak](Error why) {
            if (auto client = weak.lock()) client->End(std::move(why));
          });
      if (!started) return self->End(std::move(started.error()));
      self->connection_ = std::move(connection);
    });
  }

  void Call(std::string_view service, std::string_view method, std::string payload, int64_t timeout_millis,
            Callback callback) override {
    ::ttrpc::Request request;
    request.set_service(std::string(service));
    request.set_method(std::string(method));
    request.set_payload(std::move(payload));
    if (timeout_millis > 0) request.set_timeout_nano(timeout_millis * kNanosPerMilli);
    loop_->Post([self = shared_from_this(), bytes = request.SerializeAsString(), timeout_millis, callback = std::move(callback),
                 name = std::string(method)]() mutable {
      self->Send(std::move(bytes), timeout_millis, std::move(name), std::move(callback));
    });
  }

  void OnClosed(std::function<void()> callback) override {
    loop_->Post([self = shared_from_this(), callback = std::move(callback)] {
      if (self->closed_) return callback();
      self->on_closed_ = callback;
    });
  }

  bool closed() const override { return closed_; }

  void Close() override {
    loop_->Post([self = shared_from_this()] { self->End(MakeError(Code::kUnavailable, "the ttRPC connection was closed")); });
  }

 private:
  struct Pending {
    std::string method;
    Callback callback;
    sys::EventLoop::TimerId timer = 0;
  };

  void Send(std::string bytes, int64_t timeout_millis, std::string method, Callback callback) {
    if (closed_ || !connection_) return callback(MakeError(Code::kUnavailable, "{}: the ttRPC connection has ended", method));
    uint32_t stream = next_stream_;
    next_stream_ += 2;
    auto sent = connection_->Send(Frame{stream, FrameType::kRequest, 0, std::move(bytes)});
    if (!sent) return callback(std::move(sent.error()).Within(method));
    Pending pending{std::move(method), std::move(callback)};
    if (timeout_millis > 0) {
      pending.timer = loop_->After(timeout_millis, [weak = weak_from_this(), stream, timeout_millis] {
        if (auto self = weak.lock()) self->TimeOut(stream, timeout_millis);
      });
    }
    pending_.emplace(stream, std::move(pending));
  }

  std::optional<Pending> Take(uint32_t stream) {
    auto found = pending_.find(stream);
    if (found == pending_.end()) return std::nullopt;
    Pending pending = std::move(found->second);
    pending_.erase(found);
    if (pending.timer != 0) loop_->CancelTimer(pending.timer);
    return pending;
  }

  void TimeOut(uint32_t stream, int64_t timeout_millis) {
    if (auto pending = Take(stream)) {
      pending->callback(MakeError(Code::kDeadlineExceeded, "{}: no answer within {} ms", pending->method, timeout_millis));
    }
  }

  void OnFrame(Frame frame) {
    if (frame.type != FrameType::kResponse) {
      return End(MakeError(Code::kInternal, "the ttRPC server sent a frame of type {}", static_cast<int>(frame.type)));
    }
    auto pending = Take(frame.stream);
    if (!pending) return;  // the answer to a call that was given up
    ::ttrpc::Response response;
    if (!response.ParseFromString(frame.payload)) {
      return pending->callback(MakeError(Code::kInternal, "{}: the ttRPC response does not parse", pending->method));
    }
    if (response.status().code() != 0) {
      int code = response.status().code();
      return pending->callback(Error{code > 0 && code <= 16 ? static_cast<Code>(code) : Code::kUnknown, 0, response.status().message()});
    }
    pending->callback(std::move(*response.mutable_payload()));
  }

  void End(Error why) {
    if (closed_.exchange(true)) return;
    if (connection_) connection_->Close();
    auto pending = std::move(pending_);
    pending_.clear();
    for (auto& [stream, call] : pending) {
      if (call.timer != 0) loop_->CancelTimer(call.timer);
      call.callback(MakeError(Code::kUnavailable, "{}: {}", call.method, why.message));
    }
    if (auto callback = std::exchange(on_closed_, nullptr)) callback();
  }

  sys::EventLoop* loop_;
  std::shared_ptr<Connection> connection_;
  uint32_t next_stream_ = 1;
  std::map<uint32_t, Pending> pending_;
  std::function<void()> on_closed_;
  std::atomic<bool> closed_ = false;
};

// Shared with the callback, which may outlive a caller that gave up.
struct Waiting {
  std::mutex mutex;
  std::condition_variable done;
  std::optional<Result<std::string>> result;
};

}  // namespace

Result<std::shared_ptr<Client>> Client::Create(sys::EventLoop* loop, UniqueFd socket) {
  auto client = std::make_shared<ClientImpl>(loop);
  client->Start(std::move(socket));
  return std::shared_ptr<Client>(client);
}

Result<std::string> Client::CallSync(std::string_view service, std::string_view method, std::string payload, int64_t timeout_millis) {
  auto waiting = std::make_shared<Waiting>();
  Call(service, method, std::move(payload), timeout_millis, [waiting](Result<std::string> result) {
    std::lock_guard lock(waiting->mutex);
    waiting->result = std::move(result);
    waiting->done.notify_one();
  });
  std::unique_lock lock(waiting->mutex);
  waiting->done.wait(lock, [&] { return waiting->result.has_value(); });
  return std::move(*waiting->result);
}

}  // namespace caisson::ttrpc
