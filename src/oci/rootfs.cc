// SPDX-License-Identifier: Apache-2.0
#include "oci/rootfs.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "oci/bind.h"
#include "oci/copy_up.h"
#include "oci/masks.h"
#include "oci/overlay.h"
#include "sys/mountinfo.h"
#include "sys/path.h"

namespace caisson::oci {
namespace {

using sys::FdPath;

constexpr long kProcMagic = 0x9fa0;

bool IsProc(int fd) {
  struct statfs info {};
  return fstatfs(fd, &info) == 0 && info.f_type == kProcMagic;
}

Result<> SetHostPropagation(const Plan& plan) {
  unsigned long flag = plan.host_propagation;
  if (mount(nullptr, "/", nullptr, flag, nullptr) != 0) return ErrnoError("set the propagation of '/'");
  return {};
}

// pivot_root(2) refuses a shared parent, and a mount below one would be seen on the host.
Result<> MakeParentPrivate(const Plan& plan) {
  if (!(plan.host_propagation & MS_SHARED)) return {};
  // The table's names have no links and no second slashes.
  char* real = realpath(plan.root_path.c_str(), nullptr);
  if (real == nullptr) return ErrnoError("find root file system '{}'", plan.root_path);
  std::string root = real;
  free(real);
  auto table = TRY(sys::ReadMountInfo());
  std::string parent = "/";
  for (const auto& entry : table) {
    bool above = root == entry.mount_point || entry.mount_point == "/" || root.starts_with(entry.mount_point + "/");
    if (above && entry.mount_point.size() >= parent.size()) parent = entry.mount_point;
  }
  if (mount(nullptr, parent.c_str(), nullptr, MS_PRIVATE, nullptr) != 0) return ErrnoError("make '{}' private", parent);
  return {};
}

Result<> MountRoot(const Plan& plan, const MappingNamespaces& mappings) {
  for (const auto& layer : plan.root_mounts) TRY(MountLayers(layer, mappings.Find(layer.id_maps)));
  if (!plan.root_mounts.empty()) return {};
  // pivot_root(2) wants a mount point.
  if (mount(plan.root_path.c_str(), plan.root_path.c_str(), nullptr, MS_BIND | MS_REC, nullptr) == 0) return {};
  return ErrnoError("bind root file system '{}'", plan.root_path);
}

// A detached copy of a bind mount's source, id-mapped if the plan says so. With the host's rights only.
Result<UniqueFd> OpenBind(const MountPlan& plan, const MappingNamespaces& mappings) {
  UniqueFd tree = TRY(CloneTree(AT_FDCWD, plan.source, plan.recursive));
  if (!plan.id_maps.empty()) TRY(MapIds(tree.get(), mappings.Find(plan.id_maps), plan.map_ids_recursive));
  return tree;
}

Error OnMount(const MountPlan& plan, Error error) {
  return std::move(error).Within(
      fmt::format("mount '{}' on '{}'", plan.source.empty() ? plan.type : plan.source, plan.destination));
}

// What has to be opened before the root is mounted, one for each of the plan's mounts, and with that the root's parent made
// private: clones of binds that stay in touch with the host, while the mount that they are on does, which may be that parent;
// images, for whom the root's folder serves to open them.
Result<std::vector<UniqueFd>> OpenSources(const Plan& plan, const MappingNamespaces& mappings) {
  std::vector<UniqueFd> sources(plan.mounts.size());
  for (size_t i = 0; i < sources.size() && (plan.host_propagation & MS_SHARED); ++i) {
    const MountPlan& mount = plan.mounts[i];
    if (mount.kind != MountKind::kBind || !(mount.propagation & (MS_SHARED | MS_SLAVE))) continue;
    auto tree = OpenBind(mount, mappings);
    if (!tree) return OnMount(mount, std::move(tree.error()));
    sources[i] = std::move(*tree);
  }
  TRY(MakeParentPrivate(plan));
  for (size_t i = 0; i < sources.size(); ++i) {
    const MountPlan& mount = plan.mounts[i];
    if (mount.kind != MountKind::kImage) continue;
    auto tree = CloneImage(mount, plan.root_path, mappings.Find(mount.id_maps));
    if (!tree) return std::move(tree.error()).Within(fmt::format("mount an image on '{}'", mount.destination));
    sources[i] = std::move(*tree);
  }
  return sources;
}

// A detached cgroup2 of our cgroup namespace.
Result<UniqueFd> MakeCgroup2() {
  UniqueFd context(static_cast<int>(syscall(SYS_fsopen, "cgroup2", FSOPEN_CLOEXEC)));
  if (!context || syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return ErrnoError("make a cgroup2 file system");
  UniqueFd made(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0)));
  if (!made) return ErrnoError("mount cgroup2");
  return made;
}

// What programs that show a container its own limits (lxcfs) put over files of /proc; all else in there is the
// kernel's.
bool MayCoverInProc(const std::string& path) {
  constexpr const char* kFiles[] = {"cpuinfo",
                                    "diskstats",
                                    "meminfo",
                                    "stat",
                                    "swaps",
                                    "uptime",
                                    "loadavg",
                                    "slabinfo",
                                    "net/dev",
                                    "sys/kernel/ns_last_pid",
                                    "sys/crypto/fips_enabled"};
  return std::any_of(std::begin(kFiles), std::end(kFiles),
                     [&](const char* file) { return path.ends_with(std::string("/proc/") + file); });
}

class RootfsMaker {
 public:
  explicit RootfsMaker(const RootfsOptions& options) : options_(options), plan_(options.plan) {}

