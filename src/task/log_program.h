// SPDX-License-Identifier: Apache-2.0
//
// LogProgram: a program that takes a process's output, "binary:///path?key=value&…" as stdio of the Task API (containerd's docs of
// runtime v2, "Logging"). It gets each key and value as an argument, the container's id and namespace in its environment, stdout as
// its descriptor 3, stderr as 4, and says that it is ready by closing 5.
//
// It is a child of the companion, which reaps it as any other; it outlives the process until it has read everything, a while at
// most. One thread, the loop's.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sys/event_loop.h"

namespace caisson::task {

class LogProgram {
 public:
  using Ready = std::function<void(Result<std::shared_ptr<LogProgram>>)>;
  static constexpr int64_t kReadyMillis = 10'000;  // until it is ready; then it is killed
  static constexpr int64_t kEndMillis = 12'000;    // until it has ended by itself; then it gets SIGTERM

  static bool IsUri(const std::string& path) { return path.starts_with("binary://"); }
  // Starts it; `ready` runs once, from here or from the loop. `loop` outlives it and what it leaves behind.
  static void Start(sys::EventLoop* loop, const std::string& uri, const std::string& container_id, const std::string& containerd_namespace,
                    Ready ready);
  // Where a process's output goes to one, by either path (of the same program); else `ready` gets null at once.
  static void StartFor(sys::EventLoop* loop, const std::string& out_path, const std::string& err_path, const std::string& container_id,
                       const std::string& containerd_namespace, Ready ready);
  LogProgram(sys::EventLoop* loop, UniqueFd pidfd) : loop_(loop), pidfd_(std::move(pidfd)) {}
  LogProgram(const LogProgram&) = delete;
  LogProgram& operator=(const LogProgram&) = delete;
  ~LogProgram();

  // The pipes' writing ends; whoever takes one closes it.
  UniqueFd out, err;

 private:
  friend struct LogProgramStart;
  sys::EventLoop* loop_;
  UniqueFd pidfd_;
};

// The arguments that a "binary://" URI stands for, its path as the first. kInvalidArgument names the URI.
Result<std::vector<std::string>> ParseLogUri(const std::string& uri);

}  // namespace caisson::task
