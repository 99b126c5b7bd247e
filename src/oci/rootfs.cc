// SPDX-License-Identifier: Apache-2.0
#include "oci/rootfs.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "oci/bind.h"
#include "oci/mounts.h"
#include "sys/mountinfo.h"
#include "sys/path.h"

namespace caisson::oci {
namespace {

using sys::FdPath;

constexpr long kProcMagic = 0x9fa0, kDevptsMagic = 0x1cd1;

class RootfsMaker {
 public:
  explicit RootfsMaker(const RootfsOptions& options) : options_(options), create_(options.create), spec_(options.create.spec) {}

  Result<RootfsDone> Make() {
    root_path_ = spec_.root_path.starts_with('/') ? spec_.root_path : create_.bundle + "/" + spec_.root_path;
    TRY(SetPropagation());
    TRY(MountRoot());
    root_ = UniqueFd(open(root_path_.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!root_) return ErrnoError("open root file system '{}'", root_path_);
    for (const auto& mount : spec_.mounts) {
      auto done = Mount(mount);
      if (!done) return std::move(done.error()).Within(fmt::format("mount '{}' on '{}'", mount.source.empty() ? mount.type : mount.source, mount.destination));
    }
    TRY(MakeDevices());
    RootfsDone done;
    if (spec_.process.terminal) TRY(MakeConsole(&done));
    TRY(WriteSysctls());
    TRY(MakeCwd());
    for (const auto& path : spec_.readonly_paths) TRY(MakeReadonly(path));
    for (const auto& path : spec_.masked_paths) TRY(Mask(path));
    TRY(Pivot());
    return done;
  }

 private:
  // What the host mounts later is to come into slaves of it, nothing is to go back, unless the spec says shared.
  Result<> SetPropagation() {
    unsigned long flag = TRY(PropagationFlag(spec_.rootfs_propagation));
    if (flag == 0) flag = MS_SLAVE | MS_REC;
    if (mount(nullptr, "/", nullptr, flag, nullptr) != 0) return ErrnoError("set the propagation of '/'");
    if (!(flag & MS_SHARED)) return {};
    // pivot_root(2) refuses a shared parent, and a mount below one would be seen on the host.
    auto table = TRY(sys::ReadMountInfo());
    std::string parent = "/";
    for (const auto& entry : table) {
      bool above = root_path_ == entry.mount_point || entry.mount_point == "/" || root_path_.starts_with(entry.mount_point + "/");
      if (above && entry.mount_point.size() >= parent.size()) parent = entry.mount_point;
    }
    if (mount(nullptr, parent.c_str(), nullptr, MS_PRIVATE, nullptr) != 0) return ErrnoError("make '{}' private", parent);
    return {};
  }

  Result<> MountRoot() {
    if (create_.rootfs.empty()) {
      if (mount(root_path_.c_str(), root_path_.c_str(), nullptr, MS_BIND | MS_REC, nullptr) != 0) return ErrnoError("bind root file system '{}'", root_path_);
      return {};
    }
    for (const auto& layer : create_.rootfs) {
      auto plan = TRY(PlanMount(root_path_, layer.type, layer.source, layer.options));
      unsigned long flags = plan.flags | (plan.bind ? MS_BIND | (plan.recursive ? MS_REC : 0) : 0);
      if (mount(layer.source.c_str(), root_path_.c_str(), layer.type.c_str(), flags, plan.data.c_str()) != 0) {
        return ErrnoError("mount {} root file system on '{}' ({})", layer.type, root_path_, plan.data.substr(0, 512));
      }
    }
    return {};
  }

  Result<> Mount(const MountSpec& spec) {
    MountPlan plan = TRY(PlanMount(spec.destination, spec.type, spec.source, spec.options));
    if (plan.type == "cgroup" || plan.type == "cgroup2") return MountCgroups(plan);
    if (plan.type == "caisson-shm") return MountShm(plan);
    if (plan.bind) return MountBind(plan);
    UniqueFd target;
    if (plan.type == "proc" || plan.type == "sysfs") {
      // A link in place of /proc would put it where the masks do not look (CVE-2019-16884 and its kin).
      TRY(sys::MakeDirInRoot(root_.get(), plan.destination, 0755));
      target = TRY(sys::OpenInRootNoLinks(root_.get(), plan.destination, O_PATH | O_DIRECTORY));
    } else {
      target = TRY(sys::MakeDirInRoot(root_.get(), plan.destination, 0755));
    }
    if (mount(plan.source.c_str(), FdPath(target.get()).c_str(), plan.type.c_str(), plan.flags, plan.data.c_str()) != 0) {
      return ErrnoError("mount {}", plan.type);
    }
    if (plan.propagation == 0) return {};
    UniqueFd mounted = TRY(sys::OpenInRoot(root_.get(), plan.destination, O_PATH));
    if (mount(nullptr, FdPath(mounted.get()).c_str(), nullptr, plan.propagation, nullptr) != 0) return ErrnoError("set propagation");
    return {};
  }

  // The target of a bind mount: a folder for a folder, else a file.
  Result<UniqueFd> TargetLike(int source_fd, const std::string& destination) {
    struct stat info {};
    if (fstat(source_fd, &info) != 0) return ErrnoError("look at the source");
    if (S_ISDIR(info.st_mode)) return sys::MakeDirInRoot(root_.get(), destination, 0755);
    return sys::MakeFileInRoot(root_.get(), destination, 0644);
  }

  Result<> MountBind(const MountPlan& plan) {
    std::string source = plan.source.starts_with('/') ? plan.source : create_.bundle + "/" + plan.source;
    UniqueFd tree = TRY(CloneTree(AT_FDCWD, source, plan.recursive));
    UniqueFd target = TRY(TargetLike(tree.get(), plan.destination));
    return AttachTree(tree.get(), target.get(), plan);
  }

  Result<> MountShm(const MountPlan& plan) {
    if (create_.shm_fd < 0) return MakeError(Code::kFailedPrecondition, "the pod has no /dev/shm");
    UniqueFd tree = TRY(CloneTree(create_.shm_fd, "", false));
    UniqueFd target = TRY(sys::MakeDirInRoot(root_.get(), plan.destination, 01777));
    return AttachTree(tree.get(), target.get(), plan);
  }

  // v2: the group itself (a cgroup namespace makes it the root). v1: a tmpfs with the group of each hierarchy.
  Result<> MountCgroups(MountPlan plan) {
    UniqueFd target = TRY(sys::MakeDirInRoot(root_.get(), plan.destination, 0755));
    if (options_.cgroup_v2) {
      if (spec_.FindNamespace(CLONE_NEWCGROUP) != nullptr) {
        if (mount("cgroup", FdPath(target.get()).c_str(), "cgroup2", plan.flags, nullptr) != 0) return ErrnoError("mount cgroup2");
        return {};
      }
      UniqueFd tree = TRY(CloneTree(AT_FDCWD, options_.cgroups.at(0).path, false));
      return AttachTree(tree.get(), target.get(), plan);
    }
    if (mount("tmpfs", FdPath(target.get()).c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=64k") != 0) return ErrnoError("mount tmpfs");
    for (const auto& hierarchy : options_.cgroups) {
      std::string name = sys::SplitPath(hierarchy.mount_point).second;
      UniqueFd at = TRY(sys::MakeDirInRoot(root_.get(), plan.destination + "/" + name, 0755));
      UniqueFd tree = TRY(CloneTree(AT_FDCWD, hierarchy.path, false));
      TRY(AttachTree(tree.get(), at.get(), plan));
      if (hierarchy.controllers.size() > 1) {
        UniqueFd folder = TRY(sys::OpenInRoot(root_.get(), plan.destination, O_PATH));
        for (const auto& controller : hierarchy.controllers) {
          if (controller != name && symlinkat(name.c_str(), folder.get(), controller.c_str()) != 0 && errno != EEXIST) return ErrnoError("link controller {}", controller);
        }
      }
    }
    UniqueFd top = TRY(sys::OpenInRoot(root_.get(), plan.destination, O_PATH));
    return SetAttributes(top.get(), plan.flags & MS_RDONLY, 0, false);
  }

  Result<> MakeNode(const DeviceNode& node) {
    auto [folder, leaf] = sys::SplitPath(node.path);
    UniqueFd at = TRY(sys::MakeDirInRoot(root_.get(), folder, 0755));
    mode_t kind = node.type == 'b' ? S_IFBLK : node.type == 'p' ? S_IFIFO : S_IFCHR;
    dev_t device = makedev(static_cast<unsigned>(node.major), static_cast<unsigned>(node.minor));
    if (mknodat(at.get(), leaf.c_str(), kind | (node.mode & 07777), device) != 0) {
      if (errno == EEXIST) return {};  // an earlier mount or the spec's own list has made it
      if (errno != EPERM) return ErrnoError("make device '{}'", node.path);
      // In a user namespace nodes cannot be made: the host's is bound instead.
      UniqueFd tree = TRY(CloneTree(AT_FDCWD, node.path, false));
      UniqueFd target = TRY(sys::MakeFileInRoot(root_.get(), node.path, 0666));
      return AttachTree(tree.get(), target.get(), MountPlan{});
    }
    if (fchmodat(at.get(), leaf.c_str(), node.mode & 07777, 0) != 0 ||
        fchownat(at.get(), leaf.c_str(), node.uid, node.gid, AT_SYMLINK_NOFOLLOW) != 0) {
      return ErrnoError("set owner and mode of device '{}'", node.path);
    }
    return {};
  }

  Result<> MakeDevices() {
    bool own_dev = std::any_of(spec_.mounts.begin(), spec_.mounts.end(), [](const MountSpec& mount) {
      return mount.destination == "/dev" && mount.type == "tmpfs";
    });
    if (own_dev) {
      // runtime-spec config-linux.md "Default Devices" and runtime-linux.md "Dev symbolic links".
      for (auto [name, major, minor] : {std::tuple("null", 1, 3), {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}) {
        TRY(MakeNode({std::string("/dev/") + name, 'c', major, minor, 0666, 0, 0}));
      }
      UniqueFd dev = TRY(sys::OpenInRoot(root_.get(), "/dev", O_PATH | O_DIRECTORY));
      for (auto [name, target] : {std::pair("fd", "/proc/self/fd"), {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"}, {"ptmx", "pts/ptmx"}, {"core", "/proc/kcore"}}) {
        if (symlinkat(target, dev.get(), name) != 0 && errno != EEXIST) return ErrnoError("link '/dev/{}'", name);
      }
    }
    for (const auto& node : spec_.devices) TRY(MakeNode(node));
    return {};
  }

  Result<> MakeConsole(RootfsDone* done) {
    Pty pty = TRY(OpenPty(root_.get(), spec_.process.console_width, spec_.process.console_height));
    UniqueFd target = TRY(sys::MakeFileInRoot(root_.get(), "/dev/console", 0600));
    UniqueFd tree = TRY(CloneTree(pty.slave.get(), "", false));
    TRY(AttachTree(tree.get(), target.get(), MountPlan{}));
    done->console_master = std::move(pty.master);
    done->console_slave = std::move(pty.slave);
    return {};
  }

  Result<> WriteSysctls() {
    for (const auto& [name, value] : spec_.sysctl) {
      std::string path = "/proc/sys/" + name;
      // With slashes a dot belongs to the name, as in "net/ipv4/conf/eth0.1/forwarding" (sysctl(8)).
      if (name.find('/') == std::string::npos) std::replace(path.begin() + 10, path.end(), '.', '/');
      if (path.find("/../") != std::string::npos) return MakeError(Code::kInvalidArgument, "sysctl '{}' is no name", name);
      auto file = sys::OpenInRootNoLinks(root_.get(), path, O_WRONLY);
      if (!file) return std::move(file.error()).Within("sysctl '" + name + "'");
      struct statfs info {};
      if (fstatfs(file->get(), &info) != 0 || info.f_type != kProcMagic) return MakeError(Code::kFailedPrecondition, "sysctl '{}': /proc is not procfs", name);
      if (write(file->get(), value.data(), value.size()) < 0) return ErrnoError("sysctl '{}' = '{}'", name, value.substr(0, 64));
    }
    return {};
  }

  // The working directory is made if it is missing, as other runtimes do.
  Result<> MakeCwd() {
    if (spec_.process.cwd != "/") TRY(sys::MakeDirInRoot(root_.get(), spec_.process.cwd, 0755));
    return {};
  }

  Result<> MakeReadonly(const std::string& path) {
    auto at = sys::OpenInRoot(root_.get(), path, O_PATH);
    if (!at) return at.error().sys_errno == ENOENT || at.error().sys_errno == ENOTDIR ? Result<>() : Result<>(std::move(at.error()));
    UniqueFd tree = TRY(CloneTree(at->get(), "", true));
    MountPlan plan;
    plan.flags = MS_RDONLY;
    auto done = AttachTree(tree.get(), at->get(), plan);
    if (!done) return std::move(done.error()).Within("read-only path '" + path + "'");
    return {};
  }

  Result<> Mask(const std::string& path) {
    auto at = sys::OpenInRoot(root_.get(), path, O_PATH);
    if (!at) return at.error().sys_errno == ENOENT || at.error().sys_errno == ENOTDIR ? Result<>() : Result<>(std::move(at.error()));
    struct stat info {};
    if (fstat(at->get(), &info) != 0) return ErrnoError("masked path '{}'", path);
    if (S_ISDIR(info.st_mode)) {
      if (mount("tmpfs", FdPath(at->get()).c_str(), "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "nr_blocks=1,nr_inodes=1") != 0) return ErrnoError("mask '{}'", path);
      return {};
    }
    // The host's own /dev/null, not the image's, which may be anything (CVE-2025-31133).
    UniqueFd null(open("/dev/null", O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!null || fstat(null.get(), &info) != 0 || !S_ISCHR(info.st_mode) || info.st_rdev != makedev(1, 3)) {
      return MakeError(Code::kFailedPrecondition, "mask '{}': the host's /dev/null is not the null device", path);
    }
    UniqueFd tree = TRY(CloneTree(null.get(), "", false));
    MountPlan plan;
    plan.flags = MS_RDONLY;
    auto done = AttachTree(tree.get(), at->get(), plan);
    if (!done) return std::move(done.error()).Within("mask '" + path + "'");
    return {};
  }

  // pivot_root(2) "pivot_root(".", ".")": the old root ends up on top of the new one and is detached from there.
  Result<> Pivot() {
    if (spec_.root_readonly) TRY(SetAttributes(root_.get(), MS_RDONLY, 0, false));
    if (fchdir(root_.get()) != 0) return ErrnoError("enter the root file system");
    UniqueFd old(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!old) return ErrnoError("open the old root");
    if (syscall(SYS_pivot_root, ".", ".") != 0) return ErrnoError("pivot_root to '{}'", root_path_);
    // So that the detaching is not seen on the host.
    if (fchdir(old.get()) != 0 || mount(nullptr, ".", nullptr, MS_SLAVE | MS_REC, nullptr) != 0 || umount2(".", MNT_DETACH) != 0) {
      return ErrnoError("detach the old root");
    }
    if (chdir("/") != 0) return ErrnoError("enter the new root");
    unsigned long flag = TRY(PropagationFlag(spec_.rootfs_propagation));
    if (flag != 0 && mount(nullptr, "/", nullptr, flag, nullptr) != 0) return ErrnoError("set the propagation of the new root");
    return {};
  }

  const RootfsOptions& options_;
  const CreateOptions& create_;
  const Spec& spec_;
  std::string root_path_;
  UniqueFd root_;
};

}  // namespace

Result<RootfsDone> EnterRootfs(const RootfsOptions& options) { return RootfsMaker(options).Make(); }

Result<Pty> OpenPty(int root_fd, uint16_t width, uint16_t height) {
  Pty pty;
  pty.master = TRY(sys::OpenInRootNoLinks(root_fd, "/dev/pts/ptmx", O_RDWR | O_NOCTTY));
  struct statfs info {};
  // Someone may have put another file there (CVE-2025-52565).
  if (fstatfs(pty.master.get(), &info) != 0 || info.f_type != kDevptsMagic) {
    return MakeError(Code::kFailedPrecondition, "'/dev/pts' in the container is not devpts");
  }
  int unlock = 0;
  if (ioctl(pty.master.get(), TIOCSPTLCK, &unlock) != 0) return ErrnoError("unlock the container's pty");
  pty.slave = UniqueFd(ioctl(pty.master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!pty.slave) return ErrnoError("open the container's pty");
  if (width > 0 && height > 0) {
    winsize size{height, width, 0, 0};
    ioctl(pty.master.get(), TIOCSWINSZ, &size);
  }
  return pty;
}

}  // namespace caisson::oci
