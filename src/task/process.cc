// SPDX-License-Identifier: Apache-2.0
#include "task/process.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "sys/pipe.h"

namespace caisson::task {
namespace {

bool IsFile(const std::string& path) { return path.starts_with("file://"); }
bool IsKept(const std::string& path) { return path == kBufferPath; }

Result<> CheckScheme(const std::string& path) {
  size_t colon = path.find("://");
  if (colon == std::string::npos || IsFile(path)) return {};
  return MakeError(Code::kUnimplemented, "stdio '{}': only FIFOs and, for output, file:// and binary:// are supported", path.substr(0, 256));
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

// The writing end of a log program's pipe.
Result<UniqueFd> TakeProgramEnd(const std::string& path, UniqueFd* end) {
  if (end == nullptr || !*end) return MakeError(Code::kInternal, "the log program of stdio '{}' is not running", path.substr(0, 256));
  return std::move(*end);
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

// What is written to `to`, a pipe or a terminal, comes from where the request says.
Result<> TakeInput(sys::EventLoop* loop, Scratch* scratch, UniqueFd to, Process* process) {
  if (process->stdio.in_path.empty()) {
    process->stdin_writer = std::move(to);
  } else if (IsKept(process->stdio.in_path)) {
    process->input = std::make_unique<QueuedInput>(loop, std::move(to));
  } else {
    TRY(PumpStdin(loop, scratch, std::move(to), process));
  }
  return {};
}

// So that a process of that user can open it anew by /proc/self/fd.
Result<> Give(int pipe, uint32_t uid, uint32_t gid) {
  if ((uid == 0 && gid == 0) || fchown(pipe, uid, gid) == 0) return {};
  return ErrnoError("give a pipe for stdio to {}:{}", uid, gid);
}

struct OutputPlan {
  const std::string& path;
  Output::Sink& sink;
  std::function<void()>& on_end;
  std::unique_ptr<KeptOutput>* kept;
  std::unique_ptr<Output>* output;
  std::unique_ptr<Pump>* pump;
  UniqueFd* program_end;  // null: there is no log program
  uint32_t uid, gid;
};

OutputPlan OutPlan(Process* process) {
  StdioRequest& request = process->stdio;
  return {request.out_path, request.out_sink, request.on_out_end, &process->kept_out, &process->out, &process->out_pump,
          request.log_program ? &request.log_program->out : nullptr, request.io_uid, request.io_gid};
}

OutputPlan ErrPlan(Process* process) {
  StdioRequest& request = process->stdio;
  return {request.err_path, request.err_sink, request.on_err_end, &process->kept_err, &process->err, &process->err_pump,
          request.log_program ? &request.log_program->err : nullptr, request.io_uid, request.io_gid};
}

// `from`, a pipe's reading end or a terminal, is read for whom the plan says.
Result<> GiveOutput(sys::EventLoop* loop, Scratch* scratch, const OutputPlan& plan, UniqueFd from) {
  if (!plan.path.empty() && !IsKept(plan.path)) {
    UniqueFd client = TRY(OpenClientOutput(plan.path, plan.program_end));
    *plan.pump = std::make_unique<Pump>(loop, scratch, std::move(from), std::move(client), std::move(plan.on_end));
    return {};
  }
  if (IsKept(plan.path)) {
    *plan.kept = std::make_unique<KeptOutput>();
    plan.sink = [kept = plan.kept->get()](std::string_view bytes) { kept->Append(bytes); };
    plan.on_end = [kept = plan.kept->get()] { kept->End(); };
  }
  // A terminal has to be read even if nobody wants it.
  Output::Sink sink = plan.sink ? std::move(plan.sink) : [](std::string_view) {};
  *plan.output = std::make_unique<Output>(loop, scratch, std::move(from), std::move(sink), std::move(plan.on_end));
  if (*plan.kept) (*plan.kept)->SetSource(plan.output->get());
  return {};
}

Result<> PrepareOutput(sys::EventLoop* loop, Scratch* scratch, const OutputPlan& plan, UniqueFd* child_end) {
  if (IsFile(plan.path)) {
    *child_end = TRY(OpenFile(plan.path));
    return {};
  }
  if (LogProgram::IsUri(plan.path)) {
    *child_end = TRY(TakeProgramEnd(plan.path, plan.program_end));
    return Give(child_end->get(), plan.uid, plan.gid);
  }
  if (plan.path.empty() && !plan.sink) return {};
  sys::PipeEnds pipe = TRY(sys::OpenPipe("a pipe for stdio"));
  TRY(Give(pipe.writer.get(), plan.uid, plan.gid));
  TRY(GiveOutput(loop, scratch, plan, std::move(pipe.reader)));
  *child_end = std::move(pipe.writer);
  return {};
}

}  // namespace

Result<UniqueFd> OpenClientOutput(const std::string& path, UniqueFd* program_end) {
  if (LogProgram::IsUri(path)) return TakeProgramEnd(path, program_end);
  TRY(CheckScheme(path));
  return IsFile(path) ? OpenFile(path) : OpenFifo(path, O_RDWR);
}

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
  if (kept_out) kept_out->OnExit();
  if (kept_err) kept_err->OnExit();
  input.reset();
  stdin_writer.Reset();
  stdin_keeper.Reset();
  in_pump.reset();
  stdio.log_program.reset();
  for (auto& waiter : std::exchange(waiters, {})) waiter(*this);
}

void Process::CloseStdin() {
  input.reset();
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
    sys::PipeEnds pipe = TRY(sys::OpenPipe("a pipe for stdio"));
    TRY(Give(pipe.reader.get(), request.io_uid, request.io_gid));
    stdio->in = std::move(pipe.reader);
    TRY(TakeInput(loop, scratch, std::move(pipe.writer), process));
  }
  TRY(PrepareOutput(loop, scratch, OutPlan(process), &stdio->out));
  return PrepareOutput(loop, scratch, ErrPlan(process), &stdio->err);
}

Result<FifoPaths> PrepareFifos(sys::EventLoop* loop, Scratch* scratch, const std::string& prefix, Process* process) {
  StdioRequest& request = process->stdio;
  FifoPaths paths;
  // For reading alone, so that its end is seen; for writing with a reader of ours, or it would not open (fifo(7)).
  auto make = [&](const char* name, int flags, std::string* path) -> Result<UniqueFd> {
    *path = prefix + name;
    if (mkfifo(path->c_str(), 0600) != 0) return ErrnoError("make the FIFO '{}'", *path);
    return OpenFifo(*path, flags);
  };
  auto give = [&](const char* name, const OutputPlan& plan, std::string* path) -> Result<> {
    return GiveOutput(loop, scratch, plan, TRY(make(name, O_RDONLY, path)));
  };
  auto wants = [](const OutputPlan& plan) { return !plan.path.empty() || plan.sink; };
  if (!request.in_path.empty() || request.keep_stdin) TRY(TakeInput(loop, scratch, TRY(make("-in", O_RDWR, &paths.in)), process));
  if (paths.in.empty() && !wants(OutPlan(process)) && !wants(ErrPlan(process))) return paths;
  // All or none: a shim takes the lack of one for a fault. What is not wanted is dropped.
  TRY(give("-out", OutPlan(process), &paths.out));
  if (!request.terminal) TRY(give("-err", ErrPlan(process), &paths.err));
  return paths;
}

Result<> AttachTerminal(sys::EventLoop* loop, Scratch* scratch, Process* process) {
  StdioRequest& request = process->stdio;
  if (!request.terminal || !process->oci.console) return {};
  // One descriptor to read, one to write, and the master itself to resize: the loop watches a descriptor once.
  UniqueFd reader = Duplicate(process->oci.console.get()), writer = Duplicate(process->oci.console.get());
  if (!reader || !writer) return ErrnoError("duplicate a terminal's master");
  if (!request.in_path.empty() || request.keep_stdin) TRY(TakeInput(loop, scratch, std::move(writer), process));
  return GiveOutput(loop, scratch, OutPlan(process), std::move(reader));
}

}  // namespace caisson::task
