// SPDX-License-Identifier: Apache-2.0
#include "image/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <limits>
#include <memory>
#include <optional>
#include <set>

#include "base/limits.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "image/remove_tree.h"
#include "sys/path.h"

namespace caisson::image {
namespace {

// Contents, and a generous header for each entry.
constexpr int64_t kStreamBytes = limits::kLayerBytes + limits::kLayerEntries * 2048;
constexpr std::string_view kWhiteout = ".wh.", kOpaque = ".wh..wh..opq", kAufsMeta = ".wh..wh.";

// "./a//b" to "a/b"; empty for the root itself. ".." is refused: no honest layer has it.
Result<std::string> CleanName(std::string_view name) {
  std::string clean;
  for (std::string_view part : Split(name, '/')) {
    if (part.empty() || part == ".") continue;
    if (part == "..") return MakeError(Code::kInvalidArgument, "layer entry '{}' leads out of the layer", name.substr(0, 256));
    if (part.size() > 255) return MakeError(Code::kInvalidArgument, "layer entry '{}…' has a name of more than 255 bytes", name.substr(0, 64));
    clean += clean.empty() ? "" : "/";
    clean += part;
  }
  if (clean.size() >= limits::kPathBytes) return MakeError(Code::kInvalidArgument, "layer entry '{}…' has a path of {} bytes", clean.substr(0, 64), clean.size());
  return clean;
}

// An entry that is being unpacked.
struct Item {
  archive_entry* entry;
  std::string name;    // clean
  int parent = -1;     // the folder it is in
  std::string leaf;
  bool hides = false;  // a folder: not to be merged with the one below
};

class Unpacker {
 public:
  Unpacker(int root_fd, const TarSource& source) : root_(root_fd), source_(source), archive_(archive_read_new(), archive_read_free) {}

  Result<Unpacked> Run() {
    archive* reader = archive_.get();
    archive_read_support_format_tar(reader);
    archive_read_support_format_empty(reader);
    // Names are bytes: no conversion that could fail or change them.
    archive_read_set_format_option(reader, "tar", "hdrcharset", "BINARY");
    archive_read_set_callback_data(reader, this);
    archive_read_set_read_callback(reader, &Unpacker::Read);
    if (archive_read_open1(reader) != ARCHIVE_OK) return Failed();
    for (;;) {
      archive_entry* entry = nullptr;
      int status = archive_read_next_header(reader, &entry);
      if (status == ARCHIVE_EOF) break;
      if (status != ARCHIVE_OK && status != ARCHIVE_WARN) return Failed();
      TRY(Take(entry));
    }
    // The padding after the end belongs to the stream, whose digest is being taken.
    while (TRY(Next()).size() > 0) {
    }
    TRY(SetFolderTimes());
    unpacked_.folders_below.assign(implied_.begin(), implied_.end());
    return std::move(unpacked_);
  }

 private:
  Result<std::string_view> Next() {
    std::string_view bytes = TRY(source_());
    stream_bytes_ += static_cast<int64_t>(bytes.size());
    if (stream_bytes_ > kStreamBytes) return MakeError(Code::kResourceExhausted, "the layer's tar has more than {} bytes", kStreamBytes);
    return bytes;
  }

  static ssize_t Read(archive* reader, void* self, const void** bytes) {
    auto* unpacker = static_cast<Unpacker*>(self);
    auto next = unpacker->Next();
    if (!next) {
      unpacker->source_error_ = std::move(next.error());
      archive_set_error(reader, EIO, "source failed");
      return -1;
    }
    *bytes = next->data();
    return static_cast<ssize_t>(next->size());
  }

  Error Failed() {
    if (source_error_) return std::move(*source_error_);
    const char* text = archive_error_string(archive_.get());
    return MakeError(Code::kInvalidArgument, "the layer's tar is broken: {}", text ? text : "unknown reason");
  }

  Result<> CountInode() {
    if (++unpacked_.inodes <= static_cast<uint64_t>(limits::kLayerEntries)) return {};
    return MakeError(Code::kResourceExhausted, "the layer has more than {} entries", limits::kLayerEntries);
  }

  // Of names that are kept in memory until the end.
  Result<> Remember(const std::string& name) {
    name_bytes_ += name.size() + sizeof name;
    if (name_bytes_ <= limits::kLayerNameBytes) return {};
    return MakeError(Code::kResourceExhausted, "the layer's folders and links have more than {} bytes of names", limits::kLayerNameBytes);
  }

