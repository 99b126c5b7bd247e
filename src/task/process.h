// SPDX-License-Identifier: Apache-2.0
//
// Process: a container's init, or a process that was exec'd into it, from created to reaped: its stdio, its end, and
// those who wait for it. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "oci/container.h"
#include "task/output.h"

namespace caisson::task {

// What becomes of a process's stdio.
struct StdioRequest {
  bool terminal = false;
  bool keep_stdin = false;                 // a pipe that CloseStdin closes; else /dev/null
  std::string in_path, out_path, err_path; // FIFOs or file:// paths of the client (Task API); empty: the sinks
  Output::Sink out_sink, err_sink;         // a terminal's output goes to out_sink
  std::function<void()> on_outputs_ended;
};

struct Process {
  using Waiter = std::function<void(const Process&)>;

  std::string exec_id;  // empty: the init
  oci::Process oci;
  bool terminal = false;
  std::string in_path, out_path, err_path;
  int64_t started_at_nanos = 0;
  bool exited = false;
  uint32_t exit_status = 0;  // 128 + signal when one ended it
  int64_t exited_at_nanos = 0;
  std::vector<Waiter> waiters;

  UniqueFd stdin_writer;  // of the pipe, or of the terminal a duplicate of its master
  std::unique_ptr<Output> out, err;

  // Records the end, takes what is left in the pipes, and tells those who wait.
  void End(uint32_t status, int64_t at_nanos);
  bool outputs_ended() const { return (!out || out->ended()) && (!err || err->ended()); }
};

// The child's ends are put into `stdio`; ours into `process`. Errors name the path.
Result<> PrepareStdio(sys::EventLoop* loop, StdioRequest request, oci::Stdio* stdio, Process* process);
// After the start: a terminal's master is read from now on.
void AttachTerminal(sys::EventLoop* loop, StdioRequest request, Process* process);

}  // namespace caisson::task
