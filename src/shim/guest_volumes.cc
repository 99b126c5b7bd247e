// SPDX-License-Identifier: Apache-2.0
#include "shim/guest_volumes.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/unique_fd.h"
#include "shim/memory_folder.h"
#include "sys/path.h"

namespace caisson::shim {
namespace {

// From the first sign of a change to its reading: the kubelet's writer makes several.
constexpr int64_t kSettleMillis = 20;

struct Reading {
  guest::v1::PutFilesRequest* request;
  size_t bytes = 0;
};

Result<> Count(Reading* reading, size_t bytes) {
  reading->bytes += bytes;
  if (reading->bytes > limits::kVolumeCopyBytes || static_cast<size_t>(reading->request->files_size()) > limits::kVolumeCopyEntries) {
    return MakeError(Code::kResourceExhausted, "it has more than {} bytes or {} files, and is therefore not copied into a VM", limits::kVolumeCopyBytes,
                     limits::kVolumeCopyEntries);
  }
  return {};
}

guest::v1::File* AddFile(Reading* reading, const std::string& path, const struct stat& info) {
  guest::v1::File* file = reading->request->add_files();
  file->set_path(path);
  file->set_mode(info.st_mode);
  file->set_uid(info.st_uid);
  file->set_gid(info.st_gid);
  return file;
}

Result<> ReadRegular(Reading* reading, UniqueFd fd, const std::string& path, const struct stat& info) {
  TRY(Count(reading, static_cast<size_t>(std::max<off_t>(0, info.st_size))));
  std::string content = TRY(sys::ReadAll(fd.get(), limits::kVolumeCopyBytes));
  AddFile(reading, path, info)->set_content(std::move(content));
  return {};
}

Result<> ReadFolder(Reading* reading, UniqueFd fd, const std::string& prefix, int depth) {
  if (depth > limits::kCgroupDepth) return MakeError(Code::kResourceExhausted, "'{}' is nested too deeply", prefix);
  int raw = fd.get();
  std::unique_ptr<DIR, int (*)(DIR*)> dir(fdopendir(fd.Release()), closedir);
  if (!dir) return ErrnoError("read folder '{}'", prefix);
  while (dirent* entry = readdir(dir.get())) {
    std::string name = entry->d_name, path = prefix + name;
    if (name == "." || name == "..") continue;
    struct stat info {};
    if (fstatat(raw, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) return ErrnoError("look at '{}'", path);
    TRY(Count(reading, name.size()));
    if (S_ISLNK(info.st_mode)) {
      std::string target(limits::kPathBytes, '\0');
      ssize_t size = readlinkat(raw, name.c_str(), target.data(), target.size());
      if (size < 0) return ErrnoError("read link '{}'", path);
      target.resize(static_cast<size_t>(size));
      AddFile(reading, path, info)->set_content(std::move(target));
      continue;
    }
    if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) return MakeError(Code::kFailedPrecondition, "'{}' is neither a file nor a folder nor a link", path);
    UniqueFd below(openat(raw, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | (S_ISDIR(info.st_mode) ? O_DIRECTORY : 0)));
    if (!below) return ErrnoError("open '{}'", path);
    if (S_ISREG(info.st_mode)) {
      TRY(ReadRegular(reading, std::move(below), path, info));
      continue;
    }
    AddFile(reading, path, info);
    TRY(ReadFolder(reading, std::move(below), path + "/", depth + 1));
  }
  return {};
}

std::string ContentDigest(const guest::v1::PutFilesRequest& request) { return Sha256(request.files(0).content()); }

// Of all that is said of the files, but for the content of a single one.
std::string StateDigest(guest::v1::PutFilesRequest request, bool single) {
  if (single) request.mutable_files(0)->clear_content();
  return Sha256(request.SerializeAsString());
}

// In place: it may be mounted, and others may have it open. What the file system has no room for fails before anything is changed.
Result<> Overwrite(int fd, const std::string& bytes) {
  bool room = bytes.empty() || fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes.size())) == 0;
  if (!room && (errno == ENOSPC || errno == EDQUOT)) return ErrnoError("make room");
  for (size_t done = 0; done < bytes.size();) {
    ssize_t n = pwrite(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return ErrnoError("write");
    done += static_cast<size_t>(n);
  }
  if (ftruncate(fd, static_cast<off_t>(bytes.size())) != 0) return ErrnoError("set its size");
  return {};
}

}  // namespace

