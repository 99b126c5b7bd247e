// SPDX-License-Identifier: Apache-2.0
#include "task/pump.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace caisson::task {
namespace {
constexpr size_t kChunkBytes = 64 << 10;
constexpr int kDrainRounds = 64;

void MakeNonBlocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }
}  // namespace

Pump::Pump(sys::EventLoop* loop, Scratch* scratch, UniqueFd from, UniqueFd to, std::function<void()> on_end)
    : loop_(loop), scratch_(scratch), from_(std::move(from)), to_(std::move(to)), on_end_(std::move(on_end)) {
  MakeNonBlocking(from_.get());
  MakeNonBlocking(to_.get());
  if (!loop_->Watch(from_.get(), EPOLLIN, [this](uint32_t) { OnReadable(); })) from_.Reset();
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
  auto watched = for_writing ? loop_->Watch(to_.get(), EPOLLOUT,
                                            [this](uint32_t) {
                                              if (WritePending()) Wait(false);
                                            })
                             : loop_->Watch(from_.get(), EPOLLIN, [this](uint32_t) { OnReadable(); });
  if (!watched) End();
}

void Pump::OnReadable() {
  for (int round = 0; round < 4; ++round) {
    if (!CopyOnce()) return;
  }
}

void Pump::Drain() {
  if (!from_ || !WritePending()) return;
  Wait(false);
  for (int round = 0; round < kDrainRounds && from_; ++round) {
    if (!CopyOnce()) return;
  }
}

bool Pump::CopyOnce() {
  ssize_t got = read(from_.get(), scratch_->in(), kChunkBytes);
  if (got < 0 && errno == EINTR) return true;
  if (got < 0 && errno == EAGAIN) return false;
  if (got <= 0) {
    End();
    return false;
  }
  scratch_->Used(static_cast<size_t>(got));
  std::string_view rest(scratch_->in(), static_cast<size_t>(got));
  if (!WriteSome(&rest)) return false;
  if (rest.empty()) return true;
  pending_ = std::string(rest);
  Wait(true);
  return false;
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