  Result<Pty> Make() {
    Pty pty = TRY(Build());
    TRY(Pivot());
    return pty;
  }

  Result<Pty> Build() {
    TRY(SetHostPropagation(plan_));
    if (options_.prepared == nullptr) sources_ = TRY(OpenSources(plan_, *options_.mappings));
    TRY(OpenRoot());
    for (size_t i = 0; i < plan_.mounts.size(); ++i) {
      const MountPlan& mount = plan_.mounts[i];
      auto done = Mount(mount, i);
      if (!done) return OnMount(mount, std::move(done.error()));
    }
    TRY(MakeDevices(root_.get(), plan_.devices, plan_.links));
    Pty pty;
    if (plan_.console) pty = TRY(MakeConsole(root_.get(), options_.console_width, options_.console_height));
    for (const auto& sysctl : plan_.sysctls) {
      auto done = WriteSysctl(sysctl);
      if (!done) return std::move(done.error()).Within(fmt::format("sysctl '{}'", sysctl.name));
    }
    // The working directory is made if it is missing, as other runtimes do.
    if (plan_.cwd != "/") {
      auto made = sys::MakeDirInRoot(root_.get(), plan_.cwd, 0755);
      if (!made) return std::move(made.error()).Within(fmt::format("working directory '{}'", plan_.cwd));
    }
    TRY(MakeReadonly(root_.get(), plan_.readonly_paths));
    TRY(MaskPaths(root_.get(), plan_.masked_paths));
    if (options_.before_pivot) TRY(options_.before_pivot());
    if (plan_.root_readonly) TRY(SetAttributes(root_.get(), MS_RDONLY, 0, false));
    return pty;
  }

