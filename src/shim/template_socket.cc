// SPDX-License-Identifier: Apache-2.0
#include "shim/template_socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <span>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "sys/fd_message.h"
#include "sys/socket.h"
#include "vmm/vm.h"

namespace caisson::shim {
namespace {

constexpr char kStateAlone = '1', kWithMemory = '2';  // the message's one byte

Error NotGood(const char* what) { return MakeError(Code::kFailedPrecondition, "the template's keeper has sent {}", what); }

Result<> Await(int socket, Deadline deadline) {
  pollfd wait{socket, POLLIN, 0};
  int ready;
  while ((ready = poll(&wait, 1, deadline.RemainingMillis())) < 0 && errno == EINTR) {
  }
  if (ready < 0) return ErrnoError("wait for the template's keeper");
  if (ready == 0) return MakeError(Code::kDeadlineExceeded, "the template's keeper does not answer");
  return {};
}

Result<TemplateFiles> Receive(int socket) {
  char kind = 0;
  std::vector<UniqueFd> fds;
  ssize_t got = sys::ReceiveFds(socket, &kind, 1, &fds);
  if (got < 0 && errno != EMSGSIZE) return ErrnoError("hear from the template's keeper");
  if (got == 0) return MakeError(Code::kUnavailable, "the template's keeper has ended");
  if (got < 0 || fds.empty() || fds.size() != (kind == kWithMemory ? 2U : kind == kStateAlone ? 1U : 0U)) return NotGood("something else than a template");
  fds.resize(2);
  return TemplateFiles{std::move(fds[0]), std::move(fds[1])};
}

}  // namespace

Result<> SendTemplate(int socket, const TemplateFiles& files) {
  const char kind = files.memory ? kWithMemory : kStateAlone;
  const int fds[] = {files.state.get(), files.memory.get()};
  if (sys::SendFds(socket, {&kind, 1}, std::span(fds, files.memory ? 2 : 1), MSG_DONTWAIT) != 1) return ErrnoError("hand out the template");
  return {};
}

Result<TemplateFiles> TakeTemplate(const std::string& folder, uint64_t memory_bytes, int64_t deadline_millis) {
  UniqueFd socket = TRY(sys::ConnectUnix(folder + "/" + kTemplateSocket));
  // Of a socket that was connected to: who called listen(2).
  if (TRY(sys::PeerOf(socket.get())).uid != geteuid()) return MakeError(Code::kPermissionDenied, "the template's keeper is another user's");
  TRY(Await(socket.get(), Deadline::After(deadline_millis)));
  TemplateFiles files = TRY(Receive(socket.get()));
  if (!vmm::IsSealed(files.state.get()) || (files.memory && !vmm::IsSealed(files.memory.get()))) return NotGood("what is not sealed");
  struct stat info {};
  if (files.memory && (fstat(files.memory.get(), &info) != 0 || static_cast<uint64_t>(info.st_size) != memory_bytes)) {
    return NotGood("memory of another size");
  }
  return files;
}

}  // namespace caisson::shim
