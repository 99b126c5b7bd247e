// SPDX-License-Identifier: Apache-2.0
#include "image/checkpoint_archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/limits.h"
#include "base/unique_fd.h"
#include "image/below.h"
#include "image/decompress.h"
#include "image/file.h"
#include "image/unpack.h"
#include "sys/path.h"

namespace caisson::image {
namespace {

constexpr int kMaxDepth = 1000;
constexpr size_t kTarBlockBytes = 256 << 10;

struct FreeArchive {
  void operator()(archive* one) const { archive_write_free(one); }
};
struct FreeEntry {
  void operator()(archive_entry* one) const { archive_entry_free(one); }
};
using TarEntry = std::unique_ptr<archive_entry, FreeEntry>;

// One tar that is being written. Everything is opened by descriptors and through no link.
class Packer {
 public:
  static Result<Packer> Create(const std::string& path, bool layer) {
    Packer packer(layer);
    packer.file_ = UniqueFd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!packer.file_) return ErrnoError("create '{}'", path);
    packer.tar_.reset(archive_write_new());
    if (!packer.tar_ || archive_write_set_format_pax_restricted(packer.tar_.get()) != ARCHIVE_OK ||
        archive_write_open_fd(packer.tar_.get(), packer.file_.get()) != ARCHIVE_OK) {
      return MakeError(Code::kInternal, "begin a tar in '{}'", path);
    }
    return packer;
  }

  // All that is in the folder, whose name in the tar is `prefix` ("" or one that ends in '/').
  Result<> AddFolder(int folder, const std::string& prefix, int depth) {
    if (depth > kMaxDepth) return MakeError(Code::kResourceExhausted, "'{}' is too deep", prefix.substr(0, 256));
    UniqueFd copy(openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!copy) return ErrnoError("open '{}'", prefix);
    if (layer_ && IsOpaqueFolder(copy.get())) TRY(AddEmpty(prefix + ".wh..wh..opq"));
    std::vector<std::string> names;
    {
      std::unique_ptr<DIR, int (*)(DIR*)> list(fdopendir(copy.Release()), closedir);
      if (!list) return ErrnoError("read '{}'", prefix);
      while (const dirent* entry = readdir(list.get())) {
        if (std::string_view name = entry->d_name; name != "." && name != "..") names.emplace_back(name);
      }
    }
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) TRY(Add(folder, name, prefix, depth));
    return {};
  }

  Result<> Finish() {
    if (archive_write_close(tar_.get()) != ARCHIVE_OK) return Failed("end the tar");
    if (fsync(file_.get()) != 0) return ErrnoError("write the tar");
    return {};
  }

 private:
  explicit Packer(bool layer) : layer_(layer) {}

  Error Failed(const std::string& what) const {
    const char* words = archive_error_string(tar_.get());
    int number = archive_errno(tar_.get());
    if (number == ENOSPC) return MakeError(Code::kResourceExhausted, "{}: no space left on the disk", what);
    return MakeError(Code::kInternal, "{}: {}", what, words != nullptr ? words : "unknown error");
  }

  static bool IsOpaqueFolder(int fd) {
    char mark = 0;
    return fgetxattr(fd, "trusted.overlay.opaque", &mark, 1) == 1 && mark == 'y';
  }

