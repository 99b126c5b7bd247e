// SPDX-License-Identifier: Apache-2.0
//
// Inodes: the files and folders that a guest knows of, by the numbers it has been given for them, each with a descriptor
// (O_PATH) that its parent's descriptor and its one name have led to. No path is ever resolved: what the guest or the host
// renames meanwhile changes nothing of what a number means.
//
// A guest may know of more files than a process may have descriptors. Those that were not used for long are closed, and opened
// again by the name under which they were found last; if another file is there now the number is stale (ESTALE), and the
// guest's kernel looks the path up anew. Errors are negative errno values. One thread.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <unordered_map>

#include "base/limits.h"
#include "base/unique_fd.h"

namespace caisson::files {

inline constexpr uint64_t kRootNode = 1;  // FUSE_ROOT_ID: the folder of the volumes

// A folder of the host's that the guest may use.
struct SharedVolume {
  std::string name;
  bool writable = false;
  bool remote = false;  // what is written may fail as late as at a close(2)
  bool constant = false;  // nobody changes it: what was told of it stays true
  uint64_t root = 0;    // its node
};

struct Inode {
  uint64_t id = 0;
  SharedVolume* volume = nullptr;
  uint64_t device = 0, number = 0;
  int64_t born_nanos = 0;  // 0: the file system does not say
  mode_t mode = 0;         // its type
  uint64_t parent = 0;     // and the name there: where it was found last
  std::string name;
  uint64_t lookups = 0;  // how often the guest has been told of it
  uint32_t pins = 0;     // open files of it, whose descriptors stay
  UniqueFd fd;
  bool listed = false;  // it has a descriptor that may be closed
  std::list<Inode*>::iterator recent;
};

struct InodeBounds {
  size_t descriptors = 4096;
  size_t inodes = limits::kSharedInodes;
};

class Inodes {
 public:
  explicit Inodes(InodeBounds bounds) : bounds_(bounds) {}
  Inodes(const Inodes&) = delete;
  Inodes& operator=(const Inodes&) = delete;

  // A volume's folder, which stays.
  Inode* AddRoot(SharedVolume* volume, UniqueFd fd, const struct statx& info);
  // Null: no such number.
  Inode* Find(uint64_t id);
  // The entry `name` of `parent`, one lookup more. `info` is of it.
  int Lookup(Inode* parent, const std::string& name, Inode** found, struct statx* info);
  // Its descriptor, good until the next call of any method.
  int Fd(Inode* inode);
  // It has an open file: its descriptor stays until the last Unpin. After Fd.
  void Pin(Inode* inode);
  void Unpin(uint64_t id);
  void Forget(uint64_t id, uint64_t lookups);
  // Nothing of the volume is known any more; its numbers are stale.
  void DropVolume(const SharedVolume* volume);
  // `name` in `parent` is another file now, if the guest knows it: renamed or linked.
  void Moved(Inode* parent, const std::string& name);
  size_t size() const { return inodes_.size(); }
  size_t descriptors() const { return recent_.size(); }

 private:
  using Key = std::pair<uint64_t, uint64_t>;  // device and number

  int Open(Inode* inode, int depth);
  void Keep(Inode* inode, UniqueFd fd);
  void Drop(Inode* inode);
  void List(Inode* inode);
  void Unlist(Inode* inode);

  const InodeBounds bounds_;
  uint64_t next_ = kRootNode + 1;  // no number is given twice
  std::unordered_map<uint64_t, Inode> inodes_;
  std::map<Key, Inode*> by_key_;
  std::list<Inode*> recent_;  // the last is the one to close next
};

// One name in a folder, whatever it is, without following it. A descriptor (O_PATH) or a negative errno value.
int OpenEntry(int parent_fd, const std::string& name);
// 0 or a negative errno value. All of statx(2)'s basic fields, and the time of birth where there is one.
int StatDescriptor(int fd, struct statx* info);

}  // namespace caisson::files