VolumeKind KindOfVolume(const std::string& source, bool read_only) {
  struct stat info {};
  if (stat(source.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) return VolumeKind::kFile;
  if (MemoryFolderAt(source)) return VolumeKind::kMemory;
  bool atomic = lstat((source + "/..data").c_str(), &info) == 0 && S_ISLNK(info.st_mode);
  if (!read_only || !atomic) return VolumeKind::kShared;
  auto read = ReadVolume({source, "", VolumeKind::kCopied, true});
  // Other errors are those of a moment: the kubelet is just writing it.
  bool never = !read && (read.error().code == Code::kResourceExhausted || read.error().code == Code::kFailedPrecondition);
  return never ? VolumeKind::kShared : VolumeKind::kCopied;
}

Result<guest::v1::PutFilesRequest> ReadVolume(const GuestVolume& volume) {
  guest::v1::PutFilesRequest request;
  request.set_volume(volume.name);
  request.set_commit(true);
  Reading reading{&request};
  struct stat info {};
  if (stat(volume.source.c_str(), &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) {
    return MakeError(Code::kFailedPrecondition, "volume '{}': it is neither a file nor a folder, and cannot be copied into a VM", volume.source);
  }
  // The source itself may be reached by links: it is the pod's author and the kubelet who chose it.
  UniqueFd fd(open(volume.source.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!fd) return ErrnoError("open '{}'", volume.source);
  if (fstat(fd.get(), &info) != 0) return ErrnoError("look at '{}'", volume.source);
  auto read = S_ISDIR(info.st_mode)   ? ReadFolder(&reading, std::move(fd), "", 0)
              : S_ISREG(info.st_mode) ? ReadRegular(&reading, std::move(fd), kSingleFile, info)
                                      : Result<>(MakeError(Code::kFailedPrecondition, "it is neither a file nor a folder"));
  if (!read) return std::move(read.error()).Within(fmt::format("volume '{}'", volume.source));
  return request;
}

GuestVolumes::~GuestVolumes() {
  for (auto& [name, kept] : kept_) loop_->CancelTimer(kept.timer);
  if (changes_) loop_->Unwatch(changes_.get());
}

// Before it is read: no change between the two is missed. Another folder may have come in its place.
Result<> GuestVolumes::Watch(Kept* kept) {
  if (!changes_) {
    changes_ = UniqueFd(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (!changes_) return ErrnoError("watch volumes for changes");
    TRY(loop_->Watch(changes_.get(), EPOLLIN, [this](uint32_t) { OnChange(); }));
  }
  constexpr uint32_t kEvents = IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_MOVED_FROM | IN_CLOSE_WRITE | IN_ATTRIB | IN_ONLYDIR;
  int watch = inotify_add_watch(changes_.get(), kept->volume.source.c_str(), kEvents);
  if (watch < 0) return ErrnoError("watch volume '{}' for changes", kept->volume.source);
  if (watch != kept->watch) Unwatch(kept);
  kept->watch = watch;
  return {};
}

// One folder is one watch, by however many names it is known (inotify(7)).
void GuestVolumes::Unwatch(Kept* kept) {
  int watch = std::exchange(kept->watch, -1);
  bool other = std::any_of(kept_.begin(), kept_.end(), [&](const auto& one) { return one.second.watch == watch; });
  if (watch >= 0 && !other) inotify_rm_watch(changes_.get(), watch);
}

void GuestVolumes::Send(const guest::v1::PutFilesRequest& request, Done done) {
  Kept& kept = kept_[request.volume()];
  const bool single = kept.volume.kind == VolumeKind::kFile;
  std::string state = StateDigest(request, single), content = single ? ContentDigest(request) : "";
  if (state == kept.state && content == kept.content) return done({});
  kept.state.clear();  // until it is there
  client_->Call<guest::v1::PutFilesResponse>(guest_service::kGuest, "PutFiles", request, GuestClient::kTimeoutMillis,
                                             [this, name = request.volume(), state, content, done](Result<guest::v1::PutFilesResponse> put) {
                                               if (auto found = kept_.find(name); found != kept_.end()) {
                                                 found->second.state = put ? state : "";
                                                 found->second.content = put ? content : "";
                                               }
                                               if (!put) return done(std::move(put.error()));
                                               done({});
                                             });
}

void GuestVolumes::ShareMemory(const GuestVolume& volume, Done done) {
  auto request = ShareOf(volume.source, volume.name);
  if (!request) return done(std::move(request.error()));
  client_->Call<guest::v1::ShareMemoryResponse>(guest_service::kGuest, "ShareMemory", *request, GuestClient::kTimeoutMillis,
                                                [source = volume.source, done](Result<guest::v1::ShareMemoryResponse> shared) {
                                                  if (!shared) return done(std::move(shared.error()).Within(fmt::format("volume '{}'", source)));
                                                  done({});
                                                });
}

void GuestVolumes::Put(const std::string& container_id, const GuestVolume& volume, Done done) {
  if (volume.kind == VolumeKind::kShared) return files_->Put(volume, std::move(done));
  if (volume.kind == VolumeKind::kMemory) return ShareMemory(volume, std::move(done));
  Kept& kept = kept_[volume.name];
  kept.containers.insert(container_id);
  kept.volume = volume;
  if (volume.kind != VolumeKind::kCopied) Unwatch(&kept);
  auto watched = volume.kind == VolumeKind::kCopied ? Watch(&kept) : Result<>();
  auto request = watched ? ReadVolume(volume) : Result<guest::v1::PutFilesRequest>(std::move(watched.error()));
  if (!request) return done(std::move(request.error()));
  if (volume.kind == VolumeKind::kFile && (request->files_size() != 1 || request->files(0).path() != kSingleFile)) {
    return done(MakeError(Code::kFailedPrecondition, "volume '{}' is no file any more", volume.source));
  }
  // That of now, if another has come in its place; on a read-only file system: it is not brought back.
  if (volume.kind == VolumeKind::kFile && (kept.file || !volume.read_only)) kept.file = UniqueFd(open(volume.source.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
  Send(*request, std::move(done));
}

void GuestVolumes::Release(const std::string& container_id) {
  for (auto at = kept_.begin(); at != kept_.end();) {
    auto next = std::next(at);
    Kept& kept = at->second;
    if (kept.containers.erase(container_id) > 0 && kept.containers.empty()) {
      loop_->CancelTimer(kept.timer);
      Unwatch(&kept);
      // Without files: it goes.
      guest::v1::PutFilesRequest nothing;
      nothing.set_volume(at->first);
      nothing.set_commit(true);
      client_->Call<guest::v1::PutFilesResponse>(guest_service::kGuest, "PutFiles", nothing, GuestClient::kTimeoutMillis,
                                                 [](Result<guest::v1::PutFilesResponse>) {});
      kept_.erase(at);
    }
    at = next;
  }
}

void GuestVolumes::OnChange() {
  alignas(inotify_event) char buffer[16 << 10];
  for (ssize_t got; (got = read(changes_.get(), buffer, sizeof buffer)) > 0;) {
    for (ssize_t at = 0; at < got;) {
      auto* event = reinterpret_cast<inotify_event*>(buffer + at);
      at += static_cast<ssize_t>(sizeof *event + event->len);
      for (auto& [name, kept] : kept_) {
        bool lost = (event->mask & IN_Q_OVERFLOW) != 0;  // of whom is not known
        if ((!lost && kept.watch != event->wd) || kept.watch < 0 || kept.timer != 0) continue;
        kept.timer = loop_->After(kSettleMillis, [this, name = name] { Update(name); });
      }
    }
  }
}

void GuestVolumes::Update(const std::string& name) {
  auto found = kept_.find(name);
  if (found == kept_.end()) return;
  found->second.timer = 0;
  auto request = ReadVolume(found->second.volume);
  // Read in the middle of a change: the event of its end will come. A volume that is gone stays as it was.
  if (!request) return log::Warn("{}", request.error().message);
  Send(*request, [source = found->second.volume.source](Result<> put) {
    if (!put) log::Warn("update volume '{}' in the guest: {}", source, put.error().message);
  });
}

Result<> GuestVolumes::TakeBack(const guest::v1::GetFileResponse& got, Kept* kept) {
  const std::string& bytes = got.content();
  if (bytes.size() > limits::kBringBackBytes) return MakeError(Code::kInvalidArgument, "the guest says more than it was asked for");
  if (got.size() != bytes.size()) {
    return MakeError(Code::kResourceExhausted, "it has {} bytes in the guest, of which {} could be brought; it stays as it was", got.size(), bytes.size());
  }
  if (kept->content.empty()) return MakeError(Code::kFailedPrecondition, "the guest's copy is not whole");
  std::string digest = Sha256(bytes);
  if (digest == kept->content) return {};
  TRY(Overwrite(kept->file.get(), bytes));
  kept->content = std::move(digest);
  return {};
}

void GuestVolumes::BringBack(std::vector<GuestVolume> volumes, std::function<void()> done) {
  while (!volumes.empty()) {
    GuestVolume volume = std::move(volumes.back());
    volumes.pop_back();
    auto found = kept_.find(volume.name);
    if (found == kept_.end() || !found->second.file || volume.read_only) continue;
    guest::v1::GetFileRequest request;
    request.set_volume(volume.name);
    request.set_path(kSingleFile);
    request.set_limit(limits::kBringBackBytes);
    return client_->Call<guest::v1::GetFileResponse>(
        guest_service::kGuest, "GetFile", request, GuestClient::kTimeoutMillis,
        [this, volume, volumes = std::move(volumes), done = std::move(done)](Result<guest::v1::GetFileResponse> got) mutable {
          auto kept = kept_.find(volume.name);
          auto taken = !got ? Result<>(std::move(got.error())) : kept != kept_.end() && kept->second.file ? TakeBack(*got, &kept->second) : Result<>();
          if (!taken && !client_->ended()) log::Warn("bring volume '{}' back: {}", volume.source, taken.error().message);
          BringBack(std::move(volumes), std::move(done));
        });
  }
  done();
}

}  // namespace caisson::shim
