// SPDX-License-Identifier: Apache-2.0
#include "task/output.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace caisson::task {
namespace {
// One buffer for the process: there is one thread, and its memory is paid once per pod.
constexpr size_t kBufferBytes = 64 << 10;
char buffer[kBufferBytes];
}  // namespace

Output::Output(sys::EventLoop* loop, UniqueFd fd, Sink sink, std::function<void()> on_end)
    : loop_(loop), fd_(std::move(fd)), sink_(std::move(sink)), on_end_(std::move(on_end)) {
  fcntl(fd_.get(), F_SETFL, fcntl(fd_.get(), F_GETFL) | O_NONBLOCK);
  if (!loop_->Watch(fd_.get(), EPOLLIN, [this](uint32_t) { OnReadable(); })) fd_.Reset();
}

Output::~Output() {
  if (fd_) loop_->Unwatch(fd_.get());
}

void Output::OnReadable() {
  // A few rounds, then others get their turn.
  for (int round = 0; round < 4 && fd_; ++round) {
    if (!ReadOnce()) return;
  }
}

void Output::Drain() {
  while (fd_ && ReadOnce()) {
  }
}

bool Output::ReadOnce() {
  ssize_t got = read(fd_.get(), buffer, sizeof buffer);
  if (got > 0) {
    sink_({buffer, static_cast<size_t>(got)});
    return true;
  }
  if (got < 0 && errno == EINTR) return true;
  if (got < 0 && errno == EAGAIN) return false;
  // 0: the end of a pipe. EIO: of a terminal whose slave nobody holds (tty_ioctl(4)).
  End();
  return false;
}

void Output::End() {
  loop_->Unwatch(fd_.get());
  fd_.Reset();
  if (auto on_end = std::exchange(on_end_, nullptr)) on_end();
}

}  // namespace caisson::task
