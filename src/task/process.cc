// SPDX-License-Identifier: Apache-2.0
#include "task/process.h"

#include <fcntl.h>
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

// A FIFO of the client's, or "file:///path" to append to (containerd's shim documentation, "Logging").
Result<UniqueFd> OpenClientPath(const std::string& path, int flags) {
  if (path.starts_with("binary://")) return MakeError(Code::kUnimplemented, "stdio '{}': binary:// is not supported", path);
  bool file = path.starts_with("file://");
  std::string plain = file ? path.substr(7) : path;
  if (file) flags = O_WRONLY | O_CREAT | O_APPEND;
  // A FIFO opened for both does not wait for its other side (fifo(7)).
  if (!file && flags == O_WRONLY) flags = O_RDWR;
  UniqueFd fd(open(plain.c_str(), flags | O_CLOEXEC | O_NOCTTY | (flags == O_RDONLY ? O_NONBLOCK : 0), 0640));
  if (!fd) return ErrnoError("open stdio '{}'", path);
  if (flags == O_RDONLY) fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK);
  return fd;
}

Result<> PrepareOutput(sys::EventLoop* loop, const std::string& path, Output::Sink sink, std::function<void()> on_end,
                       UniqueFd* child_end, std::unique_ptr<Output>* output) {
  if (!path.empty()) {
    *child_end = TRY(OpenClientPath(path, O_WRONLY));
    return {};
  }
  if (!sink) return {};
  PipeEnds pipe = TRY(MakePipe());
  // Fewer and longer reads of a busy container; pages are only taken when there is data (pipe(7)).
  fcntl(pipe.reader.get(), F_SETPIPE_SZ, 256 << 10);
  *child_end = std::move(pipe.writer);
  *output = std::make_unique<Output>(loop, std::move(pipe.reader), std::move(sink), std::move(on_end));
  return {};
}

}  // namespace

void Process::End(uint32_t status, int64_t at_nanos) {
  if (exited) return;
  exited = true;
  exit_status = status;
  exited_at_nanos = at_nanos;
  // All that it wrote is in the pipes by now; it is logged before anyone hears of the end.
  if (out) out->Drain();
  if (err) err->Drain();
  stdin_writer.Reset();
  for (auto& waiter : std::exchange(waiters, {})) waiter(*this);
}

Result<> PrepareStdio(sys::EventLoop* loop, StdioRequest request, oci::Stdio* stdio, Process* process) {
  process->terminal = request.terminal;
  process->in_path = request.in_path;
  process->out_path = request.out_path;
  process->err_path = request.err_path;
  if (request.terminal) return {};
  if (!request.in_path.empty()) {
    stdio->in = TRY(OpenClientPath(request.in_path, O_RDONLY));
  } else if (request.keep_stdin) {
    PipeEnds pipe = TRY(MakePipe());
    stdio->in = std::move(pipe.reader);
    process->stdin_writer = std::move(pipe.writer);
  }
  TRY(PrepareOutput(loop, request.out_path, std::move(request.out_sink), request.on_outputs_ended, &stdio->out, &process->out));
  return PrepareOutput(loop, request.err_path, std::move(request.err_sink), request.on_outputs_ended, &stdio->err, &process->err);
}

void AttachTerminal(sys::EventLoop* loop, StdioRequest request, Process* process) {
  if (!process->oci.console) return;
  Output::Sink sink = std::move(request.out_sink);
  if (!sink) sink = [](std::string_view) {};
  // One descriptor to read, one to write and to resize.
  UniqueFd reader(fcntl(process->oci.console.get(), F_DUPFD_CLOEXEC, 3));
  if (reader) process->out = std::make_unique<Output>(loop, std::move(reader), std::move(sink), std::move(request.on_outputs_ended));
}

}  // namespace caisson::task
