// SPDX-License-Identifier: Apache-2.0
#include "shim/file_service.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/scope_exit.h"
#include "files/serve.h"
#include "oci/bind.h"
#include "oci/clone.h"
#include "sys/fd_message.h"

namespace caisson::shim {
namespace {

constexpr int64_t kReadyMillis = 10'000;
// The guest loads its module after its first word, at its leisure.
constexpr int64_t kFuseMillis = 20'000;
constexpr int64_t kReapMillis = 10'000;
constexpr unsigned long kOwnNamespaces = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
constexpr int kLastFd = files::kStarterSocket;
static_assert(files::kGuestSocket == 3 && files::kStarterSocket == 4);

// The child until it executes the program. Whatever goes wrong, its end says so.
[[noreturn]] void RunServer(const std::string& program, const std::vector<std::string>& cgroup_procs, int guest, int control) {
  setsid();
  for (const std::string& path : cgroup_procs) {
    UniqueFd procs(open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!procs || write(procs.get(), "0", 1) != 1) _exit(126);  // "0": the writer (cgroups(7))
  }
  // First out of the way, then into place: a target may be the other's source.
  guest = fcntl(guest, F_DUPFD_CLOEXEC, kLastFd + 1);
  control = fcntl(control, F_DUPFD_CLOEXEC, kLastFd + 1);
  if (guest < 0 || control < 0 || dup2(guest, files::kGuestSocket) < 0 || dup2(control, files::kStarterSocket) < 0) _exit(126);
  if (syscall(SYS_close_range, kLastFd + 1, ~0U, 0) != 0) _exit(126);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  char name[] = "containerd-shim-caisson-v2", verb[] = "serve-files";
  char* arguments[] = {name, verb, nullptr};
  char* environment[] = {nullptr};
  execve(program.c_str(), arguments, environment);
  _exit(127);
}

// No device in a detached mount can be opened, and what happens to the mounts it was copied of does not reach it.
Result<> Restrict(int tree) {
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  attributes.propagation = MS_PRIVATE;
  if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes) == 0) return {};
  return ErrnoError("restrict its mounts");
}

// What is mounted at and below `folder` now, as mounts that are in no namespace.
Result<UniqueFd> DetachedCopy(const std::string& folder) {
  UniqueFd tree = TRY(oci::CloneTree(AT_FDCWD, folder, true));
  TRY(Restrict(tree.get()));
  return tree;
}

files::VolumeMessage MessageOf(const std::string& name) {
  files::VolumeMessage message{};
  std::memcpy(message.name, name.data(), std::min(name.size(), sizeof message.name - 1));
  return message;
}

}  // namespace

void FileService::SetGuest(UniqueFd guest, std::vector<std::string> cgroup_procs, OnEnd on_end) {
  guest_ = std::move(guest);
  cgroup_procs_ = std::move(cgroup_procs);
  on_end_ = std::move(on_end);
}

Result<> FileService::Start() {
  if (!guest_) return MakeError(Code::kFailedPrecondition, "the pod's VM has no port for files, or has ended");
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return ErrnoError("make a socket pair");
  UniqueFd ours(ends[0]), theirs(ends[1]);
  auto cloned = TRY(oci::Clone(kOwnNamespaces, -1));
  if (cloned.pid == 0) RunServer(program_, cgroup_procs_, guest_.get(), theirs.get());
  theirs.Reset();
  pid_ = cloned.pid;
  pidfd_ = std::move(cloned.pidfd);
  control_ = std::move(ours);
  auto ready = AwaitReady();
  if (ready) ready = loop_->Watch(pidfd_.get(), EPOLLIN, [this](uint32_t) { OnServerEnd(); });
  if (ready) return ready;
  oci::KillAndReap(pidfd_.get());
  pidfd_.Reset();
  control_.Reset();
  pid_ = 0;
  return std::move(ready.error()).Within("start the server of shared folders");
}

Result<> FileService::AwaitReady() {
  Deadline deadline = Deadline::After(kReadyMillis);
  pollfd wait{control_.get(), POLLIN, 0};
  int ready;
  while ((ready = poll(&wait, 1, deadline.RemainingMillis())) < 0 && errno == EINTR) {
  }
  if (ready == 0) return MakeError(Code::kDeadlineExceeded, "it is not ready in time");
  std::string words = LastWords();
  if (words == std::string(files::kReady, sizeof files::kReady)) return {};
  return MakeError(Code::kInternal, "{}", words.empty() ? "it has ended" : words);
}

