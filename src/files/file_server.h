// SPDX-License-Identifier: Apache-2.0
//
// FileServer: folders of the host's for a guest's FUSE client (linux/fuse.h, protocol 7.31 to 7.38): one file system, in whose root
// the volumes are, by name. A request in, an answer out, one after the other; who may do what is judged by the guest's kernel
// (default_permissions), whose users these are.
//
// The guest is hostile. It reaches what is below the volumes' folders and nothing else: each step is one name, from a descriptor,
// through no link; only regular files and folders are opened; it makes neither devices nor set attributes but user.* and ACLs; a
// volume that is read-only stays so whatever it says. What it may hold is bounded. What the host changes is seen: names are told
// anew each time, attributes may be kept for kAttributeNanos, a file's data while its size and time of change stay.
//
// One thread, whose umask and file system user it changes; on a process with the rights that confine.h leaves.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "files/fuse_request.h"
#include "files/inodes.h"

namespace caisson::files {

// Enough for the several questions of one open, read or write; a name that is looked up gets its attributes anew.
inline constexpr uint32_t kAttributeNanos = 20'000'000;
// Of a volume that nobody changes names and attributes may be kept.
inline constexpr uint64_t kConstantSeconds = 24 * 3600;

struct FileServerBounds {
  InodeBounds inodes;
  size_t open_files = 4096;
};

class FileServer {
 public:
  // `own_descriptors`: /proc/self/fd, by which descriptors are opened anew.
  FileServer(UniqueFd own_descriptors, FileServerBounds bounds)
      : own_(std::move(own_descriptors)), bounds_(bounds), inodes_(bounds.inodes) {}

  // `root` is a folder, the new one of a volume of that name. Without one the volume becomes writable, if so.
  // `constant`: nobody changes what is in it, which is not writable then.
  Result<> AddVolume(const std::string& name, UniqueFd root, bool writable, bool constant = false);
  // It is not shared any more, and nothing of it is held, whatever the guest still has open. Not there: nothing.
  void RemoveVolume(const std::string& name);
  bool HasVolume(const std::string& name) const { return volumes_.contains(name); }
  // The answer, good until the next call; empty: there is none to such a request.
  std::string_view Handle(const FuseRequest& request);

  size_t inodes() const { return inodes_.size(); }
  size_t open_files() const { return open_.size(); }

 private:
  struct Open {
    UniqueFd fd;
    uint64_t node = 0;
    bool folder = false;
    int64_t position = 0;  // of a folder's reading
  };
  using Info = struct statx;

  // Each returns 0, with the answer's body in answer_, or an errno value.
  int Dispatch(const FuseRequest& request);
  int OnInode(const FuseRequest& request, FuseBody* body, Inode* inode);
  int OnOpen(const FuseRequest& request, FuseBody* body);
  int AtRoot(const FuseRequest& request, FuseBody* body);
  int Init(FuseBody* body);
  void Forget(const FuseRequest& request, FuseBody* body);

  int Lookup(FuseBody* body, Inode* parent);
  int Make(const FuseRequest& request, FuseBody* body, Inode* parent);
  int Create(const FuseRequest& request, FuseBody* body, Inode* parent);
  int Remove(const FuseRequest& request, FuseBody* body, Inode* parent);
  int Rename(const FuseRequest& request, FuseBody* body, Inode* from);
  int Link(FuseBody* body, Inode* parent);
  int ReadLink(Inode* inode);
  int TellEntry(Inode* parent, const std::string& name, Inode** told = nullptr);

  int GetAttributes(FuseBody* body, Inode* inode);
  int SetAttributes(FuseBody* body, Inode* inode);
  int AnswerAttributes(int fd, const SharedVolume& volume);
  int Truncate(const fuse_setattr_in& in, Inode* inode);
  int StatFs(Inode* inode);
  int GetXattr(FuseBody* body, Inode* inode);
  int ListXattr(FuseBody* body, Inode* inode);
  int SetXattr(FuseBody* body, Inode* inode);
  int RemoveXattr(FuseBody* body, Inode* inode);

  int OpenFile(FuseBody* body, Inode* inode);
  int OpenFolder(Inode* inode);
  int Read(FuseBody* body);
  int Write(FuseBody* body);
  int ReadFolder(FuseBody* body);
  int Release(FuseBody* body);
  int Seek(FuseBody* body);

  // A descriptor for reading or writing of what `inode` is, a regular file or a folder; or a negative errno value.
  int Reopen(Inode* inode, int flags);
  int AddOpen(Inode* inode, UniqueFd fd, bool folder, uint64_t* handle);
  Open* FindOpen(uint64_t handle, bool folder);
  void FillAttributes(const Info& info, fuse_attr* attr);
  uint64_t NumberOf(uint64_t device, uint64_t number);
  template <class T>
  void Answer(const T& value) {
    answer_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }

  const UniqueFd own_;
  const FileServerBounds bounds_;
  Inodes inodes_;
  std::map<std::string, std::unique_ptr<SharedVolume>> volumes_;
  std::vector<std::unique_ptr<SharedVolume>> replaced_;
  std::map<uint64_t, uint64_t> devices_;  // each by the order in which they were met
  std::unordered_map<uint64_t, Open> open_;
  uint64_t next_open_ = 1;
  std::string answer_;
};

// 0, or an errno value.
int DropSetIds(int fd);

}  // namespace caisson::files
