// SPDX-License-Identifier: Apache-2.0
#include "task/queued_input.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace caisson::task {

QueuedInput::QueuedInput(sys::EventLoop* loop, UniqueFd fd) : loop_(loop), fd_(std::move(fd)) {
  fcntl(fd_.get(), F_SETFL, fcntl(fd_.get(), F_GETFL) | O_NONBLOCK);
}

QueuedInput::~QueuedInput() {
  if (done_) Finish(MakeError(Code::kFailedPrecondition, "the process's stdin was closed"));
}

void QueuedInput::Write(std::string bytes, Done done) {
  if (done_) return done(MakeError(Code::kFailedPrecondition, "an earlier write to the process's stdin still waits"));
  bytes_ = std::move(bytes);
  written_ = 0;
  done_ = std::move(done);
  WriteSome();
}

void QueuedInput::WriteSome() {
  while (written_ < bytes_.size()) {
    ssize_t n = write(fd_.get(), bytes_.data() + written_, bytes_.size() - written_);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      if (watched_) return;
      auto watched = loop_->Watch(fd_.get(), EPOLLOUT, [this](uint32_t) { WriteSome(); });
      if (!watched) return Finish(std::move(watched));
      watched_ = true;
      return;
    }
    if (n < 0) return Finish(MakeError(Code::kFailedPrecondition, "nobody reads the process's stdin any more"));
    written_ += static_cast<size_t>(n);
  }
  Finish({});
}

void QueuedInput::Finish(Result<> result) {
  if (std::exchange(watched_, false)) loop_->Unwatch(fd_.get());
  bytes_ = std::string();
  std::exchange(done_, nullptr)(std::move(result));
}

}  // namespace caisson::task