std::string FileService::LastWords() {
  char words[1024];
  ssize_t got = recv(control_.get(), words, sizeof words, MSG_DONTWAIT);
  return got > 0 ? std::string(words, static_cast<size_t>(got)) : "";
}

Result<> FileService::Send(const GuestVolume& volume) {
  UniqueFd tree = TRY(DetachedCopy(volume.source));
  struct stat info {};
  if (fstat(tree.get(), &info) != 0) return ErrnoError("look at '{}'", volume.source);
  if (!S_ISDIR(info.st_mode)) return MakeError(Code::kFailedPrecondition, "'{}' is no folder", volume.source);
  Shared& known = shared_[volume.name];
  // Another folder may have come in its place since (a sub path's, when its container is started again).
  bool same = known.number == info.st_ino && known.device == info.st_dev;
  bool writable = !volume.read_only || (same && known.writable);
  if (same && writable == known.writable) return {};
  files::VolumeMessage message = MessageOf(volume.name);
  message.writable = writable;
  TRY(SendMessage(message, same ? -1 : tree.get()));
  known = {info.st_dev, info.st_ino, writable};
  return {};
}

Result<> FileService::SendMessage(const files::VolumeMessage& message, int fd) {
  const std::string_view bytes(reinterpret_cast<const char*>(&message), sizeof message);
  if (sys::SendFds(control_.get(), bytes, std::span(&fd, fd >= 0 ? 1 : 0), MSG_DONTWAIT) < 0) return ErrnoError("hand the folder over");
  return {};
}

void FileService::Put(const GuestVolume& volume, Done done) {
  auto sent = pidfd_ ? Result<>() : Start();
  if (sent) sent = Send(volume);
  if (!sent) return done(std::move(sent.error()).Within(fmt::format("volume '{}'", volume.source)));
  ShareFolders(volume.source, std::move(done));
}

void FileService::PutConstant(const std::string& name, UniqueFd tree, Done done) {
  files::VolumeMessage message = MessageOf(name);
  message.constant = 1;
  auto sent = pidfd_ ? Result<>() : Start();
  if (sent) sent = Restrict(tree.get());
  if (sent) sent = SendMessage(message, tree.get());
  if (!sent) return done(std::move(sent.error()).Within(fmt::format("folder '{}'", name)));
  ShareFolders(name, std::move(done));
}

void FileService::Remove(const std::string& name) {
  files::VolumeMessage message = MessageOf(name);
  message.removed = 1;
  if (!pidfd_) return;
  auto sent = SendMessage(message, -1);
  if (!sent) log::Warn("folder '{}': {}", name, sent.error().message);
}

void FileService::ShareFolders(const std::string& what, Done done) {
  guest::v1::ShareFoldersRequest request;
  request.set_deadline_millis(kFuseMillis);
  client_->Call<guest::v1::ShareFoldersResponse>(guest_service::kGuest, "ShareFolders", request, GuestClient::kTimeoutMillis,
                                                 [what, done](Result<guest::v1::ShareFoldersResponse> shared) {
                                                   if (shared) return done({});
                                                   done(std::move(shared.error()).Within(fmt::format("volume '{}'", what)));
                                                 });
}

void FileService::OnServerEnd() {
  loop_->Unwatch(pidfd_.get());
  std::string words = LastWords();
  auto status = oci::Reap(pidfd_.get(), kReapMillis);
  pidfd_.Reset();
  std::string how = !status ? status.error().message : *status > 128 ? fmt::format("killed by signal {}", *status - 128) : fmt::format("exited with status {}", *status);
  End();
  if (on_end_) on_end_(fmt::format("the server of the pod's shared folders ended: {}{}{}", how, words.empty() ? "" : ": ", words));
}

void FileService::End() {
  if (pidfd_) {
    loop_->Unwatch(pidfd_.get());
    oci::KillAndReap(pidfd_.get());
  }
  pidfd_.Reset();
  control_.Reset();
  guest_.Reset();
  shared_.clear();
  pid_ = 0;
}

}  // namespace caisson::shim
