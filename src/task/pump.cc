// SPDX-License-Identifier: Apache-2.0
#include "task/pump.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "sys/pipe.h"

namespace caisson::task {
namespace {
constexpr size_t kChunkBytes = 64 << 10;
constexpr int kTurnRounds = 4;  // then others get their turn
constexpr int kDrainRounds = 64;

void MakeNonBlocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

bool IsPipe(int fd) {
  struct stat st{};
  return fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode);
}
}  // namespace

Pump::Pump(sys::EventLoop* loop, Scratch* scratch, UniqueFd from, UniqueFd to, std::function<void()> on_end)
    : loop_(loop), scratch_(scratch), from_(std::move(from)), to_(std::move(to)), on_end_(std::move(on_end)) {
  MakeNonBlocking(from_.get());
  MakeNonBlocking(to_.get());
  spliced_ = IsPipe(from_.get()) && IsPipe(to_.get());
  if (!loop_->Watch(from_.get(), EPOLLIN, [this](uint32_t) { Go(); })) from_.Reset();
}

Pump::~Pump() {
  if (from_) loop_->Unwatch(waiting_to_write_ ? to_.get() : from_.get());
}

// One of the two is watched at a time: a source that has hung up would wake the loop for nothing while the other side is
// full (epoll(7): EPOLLHUP is always reported).
void Pump::Wait(bool for_writing) {
  if (for_writing == waiting_to_write_) return;
  loop_->Unwatch(waiting_to_write_ ? to_.get() : from_.get());
  waiting_to_write_ = for_writing;
  auto watched = for_writing ? loop_->Watch(to_.get(), EPOLLOUT, [this](uint32_t) { Go(); })
                             : loop_->Watch(from_.get(), EPOLLIN, [this](uint32_t) { Go(); });
  if (!watched) End();
}

void Pump::Go() {
  if (WritePending()) Copy(kTurnRounds);
}

void Pump::Drain() {
  if (from_ && WritePending()) Copy(kDrainRounds);
}

void Pump::Copy(int rounds) {
  for (int round = 0; round < rounds; ++round) {
    switch (spliced_ ? Splice() : CopyOnce()) {
      case Step::kCopied:
        continue;
      case Step::kSourceEmpty:
        return Wait(false);
      case Step::kSinkFull:
        return Wait(true);
      case Step::kOver:
        return;
    }
  }
  // Whichever is watched: there is more, so it is ready (level-triggered).
}

Pump::Step Pump::Splice() {
  ssize_t moved = splice(from_.get(), nullptr, to_.get(), nullptr, sys::kBusyPipeBytes, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
  if (moved > 0 || (moved < 0 && errno == EINTR)) return Step::kCopied;
  if (moved < 0 && errno == EAGAIN) {
    // Either of the two. If that has changed meanwhile, waiting for it ends at once.
    pollfd sink = {to_.get(), POLLOUT, 0};
    if (poll(&sink, 1, 0) == 1 && (sink.revents & POLLOUT)) return Step::kSourceEmpty;
    if (std::exchange(enlarged_, true)) return Step::kSinkFull;
    sys::EnlargePipe(to_.get());
    return Step::kCopied;
  }
  End();
  return Step::kOver;
}

Pump::Step Pump::CopyOnce() {
  ssize_t got = read(from_.get(), scratch_->in(), kChunkBytes);
  if (got < 0 && errno == EINTR) return Step::kCopied;
  if (got < 0 && errno == EAGAIN) return Step::kSourceEmpty;
  if (got <= 0) {
    End();
    return Step::kOver;
  }
  scratch_->Used(static_cast<size_t>(got));
  std::string_view rest(scratch_->in(), static_cast<size_t>(got));
  if (!WriteSome(&rest)) return Step::kOver;
  if (rest.empty()) return Step::kCopied;
  pending_ = std::string(rest);
  return Step::kSinkFull;
}

bool Pump::WriteSome(std::string_view* bytes) {
  while (!bytes->empty()) {
    ssize_t written = write(to_.get(), bytes->data(), bytes->size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) break;
    if (written <= 0) {
      End();
      return false;
    }
    bytes->remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

bool Pump::WritePending() {
  if (pending_.empty()) return true;
  std::string_view rest = pending_;
  if (!WriteSome(&rest)) return false;
  pending_ = std::string(rest);
  return pending_.empty();
}

void Pump::End() {
  loop_->Unwatch(from_.get());
  loop_->Unwatch(to_.get());
  from_.Reset();
  to_.Reset();
  pending_ = std::string();
  if (auto on_end = std::exchange(on_end_, nullptr)) on_end();
}

}  // namespace caisson::task
