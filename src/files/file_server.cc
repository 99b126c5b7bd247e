// SPDX-License-Identifier: Apache-2.0
#include "files/file_server.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/bad.h"
#include "base/id.h"

namespace caisson::files {
namespace {

constexpr int kNoAnswer = -1;
constexpr uint32_t kPages = limits::kSharedIoBytes / 4096;
constexpr size_t kDevices = 4096;
// Linux 5.10 has all of these. Neither READDIRPLUS, which would tell what may not be kept, nor locks, which stay the guest's.
constexpr uint32_t kWanted = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_DONT_MASK | FUSE_AUTO_INVAL_DATA | FUSE_PARALLEL_DIROPS |
                             FUSE_HANDLE_KILLPRIV_V2 | FUSE_POSIX_ACL | FUSE_MAX_PAGES;

bool Changes(uint32_t opcode) {
  switch (opcode) {
    case FUSE_SETATTR:
    case FUSE_SYMLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
    case FUSE_UNLINK:
    case FUSE_RMDIR:
    case FUSE_RENAME:
    case FUSE_RENAME2:
    case FUSE_LINK:
    case FUSE_CREATE:
    case FUSE_SETXATTR:
    case FUSE_REMOVEXATTR:
      return true;
    default:
      return false;
  }
}

// Whose writes are in the page cache or on the disk when they return. Of others a close(2) may tell of an error.
bool IsLocal(int fd) {
  struct statfs info {};
  if (fstatfs(fd, &info) != 0) return false;
  switch (info.f_type) {
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case TMPFS_MAGIC:
    case OVERLAYFS_SUPER_MAGIC:
      return true;
    default:
      return false;
  }
}

}  // namespace

Result<> FileServer::AddVolume(const std::string& name, UniqueFd root, bool writable, bool constant) {
  auto known = volumes_.find(name);
  if (known != volumes_.end() && !root) {
    known->second->writable |= writable;
    return {};
  }
  if (!IsSafeName(name)) return Bad("'{}' is no volume's name", name.substr(0, 128));
  Info info{};
  int failed = StatDescriptor(root.get(), &info);
  if (failed != 0) return SysError(-failed, fmt::format("look at volume '{}'", name));
  if (!S_ISDIR(info.stx_mode)) return Bad("volume '{}' is no folder", name);
  auto volume = std::make_unique<SharedVolume>();
  volume->name = name;
  volume->writable = writable && !constant;
  volume->constant = constant;
  volume->remote = !IsLocal(root.get());
  inodes_.AddRoot(volume.get(), std::move(root), info);
  // Who still uses a folder that was here before goes on with that.
  if (known != volumes_.end()) replaced_.push_back(std::move(known->second));
  volumes_[name] = std::move(volume);
  return {};
}

void FileServer::RemoveVolume(const std::string& name) {
  auto found = volumes_.find(name);
  if (found == volumes_.end()) return;
  const SharedVolume* volume = found->second.get();
  std::erase_if(open_, [&](const auto& open) {
    const Inode* inode = inodes_.Find(open.second.node);
    return inode != nullptr && inode->volume == volume;
  });
  inodes_.DropVolume(volume);
  volumes_.erase(found);
}

std::string_view FileServer::Handle(const FuseRequest& request) {
  answer_.assign(sizeof(fuse_out_header), '\0');
  int error = Dispatch(request);
  if (error == kNoAnswer) return {};
  if (error != 0) answer_.resize(sizeof(fuse_out_header));
  // Ours, not the guest's.
  if (error == EMFILE) error = ENFILE;
  fuse_out_header header{static_cast<uint32_t>(answer_.size()), -error, request.header.unique};
  std::memcpy(answer_.data(), &header, sizeof header);
  return answer_;
}

int FileServer::Dispatch(const FuseRequest& request) {
  FuseBody body(request.body);
  switch (request.header.opcode) {
    case FUSE_INIT:
      return Init(&body);
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
      Forget(request, &body);
      return kNoAnswer;
    case FUSE_INTERRUPT:  // one request after the other: it has been answered, or will be
      return kNoAnswer;
    case FUSE_DESTROY:
      return 0;
    default:
      break;
  }
  if (request.header.nodeid == kRootNode) return AtRoot(request, &body);
  Inode* inode = inodes_.Find(request.header.nodeid);
  if (inode == nullptr) return ESTALE;
  if (Changes(request.header.opcode) && !inode->volume->writable) return EROFS;
  return OnInode(request, &body, inode);
}

int FileServer::OnInode(const FuseRequest& request, FuseBody* body, Inode* inode) {
  switch (request.header.opcode) {
    case FUSE_LOOKUP:
      return Lookup(body, inode);
    case FUSE_GETATTR:
      return GetAttributes(body, inode);
    case FUSE_SETATTR:
      return SetAttributes(body, inode);
    case FUSE_READLINK:
      return ReadLink(inode);
    case FUSE_SYMLINK:
    case FUSE_MKNOD:
    case FUSE_MKDIR:
      return Make(request, body, inode);
    case FUSE_CREATE:
      return Create(request, body, inode);
    case FUSE_UNLINK:
    case FUSE_RMDIR:
      return Remove(request, body, inode);
    case FUSE_RENAME:
    case FUSE_RENAME2:
      return Rename(request, body, inode);
    case FUSE_LINK:
      return Link(body, inode);
    case FUSE_OPEN:
      return OpenFile(body, inode);
    case FUSE_OPENDIR:
      return OpenFolder(inode);
    case FUSE_STATFS:
      return StatFs(inode);
    case FUSE_GETXATTR:
      return GetXattr(body, inode);
    case FUSE_LISTXATTR:
      return ListXattr(body, inode);
    case FUSE_SETXATTR:
      return SetXattr(body, inode);
    case FUSE_REMOVEXATTR:
      return RemoveXattr(body, inode);
    default:
      return OnOpen(request, body);
  }
}

int FileServer::OnOpen(const FuseRequest& request, FuseBody* body) {
  switch (request.header.opcode) {
    case FUSE_READ:
      return Read(body);
    case FUSE_WRITE:
      return Write(body);
    case FUSE_READDIR:
      return ReadFolder(body);
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
      return Release(body);
    case FUSE_LSEEK:
      return Seek(body);
    case FUSE_FLUSH: {
      Open* open = FindOpen(body->Take<fuse_flush_in>().fh, false);
      if (open == nullptr) return EBADF;
      // close(2) of a copy: what a network file system has to say at a close.
      int copy = fcntl(open->fd.get(), F_DUPFD_CLOEXEC, 3);
      return copy >= 0 && close(copy) == 0 ? 0 : errno;
    }
    case FUSE_FSYNC:
    case FUSE_FSYNCDIR: {
      auto in = body->Take<fuse_fsync_in>();
      Open* open = FindOpen(in.fh, request.header.opcode == FUSE_FSYNCDIR);
      if (open == nullptr) return EBADF;
      bool data = (in.fsync_flags & FUSE_FSYNC_FDATASYNC) != 0;
      return (data ? fdatasync(open->fd.get()) : fsync(open->fd.get())) == 0 ? 0 : errno;
    }
    case FUSE_FALLOCATE: {
      auto in = body->Take<fuse_fallocate_in>();
      Open* open = FindOpen(in.fh, false);
      if (open == nullptr) return EBADF;
      return fallocate(open->fd.get(), static_cast<int>(in.mode), static_cast<off_t>(in.offset), static_cast<off_t>(in.length)) == 0 ? 0 : errno;
    }
    default:
      return ENOSYS;  // the guest's kernel then does without
  }
}

int FileServer::AtRoot(const FuseRequest& request, FuseBody* body) {
  fuse_attr attr{};
  attr.ino = kRootNode;
  attr.mode = S_IFDIR | 0755;
  attr.nlink = 2;
  switch (request.header.opcode) {
    case FUSE_GETATTR: {
      fuse_attr_out out{};
      out.attr_valid_nsec = kAttributeNanos;
      out.attr = attr;
      Answer(out);
      return 0;
    }
    case FUSE_LOOKUP: {
      auto found = volumes_.find(body->TakeName());
      if (body->error() != 0 || found == volumes_.end()) return body->error() != 0 ? body->error() : ENOENT;
      Inode* root = inodes_.Find(found->second->root);
      Info info{};
      int failed = StatDescriptor(root->fd.get(), &info);
      if (failed != 0) return -failed;
      fuse_entry_out out{};
      out.nodeid = root->id;
      FillAttributes(info, &out.attr);
      out.attr_valid_nsec = kAttributeNanos;
      Answer(out);
      return 0;
    }
    case FUSE_STATFS:
      Answer(fuse_statfs_out{});
      return 0;
    default:
      return EPERM;
  }
}

int FileServer::Init(FuseBody* body) {
  auto major = body->Take<uint32_t>(), minor = body->Take<uint32_t>(), readahead = body->Take<uint32_t>(), flags = body->Take<uint32_t>();
  if (body->error() != 0) return body->error();
  fuse_init_out out{};
  out.major = FUSE_KERNEL_VERSION;
  out.minor = 31;  // what is used here; the kernel takes the lesser
  // A kernel of another major version asks again after this answer.
  if (major < FUSE_KERNEL_VERSION || (major == FUSE_KERNEL_VERSION && minor < 31)) return EPROTO;
  out.max_readahead = readahead;
  out.flags = flags & kWanted;
  out.max_background = 16;
  out.congestion_threshold = 12;
  out.max_write = limits::kSharedIoBytes;
  out.time_gran = 1;
  out.max_pages = kPages;
  Answer(out);
  return 0;
}

void FileServer::Forget(const FuseRequest& request, FuseBody* body) {
  if (request.header.opcode == FUSE_FORGET) return inodes_.Forget(request.header.nodeid, body->Take<fuse_forget_in>().nlookup);
  auto in = body->Take<fuse_batch_forget_in>();
  for (uint32_t i = 0; i < in.count && body->error() == 0; ++i) {
    auto one = body->Take<fuse_forget_one>();
    if (body->error() == 0) inodes_.Forget(one.nodeid, one.nlookup);
  }
}

uint64_t FileServer::NumberOf(uint64_t device, uint64_t number) {
  // All volumes are one device in the guest; numbers of different devices of the host's must not meet.
  auto known = devices_.find(device);
  if (known == devices_.end()) {
    if (devices_.size() >= kDevices) return number;
    known = devices_.emplace(device, devices_.size()).first;
  }
  return number + (known->second << 48);
}

void FileServer::FillAttributes(const Info& info, fuse_attr* attr) {
  attr->ino = NumberOf(makedev(info.stx_dev_major, info.stx_dev_minor), info.stx_ino);
  attr->size = info.stx_size;
  attr->blocks = info.stx_blocks;
  attr->atime = static_cast<uint64_t>(info.stx_atime.tv_sec);
  attr->mtime = static_cast<uint64_t>(info.stx_mtime.tv_sec);
  attr->ctime = static_cast<uint64_t>(info.stx_ctime.tv_sec);
  attr->atimensec = info.stx_atime.tv_nsec;
  attr->mtimensec = info.stx_mtime.tv_nsec;
  attr->ctimensec = info.stx_ctime.tv_nsec;
  attr->mode = info.stx_mode;
  attr->nlink = info.stx_nlink;
  attr->uid = info.stx_uid;
  attr->gid = info.stx_gid;
  attr->rdev = (info.stx_rdev_major << 8 & 0xfff00) | (info.stx_rdev_minor & 0xff) | (info.stx_rdev_minor & 0xfff00) << 12;  // new_encode_dev()
  attr->blksize = info.stx_blksize;
}

}  // namespace caisson::files