  Result<> CheckLimits(archive_entry* entry) {
    TRY(CountInode());
    int64_t size = archive_entry_size_is_set(entry) ? archive_entry_size(entry) : 0;
    if (size < 0 || size > limits::kLayerBytes - static_cast<int64_t>(unpacked_.bytes)) {
      return MakeError(Code::kResourceExhausted, "the layer unpacks to more than {} bytes", limits::kLayerBytes);
    }
    int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);
    constexpr int64_t kMaxId = std::numeric_limits<uint32_t>::max() - 1;
    if (uid < 0 || gid < 0 || uid > kMaxId || gid > kMaxId) return MakeError(Code::kInvalidArgument, "a layer entry has owner {}:{}, which is out of range", uid, gid);
    return {};
  }

  Result<> Take(archive_entry* entry) {
    TRY(CheckLimits(entry));
    const char* raw = archive_entry_pathname(entry);
    if (raw == nullptr) return MakeError(Code::kInvalidArgument, "a layer entry has no name");
    Item item{entry, TRY(CleanName(raw)), -1, ""};
    if (item.name.empty()) {
      if (archive_entry_filetype(entry) != AE_IFDIR) return MakeError(Code::kInvalidArgument, "the layer's root is no folder in it");
      return SetAttributesOfFolder(item, root_);
    }
    size_t slash = item.name.rfind('/');
    std::string folder = slash == std::string::npos ? "" : item.name.substr(0, slash);
    item.leaf = item.name.substr(slash == std::string::npos ? 0 : slash + 1);
    item.parent = TRY(Folder(folder));
    auto done = item.leaf.starts_with(kWhiteout) ? Whiteout(item) : Make(item);
    if (!done && done.error().message.find(item.name) == std::string::npos) return std::move(done.error()).Within("layer entry '" + item.name.substr(0, 256) + "'");
    return done;
  }

  // The last folder is kept: entries come folder by folder.
  Result<int> Folder(const std::string& path) {
    if (path.empty()) return root_;
    if (folder_ && path == folder_path_) return folder_.get();
    auto there = sys::OpenInRoot(root_, path, O_PATH | O_DIRECTORY);
    if (!there && there.error().sys_errno == ENOENT) {
      TRY(NoteMissing(path));
      there = sys::MakeDirInRoot(root_, path, 0755);
    }
    folder_ = TRY(std::move(there));
    folder_path_ = path;
    return folder_.get();
  }

  // The folders on the way to `path` that are about to be made without an entry of their own.
  Result<> NoteMissing(std::string path) {
    while (!path.empty()) {
      auto there = sys::OpenInRoot(root_, path, O_PATH);
      if (there || there.error().sys_errno != ENOENT) return {};
      TRY(CountInode());
      TRY(Remember(path));
      implied_.insert(path);
      size_t slash = path.rfind('/');
      path.resize(slash == std::string::npos ? 0 : slash);
    }
    return {};
  }

  static Result<> MarkOpaque(int folder) {
    if (setxattr(sys::FdPath(folder).c_str(), "trusted.overlay.opaque", "y", 1, 0) != 0) return ErrnoError("mark opaque");
    return {};
  }

