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

bool HasOpaqueMark(const std::string& path) {
  char value = 0;
  return getxattr(path.c_str(), "trusted.overlay.opaque", &value, 1) == 1 && value == 'y';
}

// One layer's answer to a path.
struct Look {
  UniqueFd found;       // O_PATH, if it is there
  bool hidden = false;  // the layers below do not show theirs
};

Result<Look> LookInLayer(UniqueFd at, const std::string& path) {
  Look look;
  look.hidden = HasOpaqueMark(sys::FdPath(at.get()));
  std::vector<std::string> parts;
  for (std::string_view part : Split(path, '/')) {
    if (!part.empty()) parts.emplace_back(part);
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    UniqueFd next(openat(at.get(), parts[i].c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!next && errno == ENOENT) return look;
    if (!next) return ErrnoError("look for '{}'", path.substr(0, 256));
    struct stat info {};
    if (fstat(next.get(), &info) != 0) return ErrnoError("look at '{}'", path.substr(0, 256));
    bool whiteout = S_ISCHR(info.st_mode) && info.st_rdev == 0;
    if (!S_ISDIR(info.st_mode)) {
      look.hidden = true;
      if (whiteout || i + 1 < parts.size()) return look;
    } else if (HasOpaqueMark(sys::FdPath(next.get()))) {
      look.hidden = true;
    }
    at = std::move(next);
  }
  look.found = std::move(at);
  return look;
}

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
    for (const auto& folder : unpacked_->folders_below) {
      auto done = Inherit(folder);
      if (!done) return std::move(done.error()).Within(fmt::format("folder '{}'", folder.substr(0, 256)));
    }
    return {};
  }

 private:
  Result<Look> LookInOwn(const std::string& path) {
    UniqueFd root(fcntl(root_, F_DUPFD_CLOEXEC, 3));
    if (!root) return ErrnoError("keep the folder");
    return LookInLayer(std::move(root), path);
  }

  Result<> Link(const LinkBelow& link) {
    auto [folder, leaf] = sys::SplitPath("/" + link.path);
    UniqueFd parent = TRY(sys::MakeDirInRoot(root_, folder, 0755));
    struct stat info {};
    if (fstatat(parent.get(), leaf.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) return {};  // a later entry has taken the name
    // The target may be another of these links, and is then here by now.
    auto made = made_.find(link.target);
    Look own = TRY(LookInOwn(made == made_.end() ? link.target : made->second));
    if (own.found) return LinkToOwn(own.found.get(), parent.get(), leaf);
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

  Result<> Inherit(const std::string& path) {
    Look own = TRY(LookInOwn(path));
    struct stat info {};
    // Replaced by a later entry, or reached through a link: then it is another one's.
    if (!own.found || fstat(own.found.get(), &info) != 0 || !S_ISDIR(info.st_mode)) return {};
    UniqueFd folder(openat(own.found.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder) return ErrnoError("open");
    Result<UniqueFd> below = MakeError(Code::kNotFound, "hidden");
    if (!own.hidden) below = FindInLayers(lower_, path);
    if (!below && below.error().code != Code::kNotFound) return std::move(below.error());
    if (below && fstat(below->get(), &info) == 0 && S_ISDIR(info.st_mode)) {
      UniqueFd from(openat(below->get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (!from) return ErrnoError("open the one below");
      return CopyAttributes(from.get(), folder.get());
    }
    // mkdir(2) went by the process's umask.
    if (fchmod(folder.get(), 0755) != 0) return ErrnoError("set mode");
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
    UniqueFd root(open(dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!root) return ErrnoError("open layer '{}'", dir);
    Look look = TRY(LookInLayer(std::move(root), path));
    if (look.found) return std::move(look.found);
    if (look.hidden) break;
  }
  return MakeError(Code::kNotFound, "'{}' is in no layer", path.substr(0, 256));
}

Result<> CompleteFromBelow(int root_fd, Unpacked* unpacked, const std::vector<std::string>& lower_dirs) { return Completion(root_fd, unpacked, lower_dirs).Run(); }

bool IsOpaque(const std::string& layer_dir) { return HasOpaqueMark(layer_dir); }

}  // namespace caisson::image
