// SPDX-License-Identifier: Apache-2.0
// FileServer: open files and folders.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "files/file_server.h"

namespace caisson::files {
namespace {

constexpr uint32_t kOpenBits = O_ACCMODE | O_APPEND | O_SYNC | O_DSYNC | O_TRUNC;
constexpr size_t kFolderBytes = 128 << 10;

// As getdents64(2) writes it.
struct Entry {
  uint64_t number;
  int64_t next;
  uint16_t length;
  uint8_t type;
  char name[1];
};
constexpr size_t kEntryNameAt = 19;

}  // namespace

// As a write by somebody without CAP_FSETID does (chmod(2)).
int DropSetIds(int fd) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return errno;
  mode_t mode = info.st_mode & 07777 & ~static_cast<mode_t>(S_ISUID);
  if ((mode & S_IXGRP) != 0) mode &= ~static_cast<mode_t>(S_ISGID);
  return mode == (info.st_mode & 07777) || fchmod(fd, mode) == 0 ? 0 : errno;
}

int FileServer::Reopen(Inode* inode, int flags) {
  // Never a device, a FIFO or a socket: what they do when opened is not the guest's affair.
  if (!S_ISREG(inode->mode) && !S_ISDIR(inode->mode)) return -EOPNOTSUPP;
  int fd = inodes_.Fd(inode);
  if (fd < 0) return fd;
  // Reading leaves no trace where nothing may be changed.
  if (!inode->volume->writable) flags |= O_NOATIME;
  int opened = openat(own_.get(), std::to_string(fd).c_str(), flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  return opened >= 0 ? opened : -errno;
}

int FileServer::AddOpen(Inode* inode, UniqueFd fd, bool folder, uint64_t* handle) {
  if (open_.size() >= bounds_.open_files) return ENFILE;
  int held = inodes_.Fd(inode);
  if (held < 0) return -held;
  inodes_.Pin(inode);
  *handle = next_open_++;
  Open& open = open_[*handle];
  open.fd = std::move(fd);
  open.node = inode->id;
  open.folder = folder;
  return 0;
}

FileServer::Open* FileServer::FindOpen(uint64_t handle, bool folder) {
  auto found = open_.find(handle);
  return found != open_.end() && found->second.folder == folder ? &found->second : nullptr;
}

int FileServer::OpenFile(FuseBody* body, Inode* inode) {
  auto in = body->Take<fuse_open_in>();
  if (body->error() != 0) return body->error();
  if (!S_ISREG(inode->mode)) return S_ISDIR(inode->mode) ? EISDIR : ENXIO;
  bool writes = (in.flags & O_ACCMODE) != O_RDONLY || (in.flags & O_TRUNC) != 0;
  if (writes && !inode->volume->writable) return EROFS;
  if (open_.size() >= bounds_.open_files) return ENFILE;
  UniqueFd fd(Reopen(inode, static_cast<int>(in.flags & kOpenBits)));
  if (!fd) return -fd.get();
  fuse_open_out out{};
  if ((in.flags & O_TRUNC) != 0 && (in.open_flags & FUSE_OPEN_KILL_SUIDGID) != 0) {
    int failed = DropSetIds(fd.get());
    if (failed != 0) return failed;
  }
  // Then no FLUSH comes with each close(2).
  if (!writes || !inode->volume->remote) out.open_flags = FOPEN_NOFLUSH;
  if (inode->volume->constant) out.open_flags |= FOPEN_KEEP_CACHE;
  int failed = AddOpen(inode, std::move(fd), false, &out.fh);
  if (failed != 0) return failed;
  Answer(out);
  return 0;
}

int FileServer::OpenFolder(Inode* inode) {
  if (!S_ISDIR(inode->mode)) return ENOTDIR;
  if (open_.size() >= bounds_.open_files) return ENFILE;
  UniqueFd fd(Reopen(inode, O_RDONLY | O_DIRECTORY));
  if (!fd) return -fd.get();
  fuse_open_out out{};
  int failed = AddOpen(inode, std::move(fd), true, &out.fh);
  if (failed != 0) return failed;
  Answer(out);
  return 0;
}

int FileServer::Read(FuseBody* body) {
  auto in = body->Take<fuse_read_in>();
  Open* open = FindOpen(in.fh, false);
  if (body->error() != 0 || open == nullptr) return EBADF;
  if (in.size > limits::kSharedIoBytes) return EINVAL;
  size_t at = answer_.size(), done = 0;
  answer_.resize(at + in.size);
  while (done < in.size) {
    ssize_t got = pread(open->fd.get(), answer_.data() + at + done, in.size - done, static_cast<off_t>(in.offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && done == 0) return errno;
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  answer_.resize(at + done);
  return 0;
}

int FileServer::Write(FuseBody* body) {
  auto in = body->Take<fuse_write_in>();
  std::string_view data = body->Rest();
  Open* open = FindOpen(in.fh, false);
  if (body->error() != 0 || open == nullptr) return EBADF;
  if (in.size != data.size()) return EINVAL;
  fuse_write_out out{};
  while (out.size < data.size()) {
    // With O_APPEND pwrite(2) appends, wherever the guest thinks that the end is: the host may append too.
    ssize_t put = pwrite(open->fd.get(), data.data() + out.size, data.size() - out.size, static_cast<off_t>(in.offset + out.size));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && out.size == 0) return errno;
    if (put <= 0) break;
    out.size += static_cast<uint32_t>(put);
  }
  if ((in.write_flags & FUSE_WRITE_KILL_SUIDGID) != 0) {
    int failed = DropSetIds(open->fd.get());
    if (failed != 0) return failed;
  }
  Answer(out);
  return 0;
}

int FileServer::ReadFolder(FuseBody* body) {
  auto in = body->Take<fuse_read_in>();
  Open* open = FindOpen(in.fh, true);
  if (body->error() != 0 || open == nullptr) return EBADF;
  auto offset = static_cast<int64_t>(in.offset);
  if (offset != open->position && lseek(open->fd.get(), offset, SEEK_SET) < 0) return errno;
  size_t room = std::min<size_t>(in.size, limits::kSharedIoBytes);
  std::string entries(std::min(room, kFolderBytes), '\0');
  auto got = syscall(SYS_getdents64, open->fd.get(), entries.data(), entries.size());
  if (got < 0) return errno;
  struct stat info {};
  if (fstat(open->fd.get(), &info) != 0) return errno;
  open->position = offset;
  for (size_t at = 0; at < static_cast<size_t>(got);) {
    Entry entry;
    std::memcpy(&entry, entries.data() + at, kEntryNameAt);
    const char* name = entries.data() + at + kEntryNameAt;
    fuse_dirent out{};
    out.ino = NumberOf(info.st_dev, entry.number);
    out.off = static_cast<uint64_t>(entry.next);
    out.namelen = static_cast<uint32_t>(std::strlen(name));
    out.type = entry.type;
    size_t size = FUSE_NAME_OFFSET + out.namelen;
    if (FUSE_DIRENT_ALIGN(size) > room) break;  // the next call begins with it
    answer_.append(reinterpret_cast<const char*>(&out), FUSE_NAME_OFFSET).append(name, out.namelen).append(FUSE_DIRENT_ALIGN(size) - size, '\0');
    room -= FUSE_DIRENT_ALIGN(size);
    open->position = entry.next;
    at += entry.length;
    if (at >= static_cast<size_t>(got)) return 0;
  }
  // Not all fitted: the descriptor is further than what was told.
  if (lseek(open->fd.get(), open->position, SEEK_SET) < 0) return errno;
  return 0;
}

int FileServer::Release(FuseBody* body) {
  auto found = open_.find(body->Take<fuse_release_in>().fh);
  if (found == open_.end()) return EBADF;
  uint64_t node = found->second.node;
  open_.erase(found);
  inodes_.Unpin(node);
  return 0;
}

int FileServer::Seek(FuseBody* body) {
  auto in = body->Take<fuse_lseek_in>();
  Open* open = FindOpen(in.fh, false);
  if (body->error() != 0 || open == nullptr) return EBADF;
  if (in.whence != SEEK_DATA && in.whence != SEEK_HOLE) return EINVAL;
  off_t at = lseek(open->fd.get(), static_cast<off_t>(in.offset), static_cast<int>(in.whence));
  if (at < 0) return errno;
  fuse_lseek_out out{};
  out.offset = static_cast<uint64_t>(at);
  Answer(out);
  return 0;
}

}  // namespace caisson::files