  Result<> Add(int folder, const std::string& name, const std::string& prefix, int depth) {
    const std::string path = prefix + name;
    struct stat info {};
    if (fstatat(folder, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) return ErrnoError("look at '{}'", path);
    // overlayfs.rst, "whiteouts and opaque directories"
    if (layer_ && S_ISCHR(info.st_mode) && info.st_rdev == 0) return AddEmpty(prefix + ".wh." + name);
    if (S_ISSOCK(info.st_mode)) return {};
    TarEntry entry(archive_entry_new());
    archive_entry_copy_stat(entry.get(), &info);
    archive_entry_copy_pathname(entry.get(), (path + (S_ISDIR(info.st_mode) ? "/" : "")).c_str());
    if (S_ISLNK(info.st_mode)) {
      std::string target(limits::kPathBytes, '\0');  // the kernel's are shorter (PATH_MAX)
      ssize_t length = readlinkat(folder, name.c_str(), target.data(), target.size());
      if (length < 0) return ErrnoError("read link '{}'", path);
      target.resize(static_cast<size_t>(length));
      archive_entry_copy_symlink(entry.get(), target.c_str());
    }
    if (!S_ISDIR(info.st_mode) && info.st_nlink > 1) {
      auto [first, unknown] = links_.try_emplace({info.st_dev, info.st_ino}, path);
      if (!unknown) {
        archive_entry_copy_hardlink(entry.get(), first->second.c_str());
        archive_entry_set_size(entry.get(), 0);
        return Write(entry.get(), path);
      }
    }
    UniqueFd fd;
    if (S_ISREG(info.st_mode) || S_ISDIR(info.st_mode)) {
      fd = UniqueFd(openat(folder, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
      if (!fd) return ErrnoError("open '{}'", path);
      CopyAttributes(fd.get(), entry.get());
    }
    TRY(Write(entry.get(), path));
    if (S_ISREG(info.st_mode)) TRY(CopyBytes(fd.get(), info.st_size, path));
    return S_ISDIR(info.st_mode) ? AddFolder(fd.get(), path + "/", depth + 1) : Result<>();
  }

  static void CopyAttributes(int fd, archive_entry* entry) {
    char names[limits::kXattrBytes];
    ssize_t length = flistxattr(fd, names, sizeof names);
    for (ssize_t at = 0; at < length;) {
      const char* name = names + at;
      at += static_cast<ssize_t>(std::string_view(name).size()) + 1;
      char value[limits::kXattrBytes];
      ssize_t size = IsKeptXattr(name) ? fgetxattr(fd, name, value, sizeof value) : -1;
      if (size >= 0) archive_entry_xattr_add_entry(entry, name, value, static_cast<size_t>(size));
    }
  }

  Result<> AddEmpty(const std::string& path) {
    TarEntry entry(archive_entry_new());
    archive_entry_copy_pathname(entry.get(), path.c_str());
    archive_entry_set_filetype(entry.get(), AE_IFREG);
    archive_entry_set_perm(entry.get(), 0600);
    archive_entry_set_size(entry.get(), 0);
    return Write(entry.get(), path);
  }

  Result<> Write(archive_entry* entry, const std::string& path) {
    // ARCHIVE_WARN: a name that is no text in our locale; it is written as it is.
    if (archive_write_header(tar_.get(), entry) < ARCHIVE_WARN) return Failed("pack '" + path.substr(0, 256) + "'");
    return {};
  }

  Result<> CopyBytes(int fd, int64_t size, const std::string& path) {
    std::string block(kTarBlockBytes, '\0');
    while (size > 0) {
      ssize_t got = read(fd, block.data(), static_cast<size_t>(std::min<int64_t>(size, kTarBlockBytes)));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return ErrnoError("read '{}'", path);
      if (got == 0) return MakeError(Code::kAborted, "'{}' became shorter while it was packed", path.substr(0, 256));
      if (archive_write_data(tar_.get(), block.data(), static_cast<size_t>(got)) != got) return Failed("pack '" + path.substr(0, 256) + "'");
      size -= got;
    }
    return {};
  }

  bool layer_;
  UniqueFd file_;
  std::unique_ptr<archive, FreeArchive> tar_;
  std::map<std::pair<dev_t, ino_t>, std::string> links_;
};

Result<UniqueFd> OpenDir(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return ErrnoError("open '{}'", path);
  return fd;
}

Result<> Pack(const std::string& folder, const std::string& path, bool layer) {
  UniqueFd root = TRY(OpenDir(folder));
  Packer packer = TRY(Packer::Create(path, layer));
  TRY(packer.AddFolder(root.get(), "", 0));
  return packer.Finish();
}

Result<Unpacked> UnpackFile(int file, int into, const std::string& name) {
  Decompressor decompressor([&]() -> Result<std::string> {
    std::string block(kTarBlockBytes, '\0');
    ssize_t got = read(file, block.data(), block.size());
    if (got < 0) return ErrnoError("read '{}'", name);
    block.resize(static_cast<size_t>(got));
    return block;
  });
  return UnpackTar(into, [&] { return decompressor.Next(); });
}

// criu opens what is in there by name and follows links: there are none. A file with another name may be the host's only
// if the disk is; it was made in a folder of ours a moment ago.
Result<> CheckImages(int root) {
  UniqueFd images(openat(root, "checkpoint", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!images) return MakeError(Code::kInvalidArgument, "it has no folder 'checkpoint'");
  std::unique_ptr<DIR, int (*)(DIR*)> list(fdopendir(images.Release()), closedir);
  if (!list) return ErrnoError("read the archive's 'checkpoint'");
  while (const dirent* entry = readdir(list.get())) {
    std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    struct stat info {};
    if (fstatat(dirfd(list.get()), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) return ErrnoError("look at '{}'", name);
    if (!S_ISREG(info.st_mode) || info.st_nlink != 1) return MakeError(Code::kInvalidArgument, "'checkpoint/{}' is no plain file", name);
  }
  // Ours to write.
  unlinkat(dirfd(list.get()), "restore.log", 0);
  return {};
}

Result<std::string> Text(const Json& config, const char* key) {
  auto found = config.find(key);
  if (found == config.end()) return std::string();
  if (!found->is_string() || found->get_ref<const std::string&>().size() > limits::kPathBytes) {
    return MakeError(Code::kInvalidArgument, "config.dump: '{}' is no name", key);
  }
  return found->get<std::string>();
}

Result<CheckpointConfig> ReadConfig(int root) {
  auto file = OpenRegularInRoot(root, "/config.dump");
  if (!file) return MakeError(Code::kInvalidArgument, "it has no file 'config.dump'");
  Json parsed = TRY(ParseJson(TRY(sys::ReadAll(file->get(), limits::kJsonBytes))));
  if (!parsed.is_object()) return MakeError(Code::kInvalidArgument, "config.dump is no object");
  CheckpointConfig config;
  config.image_ref = TRY(Text(parsed, "rootfsImageRef"));
  config.image_name = TRY(Text(parsed, "rootfsImageName"));
  if (config.image_name.empty()) config.image_name = TRY(Text(parsed, "rootfsImage"));
  return config;
}

}  // namespace

Result<> PackLayer(const std::string& upper_dir, const std::string& path) { return Pack(upper_dir, path, true); }

Result<> PackFolder(const std::string& folder, const std::string& path) { return Pack(folder, path, false); }

Result<CheckpointConfig> UnpackCheckpoint(const std::string& archive, const std::string& folder) {
  auto unpack = [&]() -> Result<CheckpointConfig> {
    UniqueFd path(open(archive.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!path) return ErrnoError("open it");
    UniqueFd file = TRY(ReopenRegular(path.get(), archive));
    if (mkdir(folder.c_str(), 0700) != 0) return ErrnoError("make directory '{}'", folder);
    UniqueFd root = TRY(OpenDir(folder));
    TRY(UnpackFile(file.get(), root.get(), archive));
    // The archive may have said otherwise of its own root.
    if (fchmod(root.get(), 0700) != 0 || fchown(root.get(), 0, 0) != 0) return ErrnoError("keep '{}' to ourselves", folder);
    TRY(CheckImages(root.get()));
    return ReadConfig(root.get());
  };
  auto config = unpack();
  if (!config) return std::move(config.error()).Within("checkpoint '" + archive + "'");
  return config;
}

Result<> UnpackWritableLayer(const std::string& folder, const std::string& upper_dir, const std::vector<std::string>& lower_dirs) {
  UniqueFd root = TRY(OpenDir(folder));
  auto file = OpenRegularInRoot(root.get(), "/rootfs-diff.tar");
  if (!file && file.error().sys_errno == ENOENT) return {};
  if (!file) return std::move(file.error());
  UniqueFd upper = TRY(OpenDir(upper_dir));
  Unpacked unpacked = TRY(UnpackFile(file->get(), upper.get(), "rootfs-diff.tar"));
  return CompleteFromBelow(upper.get(), &unpacked, lower_dirs);
}

}  // namespace caisson::image