 private:
  Result<> OpenRoot() {
    if (options_.prepared != nullptr) {
      UniqueFd target(open(plan_.root_path.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      // In a user namespace the path may be out of reach; any folder will do to hang the root on before pivot_root.
      if (!target) target = UniqueFd(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
      root_ = std::move(options_.prepared->root);
      auto attached = AttachTree(root_.get(), target.get(), MountPlan{});
      if (!attached) return std::move(attached.error()).Within("root file system '" + plan_.root_path + "'");
      return {};
    }
    TRY(MountRoot(plan_, *options_.mappings));
    root_ = UniqueFd(open(plan_.root_path.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!root_) return ErrnoError("open root file system '{}'", plan_.root_path);
    return {};
  }

  Result<> Mount(const MountPlan& plan, size_t index) {
    switch (plan.kind) {
      case MountKind::kBind:
      case MountKind::kImage:
        return MountBind(plan, index);
      case MountKind::kShm:
        return MountShm(plan);
      case MountKind::kCgroup:
        return MountCgroups(plan);
      case MountKind::kFileSystem:
      case MountKind::kProc:
      case MountKind::kSysfs:
        return MountFileSystem(plan);
    }
    return {};
  }

  // Nothing but a procfs goes on /proc, nothing goes into it: what is written there later (labels, sysctls) and what is
  // masked must be the kernel's (CVE-2019-16884, CVE-2025-52881). `is_proc`: what is to be mounted is one.
  Result<> CheckTarget(int target_fd, bool is_proc) {
    char path[PATH_MAX];
    ssize_t length = readlink(FdPath(target_fd).c_str(), path, sizeof path);
    if (length <= 0 || length >= static_cast<ssize_t>(sizeof path)) return ErrnoError("resolve the target");
    std::string target(path, static_cast<size_t>(length));
    if (IsProc(target_fd)) {
      if (target.ends_with("/proc") && is_proc) return {};
      if (MayCoverInProc(target)) return {};
      return MakeError(Code::kInvalidArgument, "the target is inside /proc");
    }
    if (is_proc) return {};
    struct stat here {
    }, proc{};
    auto own = sys::OpenInRootNoLinks(root_.get(), "/proc", O_PATH);
    if (!own || fstat(own->get(), &proc) != 0 || fstat(target_fd, &here) != 0) return {};
    if (here.st_dev != proc.st_dev || here.st_ino != proc.st_ino) return {};
    return MakeError(Code::kInvalidArgument, "only a procfs may be on /proc");
  }

  // Written to before it may become read-only.
  Result<> MountCopyingUp(const MountPlan& plan) {
    UniqueFd target = TRY(sys::MakeDirInRoot(root_.get(), plan.destination, 0755));
    UniqueFd below = TRY(sys::OpenInRoot(root_.get(), plan.destination, O_RDONLY | O_DIRECTORY));
    if (mount(plan.source.c_str(), FdPath(target.get()).c_str(), "tmpfs", plan.flags & ~static_cast<unsigned long>(MS_RDONLY),
              plan.data.c_str()) != 0) {
      return ErrnoError("mount tmpfs");
    }
    UniqueFd mounted = TRY(sys::OpenInRoot(root_.get(), plan.destination, O_RDONLY | O_DIRECTORY));
    TRY(CopyUp(below.get(), mounted.get()));
    if (plan.flags & MS_RDONLY) TRY(SetAttributes(mounted.get(), MS_RDONLY, 0, false));
    return plan.propagation == 0 ? Result<>() : SetMountPropagation(mounted.get(), plan.propagation);
  }

  Result<> MountFileSystem(const MountPlan& plan) {
    if (plan.copy_up) return MountCopyingUp(plan);
    UniqueFd target = TRY(sys::MakeDirInRoot(root_.get(), plan.destination, 0755));
    if (plan.kind != MountKind::kFileSystem) {
      // A link in place of /proc would put it where the masks do not look (CVE-2019-16884 and its kin).
      target = TRY(sys::OpenInRootNoLinks(root_.get(), plan.destination, O_PATH | O_DIRECTORY));
    }
    TRY(CheckTarget(target.get(), plan.kind == MountKind::kProc));
    if (mount(plan.source.c_str(), FdPath(target.get()).c_str(), plan.type.c_str(), plan.flags, plan.data.c_str()) !=
        0) {
      // A new sysfs needs a network namespace of the same user namespace (sysfs_init_fs_context); the host's shows no
      // more.
      if (errno != EPERM || plan.kind != MountKind::kSysfs) return ErrnoError("mount {}", plan.type);
      UniqueFd tree = TRY(CloneTree(AT_FDCWD, "/sys", true));
      MountPlan whole = plan;  // with all that the host has mounted in there
      whole.recursive_set |= plan.flags & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC);
      return AttachTree(tree.get(), target.get(), whole);
    }
    if (plan.propagation == 0) return {};
    UniqueFd mounted = TRY(sys::OpenInRoot(root_.get(), plan.destination, O_PATH));
    return SetMountPropagation(mounted.get(), plan.propagation);
  }

  // The target of a bind mount: a folder for a folder, else a file.
  Result<UniqueFd> TargetLike(int source_fd, const std::string& destination) {
    struct stat info {};
    if (fstat(source_fd, &info) != 0) return ErrnoError("look at the source");
    if (S_ISDIR(info.st_mode)) return sys::MakeDirInRoot(root_.get(), destination, 0755);
    return sys::MakeFileInRoot(root_.get(), destination, 0644);
  }

  Result<> MountBind(const MountPlan& plan, size_t index) {
    UniqueFd tree;
    if (options_.prepared != nullptr) tree = std::move(options_.prepared->binds[index]);
    if (!tree && !sources_.empty()) tree = std::move(sources_[index]);
    if (!tree) tree = TRY(OpenBind(plan, *options_.mappings));
    UniqueFd target = TRY(TargetLike(tree.get(), plan.destination));
    TRY(CheckTarget(target.get(), IsProc(tree.get())));
    return AttachTree(tree.get(), target.get(), plan);
  }

  Result<> MountShm(const MountPlan& plan) {
    // Attaching it again would move it.
    if (std::exchange(shm_attached_, true)) return MakeError(Code::kInvalidArgument, "the pod's /dev/shm is mounted twice");
    UniqueFd target = TRY(sys::MakeDirInRoot(root_.get(), plan.destination, 01777));
    return AttachTree(options_.shm_fd, target.get(), plan);
  }

  // v2: the group itself (a cgroup namespace makes it the root). v1: a tmpfs with the group of each hierarchy.
  Result<> MountCgroups(const MountPlan& plan) {
    UniqueFd target = TRY(sys::MakeDirInRoot(root_.get(), plan.destination, 0755));
    if (options_.cgroup_v2) {
      if (plan_.new_cgroup_namespace) {
        if (mount("cgroup", FdPath(target.get()).c_str(), "cgroup2", plan.flags, nullptr) == 0) return {};
        if (errno != EBUSY) return ErrnoError("mount cgroup2");
        // mount(2) puts no file system on itself, and a /sys that is the host's has one there (MountFileSystem).
        UniqueFd own = TRY(MakeCgroup2());
        return AttachTree(own.get(), target.get(), plan);
      }
      if (options_.cgroups.empty()) return {};
      UniqueFd tree = TRY(CloneTree(AT_FDCWD, options_.cgroups[0].path, false));
      return AttachTree(tree.get(), target.get(), plan);
    }
    if (mount("tmpfs", FdPath(target.get()).c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=64k") !=
        0)
      return ErrnoError("mount tmpfs");
    UniqueFd top = TRY(sys::OpenInRoot(root_.get(), plan.destination, O_PATH | O_DIRECTORY));
    for (const auto& hierarchy : options_.cgroups) {
      std::string name = sys::SplitPath(hierarchy.mount_point).second;
      if (mkdirat(top.get(), name.c_str(), 0755) != 0) return ErrnoError("make folder for cgroup '{}'", name);
      UniqueFd at(openat(top.get(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      UniqueFd tree = TRY(CloneTree(AT_FDCWD, hierarchy.path, false));
      TRY(AttachTree(tree.get(), at.get(), plan));
      for (const auto& controller : hierarchy.controllers) {
        bool alias = hierarchy.controllers.size() > 1 && controller != name;
        if (alias && symlinkat(name.c_str(), top.get(), controller.c_str()) != 0 && errno != EEXIST)
          return ErrnoError("link controller {}", controller);
      }
    }
    return SetAttributes(top.get(), plan.flags & MS_RDONLY, 0, false);
  }

  Result<> WriteSysctl(const SysctlPlan& sysctl) {
    UniqueFd file = TRY(sys::OpenInRootNoLinks(root_.get(), sysctl.path, O_WRONLY));
    if (!IsProc(file.get())) return MakeError(Code::kFailedPrecondition, "/proc is not procfs");
    if (write(file.get(), sysctl.value.data(), sysctl.value.size()) < 0) return ErrnoError("write '{}'", sysctl.value);
    return {};
  }

  // pivot_root(2) "pivot_root(".", ".")": the old root ends up on top of the new one and is detached from there.
  Result<> Pivot() {
    if (fchdir(root_.get()) != 0) return ErrnoError("enter the root file system");
    UniqueFd old(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!old) return ErrnoError("open the old root");
    if (syscall(SYS_pivot_root, ".", ".") != 0) return ErrnoError("pivot_root to '{}'", plan_.root_path);
    // So that the detaching is not seen on the host.
    if (fchdir(old.get()) != 0 || mount(nullptr, ".", nullptr, MS_SLAVE | MS_REC, nullptr) != 0 ||
        umount2(".", MNT_DETACH) != 0) {
      return ErrnoError("detach the old root");
    }
    if (chdir("/") != 0) return ErrnoError("enter the new root");
    if (plan_.root_propagation != 0 && mount(nullptr, "/", nullptr, plan_.root_propagation, nullptr) != 0) {
      return ErrnoError("set the propagation of the new root");
    }
    return {};
  }

  const RootfsOptions& options_;
  const Plan& plan_;
  UniqueFd root_;
  std::vector<UniqueFd> sources_;  // one for each of the plan's mounts, unless they come prepared
  bool shm_attached_ = false;
};

}  // namespace

Result<PreparedTrees> PrepareTrees(const Plan& plan, const MappingNamespaces& mappings) {
  PreparedTrees prepared;
  TRY(SetHostPropagation(plan));
  prepared.binds = TRY(OpenSources(plan, mappings));
  for (size_t i = 0; i < plan.mounts.size(); ++i) {
    const MountPlan& mount = plan.mounts[i];
    if (mount.kind != MountKind::kBind || prepared.binds[i]) continue;
    auto tree = OpenBind(mount, mappings);
    if (!tree) return OnMount(mount, std::move(tree.error()));
    prepared.binds[i] = std::move(*tree);
  }
  if (!plan.root_mounts.empty()) TRY(MountRoot(plan, mappings));
  auto root = CloneTree(AT_FDCWD, plan.root_path, true);
  if (!root) return std::move(root.error()).Within(fmt::format("root file system '{}'", plan.root_path));
  prepared.root = std::move(*root);
  return prepared;
}

Result<> BuildRootfs(const RootfsOptions& options) {
  TRY(RootfsMaker(options).Build());
  return {};
}

Result<Pty> EnterRootfs(const RootfsOptions& options) { return RootfsMaker(options).Make(); }

}  // namespace caisson::oci
