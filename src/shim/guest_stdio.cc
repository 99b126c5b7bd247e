// SPDX-License-Identifier: Apache-2.0
#include "shim/guest_stdio.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "caisson/guest/v1/guest.pb.h"
#include "caisson/pod/v1/pod.pb.h"
#include "containerd/task_v3.pb.h"
#include "ttrpc/client.h"

namespace caisson::shim {
namespace {

namespace v1 = pod::v1;

// Of one call; a frame holds 4 MiB.
constexpr size_t kOutputBytes = 512 << 10;
constexpr size_t kInputBytes = 64 << 10;
// After a process's end. What it has written is in a pipe (1 MiB at most, pipe(7)) and what the agent keeps of it; more, or much in
// small parts, comes of others that hold it, or of nobody.
constexpr size_t kBytesAfterExit = (1 << 20) + 3 * limits::kKeptOutputBytes, kPartsAfterExit = 256;
// Parts with nothing in them, one after the other, where one that waits was asked for: a process's end makes one.
constexpr size_t kEmptyParts = 64;

// A part as it may be.
template <class Response>
Result<GuestPipe::Part> PartOf(Result<Response> answer) {
  if (!answer) return std::move(answer.error());
  if (answer->data().size() > kOutputBytes) return MakeError(Code::kInvalidArgument, "the guest says {} bytes where {} were asked for", answer->data().size(), kOutputBytes);
  return GuestPipe::Part{std::move(*answer->mutable_data()), answer->ended()};
}

// The writing end and what of the last part is not written.
struct FifoWriter : std::enable_shared_from_this<FifoWriter> {
  FifoWriter(sys::EventLoop* loop, UniqueFd fd, std::function<void()> on_broken) : loop(loop), fd(std::move(fd)), on_broken(std::move(on_broken)) {}
  ~FifoWriter() { Unwatch(); }

  void Write(const std::string& bytes, std::function<void()> then) {
    pending = bytes;
    written = 0;
    next = std::move(then);
    Continue();
  }

  void Continue() {
    while (written < pending.size()) {
      ssize_t n = write(fd.get(), pending.data() + written, pending.size() - written);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return WatchOnce();
      if (n <= 0 && on_broken) return Unwatch(), on_broken();
      if (n <= 0) break;  // nobody will read it: dropped, as the process's own writes would be
      written += static_cast<size_t>(n);
    }
    Unwatch();
    pending = std::string();
    if (auto then = std::exchange(next, nullptr)) then();
  }

  void WatchOnce() {
    if (watched) return;
    watched = loop->Watch(fd.get(), EPOLLOUT, [weak = weak_from_this()](uint32_t) {
      if (auto self = weak.lock()) self->Continue();
    }).has_value();
  }

  void Unwatch() {
    if (std::exchange(watched, false)) loop->Unwatch(fd.get());
  }

