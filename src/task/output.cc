// SPDX-License-Identifier: Apache-2.0
#include "task/output.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "sys/pipe.h"

namespace caisson::task {
Output::Output(sys::EventLoop* loop, Scratch* scratch, UniqueFd fd, Sink sink, std::function<void()> on_end)
    : loop_(loop), scratch_(scratch), fd_(std::move(fd)), sink_(std::move(sink)), on_end_(std::move(on_end)) {
  fcntl(fd_.get(), F_SETFL, fcntl(fd_.get(), F_GETFL) | O_NONBLOCK);
  if (!loop_->Watch(fd_.get(), EPOLLIN, [this](uint32_t) { OnReadable(); })) fd_.Reset();
}

Output::~Output() {
  if (fd_) loop_->Unwatch(fd_.get());
}

void Output::OnReadable() {
  // A few rounds, then others get their turn.
  for (int round = 0; round < 4 && fd_; ++round) {
    // Less than the buffer: most likely that was all; if not, the loop says so (it is level-triggered).
    if (ReadOnce() < Scratch::kBytes) return;
  }
}

// Not watched for nothing either: EPOLLHUP is always reported (epoll_ctl(2)).
void Output::Pause(bool paused) {
  if (paused == std::exchange(paused_, paused) || !fd_) return;
  if (paused) return loop_->Unwatch(fd_.get());
  if (!loop_->Watch(fd_.get(), EPOLLIN, [this](uint32_t) { OnReadable(); })) End();
}

void Output::Drain() {
  for (size_t total = 0; fd_ && total < kDrainBytes;) {
    size_t got = ReadOnce();
    if (got == 0) return;
    total += got;
  }
}

size_t Output::ReadOnce() {
  if (paused_) return 0;
  ssize_t got;
  do {
    got = read(fd_.get(), scratch_->in(), Scratch::kBytes);
  } while (got < 0 && errno == EINTR);
  if (got > 0) {
    auto bytes = static_cast<size_t>(got);
    scratch_->Used(bytes);
    sink_({scratch_->in(), bytes});
    if (bytes >= sys::kDefaultPipeBytes && !std::exchange(enlarged_, true)) sys::EnlargePipe(fd_.get());
    return bytes;
  }
  if (got < 0 && errno == EAGAIN) return 0;
  // 0: the end of a pipe. EIO: of a terminal whose slave nobody holds (tty_ioctl(4)).
  End();
  return 0;
}

void Output::End() {
  loop_->Unwatch(fd_.get());
  fd_.Reset();
  if (auto on_end = std::exchange(on_end_, nullptr)) on_end();
}

}  // namespace caisson::task
