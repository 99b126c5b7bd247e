// SPDX-License-Identifier: Apache-2.0
#include "cri/background.h"

#include <utility>

namespace caisson::cri {

Background::Background() : thread_([this] { Loop(); }) {}

void Background::Post(Task task) {
  std::lock_guard lock(mutex_);
  if (stopping_) return;
  queue_.push_back(std::move(task));
  changed_.notify_all();
}

void Background::Start(Task task) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    ++started_;
  }
  std::thread([this, task = std::move(task)] {
    task();
    std::lock_guard lock(mutex_);
    --started_;
    // Under the lock: Stop may destroy the condition variable as soon as it can take it.
    changed_.notify_all();
  }).detach();
}

void Background::Stop() {
  {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
    changed_.wait(lock, [this] { return started_ == 0; });
  }
  if (thread_.joinable()) thread_.join();
}

bool Background::stopping() {
  std::lock_guard lock(mutex_);
  return stopping_;
}

void Background::Loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    Task task = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    task();
    task = nullptr;
    lock.lock();
  }
}

}  // namespace caisson::cri