  sys::EventLoop* loop;
  UniqueFd fd;
  std::string pending;
  size_t written = 0;
  bool watched = false;
  std::function<void()> next, on_broken;
};

}  // namespace

GuestPipe ProcessPipe(GuestClient* client, const std::string& container_id, const std::string& exec_id, bool is_stderr) {
  GuestPipe pipe;
  pipe.read = [=](bool no_wait, std::function<void(Result<GuestPipe::Part>)> done) {
    v1::ReadOutputRequest request;
    request.set_container_id(container_id);
    request.set_exec_id(exec_id);
    request.set_stderr(is_stderr);
    request.set_max_bytes(kOutputBytes);
    request.set_no_wait(no_wait);
    client->Call<v1::ReadOutputResponse>(guest_service::kPod, "ReadOutput", request, ttrpc::Client::kNoTimeout, [done](Result<v1::ReadOutputResponse> part) {
      done(PartOf(std::move(part)));
    });
  };
  pipe.write = [=](std::string bytes, std::function<void(bool)> done) {
    v1::WriteInputRequest request;
    request.set_container_id(container_id);
    request.set_exec_id(exec_id);
    request.set_data(std::move(bytes));
    client->Call<v1::WriteInputResponse>(guest_service::kPod, "WriteInput", request, ttrpc::Client::kNoTimeout,
                                         [done](Result<v1::WriteInputResponse> written) { done(written.has_value()); });
  };
  pipe.close_write = [=] {
    containerd::task::v3::CloseIORequest request;
    request.set_id(container_id);
    request.set_exec_id(exec_id);
    request.set_stdin(true);
    client->Call<wkt::Empty>(guest_service::kTask, "CloseIO", request, GuestClient::kTimeoutMillis, [](Result<wkt::Empty>) {});
  };
  return pipe;
}

GuestPipe StreamPipe(GuestClient* client, const std::string& id) {
  namespace g = guest::v1;
  GuestPipe pipe;
  pipe.read = [=](bool, std::function<void(Result<GuestPipe::Part>)> done) {
    g::ReadStreamRequest request;
    request.set_id(id);
    request.set_max_bytes(kOutputBytes);
    client->Call<g::ReadStreamResponse>(guest_service::kGuest, "ReadStream", request, ttrpc::Client::kNoTimeout, [done](Result<g::ReadStreamResponse> part) {
      done(PartOf(std::move(part)));
    });
  };
  pipe.write = [=](std::string bytes, std::function<void(bool)> done) {
    g::WriteStreamRequest request;
    request.set_id(id);
    request.set_data(std::move(bytes));
    client->Call<g::WriteStreamResponse>(guest_service::kGuest, "WriteStream", request, ttrpc::Client::kNoTimeout,
                                         [done](Result<g::WriteStreamResponse> written) { done(written.has_value()); });
  };
  pipe.close_write = [=] {
    g::CloseStreamRequest request;
    request.set_id(id);
    request.set_only_write(true);
    client->Call<g::CloseStreamResponse>(guest_service::kGuest, "CloseStream", request, GuestClient::kTimeoutMillis, [](Result<g::CloseStreamResponse>) {});
  };
  return pipe;
}

void GuestOutput::Ask() {
  if (ended_ || busy_) return;
  busy_ = reading_ = true;
  bool no_wait = !drained_.empty();
  if (no_wait) AwaitLast();
  pipe_.read(no_wait, [weak = weak_from_this(), no_wait](Result<GuestPipe::Part> part) {
    auto self = weak.lock();
    if (!self || self->ended_) return;
    self->loop_->CancelTimer(std::exchange(self->timer_, 0));
    self->busy_ = self->reading_ = false;
    if (!part && part.error().code != Code::kUnavailable && part.error().code != Code::kNotFound) log::Warn("output of a guest: {}", part.error().message);
    if (!part || self->Lies(no_wait, part->data)) return self->End();
    self->OnPart(no_wait, part->data, part->ended);
  });
}

void GuestOutput::AwaitLast() {
  timer_ = loop_->After(last_millis_, [weak = weak_from_this()] {
    auto self = weak.lock();
    if (!self || self->ended_) return;
    self->timer_ = 0;
    log::Warn("output of a guest: it has not said the rest within {} ms", self->last_millis_);
    self->End();
  });
}

bool GuestOutput::Lies(bool no_wait, const std::string& data) {
  empty_parts_ = data.empty() && !no_wait ? empty_parts_ + 1 : 0;
  if (empty_parts_ > kEmptyParts) {
    log::Warn("output of a guest: {} times nothing", empty_parts_);
    return true;
  }
  if (!exited_) return false;
  bytes_after_exit_ += data.size();
  if (bytes_after_exit_ <= kBytesAfterExit) return false;
  log::Warn("output of a guest: more than {} bytes after the end of its process; the rest is dropped", kBytesAfterExit);
  return true;
}

void GuestOutput::OnPart(bool no_wait, const std::string& data, bool ended) {
  if (data.empty()) {
    if (ended) return End();
    if (no_wait) Drained();
    return Ask();
  }
  busy_ = true;
  Sink sink = sink_;  // its end may come from within it
  sink(data, [weak = weak_from_this(), ended] {
    auto self = weak.lock();
    if (!self || self->ended_) return;
    self->busy_ = false;
    if (ended) return self->End();
    if (!self->drained_.empty() && ++self->parts_after_exit_ > kPartsAfterExit) self->Drained();
    self->Ask();
  });
}

void GuestOutput::OnExit(std::function<void()> drained) {
  if (ended_) return drained();
  exited_ = true;
  drained_.push_back(std::move(drained));
  // A call under way is answered by the guest as the process ends; the next one does not wait.
  if (reading_ && timer_ == 0) AwaitLast();
  Ask();
}

void GuestOutput::Drained() {
  for (auto& drained : std::exchange(drained_, {})) drained();
}

void GuestOutput::End() {
  auto self = shared_from_this();
  ended_ = true;
  loop_->CancelTimer(std::exchange(timer_, 0));
  sink_ = nullptr;
  if (auto on_end = std::exchange(on_end_, nullptr)) on_end();
  Drained();
}

void GuestOutput::Stop() {
  if (ended_) return;
  on_end_ = nullptr;
  End();
}

GuestOutput::Sink SinkTo(sys::EventLoop* loop, UniqueFd fd, std::function<void()> on_broken) {
  fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) | O_NONBLOCK);
  auto writer = std::make_shared<FifoWriter>(loop, std::move(fd), std::move(on_broken));
  return [writer](const std::string& bytes, std::function<void()> next) { writer->Write(bytes, std::move(next)); };
}

GuestInput::GuestInput(sys::EventLoop* loop, GuestPipe pipe, UniqueFd from, std::function<void()> on_end)
    : loop_(loop), pipe_(std::move(pipe)), from_(std::move(from)), on_end_(std::move(on_end)) {
  fcntl(from_.get(), F_SETFL, fcntl(from_.get(), F_GETFL) | O_NONBLOCK);
}

GuestInput::~GuestInput() {
  if (watched_) loop_->Unwatch(from_.get());
}

void GuestInput::Watch() {
  watched_ = loop_->Watch(from_.get(), EPOLLIN, [this](uint32_t) { OnReadable(); }).has_value();
  if (!watched_) from_.Reset();
}

void GuestInput::OnReadable() {
  std::string bytes(kInputBytes, '\0');
  ssize_t got = read(from_.get(), bytes.data(), bytes.size());
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  loop_->Unwatch(from_.get());
  watched_ = false;
  if (got <= 0) return End();
  bytes.resize(static_cast<size_t>(got));
  // Not read again before the guest has taken it.
  pipe_.write(std::move(bytes), [this, alive = std::weak_ptr(alive_)](bool ok) {
    if (alive.expired()) return;
    if (ok) return Watch();
    from_.Reset();
    if (on_end_) std::exchange(on_end_, nullptr)();
  });
}

void GuestInput::End() {
  from_.Reset();
  pipe_.close_write();
  if (on_end_) std::exchange(on_end_, nullptr)();
}

}  // namespace caisson::shim
