// SPDX-License-Identifier: Apache-2.0
#include "image/below.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <map>

#include "base/limits.h"
#include "base/strings.h"
#include "image/file.h"
#include "sys/path.h"

namespace caisson::image {
namespace {

bool HasOpaqueMark(int folder) {
  char value = 0;
  return fgetxattr(folder, "trusted.overlay.opaque", &value, 1) == 1 && value == 'y';
}

constexpr int kMaxLinks = 40;  // as the kernel (path_resolution(7))

void PushParts(std::string_view path, std::vector<std::string>* todo) {
  auto parts = Split(path, '/');
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    if (!part->empty() && *part != ".") todo->emplace_back(*part);
  }
}

// One layer's answer to a path.
struct Look {
  int found = -1;       // a folder's is O_RDONLY, another's O_PATH; the LayerWalk's
  bool hidden = false;  // the layers below do not show theirs
};

// Goes through one layer. It stays where it was led: paths in their order cost a step or two each.
class LayerWalk {
 public:
  explicit LayerWalk(UniqueFd root) { Enter("", std::move(root), false); }
  static Result<LayerWalk> Open(const std::string& dir) {
    UniqueFd root(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!root) return ErrnoError("open layer '{}'", dir);
    return LayerWalk(std::move(root));
  }

  // The answer holds until the next call.
  Result<Look> Go(std::string_view path) {
    std::vector<std::string_view> parts;
    for (std::string_view part : Split(path, '/')) {
      if (!part.empty()) parts.push_back(part);
    }
    size_t same = 0;
    while (same < kKept && same < parts.size() && same + 1 < steps_.size() && steps_[same + 1].name == parts[same]) ++same;
    steps_.erase(steps_.begin() + static_cast<ptrdiff_t>(same) + 1, steps_.end());
    while (steps_.size() <= parts.size() && steps_.back().folder) TRY(Descend(parts[steps_.size() - 1]));
    const Step& last = steps_.back();
    return Look{steps_.size() == parts.size() + 1 ? last.fd.get() : -1, last.hidden};
  }

  // Of the last answer, which ends the walk.
  UniqueFd Take() { return std::move(steps_.back().fd); }

 private:
  // Folders that stay open; there may be many layers.
  static constexpr size_t kKept = 16;

  struct Step {
    std::string name;
    UniqueFd fd;  // none: nothing is there
    bool folder = false, hidden = false;
  };

  void Enter(std::string_view name, UniqueFd folder, bool hidden) {
    bool opaque = HasOpaqueMark(folder.get());
    steps_.push_back({std::string(name), std::move(folder), true, hidden || opaque});
    if (steps_.size() > kKept + 2) steps_[steps_.size() - 2].fd.Reset();
  }

