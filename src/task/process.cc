// SPDX-License-Identifier: Apache-2.0
#include "task/process.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

namespace caisson::task {
namespace {

struct PipeEnds {
  UniqueFd reader, writer;
};

Result<PipeEnds> MakePipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoError("make a pipe for stdio");
  return PipeEnds{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

bool IsFile(const std::string& path) { return path.starts_with("file://"); }

Result<> CheckScheme(const std::string& path) {
  size_t colon = path.find("://");
  if (colon == std::string::npos || IsFile(path)) return {};
  return MakeError(Code::kUnimplemented, "stdio '{}': only FIFOs and file:// are supported", path.substr(0, 256));
}

// "file:///path": the output is appended to it (containerd's shim documentation, "Logging").
Result<UniqueFd> OpenFile(const std::string& uri) {
  std::string path = uri.substr(7);
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0640));
  if (!fd) return ErrnoError("open stdio '{}'", uri);
  struct stat info {};
  if (fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return MakeError(Code::kInvalidArgument, "stdio '{}' is not a regular file", uri);
  }
  fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK);
  return fd;
}

// For writing. Both sides, so that it neither waits for a reader nor breaks when the client goes away for a while
// (fifo(7)); the client sees its end when we close it.
Result<UniqueFd> OpenClientOutput(const std::string& path) {
  TRY(CheckScheme(path));
  return IsFile(path) ? OpenFile(path) : OpenFifo(path, O_RDWR);
}

UniqueFd Duplicate(int fd) { return UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 3)); }

// The client's FIFO flows into `to`.
Result<> PumpStdin(sys::EventLoop* loop, Scratch* scratch, UniqueFd to, Process* process) {
  TRY(CheckScheme(process->stdio.in_path));
  UniqueFd fifo = TRY(OpenFifo(process->stdio.in_path, O_RDONLY));
  process->stdin_keeper = TRY(OpenFifo(process->stdio.in_path, O_WRONLY));
  process->in_pump = std::make_unique<Pump>(loop, scratch, std::move(fifo), std::move(to), nullptr);
  return {};
}

struct OutputPlan {
  const std::string& path;
  Output::Sink& sink;
  std::function<void()>& on_end;
  std::unique_ptr<Output>* output;
  std::unique_ptr<Pump>* pump;
};

Result<> PrepareOutput(sys::EventLoop* loop, Scratch* scratch, const OutputPlan& plan, UniqueFd* child_end) {
  if (IsFile(plan.path)) {
    *child_end = TRY(OpenFile(plan.path));
    return {};
  }
  if (plan.path.empty() && !plan.sink) return {};
  UniqueFd client;
  if (!plan.path.empty()) client = TRY(OpenClientOutput(plan.path));
  PipeEnds pipe = TRY(MakePipe());
  *child_end = std::move(pipe.writer);
  if (client) {
    *plan.pump = std::make_unique<Pump>(loop, scratch, std::move(pipe.reader), std::move(client), std::move(plan.on_end));
  } else {
    *plan.output = std::make_unique<Output>(loop, scratch, std::move(pipe.reader), std::move(plan.sink), std::move(plan.on_end));
  }
  return {};
}

}  // namespace

Result<UniqueFd> OpenFifo(const std::string& path, int flags) {
  UniqueFd fd(open(path.c_str(), flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!fd) return ErrnoError("open stdio '{}'", path);
  struct stat info {};
  if (fstat(fd.get(), &info) != 0 || !S_ISFIFO(info.st_mode)) {
    return MakeError(Code::kInvalidArgument, "stdio '{}' is not a FIFO", path);
  }
  return fd;
}

void Process::End(uint32_t status, int64_t at_nanos) {
  if (exited) return;
  exited = true;
  exit_status = status;
  exited_at_nanos = at_nanos;
  // All that it wrote is in the pipes by now; it is logged before anyone hears of the end.
  if (out) out->Drain();
  if (err) err->Drain();
  if (out_pump) out_pump->Drain();
  if (err_pump) err_pump->Drain();
  stdin_writer.Reset();
  stdin_keeper.Reset();
  in_pump.reset();
  for (auto& waiter : std::exchange(waiters, {})) waiter(*this);
}

void Process::CloseStdin() {
  stdin_writer.Reset();
  stdin_keeper.Reset();
}

bool Process::outputs_ended() const {
  return (!out || out->ended()) && (!err || err->ended()) && (!out_pump || out_pump->ended()) && (!err_pump || err_pump->ended());
}

Result<> PrepareStdio(sys::EventLoop* loop, Scratch* scratch, oci::Stdio* stdio, Process* process) {
  StdioRequest& request = process->stdio;
  if (request.terminal) return {};
  if (!request.in_path.empty() || request.keep_stdin) {
    PipeEnds pipe = TRY(MakePipe());
    stdio->in = std::move(pipe.reader);
    if (request.in_path.empty()) {
      process->stdin_writer = std::move(pipe.writer);
    } else {
      TRY(PumpStdin(loop, scratch, std::move(pipe.writer), process));
    }
  }
  TRY(PrepareOutput(loop, scratch, {request.out_path, request.out_sink, request.on_out_end, &process->out, &process->out_pump},
                    &stdio->out));
  return PrepareOutput(loop, scratch, {request.err_path, request.err_sink, request.on_err_end, &process->err, &process->err_pump},
                       &stdio->err);
}

Result<> AttachTerminal(sys::EventLoop* loop, Scratch* scratch, Process* process) {
  StdioRequest& request = process->stdio;
  if (!request.terminal || !process->oci.console) return {};
  // One descriptor to read, one to write, and the master itself to resize: the loop watches a descriptor once.
  UniqueFd reader = Duplicate(process->oci.console.get()), writer = Duplicate(process->oci.console.get());
  if (!reader || !writer) return ErrnoError("duplicate a terminal's master");
  if (!request.in_path.empty()) {
    TRY(PumpStdin(loop, scratch, std::move(writer), process));
  } else if (request.keep_stdin) {
    process->stdin_writer = std::move(writer);
  }
  if (!request.out_path.empty()) {
    UniqueFd client = TRY(OpenClientOutput(request.out_path));
    process->out_pump = std::make_unique<Pump>(loop, scratch, std::move(reader), std::move(client), std::move(request.on_out_end));
    return {};
  }
  Output::Sink sink = request.out_sink ? std::move(request.out_sink) : [](std::string_view) {};
  process->out = std::make_unique<Output>(loop, scratch, std::move(reader), std::move(sink), std::move(request.on_out_end));
  return {};
}

}  // namespace caisson::task
