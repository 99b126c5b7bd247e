// SPDX-License-Identifier: Apache-2.0
#include "files/inodes.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/clock.h"

namespace caisson::files {
namespace {

// Ancestors that have to be opened again for one file.
constexpr int kReopenDepth = 256;

uint64_t DeviceOf(const struct statx& info) { return makedev(info.stx_dev_major, info.stx_dev_minor); }

int64_t BirthOf(const struct statx& info) {
  return (info.stx_mask & STATX_BTIME) != 0 ? info.stx_btime.tv_sec * kNanosPerSecond + info.stx_btime.tv_nsec : 0;
}

bool IsSame(const Inode& inode, const struct statx& info) {
  return inode.device == DeviceOf(info) && inode.number == info.stx_ino && inode.born_nanos == BirthOf(info) &&
         (inode.mode & S_IFMT) == (info.stx_mode & S_IFMT);
}

bool IsRoot(const Inode& inode) { return inode.volume->root == inode.id; }

}  // namespace

int OpenEntry(int parent_fd, const std::string& name) {
  open_how how{};
  how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
  // The name is one component already; this is for the day when it is not.
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
  int fd = static_cast<int>(syscall(SYS_openat2, parent_fd, name.c_str(), &how, sizeof how));
  return fd >= 0 ? fd : -errno;
}

int StatDescriptor(int fd, struct statx* info) {
  return statx(fd, "", AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, info) == 0 ? 0 : -errno;
}

Inode* Inodes::AddRoot(SharedVolume* volume, UniqueFd fd, const struct statx& info) {
  Inode& inode = inodes_[next_];
  inode.id = next_++;
  inode.volume = volume;
  inode.device = DeviceOf(info);
  inode.number = info.stx_ino;
  inode.born_nanos = BirthOf(info);
  inode.mode = info.stx_mode;
  inode.parent = kRootNode;
  inode.fd = std::move(fd);
  volume->root = inode.id;
  return &inode;  // under no key: it may be a folder in another volume, where it is an inode of its own
}

Inode* Inodes::Find(uint64_t id) {
  auto found = inodes_.find(id);
  return found == inodes_.end() ? nullptr : &found->second;
}

void Inodes::Unlist(Inode* inode) {
  if (inode->listed) recent_.erase(inode->recent);
  inode->listed = false;
}

void Inodes::List(Inode* inode) {
  recent_.push_front(inode);
  inode->recent = recent_.begin();
  inode->listed = true;
  while (recent_.size() > bounds_.descriptors && recent_.back() != inode) {
    Inode* old = recent_.back();
    Unlist(old);
    old->fd.Reset();
  }
}

void Inodes::Keep(Inode* inode, UniqueFd fd) {
  Unlist(inode);
  inode->fd = std::move(fd);
  if (inode->pins == 0) List(inode);
}

void Inodes::Pin(Inode* inode) {
  Unlist(inode);
  ++inode->pins;
}

int Inodes::Open(Inode* inode, int depth) {
  if (inode->fd) {
    if (inode->listed) recent_.splice(recent_.begin(), recent_, inode->recent);
    return inode->fd.get();
  }
  Inode* parent = Find(inode->parent);
  if (parent == nullptr || depth > kReopenDepth) return -ESTALE;
  int above = Open(parent, depth + 1);
  if (above < 0) return above;
  int fd = OpenEntry(above, inode->name);
  if (fd < 0) return fd == -ENOENT ? -ESTALE : fd;
  UniqueFd opened(fd);
  struct statx info {};
  int failed = StatDescriptor(fd, &info);
  if (failed != 0) return failed;
  if (!IsSame(*inode, info)) return -ESTALE;
  Keep(inode, std::move(opened));
  return fd;
}

int Inodes::Fd(Inode* inode) { return Open(inode, 0); }

int Inodes::Lookup(Inode* parent, const std::string& name, Inode** found, struct statx* info) {
  int above = Fd(parent);
  if (above < 0) return above;
  int fd = OpenEntry(above, name);
  if (fd < 0) return fd;
  UniqueFd opened(fd);
  int failed = StatDescriptor(fd, info);
  if (failed != 0) return failed;
  Key key(DeviceOf(*info), info->stx_ino);
  auto known = by_key_.find(key);
  // Without a descriptor the number may be a new file's by now; the old one is nobody's then.
  if (known != by_key_.end() && !known->second->fd && !IsSame(*known->second, *info)) {
    by_key_.erase(known);
    known = by_key_.end();
  }
  if (known == by_key_.end()) {
    if (inodes_.size() >= bounds_.inodes) return -ENFILE;
    Inode& inode = inodes_[next_];
    inode.id = next_++;
    inode.device = key.first;
    inode.number = key.second;
    inode.born_nanos = BirthOf(*info);
    inode.mode = info->stx_mode;
    inode.volume = parent->volume;
    known = by_key_.emplace(key, &inode).first;
  }
  Inode* inode = known->second;
  // Reached by two volumes: with the rights of the better one, by whose mount it is opened too.
  bool better = parent->volume->writable && !inode->volume->writable;
  if (better || parent->volume == inode->volume) {
    inode->volume = parent->volume;
    inode->parent = parent->id;
    inode->name = name;
  }
  if (better || (!inode->fd && parent->volume == inode->volume)) Keep(inode, std::move(opened));
  ++inode->lookups;
  *found = inode;
  return 0;
}

void Inodes::Drop(Inode* inode) {
  auto key = by_key_.find(Key(inode->device, inode->number));
  if (key != by_key_.end() && key->second == inode) by_key_.erase(key);
  Unlist(inode);
  inodes_.erase(inode->id);
}

void Inodes::Unpin(uint64_t id) {
  Inode* inode = Find(id);
  if (inode == nullptr || inode->pins == 0 || --inode->pins > 0 || IsRoot(*inode)) return;
  if (inode->lookups == 0) return Drop(inode);
  if (inode->fd) List(inode);
}

void Inodes::Forget(uint64_t id, uint64_t lookups) {
  Inode* inode = Find(id);
  if (inode == nullptr || IsRoot(*inode)) return;
  inode->lookups -= std::min(lookups, inode->lookups);
  if (inode->lookups == 0 && inode->pins == 0) Drop(inode);
}

void Inodes::DropVolume(const SharedVolume* volume) {
  for (auto one = inodes_.begin(); one != inodes_.end();) {
    Inode* inode = &one->second;
    ++one;  // Drop takes it out
    if (inode->volume == volume) Drop(inode);
  }
}

void Inodes::Moved(Inode* parent, const std::string& name) {
  int above = Fd(parent);
  if (above < 0) return;
  UniqueFd fd(OpenEntry(above, name));
  struct statx info {};
  if (!fd || StatDescriptor(fd.get(), &info) != 0) return;
  auto known = by_key_.find(Key(DeviceOf(info), info.stx_ino));
  if (known == by_key_.end() || known->second->volume != parent->volume) return;
  known->second->parent = parent->id;
  known->second->name = name;
}

}  // namespace caisson::files
