// SPDX-License-Identifier: Apache-2.0
// FileServer: what is about names in folders.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

#include "files/caller.h"
#include "files/file_server.h"

namespace caisson::files {
namespace {

// What an open may ask for, beside reading and writing.
constexpr uint32_t kOpenFlags = O_ACCMODE | O_APPEND | O_SYNC | O_DSYNC;
constexpr mode_t kModeBits = 07777;

int MakeNode(int above, const std::string& name, const fuse_mknod_in& in) {
  // Neither devices nor what overlayfs takes for a whiteout.
  if (!S_ISREG(in.mode) && !S_ISFIFO(in.mode) && !S_ISSOCK(in.mode)) return EPERM;
  return mknodat(above, name.c_str(), in.mode & (S_IFMT | kModeBits), 0) == 0 ? 0 : errno;
}

}  // namespace

int FileServer::TellEntry(Inode* parent, const std::string& name, Inode** told) {
  Inode* inode = nullptr;
  Info info{};
  int failed = inodes_.Lookup(parent, name, &inode, &info);
  fuse_entry_out out{};
  if (parent->volume->constant && told == nullptr) out.entry_valid = out.attr_valid = kConstantSeconds;
  // Node 0: there is no such name, which may be kept (fuse_lookup_name of the kernel).
  if (failed == -ENOENT && out.entry_valid != 0) {
    Answer(out);
    return 0;
  }
  if (failed != 0) return -failed;
  out.nodeid = inode->id;
  FillAttributes(info, &out.attr);
  out.attr_valid_nsec = kAttributeNanos;
  Answer(out);
  if (told != nullptr) *told = inode;
  return 0;
}

int FileServer::Lookup(FuseBody* body, Inode* parent) {
  std::string name = body->TakeName();
  return body->error() != 0 ? body->error() : TellEntry(parent, name);
}

int FileServer::Make(const FuseRequest& request, FuseBody* body, Inode* parent) {
  fuse_mkdir_in folder{};
  fuse_mknod_in node{};
  if (request.header.opcode == FUSE_MKDIR) folder = body->Take<fuse_mkdir_in>();
  if (request.header.opcode == FUSE_MKNOD) node = body->Take<fuse_mknod_in>();
  std::string name = body->TakeName();
  std::string target = request.header.opcode == FUSE_SYMLINK ? body->TakeText(PATH_MAX) : "";
  if (body->error() != 0) return body->error();
  int above = inodes_.Fd(parent);
  if (above < 0) return -above;
  {
    Caller caller(request.header.uid, request.header.gid);
    if (caller.error() != 0) return caller.error();
    int failed = 0;
    if (request.header.opcode == FUSE_MKDIR) {
      umask(folder.umask & 0777);
      failed = mkdirat(above, name.c_str(), folder.mode & kModeBits) == 0 ? 0 : errno;
    } else if (request.header.opcode == FUSE_MKNOD) {
      umask(node.umask & 0777);
      failed = MakeNode(above, name, node);
    } else {
      failed = symlinkat(target.c_str(), above, name.c_str()) == 0 ? 0 : errno;
    }
    if (failed != 0) return failed;
  }
  return TellEntry(parent, name);
}

int FileServer::Create(const FuseRequest& request, FuseBody* body, Inode* parent) {
  auto in = body->Take<fuse_create_in>();
  std::string name = body->TakeName();
  if (body->error() != 0) return body->error();
  if (open_.size() >= bounds_.open_files) return ENFILE;
  int above = inodes_.Fd(parent);
  if (above < 0) return -above;
  UniqueFd fd;
  {
    Caller caller(request.header.uid, request.header.gid);
    if (caller.error() != 0) return caller.error();
    umask(in.umask & 0777);
    // O_EXCL: what is there already may be a device or a FIFO, and is not judged by the guest's kernel yet. It looks again then.
    int flags = static_cast<int>(in.flags & kOpenFlags) | O_CREAT | O_EXCL | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    fd = UniqueFd(openat(above, name.c_str(), flags, in.mode & kModeBits));
    if (!fd) return errno == EEXIST && (in.flags & O_EXCL) == 0 ? ESTALE : errno;
  }
  Inode* inode = nullptr;
  int failed = TellEntry(parent, name, &inode);
  if (failed != 0) return failed;
  struct stat info {};
  uint64_t handle = 0;
  failed = fstat(fd.get(), &info) == 0 && info.st_ino == inode->number ? 0 : ESTALE;  // the host was quicker
  if (failed == 0) failed = AddOpen(inode, std::move(fd), false, &handle);
  if (failed != 0) {
    inodes_.Forget(inode->id, 1);
    return failed;
  }
  fuse_open_out out{};
  out.fh = handle;
  if (!inode->volume->remote) out.open_flags = FOPEN_NOFLUSH;
  Answer(out);
  return 0;
}

int FileServer::Remove(const FuseRequest& request, FuseBody* body, Inode* parent) {
  std::string name = body->TakeName();
  if (body->error() != 0) return body->error();
  int above = inodes_.Fd(parent);
  if (above < 0) return -above;
  return unlinkat(above, name.c_str(), request.header.opcode == FUSE_RMDIR ? AT_REMOVEDIR : 0) == 0 ? 0 : errno;
}

int FileServer::Rename(const FuseRequest& request, FuseBody* body, Inode* from) {
  fuse_rename2_in in{};
  if (request.header.opcode == FUSE_RENAME2) {
    in = body->Take<fuse_rename2_in>();
  } else {
    in.newdir = body->Take<fuse_rename_in>().newdir;
  }
  std::string old_name = body->TakeName(), new_name = body->TakeName();
  if (body->error() != 0) return body->error();
  // Not RENAME_WHITEOUT: it makes a device.
  if ((in.flags & ~static_cast<uint32_t>(RENAME_NOREPLACE | RENAME_EXCHANGE)) != 0) return EINVAL;
  Inode* to = inodes_.Find(in.newdir);
  if (to == nullptr) return ESTALE;
  if (!to->volume->writable) return EROFS;
  int from_fd = inodes_.Fd(from);
  if (from_fd < 0) return -from_fd;
  // The second may have to be opened, and close the first for that.
  UniqueFd kept(fcntl(from_fd, F_DUPFD_CLOEXEC, 3));
  int to_fd = inodes_.Fd(to);
  if (!kept || to_fd < 0) return kept ? -to_fd : errno;
  if (syscall(SYS_renameat2, kept.get(), old_name.c_str(), to_fd, new_name.c_str(), in.flags) != 0) return errno;
  inodes_.Moved(to, new_name);
  if ((in.flags & RENAME_EXCHANGE) != 0) inodes_.Moved(from, old_name);
  return 0;
}

int FileServer::Link(FuseBody* body, Inode* parent) {
  Inode* old = inodes_.Find(body->Take<fuse_link_in>().oldnodeid);
  std::string name = body->TakeName();
  if (body->error() != 0) return body->error();
  if (old == nullptr) return ESTALE;
  if (!old->volume->writable) return EROFS;
  int old_fd = inodes_.Fd(old);
  if (old_fd < 0) return -old_fd;
  UniqueFd kept(fcntl(old_fd, F_DUPFD_CLOEXEC, 3));
  int above = inodes_.Fd(parent);
  if (!kept || above < 0) return kept ? -above : errno;
  // open(2), "O_PATH": the way without CAP_DAC_READ_SEARCH. The magic link leads to the file itself, also if that is a link.
  if (linkat(own_.get(), std::to_string(kept.get()).c_str(), above, name.c_str(), AT_SYMLINK_FOLLOW) != 0) return errno;
  return TellEntry(parent, name);
}

int FileServer::ReadLink(Inode* inode) {
  int fd = inodes_.Fd(inode);
  if (fd < 0) return -fd;
  char target[PATH_MAX];
  ssize_t size = readlinkat(fd, "", target, sizeof target);
  if (size < 0) return errno == ENOENT ? EINVAL : errno;  // no link (readlink(2))
  answer_.append(target, static_cast<size_t>(size));
  return 0;
}

}  // namespace caisson::files
