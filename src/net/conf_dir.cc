// SPDX-License-Identifier: Apache-2.0
#include "net/conf_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "base/clock.h"
#include "base/limits.h"
#include "base/unique_fd.h"

namespace caisson::net {
namespace {

constexpr size_t kMaxDirEntries = 10'000;
// File times advance with the kernel's tick: a file that changed this recently may change again under the same time.
constexpr int64_t kRacyNanos = 100 * kNanosPerMilli;

bool IsConfName(std::string_view name) {
  return !name.starts_with('.') && (name.ends_with(".conflist") || name.ends_with(".conf") || name.ends_with(".json"));
}

int64_t NanosOf(const timespec& time) { return time.tv_sec * kNanosPerSecond + time.tv_nsec; }

Result<std::string> ReadConf(int dir, const std::string& name) {
  // O_NONBLOCK: a FIFO must not hang the daemon.
  UniqueFd fd(openat(dir, name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) return SysError(errno, "open");
  struct stat status;
  if (fstat(fd.get(), &status) != 0) return SysError(errno, "stat");
  if (!S_ISREG(status.st_mode)) return MakeError(Code::kInvalidArgument, "not a regular file");
  std::string text;
  char buffer[16 << 10];
  for (;;) {
    ssize_t got = read(fd.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SysError(errno, "read");
    if (got == 0) return text;
    text.append(buffer, static_cast<size_t>(got));
    if (text.size() > limits::kConfigFileBytes) {
      return MakeError(Code::kInvalidArgument, "larger than {} bytes", limits::kConfigFileBytes);
    }
  }
}

}  // namespace

Result<std::vector<std::string>> ConfDir::FileNames(int dir) const {
  UniqueFd copy(openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!copy) return ErrnoError("open '{}'", path_);
  DIR* stream = fdopendir(copy.get());
  if (!stream) return ErrnoError("open '{}'", path_);
  copy.Release();
  std::vector<std::string> names;
  size_t seen = 0;
  while (dirent* entry = readdir(stream)) {
    if (++seen > kMaxDirEntries) break;
    if (IsConfName(entry->d_name)) names.emplace_back(entry->d_name);
  }
  closedir(stream);
  if (seen > kMaxDirEntries) {
    return MakeError(Code::kResourceExhausted, "'{}' has more than {} entries", path_, kMaxDirEntries);
  }
  std::sort(names.begin(), names.end());
  if (names.size() > static_cast<size_t>(max_files_)) names.resize(static_cast<size_t>(max_files_));
  return names;
}

Result<ConfDir::Conflists> ConfDir::Read(int dir, const std::vector<std::string>& names) const {
  auto networks = std::make_shared<std::vector<Conflist>>();
  for (const std::string& name : names) {
    auto path = [&] { return fmt::format("network configuration '{}/{}'", path_, name); };
    auto text = ReadConf(dir, name);
    if (!text) return std::move(text.error()).Within(path());
    auto list = ParseConflist(*text, name.ends_with(".conflist") ? ConfForm::kList : ConfForm::kSinglePlugin);
    if (!list) return std::move(list.error()).Within(path());
    networks->push_back(std::move(*list));
  }
  return Conflists(std::move(networks));
}

Result<ConfDir::Conflists> ConfDir::Load() {
  auto none = [&] { return MakeError(Code::kFailedPrecondition, "no network configuration in '{}'", path_); };
  UniqueFd dir(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir && errno == ENOENT) return none();
  if (!dir) return ErrnoError("open '{}'", path_);
  auto names = TRY(FileNames(dir.get()));
  if (names.empty()) return none();
  std::string signature;
  int64_t newest = 0;
  for (const std::string& name : names) {
    struct stat status = {};
    (void)fstatat(dir.get(), name.c_str(), &status, 0);  // gone: Read says so
    newest = std::max({newest, NanosOf(status.st_mtim), NanosOf(status.st_ctim)});
    signature += fmt::format("{}\n{} {} {} {} {}\n", name, status.st_dev, status.st_ino, status.st_size,
                             NanosOf(status.st_mtim), NanosOf(status.st_ctim));
  }
  std::lock_guard lock(mutex_);
  if (!signature_.empty() && signature == signature_) return loaded_;
  loaded_ = Read(dir.get(), names);
  signature_ = newest + kRacyNanos < NowNanos() ? std::move(signature) : std::string();
  return loaded_;
}

}  // namespace caisson::net
