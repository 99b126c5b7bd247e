// SPDX-License-Identifier: Apache-2.0
// FileServer: attributes, plain and extended.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>

#include "files/file_server.h"

namespace caisson::files {
namespace {

constexpr size_t kXattrNameBytes = 255;   // XATTR_NAME_MAX
constexpr size_t kXattrBytes = 64 << 10;  // XATTR_SIZE_MAX, XATTR_LIST_MAX

// Not security.*: a label or a capability would be the host's. Not trusted.*: overlayfs takes its orders from there.
bool IsSharedXattr(std::string_view name) {
  return name.starts_with("user.") || name == "system.posix_acl_access" || name == "system.posix_acl_default";
}

// An image's own files have the capabilities that it gives them: told, never set.
bool IsShownXattr(const SharedVolume& volume, std::string_view name) {
  return IsSharedXattr(name) || (volume.constant && name == "security.capability");
}

timespec TimeOf(const fuse_setattr_in& in, uint32_t set, uint32_t now, uint64_t seconds, uint32_t nanos) {
  if ((in.valid & set) == 0) return {0, UTIME_OMIT};
  if ((in.valid & now) != 0) return {0, UTIME_NOW};
  return {static_cast<time_t>(seconds), static_cast<long>(nanos)};
}

}  // namespace

int FileServer::AnswerAttributes(int fd, const SharedVolume& volume) {
  fuse_attr_out out{};
  Info info{};
  int failed = StatDescriptor(fd, &info);
  if (failed != 0) return -failed;
  FillAttributes(info, &out.attr);
  out.attr_valid_nsec = kAttributeNanos;
  if (volume.constant) out.attr_valid = kConstantSeconds;
  Answer(out);
  return 0;
}

int FileServer::GetAttributes(FuseBody* body, Inode* inode) {
  auto in = body->Take<fuse_getattr_in>();
  if (body->error() != 0) return body->error();
  // Of a file that is open, by its own descriptor: it may have no name any more.
  Open* open = (in.getattr_flags & FUSE_GETATTR_FH) != 0 ? FindOpen(in.fh, false) : nullptr;
  int fd = open != nullptr ? open->fd.get() : inodes_.Fd(inode);
  if (fd < 0) return -fd;
  return AnswerAttributes(fd, *inode->volume);
}

int FileServer::Truncate(const fuse_setattr_in& in, Inode* inode) {
  Open* open = (in.valid & FATTR_FH) != 0 ? FindOpen(in.fh, false) : nullptr;
  UniqueFd own;
  if (open == nullptr) {
    int fd = Reopen(inode, O_WRONLY);
    if (fd < 0) return -fd;
    own = UniqueFd(fd);
  }
  int fd = open != nullptr ? open->fd.get() : own.get();
  if (ftruncate(fd, static_cast<off_t>(in.size)) != 0) return errno;
  return (in.valid & FATTR_KILL_SUIDGID) != 0 ? DropSetIds(fd) : 0;
}

int FileServer::SetAttributes(FuseBody* body, Inode* inode) {
  auto in = body->Take<fuse_setattr_in>();
  if (body->error() != 0) return body->error();
  int fd = inodes_.Fd(inode);
  if (fd < 0) return -fd;
  // The owner first: a change of it takes set-user-id away.
  if ((in.valid & (FATTR_UID | FATTR_GID)) != 0) {
    uid_t uid = (in.valid & FATTR_UID) != 0 ? in.uid : static_cast<uid_t>(-1);
    gid_t gid = (in.valid & FATTR_GID) != 0 ? in.gid : static_cast<gid_t>(-1);
    if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) return errno;
  }
  if ((in.valid & FATTR_MODE) != 0) {
    if (S_ISLNK(inode->mode)) return EOPNOTSUPP;
    if (fchmodat(own_.get(), std::to_string(fd).c_str(), in.mode & 07777, 0) != 0) return errno;
  }
  if ((in.valid & FATTR_SIZE) != 0) {
    int failed = Truncate(in, inode);
    if (failed != 0) return failed;
    fd = inodes_.Fd(inode);
    if (fd < 0) return -fd;
  }
  if ((in.valid & (FATTR_ATIME | FATTR_MTIME)) != 0) {
    timespec times[2] = {TimeOf(in, FATTR_ATIME, FATTR_ATIME_NOW, in.atime, in.atimensec), TimeOf(in, FATTR_MTIME, FATTR_MTIME_NOW, in.mtime, in.mtimensec)};
    if (utimensat(fd, "", times, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0) return errno;
  }
  return AnswerAttributes(fd, *inode->volume);
}

int FileServer::StatFs(Inode* inode) {
  int fd = inodes_.Fd(inode);
  if (fd < 0) return -fd;
  struct statfs info {};
  if (fstatfs(fd, &info) != 0) return errno;
  fuse_statfs_out out{};
  out.st.blocks = info.f_blocks;
  out.st.bfree = info.f_bfree;
  out.st.bavail = info.f_bavail;
  out.st.files = info.f_files;
  out.st.ffree = info.f_ffree;
  out.st.bsize = static_cast<uint32_t>(info.f_bsize);
  out.st.namelen = static_cast<uint32_t>(info.f_namelen);
  out.st.frsize = static_cast<uint32_t>(info.f_frsize);
  Answer(out);
  return 0;
}

int FileServer::GetXattr(FuseBody* body, Inode* inode) {
  auto in = body->Take<fuse_getxattr_in>();
  std::string name = body->TakeText(kXattrNameBytes);
  if (body->error() != 0) return body->error();
  if (!IsShownXattr(*inode->volume, name)) return EOPNOTSUPP;
  UniqueFd fd(Reopen(inode, O_RDONLY));
  if (!fd) return EOPNOTSUPP;  // of links, FIFOs and sockets the host says the same
  std::string value(kXattrBytes, '\0');
  ssize_t size = fgetxattr(fd.get(), name.c_str(), value.data(), value.size());
  if (size < 0) return errno;
  if (in.size == 0) {
    fuse_getxattr_out out{};
    out.size = static_cast<uint32_t>(size);
    Answer(out);
    return 0;
  }
  if (static_cast<size_t>(size) > in.size) return ERANGE;
  answer_.append(value, 0, static_cast<size_t>(size));
  return 0;
}

int FileServer::ListXattr(FuseBody* body, Inode* inode) {
  auto in = body->Take<fuse_getxattr_in>();
  if (body->error() != 0) return body->error();
  UniqueFd fd(Reopen(inode, O_RDONLY));
  std::string all(kXattrBytes, '\0'), names;
  ssize_t size = fd ? flistxattr(fd.get(), all.data(), all.size()) : 0;
  if (size < 0) return errno;
  for (size_t at = 0; at < static_cast<size_t>(size); at = all.find('\0', at) + 1) {
    std::string name = all.c_str() + at;
    if (IsShownXattr(*inode->volume, name)) names.append(name).push_back('\0');
  }
  if (in.size == 0) {
    fuse_getxattr_out out{};
    out.size = static_cast<uint32_t>(names.size());
    Answer(out);
    return 0;
  }
  if (names.size() > in.size) return ERANGE;
  answer_ += names;
  return 0;
}

int FileServer::SetXattr(FuseBody* body, Inode* inode) {
  auto size = body->Take<uint32_t>(), flags = body->Take<uint32_t>();  // FUSE_COMPAT_SETXATTR_IN_SIZE: no FUSE_SETXATTR_EXT
  std::string name = body->TakeText(kXattrNameBytes);
  if (body->error() != 0) return body->error();
  if (size != body->Rest().size()) return EINVAL;
  if (size > kXattrBytes) return E2BIG;
  if (!IsSharedXattr(name)) return EOPNOTSUPP;
  UniqueFd fd(Reopen(inode, O_RDONLY));
  if (!fd) return EPERM;
  return fsetxattr(fd.get(), name.c_str(), body->Rest().data(), size, static_cast<int>(flags)) == 0 ? 0 : errno;
}

int FileServer::RemoveXattr(FuseBody* body, Inode* inode) {
  std::string name = body->TakeText(kXattrNameBytes);
  if (body->error() != 0) return body->error();
  if (!IsSharedXattr(name)) return EOPNOTSUPP;
  UniqueFd fd(Reopen(inode, O_RDONLY));
  if (!fd) return EPERM;
  return fremovexattr(fd.get(), name.c_str()) == 0 ? 0 : errno;
}

}  // namespace caisson::files
