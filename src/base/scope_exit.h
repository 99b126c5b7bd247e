// SPDX-License-Identifier: Apache-2.0
//
// ScopeExit runs a function when it goes out of scope, unless dismissed. Rollback collects the undo of each step of a
// multi-step operation and runs them in reverse, unless committed. Neither is thread-safe; undos must not fail loudly.
#pragma once

#include <functional>
#include <utility>
#include <vector>

namespace caisson {

template <class F>
class [[nodiscard]] ScopeExit {
 public:
  explicit ScopeExit(F f) : f_(std::move(f)) {}
  ScopeExit(const ScopeExit&) = delete;
  ScopeExit& operator=(const ScopeExit&) = delete;
  ~ScopeExit() {
    if (armed_) f_();
  }
  void Dismiss() { armed_ = false; }

 private:
  F f_;
  bool armed_ = true;
};

class [[nodiscard]] Rollback {
 public:
  Rollback() = default;
  Rollback(Rollback&& other) noexcept : undos_(std::exchange(other.undos_, {})) {}
  Rollback& operator=(Rollback&&) = delete;
  ~Rollback() { Run(); }

  // `undo` runs if the operation is not committed; the last added runs first.
  void Add(std::function<void()> undo) { undos_.push_back(std::move(undo)); }
  void Commit() { undos_.clear(); }
  // Undoes now what has been added so far.
  void Run() {
    while (!undos_.empty()) {
      auto undo = std::move(undos_.back());
      undos_.pop_back();
      undo();
    }
  }

 private:
  std::vector<std::function<void()>> undos_;
};

}  // namespace caisson
