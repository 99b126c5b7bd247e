// SPDX-License-Identifier: Apache-2.0
#include "net/netns.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <csignal>
#include <filesystem>
#include <functional>

#include "base/limits.h"
#include "base/scope_exit.h"
#include "base/unique_fd.h"
#include "net/tap.h"
#include "sys/netlink.h"

namespace caisson::net {
namespace {

constexpr size_t kHelperStackBytes = 128 << 10;
constexpr int kMaxStackedMounts = 16;

// Runs `work` on a thread of its own that ends with it: setns(2) and unshare(2) of the network namespace move only the
// calling thread, and a thread that has been elsewhere must not go back to a pool.
Result<> OnHelperThread(const std::function<Result<>()>& work) {
  struct Job {
    const std::function<Result<>()>& work;
    Result<> result;
  } job{work, {}};
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ScopeExit destroy([&] { pthread_attr_destroy(&attributes); });
  pthread_attr_setstacksize(&attributes, kHelperStackBytes);
  // Signals of the process are for threads that expect them.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  pthread_t thread;
  int error = pthread_create(
      &thread, &attributes,
      [](void* argument) -> void* {
        auto* given = static_cast<Job*>(argument);
        given->result = given->work();
        return nullptr;
      },
      &job);
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  if (error != 0) return SysError(error, "start a thread for a network namespace");
  pthread_join(thread, nullptr);
  return std::move(job.result);
}

Result<> MakeMountPoint(const std::string& path) {
  std::error_code error;
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (std::filesystem::create_directories(folder, error); error) {
    return SysError(error.value(), fmt::format("make directory '{}'", folder.string()));
  }
  UniqueFd file(open(path.c_str(), O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0444));
  if (file) return {};
  if (errno != EEXIST) return ErrnoError("make '{}'", path);
  struct stat status;
  if (lstat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) && !IsNetns(path)) return {};
  return MakeError(Code::kAlreadyExists, "network namespace '{}' already exists", path);
}

// The network namespace that this thread is in.
Result<> KeepOwn(const std::string& path) {
  // The loopback interface is always the first of a namespace (net/core/net_namespace.c registers it so).
  sys::RouteSocket socket = TRY(sys::RouteSocket::Open());
  TRY(socket.SetUp(1));
  if (mount("/proc/thread-self/ns/net", path.c_str(), "none", MS_BIND, nullptr) != 0) {
    return ErrnoError("bind the network namespace to '{}'", path);
  }
  return {};
}

// Moves the thread there.
Result<std::vector<InterfaceStats>> ReadOne(const std::string& path) {
  UniqueFd netns(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!netns) return ErrnoError("open network namespace '{}'", path);
  if (setns(netns.get(), CLONE_NEWNET) != 0) return ErrnoError("enter network namespace '{}'", path);
  sys::RouteSocket socket = TRY(sys::RouteSocket::Open());
  std::vector<sys::Link> links = TRY(socket.Links(limits::kNetnsInterfaces));
  std::vector<InterfaceStats> all;
  for (sys::Link& link : links) {
    if ((link.flags & IFF_LOOPBACK) != 0 || link.name.starts_with(kTapPrefix)) continue;
    all.push_back({std::move(link.name), link.rx_bytes, link.rx_errors, link.tx_bytes, link.tx_errors, link.rx_packets,
                   link.rx_dropped, link.tx_packets, link.tx_dropped});
  }
  return all;
}

}  // namespace

Result<> CreateNetns(const std::string& path) {
  TRY(MakeMountPoint(path));
  auto made = OnHelperThread([&]() -> Result<> {
    if (unshare(CLONE_NEWNET) != 0) return ErrnoError("make a network namespace");
    return KeepOwn(path);
  });
  if (!made) (void)RemoveNetns(path);
  return made;
}

Result<> BindNetns(const std::string& source, const std::string& path) {
  UniqueFd netns(open(source.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!netns) return ErrnoError("open network namespace '{}'", source);
  TRY(MakeMountPoint(path));
  auto kept = OnHelperThread([&]() -> Result<> {
    if (setns(netns.get(), CLONE_NEWNET) != 0) return ErrnoError("enter network namespace '{}'", source);
    return KeepOwn(path);
  });
  if (!kept) (void)RemoveNetns(path);
  return kept;
}

Result<> RemoveNetns(const std::string& path) {
  // Several mounts may lie on top of each other after a crash between bind and record.
  for (int i = 0; i < kMaxStackedMounts; ++i) {
    if (umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) continue;
    if (errno == EINVAL || errno == ENOENT) break;  // not a mount point (umount(2)), or not there
    return ErrnoError("unmount network namespace '{}'", path);
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return ErrnoError("remove network namespace '{}'", path);
  return {};
}

bool IsNetns(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct statfs status;
  return fd && fstatfs(fd.get(), &status) == 0 && status.f_type == NSFS_MAGIC &&
         ioctl(fd.get(), NS_GET_NSTYPE) == CLONE_NEWNET;
}

std::vector<Result<std::vector<InterfaceStats>>> ReadInterfaceStats(const std::vector<std::string>& netns_paths) {
  std::vector<Result<std::vector<InterfaceStats>>> all;
  if (netns_paths.empty()) return all;
  auto read = OnHelperThread([&]() -> Result<> {
    for (const std::string& path : netns_paths) all.push_back(ReadOne(path));
    return {};
  });
  while (all.size() < netns_paths.size()) all.push_back(read.error());
  return all;
}

}  // namespace caisson::net
