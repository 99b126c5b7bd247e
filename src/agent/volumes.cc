// SPDX-License-Identifier: Apache-2.0
#include "agent/volumes.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "agent/early_init.h"
#include "base/id.h"
#include "base/limits.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "caisson/wkt/wkt.pb.h"
#include "sys/path.h"

namespace caisson::agent {
namespace {

namespace fs = std::filesystem;

std::string VolumeDir(const std::string& name) { return fmt::format("{}/volumes/{}", kRunDir, name); }

Result<> CheckPath(const std::string& path) {
  if (path.size() > limits::kPathBytes) return MakeError(Code::kInvalidArgument, "a path of {} bytes", path.size());
  for (std::string_view part : Split(path, '/')) {
    if (part.empty() || part == "." || part == "..") return MakeError(Code::kInvalidArgument, "'{}' is no path in a volume", path);
  }
  return {};
}

// The folder that `path` is in, by real folders only, and its last part.
Result<std::pair<UniqueFd, std::string>> OpenParent(int root, const std::string& path) {
  size_t slash = path.rfind('/');
  std::string parent = slash == std::string::npos ? "." : path.substr(0, slash);
  UniqueFd fd = TRY(sys::OpenInRootNoLinks(root, parent, O_RDONLY | O_DIRECTORY));
  return std::pair(std::move(fd), path.substr(slash == std::string::npos ? 0 : slash + 1));
}

Result<> SetOwner(int dir, const std::string& name, const guest::v1::File& file) {
  if (fchownat(dir, name.c_str(), file.uid(), file.gid(), AT_SYMLINK_NOFOLLOW) != 0) return ErrnoError("own '{}'", file.path());
  if (!S_ISLNK(file.mode()) && fchmodat(dir, name.c_str(), file.mode() & 07777, 0) != 0) return ErrnoError("change the mode of '{}'", file.path());
  return {};
}

Result<> WriteRegular(int dir, const std::string& name, const guest::v1::File& file) {
  int flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | (file.offset() == 0 ? O_TRUNC : 0);
  UniqueFd fd(openat(dir, name.c_str(), flags, 0600));
  if (!fd) return ErrnoError("write '{}'", file.path());
  const std::string& content = file.content();
  for (size_t done = 0; done < content.size();) {
    ssize_t n = pwrite(fd.get(), content.data() + done, content.size() - done, static_cast<off_t>(file.offset() + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError("write '{}'", file.path());
    done += static_cast<size_t>(n);
  }
  return SetOwner(dir, name, file);
}

Result<> ReplaceLink(int root, const guest::v1::File& file) {
  auto [dir, name] = TRY(OpenParent(root, file.path()));
  char old[limits::kPathBytes];
  ssize_t size = readlinkat(dir.get(), name.c_str(), old, sizeof old);
  if (size >= 0 && std::string_view(old, static_cast<size_t>(size)) == file.content()) return {};
  std::string made = "..caisson-new-link";
  unlinkat(dir.get(), made.c_str(), 0);
  if (symlinkat(file.content().c_str(), dir.get(), made.c_str()) != 0) return ErrnoError("make the link '{}'", file.path());
  TRY(SetOwner(dir.get(), made, file));
  if (renameat(dir.get(), made.c_str(), dir.get(), name.c_str()) != 0) return ErrnoError("replace the link '{}'", file.path());
  return {};
}

Result<> PutFile(int root, const guest::v1::File& file) {
  TRY(CheckPath(file.path()));
  auto [dir, name] = TRY(OpenParent(root, file.path()));
  if (S_ISREG(file.mode())) return WriteRegular(dir.get(), name, file);
  if (!S_ISDIR(file.mode())) return MakeError(Code::kInvalidArgument, "'{}' is neither a file nor a folder nor a link", file.path());
  if (mkdirat(dir.get(), name.c_str(), 0700) != 0 && errno != EEXIST) return ErrnoError("make the folder '{}'", file.path());
  return SetOwner(dir.get(), name, file);
}

Result<> Commit(int root, const guest::v1::PutVolumeRequest& request) {
  for (const auto& link : request.links()) {
    TRY(CheckPath(link.path()));
    TRY(ReplaceLink(root, link));
  }
  // Nobody but us writes folders here, and no link is followed.
  const std::set<std::string> mentioned(request.mentioned().begin(), request.mentioned().end());
  std::error_code error;
  std::vector<fs::path> gone;
  fs::path base = sys::FdPath(root);
  for (fs::recursive_directory_iterator at(base, error), end; !error && at != end; at.increment(error)) {
    fs::path relative = at->path().lexically_relative(base);
    if (mentioned.contains(relative.string())) continue;
    gone.push_back(at->path());
    at.disable_recursion_pending();
  }
  for (const auto& path : gone) fs::remove_all(path, error);
  return {};
}

}  // namespace

Result<> WriteVolume(const guest::v1::PutVolumeRequest& request) {
  if (!IsSafeName(request.volume())) return MakeError(Code::kInvalidArgument, "'{}' is no volume's name", request.volume().substr(0, 128));
  std::string dir = VolumeDir(request.volume());
  mkdir(fmt::format("{}/volumes", kRunDir).c_str(), 0700);
  if (mkdir(dir.c_str(), 0755) != 0 && errno != EEXIST) return ErrnoError("make '{}'", dir);
  UniqueFd root(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root) return ErrnoError("open '{}'", dir);
  for (const auto& file : request.files()) TRY(PutFile(root.get(), file));
  if (!request.commit()) return {};
  TRY(Commit(root.get(), request));
  if (request.mentioned().empty()) rmdir(dir.c_str());
  return {};
}

Result<guest::v1::GetFileResponse> ReadVolumeFile(const std::string& volume, const std::string& path, size_t limit) {
  if (!IsSafeName(volume)) return MakeError(Code::kInvalidArgument, "'{}' is no volume's name", volume.substr(0, 128));
  TRY(CheckPath(path));
  UniqueFd root(open(VolumeDir(volume).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root) return ErrnoError("open volume '{}'", volume);
  UniqueFd fd = TRY(sys::OpenInRootNoLinks(root.get(), path, O_RDONLY | O_NONBLOCK));
  struct stat info {};
  if (fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) return MakeError(Code::kInvalidArgument, "'{}' is no regular file", path);
  std::string content(std::min(limit, limits::kKeptOutputBytes), '\0');
  ssize_t got = pread(fd.get(), content.data(), content.size(), 0);
  if (got < 0) return ErrnoError("read '{}'", path);
  content.resize(static_cast<size_t>(got));
  guest::v1::GetFileResponse response;
  response.set_content(std::move(content));
  response.set_size(static_cast<uint64_t>(info.st_size));
  return response;
}

void RemoveVolumes(const std::string& prefix) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(fmt::format("{}/volumes", kRunDir), error)) {
    if (entry.path().filename().string().starts_with(prefix)) fs::remove_all(entry.path(), error);
  }
}

Result<> Volumes::Put(const guest::v1::PutFilesRequest& request) {
  guest::v1::PutVolumeRequest put;
  put.set_volume(request.volume());
  put.set_commit(request.commit());
  Pending& pending = pending_[request.volume()];
  for (const auto& file : request.files()) {
    pending.mentioned.insert(file.path());
    if (S_ISLNK(file.mode())) {
      pending.links.push_back(file);
    } else {
      *put.add_files() = file;
    }
  }
  if (request.commit()) {
    for (auto& link : pending.links) *put.add_links() = std::move(link);
    for (const auto& path : pending.mentioned) put.add_mentioned(path);
  }
  auto done = launches_->Call<guest::v1::PutVolumeRequest, wkt::Empty>("PutVolume", put);
  if (!done || request.commit()) pending_.erase(request.volume());
  if (!done) return std::move(done.error()).Within(fmt::format("volume '{}'", request.volume()));
  return {};
}

}  // namespace caisson::agent