  Result<> Descend(std::string_view name) {
    const Step& from = steps_.back();
    bool hidden = from.hidden;
    std::string leaf(name);
    UniqueFd folder(openat(from.fd.get(), leaf.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (folder) return Enter(name, std::move(folder), hidden), Result<>();
    // A symbolic link is ENOTDIR too.
    UniqueFd other(errno == ENOTDIR ? openat(from.fd.get(), leaf.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC) : -1);
    if (!other && errno != ENOENT) return ErrnoError("look for '{}'", name);
    struct stat info {};
    if (other && fstat(other.get(), &info) != 0) return ErrnoError("look at '{}'", name);
    if (other) hidden = true;
    if (other && S_ISCHR(info.st_mode) && info.st_rdev == 0) other.Reset();  // a whiteout
    steps_.push_back({std::move(leaf), std::move(other), false, hidden});
    return {};
  }

  std::vector<Step> steps_;  // the first is the layer's folder
};

Result<> CopyXattrs(int from, int to) {
  char names[limits::kXattrBytes];
  ssize_t length = flistxattr(from, names, sizeof names);
  if (length < 0) return errno == ENOTSUP ? Result<>() : Result<>(ErrnoError("list extended attributes"));
  std::string value(limits::kXattrBytes, '\0');
  for (const char* name = names; name < names + length; name += std::string_view(name).size() + 1) {
    if (!IsKeptXattr(name)) continue;
    ssize_t size = fgetxattr(from, name, value.data(), value.size());
    if (size < 0 || fsetxattr(to, name, value.data(), static_cast<size_t>(size), 0) != 0) return ErrnoError("copy extended attribute '{}'", name);
  }
  return {};
}

// Owner before mode: chown(2) takes setuid away, and capabilities.
Result<> CopyAttributes(int from, int to) {
  struct stat info {};
  if (fstat(from, &info) != 0 || fchown(to, info.st_uid, info.st_gid) != 0 || fchmod(to, info.st_mode & 07777) != 0) return ErrnoError("copy owner and mode");
  TRY(CopyXattrs(from, to));
  timespec times[2] = {info.st_mtim, info.st_mtim};
  if (futimens(to, times) != 0) return ErrnoError("copy times");
  return {};
}

// Holes stay holes.
Result<> CopyContent(int from, int to, off_t size) {
  if (ftruncate(to, size) != 0) return ErrnoError("set length");
  for (off_t at = 0; at < size;) {
    off_t data = lseek(from, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {};
    off_t end = data < 0 ? data : lseek(from, data, SEEK_HOLE);
    if (end < 0) return ErrnoError("find data");
    for (at = data; at < end;) {
      off_t out = at;
      ssize_t copied = copy_file_range(from, &at, to, &out, static_cast<size_t>(end - at), 0);
      if (copied < 0) return ErrnoError("copy");
      if (copied == 0) return MakeError(Code::kDataLoss, "a file of a layer became shorter");
    }
  }
  return {};
}

class Completion {
 public:
  Completion(int root_fd, Unpacked* unpacked, const std::vector<std::string>& lower_dirs) : root_(root_fd), unpacked_(unpacked), lower_(lower_dirs) {}

  Result<> Run() {
    for (const auto& link : unpacked_->links_below) {
      auto done = Link(link);
      if (!done) return std::move(done.error()).Within(fmt::format("hard link '{}' to '{}'", link.path.substr(0, 256), link.target.substr(0, 256)));
    }
    if (unpacked_->folders_below.empty()) return {};
    LayerWalk own = TRY(WalkOwn());
    std::vector<LayerWalk> lower;
    for (const auto& dir : lower_) lower.push_back(TRY(LayerWalk::Open(dir)));
    for (const auto& folder : unpacked_->folders_below) {
      auto done = Inherit(own, lower, folder);
      if (!done) return std::move(done.error()).Within(fmt::format("folder '{}'", folder.substr(0, 256)));
    }
    return {};
  }

 private:
  Result<LayerWalk> WalkOwn() const {
    UniqueFd root(openat(root_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!root) return ErrnoError("open the layer");
    return LayerWalk(std::move(root));
  }

  Result<> Link(const LinkBelow& link) {
    auto [folder, leaf] = sys::SplitPath("/" + link.path);
    UniqueFd parent = TRY(sys::MakeDirInRoot(root_, folder, 0755));
    struct stat info {};
    if (fstatat(parent.get(), leaf.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) return {};  // a later entry has taken the name
    // The target may be another of these links, and is then here by now.
    auto made = made_.find(link.target);
    LayerWalk walk = TRY(WalkOwn());
    Look own = TRY(walk.Go(made == made_.end() ? link.target : made->second));
    if (own.found >= 0) return LinkToOwn(own.found, parent.get(), leaf);
    if (own.hidden) return MakeError(Code::kInvalidArgument, "the layer itself takes its target away");
    auto from = FindInLayers(lower_, link.target);
    if (!from && from.error().code == Code::kNotFound) return MakeError(Code::kInvalidArgument, "its target is in no layer");
    TRY(Copy(TRY(std::move(from)).get(), parent.get(), leaf));
    made_.emplace(link.target, link.path);
    return {};
  }

  static Result<> LinkToOwn(int from, int parent, const std::string& leaf) {
    struct stat info {};
    if (fstat(from, &info) != 0 || S_ISDIR(info.st_mode)) return MakeError(Code::kInvalidArgument, "its target is a folder");
    if (linkat(AT_FDCWD, sys::FdPath(from).c_str(), parent, leaf.c_str(), AT_SYMLINK_FOLLOW) != 0) return ErrnoError("link");
    return {};
  }

  Result<> Copy(int from_path, int parent, const std::string& leaf) {
    struct stat info {};
    if (fstat(from_path, &info) != 0) return ErrnoError("look at the target");
    if (S_ISLNK(info.st_mode)) return CopySymlink(from_path, info, parent, leaf);
    if (!S_ISREG(info.st_mode)) return MakeError(Code::kInvalidArgument, "its target is no regular file");
    if (info.st_size > limits::kLayerBytes - static_cast<int64_t>(unpacked_->bytes)) {
      return MakeError(Code::kResourceExhausted, "the layer unpacks to more than {} bytes", limits::kLayerBytes);
    }
    unpacked_->bytes += static_cast<uint64_t>(info.st_size);
    UniqueFd from = TRY(ReopenRegular(from_path, leaf));
    UniqueFd to(openat(parent, leaf.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!to) return ErrnoError("create");
    TRY(CopyContent(from.get(), to.get(), info.st_size));
    return CopyAttributes(from.get(), to.get());
  }

  static Result<> CopySymlink(int from, const struct stat& info, int parent, const std::string& leaf) {
    char target[limits::kPathBytes];
    ssize_t length = readlinkat(from, "", target, sizeof target);
    if (length <= 0 || length == static_cast<ssize_t>(sizeof target)) return ErrnoError("read the link");
    if (symlinkat(std::string(target, static_cast<size_t>(length)).c_str(), parent, leaf.c_str()) != 0) return ErrnoError("make symbolic link");
    if (fchownat(parent, leaf.c_str(), info.st_uid, info.st_gid, AT_SYMLINK_NOFOLLOW) != 0) return ErrnoError("set owner");
    return {};
  }

  Result<> Inherit(LayerWalk& walk, std::vector<LayerWalk>& lower, const std::string& path) {
    Look own = TRY(walk.Go(path));
    struct stat info {};
    // Replaced by a later entry, or reached through a link: then it is another one's.
    if (own.found < 0 || fstat(own.found, &info) != 0 || !S_ISDIR(info.st_mode)) return {};
    Look below;
    for (auto layer = lower.begin(); layer != lower.end() && !own.hidden && below.found < 0 && !below.hidden; ++layer) {
      below = TRY(layer->Go(path));
    }
    if (below.found >= 0 && fstat(below.found, &info) == 0 && S_ISDIR(info.st_mode)) return CopyAttributes(below.found, own.found);
    // mkdir(2) went by the process's umask.
    if (fchmod(own.found, 0755) != 0) return ErrnoError("set mode");
    return {};
  }

  const int root_;
  Unpacked* const unpacked_;
  const std::vector<std::string>& lower_;
  std::map<std::string, std::string> made_;  // a target below to the path of its copy
};

}  // namespace

Result<UniqueFd> FindInLayers(const std::vector<std::string>& dirs, const std::string& path) {
  for (const auto& dir : dirs) {
    LayerWalk walk = TRY(LayerWalk::Open(dir));
    Look look = TRY(walk.Go(path));
    if (look.found >= 0) return walk.Take();
    if (look.hidden) break;
  }
  return MakeError(Code::kNotFound, "'{}' is in no layer", path.substr(0, 256));
}

Result<UniqueFd> ResolveInLayers(const std::vector<std::string>& dirs, const std::string& path) {
  std::vector<std::string> at, todo;  // todo: the next part last
  PushParts(path, &todo);
  UniqueFd found = TRY(FindInLayers(dirs, ""));
  for (int links = 0; !todo.empty();) {
    std::string part = std::move(todo.back());
    todo.pop_back();
    if (part == "..") {
      if (!at.empty()) at.pop_back();
      found = TRY(FindInLayers(dirs, Join(at, "/")));
      continue;
    }
    at.push_back(std::move(part));
    found = TRY(FindInLayers(dirs, Join(at, "/")));
    struct stat info {};
    if (fstat(found.get(), &info) != 0) return ErrnoError("look at '{}' of the image", path);
    if (!S_ISLNK(info.st_mode)) continue;
    char target[limits::kPathBytes];
    ssize_t n = readlinkat(found.get(), "", target, sizeof target);
    if (n < 0) return ErrnoError("read the link '{}' of the image", path);
    if (++links > kMaxLinks) return MakeError(Code::kNotFound, "'{}' of the image has too many links", path.substr(0, 256));
    at.pop_back();
    if (n > 0 && target[0] == '/') at.clear();
    PushParts({target, static_cast<size_t>(n)}, &todo);
    // A link with nothing to follow leads to where it is.
    if (todo.empty()) found = TRY(FindInLayers(dirs, Join(at, "/")));
  }
  return found;
}

Result<> CompleteFromBelow(int root_fd, Unpacked* unpacked, const std::vector<std::string>& lower_dirs) { return Completion(root_fd, unpacked, lower_dirs).Run(); }

bool IsOpaque(const std::string& layer_dir) {
  UniqueFd folder(open(layer_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return folder && HasOpaqueMark(folder.get());
}

}  // namespace caisson::image
