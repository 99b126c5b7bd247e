// SPDX-License-Identifier: Apache-2.0
#include "ttrpc/connection.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

namespace caisson::ttrpc {

Result<> Connection::Start(std::function<void(Frame)> on_frame, std::function<void(Error)> on_end) {
  int flags = fcntl(socket_.get(), F_GETFL);
  if (flags < 0 || fcntl(socket_.get(), F_SETFL, flags | O_NONBLOCK) != 0) return ErrnoError("make a ttRPC socket non-blocking");
  struct stat info {};
  if (fstat(socket_.get(), &info) != 0) return ErrnoError("look at a ttRPC connection");
  is_socket_ = S_ISSOCK(info.st_mode);
  on_frame_ = std::move(on_frame);
  on_end_ = std::move(on_end);
  return loop_->Watch(socket_.get(), EPOLLIN, [weak = weak_from_this()](uint32_t events) {
    if (auto self = weak.lock()) self->OnEvents(events);
  });
}

Result<> Connection::Send(const Frame& frame) {
  std::string bytes = TRY(EncodeFrame(frame));
  if (closed()) return {};
  queued_bytes_ += bytes.size();
  queue_.push_back(std::move(bytes));
  if (queued_bytes_ > kMaxQueuedBytes) {
    // Not from here: the caller is in the middle of something.
    loop_->Post([weak = weak_from_this()] {
      if (auto self = weak.lock()) self->End(MakeError(Code::kResourceExhausted, "the ttRPC peer does not read"));
    });
    return {};
  }
  if (!watching_writes_) Flush();
  return {};
}

void Connection::Close() {
  if (closed()) return;
  loop_->Unwatch(socket_.get());
  socket_.Reset();
  queue_.clear();
}

void Connection::OnEvents(uint32_t events) {
  auto self = shared_from_this();  // a callback may drop the last other reference
  if (events & EPOLLOUT) Flush();
  if (!closed() && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) ReadSome();
}

void Connection::ReadSome() {
  char buffer[16 << 10];
  for (;;) {
    ssize_t got = Receive(buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    if (got < 0) return End(ErrnoError("read from the ttRPC connection"));
    if (got == 0) return End(MakeError(Code::kUnavailable, "the ttRPC peer closed the connection"));
    reader_.Add({buffer, static_cast<size_t>(got)});
    for (;;) {
      auto frame = reader_.Next();
      if (!frame) return End(std::move(frame.error()));
      if (!frame->has_value()) break;
      on_frame_(std::move(**frame));
      if (closed()) return;
    }
    if (static_cast<size_t>(got) < sizeof buffer) return;  // level-triggered: the rest comes again
  }
}

void Connection::Flush() {
  while (!queue_.empty()) {
    const std::string& first = queue_.front();
    ssize_t sent = Transmit(first.data() + sent_of_first_, first.size() - sent_of_first_);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) break;
    if (sent < 0) {
      loop_->Post([weak = weak_from_this(), error = ErrnoError("write to the ttRPC connection")] {
        if (auto self = weak.lock()) self->End(error);
      });
      return;
    }
    sent_of_first_ += static_cast<size_t>(sent);
    if (sent_of_first_ == first.size()) {
      queued_bytes_ -= first.size();
      queue_.pop_front();
      sent_of_first_ = 0;
    }
  }
  bool want = !queue_.empty();
  if (want != watching_writes_) {
    watching_writes_ = want;
    if (!loop_->Modify(socket_.get(), EPOLLIN | (want ? EPOLLOUT : 0u))) watching_writes_ = !want;
  }
}

ssize_t Connection::Receive(char* to, size_t size) {
  return is_socket_ ? recv(socket_.get(), to, size, MSG_DONTWAIT) : read(socket_.get(), to, size);
}

ssize_t Connection::Transmit(const char* from, size_t size) {
  return is_socket_ ? send(socket_.get(), from, size, MSG_DONTWAIT | MSG_NOSIGNAL) : write(socket_.get(), from, size);
}

void Connection::End(Error why) {
  if (closed()) return;
  Close();
  if (auto on_end = std::exchange(on_end_, nullptr)) on_end(std::move(why));
}

}  // namespace caisson::ttrpc
