// SPDX-License-Identifier: Apache-2.0
#include "shim/template_socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "sys/socket.h"
#include "vmm/vm.h"

namespace caisson::shim {
namespace {

constexpr size_t kFiles = 2;
constexpr char kStateAlone = '1', kWithMemory = '2';  // the message's one byte

union Control {
  char bytes[CMSG_SPACE(sizeof(int) * kFiles)];
  cmsghdr align;
};

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

// The descriptors of a message are ours from here on, whatever it says.
size_t TakeDescriptors(msghdr* message, std::array<UniqueFd, kFiles>* fds) {
  size_t count = 0;
  for (cmsghdr* part = CMSG_FIRSTHDR(message); part != nullptr; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    size_t here = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < here; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      UniqueFd owned(fd);
      if (count < kFiles) (*fds)[count++] = std::move(owned);
    }
  }
  return count;
}

Result<TemplateFiles> Receive(int socket) {
  char kind = 0;
  iovec data{&kind, 1};
  Control control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (got < 0) return ErrnoError("hear from the template's keeper");
  std::array<UniqueFd, kFiles> fds;
  size_t count = TakeDescriptors(&message, &fds);
  if (got == 0) return MakeError(Code::kUnavailable, "the template's keeper has ended");
  if ((message.msg_flags & MSG_CTRUNC) != 0 || count != (kind == kWithMemory ? 2U : kind == kStateAlone ? 1U : 0U) || count == 0) {
    return NotGood("something else than a template");
  }
  return TemplateFiles{std::move(fds[0]), std::move(fds[1])};
}

}  // namespace

Result<> SendTemplate(int socket, const TemplateFiles& files) {
  char kind = files.memory ? kWithMemory : kStateAlone;
  int fds[kFiles] = {files.state.get(), files.memory.get()};
  const size_t bytes = sizeof(int) * (files.memory ? 2 : 1);
  iovec data{&kind, 1};
  Control control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = CMSG_SPACE(bytes);
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(bytes);
  memcpy(CMSG_DATA(part), fds, bytes);
  if (sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) != 1) return ErrnoError("hand out the template");
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
