// SPDX-License-Identifier: Apache-2.0
#include "task/scratch.h"

#include <sys/mman.h>

#include "base/check.h"

namespace caisson::task {
namespace {
constexpr size_t kSmall = 8 << 10;  // what an idle container writes now and then; not worth a system call
constexpr int64_t kPauseMillis = 500;
}  // namespace

Scratch::Scratch(sys::EventLoop* loop) : loop_(loop) {
  void* memory = mmap(nullptr, 2 * kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED);
  memory_ = static_cast<char*>(memory);
}

Scratch::~Scratch() {
  if (timer_ != 0) loop_->CancelTimer(timer_);
  munmap(memory_, 2 * kBytes);
}

void Scratch::Used(size_t bytes) {
  if (bytes <= kSmall) return;
  used_since_ = true;
  if (timer_ == 0) timer_ = loop_->After(kPauseMillis, [this] { GiveBack(); });
}

void Scratch::GiveBack() {
  timer_ = 0;
  if (used_since_) {  // still busy: look again
    used_since_ = false;
    timer_ = loop_->After(kPauseMillis, [this] { GiveBack(); });
    return;
  }
  madvise(memory_ + kSmall, kBytes - kSmall, MADV_DONTNEED);
  madvise(memory_ + kBytes + kSmall, kBytes - kSmall, MADV_DONTNEED);
}

}  // namespace caisson::task
