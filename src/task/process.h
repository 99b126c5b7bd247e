// SPDX-License-Identifier: Apache-2.0
//
// Process: a container's init, or a process that is exec'd into it, from announced to reaped: its stdio, its end, and
// those who wait for it. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "oci/container.h"
#include "task/kept_output.h"
#include "task/log_program.h"
#include "task/output.h"
#include "task/pump.h"
#include "task/queued_input.h"

namespace caisson::task {

// In the place of a path: the stdio is not a client's file but asked for by calls (Pod.ReadOutput, Pod.WriteInput).
inline constexpr char kBufferPath[] = "buffer:";

// What becomes of a process's stdio.
struct StdioRequest {
  bool terminal = false;
  bool keep_stdin = false;                  // a pipe that CloseStdin closes; else /dev/null
  // FIFOs, or for output file:// or binary:// URIs, of the client (Task API), or kBufferPath.
  std::string in_path, out_path, err_path;
  Output::Sink out_sink, err_sink;          // where there is no path; a terminal's output goes to out_sink
  std::function<void()> on_out_end, on_err_end;
  std::shared_ptr<LogProgram> log_program;  // where a path is binary://
  uint32_t io_uid = 0, io_gid = 0;          // whom our pipes belong to
};

struct Process {
  using Waiter = std::function<void(const Process&)>;

  std::string exec_id;  // empty: the init
  oci::Process oci;     // pid 0: not started (exec'd processes only)
  StdioRequest stdio;
  std::unique_ptr<oci::ExecOptions> prepared;  // of an exec'd process that is not started
  int64_t started_at_nanos = 0;
  bool exited = false;
  uint32_t exit_status = 0;  // 128 + signal when one ended it
  int64_t exited_at_nanos = 0;
  std::vector<Waiter> waiters;

  UniqueFd stdin_writer;   // the pipe's other end, where no pump has it
  UniqueFd stdin_keeper;   // a writing end of the client's FIFO: its client may go and come back until CloseStdin
  std::unique_ptr<QueuedInput> input;
  std::unique_ptr<KeptOutput> kept_out, kept_err;
  std::unique_ptr<Output> out, err;
  std::unique_ptr<Pump> in_pump, out_pump, err_pump;

  // Records the end, takes what is left in the pipes, and tells those who wait. Once.
  void End(uint32_t status, int64_t at_nanos);
  // The process sees the end of its stdin when all that was sent has been read.
  void CloseStdin();
  bool outputs_ended() const;
};

// Makes the pipes that `process->stdio` asks for. The child's ends are put into `stdio`; ours into `process`. Errors name
// the path.
Result<> PrepareStdio(sys::EventLoop* loop, Scratch* scratch, oci::Stdio* stdio, Process* process);
// Where a client wants output, for writing: its FIFO, both sides of it, so that it neither waits for a reader nor breaks when the client goes away for a
// while (fifo(7)), and the client sees its end when we close it; "file:///path", to which is appended; or a log program's pipe, which is taken from
// `program_end`. kUnimplemented: any other URI.
Result<UniqueFd> OpenClientOutput(const std::string& path, UniqueFd* program_end);
// One end of a client's FIFO, non-blocking. Errors: kInvalidArgument for what is none; ENXIO where nobody reads it.
Result<UniqueFd> OpenFifo(const std::string& path, int flags);
// The paths of FIFOs for a process that another program starts, which opens them. Empty: it has no such stream.
struct FifoPaths {
  std::string in, out, err;
};
// Makes them as PREFIX-in, -out and -err, for what `process->stdio` asks for, and holds our ends in `process`. Of a terminal only
// the first two. Errors name the path; files that were made stay.
Result<FifoPaths> PrepareFifos(sys::EventLoop* loop, Scratch* scratch, const std::string& prefix, Process* process);
// After the start: a terminal's master is read and written from now on.
Result<> AttachTerminal(sys::EventLoop* loop, Scratch* scratch, Process* process);

}  // namespace caisson::task
