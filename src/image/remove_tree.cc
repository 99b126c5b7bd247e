// SPDX-License-Identifier: Apache-2.0
#include "image/remove_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <vector>

#include "base/unique_fd.h"

namespace caisson::image {
namespace {

using Dir = std::unique_ptr<DIR, int (*)(DIR*)>;

// Takes over `fd`.
Dir Open(UniqueFd fd) {
  Dir dir(fdopendir(fd.get()), closedir);
  if (dir) (void)fd.Release();
  return dir;
}

bool IsDots(const char* name) { return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0')); }

constexpr size_t kMaxOpenLevels = 64;

// A tree may be deeper than there are descriptors: its depths are moved to the top, where they are found again.
bool MoveUp(int fd, const std::string& leaf, int top, uint64_t* moved) {
  for (;;) {
    std::string name = fmt::format(".caisson-deep-{}", (*moved)++);
    if (renameat2(fd, leaf.c_str(), top, name.c_str(), RENAME_NOREPLACE) == 0) return true;
    if (errno != EEXIST) return false;
  }
}

}  // namespace

Result<> RemoveAt(int parent_fd, const std::string& name) {
  if (unlinkat(parent_fd, name.c_str(), 0) == 0 || errno == ENOENT) return {};
  if (errno != EISDIR && errno != EPERM) return ErrnoError("remove '{}'", name);
  // A folder: emptied by hand, without recursion, however deep it is.
  struct Level {
    Dir dir;
    std::string name;
  };
  auto open_level = [](int at, const std::string& leaf) {
    return Open(UniqueFd(openat(at, leaf.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)));
  };
  std::vector<Level> stack;
  uint64_t moved = 0;
  stack.push_back({open_level(parent_fd, name), name});
  if (!stack.back().dir) return ErrnoError("open folder '{}' to remove it", name);
  while (!stack.empty()) {
    Level& level = stack.back();
    int fd = dirfd(level.dir.get());
    bool deeper = false;
    while (dirent* entry = readdir(level.dir.get())) {
      if (IsDots(entry->d_name) || unlinkat(fd, entry->d_name, 0) == 0 || errno == ENOENT) continue;
      if (errno != EISDIR && errno != EPERM) return ErrnoError("remove '{}'", entry->d_name);
      std::string leaf = entry->d_name;
      if (stack.size() >= kMaxOpenLevels && MoveUp(fd, leaf, dirfd(stack.front().dir.get()), &moved)) continue;
      Dir below = open_level(fd, leaf);
      if (!below) return ErrnoError("open folder '{}' to remove it", leaf);
      stack.push_back({std::move(below), leaf});
      deeper = true;
      break;
    }
    if (deeper) continue;
    std::string done = stack.back().name;
    stack.pop_back();
    int above = stack.empty() ? parent_fd : dirfd(stack.back().dir.get());
    if (unlinkat(above, done.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT) return ErrnoError("remove folder '{}'", done);
    if (!stack.empty()) rewinddir(stack.back().dir.get());
  }
  return {};
}

Result<> RemoveTree(const std::string& path) {
  auto removed = RemoveAt(AT_FDCWD, path);
  if (!removed && removed.error().message.find(path) == std::string::npos) return std::move(removed.error()).Within("remove '" + path + "'");
  return removed;
}

Result<Usage> MeasureTree(const std::string& path) {
  Usage usage;
  std::vector<Dir> stack;
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0) return ErrnoError("measure '{}'", path);
  usage.bytes = static_cast<uint64_t>(info.st_blocks) * 512;
  usage.inodes = 1;
  stack.push_back(Open(UniqueFd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC))));
  if (!stack.back()) return usage;
  while (!stack.empty()) {
    DIR* dir = stack.back().get();
    dirent* entry = readdir(dir);
    if (entry == nullptr) {
      stack.pop_back();
      continue;
    }
    // Files come and go meanwhile.
    if (IsDots(entry->d_name) || fstatat(dirfd(dir), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    usage.bytes += static_cast<uint64_t>(info.st_blocks) * 512;
    ++usage.inodes;
    if (!S_ISDIR(info.st_mode) || stack.size() > 512) continue;
    Dir below = Open(UniqueFd(openat(dirfd(dir), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)));
    if (below) stack.push_back(std::move(below));
  }
  return usage;
}

}  // namespace caisson::image