  Result<> Whiteout(const Item& item) {
    if (item.leaf == kOpaque) return MarkOpaque(item.parent);
    if (item.leaf.starts_with(kAufsMeta)) return {};  // AUFS's own bookkeeping
    std::string hidden = item.leaf.substr(kWhiteout.size());
    if (hidden.empty() || hidden == "." || hidden == "..") return MakeError(Code::kInvalidArgument, "layer entry '{}' hides nothing that can be", item.name);
    if (mknodat(item.parent, hidden.c_str(), S_IFCHR, makedev(0, 0)) == 0) return {};
    if (errno != EEXIST) return ErrnoError("make whiteout");
    // The layer's own stays. A file hides what is below by itself, a folder has to be told.
    UniqueFd folder(openat(item.parent, hidden.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!folder) return errno == ENOTDIR || errno == ELOOP ? Result<>() : Result<>(ErrnoError("open '{}'", hidden));
    return MarkOpaque(folder.get());
  }

  // Takes away what is in the place of a new entry; a folder may stay for a folder. True if something was taken away.
  Result<bool> MakeRoom(int parent, const std::string& leaf, bool is_folder) {
    struct stat info {};
    if (fstatat(parent, leaf.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno != ENOENT) return ErrnoError("look at '{}'", leaf);
      return false;
    }
    if (S_ISDIR(info.st_mode) && is_folder) return false;
    // It may be the folder that is kept, or above it.
    folder_.Reset();
    folder_path_.clear();
    TRY(RemoveAt(parent, leaf));
    return true;
  }

  Result<> Make(Item& item) {
    mode_t kind = archive_entry_filetype(item.entry);
    bool link = archive_entry_hardlink(item.entry) != nullptr;
    bool is_folder = kind == AE_IFDIR && !link;
    // Nearly every entry is a file whose name is free.
    if (kind == AE_IFREG && !link) {
      UniqueFd file = CreateFile(item);
      if (file || errno != EEXIST) return RegularFile(item, std::move(file));
    }
    // MakeRoom may drop the kept folder, so the parent is opened anew.
    UniqueFd parent(fcntl(item.parent, F_DUPFD_CLOEXEC, 3));
    if (!parent) return ErrnoError("keep the folder");
    item.parent = parent.get();
    // What is below was hidden by what had the name until now; a folder must go on hiding it.
    item.hides = TRY(MakeRoom(item.parent, item.leaf, is_folder));
    if (link) return HardLink(item);
    switch (kind) {
      case AE_IFREG: return RegularFile(item, CreateFile(item));
      case AE_IFDIR: return MakeFolder(item);
      case AE_IFLNK: return SymbolicLink(item);
      case AE_IFCHR:
      case AE_IFBLK:
      case AE_IFIFO: return Node(item, kind);
      default: return MakeError(Code::kInvalidArgument, "layer entry '{}' is of an unknown type", item.name);
    }
  }

  // None: errno says why.
  static UniqueFd CreateFile(const Item& item) {
    return UniqueFd(openat(item.parent, item.leaf.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  }

  Result<> RegularFile(const Item& item, UniqueFd file) {
    if (!file) return ErrnoError("create");
    for (;;) {
      const void* block = nullptr;
      size_t size = 0;
      la_int64_t offset = 0;
      int status = archive_read_data_block(archive_.get(), &block, &size, &offset);
      if (status == ARCHIVE_EOF) break;
      if (status != ARCHIVE_OK && status != ARCHIVE_WARN) return Failed();
      unpacked_.bytes += size;
      if (offset < 0 || offset > limits::kLayerBytes - static_cast<int64_t>(size)) return MakeError(Code::kResourceExhausted, "larger than {} bytes", limits::kLayerBytes);
      auto* bytes = static_cast<const char*>(block);
      while (size > 0) {
        ssize_t written = pwrite(file.get(), bytes, size, offset);
        if (written <= 0) return ErrnoError("write");
        bytes += written;
        offset += written;
        size -= static_cast<size_t>(written);
      }
    }
    // A sparse file may end in a hole.
    if (archive_entry_size_is_set(item.entry) && archive_entry_sparse_count(item.entry) > 0 && ftruncate(file.get(), archive_entry_size(item.entry)) != 0) return ErrnoError("set length");
    if (fchown(file.get(), static_cast<uid_t>(archive_entry_uid(item.entry)), static_cast<gid_t>(archive_entry_gid(item.entry))) != 0) return ErrnoError("set owner");
    // After the owner, which takes setuid away.
    if (fchmod(file.get(), archive_entry_perm(item.entry) & 07777) != 0) return ErrnoError("set mode");
    TRY(SetXattrs(item.entry, file.get()));
    timespec times[2];
    Times(item.entry, times);
    if (futimens(file.get(), times) != 0) return ErrnoError("set times");
    return {};
  }

  Result<> MakeFolder(const Item& item) {
    if (mkdirat(item.parent, item.leaf.c_str(), 0755) != 0 && errno != EEXIST) return ErrnoError("make folder");
    UniqueFd folder(openat(item.parent, item.leaf.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!folder) return ErrnoError("open folder");
    if (item.hides) TRY(MarkOpaque(folder.get()));
    return SetAttributesOfFolder(item, folder.get());
  }

  Result<> SetAttributesOfFolder(const Item& item, int fd) {
    if (fchown(fd, static_cast<uid_t>(archive_entry_uid(item.entry)), static_cast<gid_t>(archive_entry_gid(item.entry))) != 0) return ErrnoError("set owner of folder");
    if (fchmod(fd, archive_entry_perm(item.entry) & 07777) != 0) return ErrnoError("set mode of folder");
    TRY(SetXattrs(item.entry, fd));
    timespec times[2];
    Times(item.entry, times);
    implied_.erase(item.name);
    TRY(Remember(item.name));
    folder_times_.emplace_back(item.name, times[1]);
    return {};
  }

  Result<> SymbolicLink(const Item& item) {
    const char* target = archive_entry_symlink(item.entry);
    if (target == nullptr || *target == '\0') return MakeError(Code::kInvalidArgument, "layer entry '{}' links to nothing", item.name);
    // Where it leads does not matter here: nothing of ours ever follows it out of the root.
    if (symlinkat(target, item.parent, item.leaf.c_str()) != 0) return ErrnoError("make symbolic link");
    return SetOwnerAndTimes(item);
  }

  Result<> Node(const Item& item, mode_t kind) {
    dev_t device = makedev(archive_entry_rdevmajor(item.entry), archive_entry_rdevminor(item.entry));
    // A 0:0 character device would be a whiteout.
    if (kind == AE_IFCHR && device == 0) return MakeError(Code::kInvalidArgument, "layer entry '{}' is a 0:0 device", item.name);
    if (mknodat(item.parent, item.leaf.c_str(), kind | 0600, kind == AE_IFIFO ? 0 : device) != 0) return ErrnoError("make device");
    if (fchmodat(item.parent, item.leaf.c_str(), archive_entry_perm(item.entry) & 07777, 0) != 0) return ErrnoError("set mode");
    return SetOwnerAndTimes(item);
  }

  Result<> HardLink(const Item& item) {
    std::string target = TRY(CleanName(archive_entry_hardlink(item.entry)));
    if (target.empty()) return MakeError(Code::kInvalidArgument, "layer entry '{}' links to the root", item.name);
    size_t slash = target.rfind('/');
    auto folder = sys::OpenInRoot(root_, slash == std::string::npos ? "/" : target.substr(0, slash), O_PATH | O_DIRECTORY);
    if (!folder && folder.error().sys_errno != ENOENT) return std::move(folder.error());
    std::string leaf = target.substr(slash == std::string::npos ? 0 : slash + 1);
    struct stat info {};
    if (folder && fstatat(folder->get(), leaf.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) {
      if (S_ISDIR(info.st_mode)) return MakeError(Code::kInvalidArgument, "layer entry '{}' is a hard link to a folder", item.name);
      if (S_ISCHR(info.st_mode) && info.st_rdev == 0) return MakeError(Code::kInvalidArgument, "layer entry '{}' links to what the layer takes away", item.name);
    }
    if (!folder || linkat(folder->get(), leaf.c_str(), item.parent, item.leaf.c_str(), 0) != 0) {
      if (folder && errno != ENOENT) return ErrnoError("link to '{}'", target);
      TRY(Remember(item.name));
      TRY(Remember(target));
      unpacked_.links_below.push_back({item.name, target});
    }
    return {};
  }

  Result<> SetOwnerAndTimes(const Item& item) {
    if (fchownat(item.parent, item.leaf.c_str(), static_cast<uid_t>(archive_entry_uid(item.entry)), static_cast<gid_t>(archive_entry_gid(item.entry)), AT_SYMLINK_NOFOLLOW) != 0) return ErrnoError("set owner");
    timespec times[2];
    Times(item.entry, times);
    if (utimensat(item.parent, item.leaf.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) return ErrnoError("set times");
    return {};
  }

  static void Times(archive_entry* entry, timespec times[2]) {
    times[1] = {archive_entry_mtime(entry), archive_entry_mtime_nsec(entry)};
    times[0] = times[1];
  }

  Result<> SetXattrs(archive_entry* entry, int fd) {
    archive_entry_xattr_reset(entry);
    const char* name = nullptr;
    const void* value = nullptr;
    size_t size = 0;
    while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
      std::string_view key = name;
      if (!IsKeptXattr(key)) continue;
      if (size > limits::kXattrBytes || key.size() > 255) return MakeError(Code::kResourceExhausted, "an extended attribute of {} bytes", size);
      // A file system without user attributes: the file is worth more than them.
      if (fsetxattr(fd, name, value, size, 0) != 0 && errno != ENOTSUP) return ErrnoError("set extended attribute '{}'", key);
    }
    return {};
  }

  // Last, for every entry in a folder changes its time; the deepest first does not matter, times do not travel up.
  Result<> SetFolderTimes() {
    for (const auto& [name, time] : folder_times_) {
      auto folder = sys::OpenInRootNoLinks(root_, name.empty() ? "/" : name, O_RDONLY | O_DIRECTORY);
      if (!folder) continue;  // replaced by a later entry
      timespec times[2] = {time, time};
      if (futimens(folder->get(), times) != 0) return ErrnoError("set times of folder '{}'", name);
    }
    return {};
  }

  const int root_;
  const TarSource& source_;
  std::unique_ptr<archive, int (*)(archive*)> archive_;
  std::optional<Error> source_error_;
  Unpacked unpacked_;
  UniqueFd folder_;
  std::string folder_path_;
  std::vector<std::pair<std::string, timespec>> folder_times_;
  std::set<std::string> implied_ = {""};
  size_t name_bytes_ = 0;
  int64_t stream_bytes_ = 0;
};

}  // namespace

Result<Unpacked> UnpackTar(int root_fd, const TarSource& source) {
  // Modes are set explicitly; the process's umask is other threads' too.
  return Unpacker(root_fd, source).Run();
}

bool IsKeptXattr(std::string_view name) {
  return name == "security.capability" || (name.starts_with("user.") && !name.starts_with("user.overlay."));
}

}  // namespace caisson::image
