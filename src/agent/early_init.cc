// SPDX-License-Identifier: Apache-2.0
#include "agent/early_init.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "base/guest_words.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "sys/path.h"

namespace caisson::agent {
namespace {

constexpr char kModuleList[] = "modules/list", kLaterModules[] = "modules/later";
constexpr char kNewRoot[] = "/newroot";

struct FileSystem {
  const char* type;
  const char* at;
  unsigned long flags;
  const char* data;
};

// In this order; what cannot be had on some kernel is not here.
constexpr FileSystem kFileSystems[] = {
    {"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""},
    {"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""},
    {"devtmpfs", "/dev", MS_NOSUID, "mode=0755"},
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "ptmxmode=0666,mode=0620,gid=5"},
    {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"},
    {"cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, "nsdelegate,memory_recursiveprot"},
};

Result<> MountOne(const FileSystem& fs) {
  if (mkdir(fs.at, 0755) != 0 && errno != EEXIST && errno != EPERM) return ErrnoError("make '{}'", fs.at);
  if (mount(fs.type, fs.at, fs.type, fs.flags, fs.data) == 0) return {};
  // Options that an older kernel does not know; devtmpfs that the kernel has mounted itself.
  if (errno == EINVAL && mount(fs.type, fs.at, fs.type, fs.flags, "") == 0) return {};
  if (errno == EBUSY) return {};
  return ErrnoError("mount '{}' on '{}'", fs.type, fs.at);
}

// One that makes devices when it is loaded is to make none: they would be the pod's.
const char* ParametersOf(std::string_view module) { return module.ends_with("/dummy.ko") ? "numdummies=0" : ""; }

// A list of paths of modules, one a line, each after those that it needs. None: a kernel that has all built in.
Result<> LoadModules(int root, const char* list) {
  UniqueFd list_fd(openat(root, list, O_RDONLY | O_CLOEXEC));
  if (!list_fd) return errno == ENOENT ? Result<>() : Result<>(ErrnoError("open '{}'", list));
  std::string text = TRY(sys::ReadAll(list_fd.get(), limits::kConfigFileBytes));
  for (std::string_view line : Split(text, '\n')) {
    if (line.empty()) continue;
    std::string path(line.substr(line.starts_with('/') ? 1 : 0));
    UniqueFd fd(openat(root, path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) return ErrnoError("open module '{}'", path);
    // One whose hardware is not there; what is missed then fails by its own name later.
    if (syscall(SYS_finit_module, fd.get(), ParametersOf(path), 0) != 0 && errno != EEXIST) log::Warn("load module '{}': {}", path, ErrnoError("finit_module").message);
  }
  return {};
}

// Frees the initramfs's memory, ours apart: a file that is being run stays until it ends.
void Empty(int dir_fd, dev_t device, int depth) {
  DIR* dir = fdopendir(dir_fd);
  if (dir == nullptr) return;
  while (dirent* entry = readdir(dir)) {
    std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    struct stat info {};
    if (fstatat(dirfd(dir), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0 || info.st_dev != device) continue;
    if (S_ISDIR(info.st_mode) && depth < limits::kCgroupDepth) {
      int below = openat(dirfd(dir), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
      if (below >= 0) Empty(below, device, depth + 1);
    }
    unlinkat(dirfd(dir), name.c_str(), S_ISDIR(info.st_mode) ? AT_REMOVEDIR : 0);
  }
  closedir(dir);
}

// BusyBox of an image for debugging, into our root; without it there is nothing to be had.
Result<> InstallDebugProgram(int initramfs) {
  UniqueFd from(openat(initramfs, "debug/busybox", O_RDONLY | O_CLOEXEC));
  if (!from) return errno == ENOENT ? Result<>() : Result<>(ErrnoError("open the program for debugging"));
  mkdir("/bin", 0755);
  UniqueFd to(open(kDebugProgram, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755));
  if (!to) return ErrnoError("make '{}'", kDebugProgram);
  for (;;) {
    ssize_t copied = sendfile(to.get(), from.get(), nullptr, 1 << 20);
    if (copied < 0) return ErrnoError("write '{}'", kDebugProgram);
    if (copied == 0) break;
  }
  UniqueFd names(openat(initramfs, "debug/names", O_RDONLY | O_CLOEXEC));
  if (!names) return ErrnoError("open the names of '{}'", kDebugProgram);
  std::string text = TRY(sys::ReadAll(names.get(), limits::kConfigFileBytes));
  for (std::string_view name : Split(text, '\n')) {
    if (!name.empty()) (void)!symlink("busybox", fmt::format("/bin/{}", name).c_str());
  }
  return {};
}

// As switch_root does: the new root is moved onto the old one's place.
Result<> SwitchRoot() {
  mkdir(kNewRoot, 0755);
  if (mount("root", kNewRoot, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=16m") != 0) return ErrnoError("mount the agent's root");
  for (const char* at : {"/proc", "/sys", "/dev", "/run"}) {
    std::string to = std::string(kNewRoot) + at;
    mkdir(to.c_str(), 0755);
    if (mount(at, to.c_str(), nullptr, MS_MOVE, nullptr) != 0) return ErrnoError("move '{}'", at);
  }
  for (const char* at : {"/tmp", "/etc", "/var"}) mkdir((std::string(kNewRoot) + at).c_str(), 0755);
  if (chdir(kNewRoot) != 0 || mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 || chroot(".") != 0 || chdir("/") != 0) {
    return ErrnoError("switch to the agent's root");
  }
  return {};
}

bool StartedWith(const char* word) {
  auto line = sys::ReadFile("/proc/cmdline", limits::kCgroupFileBytes);
  return line && HasWord(*line, word);
}

// Filters of system calls and devices are interpreted: to compile one, which each container and each process in one has the kernel do, takes an
// emulated processor longer than the interpreter does in the lives of most.
void InterpretFilters() {
  UniqueFd setting(open("/proc/sys/net/core/bpf_jit_enable", O_WRONLY | O_CLOEXEC));
  if (!setting && errno == ENOENT) return;  // a kernel that has no compiler
  if (!setting || write(setting.get(), "0", 1) != 1) log::Warn("{}", ErrnoError("set net.core.bpf_jit_enable").message);
}

}  // namespace

Result<UniqueFd> EarlyInit() {
  umask(0022);
  UniqueFd initramfs(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!initramfs) return ErrnoError("open the initramfs");
  for (const FileSystem& fs : kFileSystems) TRY(MountOne(fs));
  TRY(LoadModules(initramfs.get(), kModuleList));
  TRY(SwitchRoot());
  if (mkdir(kRunDir, 0711) != 0 && errno != EEXIST) return ErrnoError("make '{}'", kRunDir);
  if (StartedWith(kGuestEmulatedWord)) InterpretFilters();
  if (StartedForDebugging()) {
    auto installed = InstallDebugProgram(initramfs.get());
    if (!installed) log::Warn("{}", installed.error().message);
  }
  return initramfs;
}

std::string ContainerDir(const std::string& id) { return fmt::format("{}/containers/{}", kRunDir, id); }

bool StartedForDebugging() { return StartedWith(kGuestDebugWord); }

bool HasWord(std::string_view command_line, std::string_view word) {
  auto words = Split(Trim(command_line), ' ');
  return std::find(words.begin(), words.end(), word) != words.end();
}

void FinishInit(UniqueFd initramfs) {
  // Containers come first.
  (void)!nice(19);
  auto loaded = LoadModules(initramfs.get(), kLaterModules);
  if (!loaded) log::Warn("{}", loaded.error().message);
  struct stat info {};
  if (fstat(initramfs.get(), &info) == 0) Empty(initramfs.Release(), info.st_dev, 0);
  if (!UniqueFd(open(kSettledFile, O_WRONLY | O_CREAT | O_CLOEXEC, 0600))) log::Warn("{}", ErrnoError("make '{}'", kSettledFile).message);
}

}  // namespace caisson::agent
