// SPDX-License-Identifier: Apache-2.0
#include "task/log_file.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "base/limits.h"
#include "base/strings.h"
#include "sys/path.h"

namespace caisson::task {
namespace {

constexpr std::string_view kNames[] = {"stdout", "stderr"};
constexpr mode_t kMode = 0640;

UniqueFd OpenBelow(int dir, const std::string& path, uint64_t flags) {
  open_how how{};
  how.flags = flags | O_CLOEXEC;
  how.mode = flags & O_CREAT ? kMode : 0;
  how.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  return UniqueFd(static_cast<int>(syscall(SYS_openat2, dir, path.c_str(), &how, sizeof how)));
}

Result<> CheckPath(const std::string& path) {
  bool good = path.starts_with('/') && !path.ends_with('/') && path.size() < limits::kPathBytes &&
              path.find('\0') == std::string::npos;
  for (std::string_view part : Split(path, '/')) good = good && part != "..";
  if (good) return {};
  return MakeError(Code::kInvalidArgument, "container log '{}' is no absolute path without '..'", path.substr(0, 256));
}

// The folder and the file in it are resolved without links below a folder that is the node's own business.
Result<UniqueFd> OpenLog(const std::string& path) {
  TRY(CheckPath(path));
  auto [folder, name] = sys::SplitPath(path);
  auto [above, folder_name] = sys::SplitPath(folder);
  UniqueFd dir(open(above.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!dir) return ErrnoError("open the folder '{}' of a container log", above);
  std::string below = folder_name.empty() ? name : folder_name + "/" + name;
  UniqueFd made = OpenBelow(dir.get(), below, O_WRONLY | O_APPEND | O_CREAT | O_EXCL);
  if (made) return made;
  if (errno == ELOOP) return MakeError(Code::kInvalidArgument, "container log '{}' leads through a link", path);
  if (errno != EEXIST) return ErrnoError("create container log '{}'", path);
  // Something is there. Look before opening it: a device does things when it is opened, a FIFO waits.
  UniqueFd found = OpenBelow(dir.get(), below, O_PATH | O_NOFOLLOW);
  if (!found && errno == ELOOP) return MakeError(Code::kInvalidArgument, "container log '{}' is a link", path);
  if (!found) return ErrnoError("open container log '{}'", path);
  struct stat info {};
  if (fstat(found.get(), &info) != 0) return ErrnoError("look at container log '{}'", path);
  if (!S_ISREG(info.st_mode)) return MakeError(Code::kInvalidArgument, "container log '{}' is not a regular file", path);
  UniqueFd fd(open(sys::FdPath(found.get()).c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  if (!fd) return ErrnoError("open container log '{}'", path);
  return fd;
}

}  // namespace

Result<std::unique_ptr<LogFile>> LogFile::Open(const std::string& path, size_t max_line_bytes, Scratch* scratch) {
  size_t limit = max_line_bytes == 0 ? limits::kLogChunkBytes : std::min(max_line_bytes, kMaxLineBytes);
  std::unique_ptr<LogFile> log(new LogFile(path, limit, scratch));
  log->fd_ = TRY(OpenLog(path));
  return log;
}

Result<> LogFile::Reopen() {
  fd_ = TRY(OpenLog(path_));
  torn_ = false;
  return {};
}

void LogFile::StartBatch(Stream stream) {
  // One time for all lines that came together: they were written before now, and nobody knows when.
  std::string head = fmt::format("{} {} F ", FormatRfc3339Nano(NowNanos()), kNames[stream]);
  head_bytes_ = std::min(head.size(), sizeof head_);
  memcpy(head_, head.data(), head_bytes_);
}

void LogFile::Append(char tag, std::string_view begin, std::string_view rest) {
  size_t bytes = head_bytes_ + begin.size() + rest.size() + 1;
  if (filled_ + bytes > Scratch::kBytes) Flush();
  char* at = scratch_->out() + filled_;
  memcpy(at, head_, head_bytes_);
  at[head_bytes_ - 2] = tag;
  at += head_bytes_;
  at = std::copy(begin.begin(), begin.end(), at);
  at = std::copy(rest.begin(), rest.end(), at);
  *at = '\n';
  filled_ += bytes;
}

void LogFile::Write(Stream stream, std::string_view bytes) {
  StartBatch(stream);
  std::string& pending = pending_[stream];
  while (!bytes.empty()) {
    size_t room = max_line_bytes_ - pending.size();
    // A line of exactly the limit is whole if its end comes next.
    size_t look = std::min(bytes.size(), room + 1);
    if (const void* end = memchr(bytes.data(), '\n', look)) {
      size_t length = static_cast<size_t>(static_cast<const char*>(end) - bytes.data());
      Append('F', pending, bytes.substr(0, length));
      pending.clear();
      bytes.remove_prefix(length + 1);
    } else if (bytes.size() > room) {
      Append('P', pending, bytes.substr(0, room));
      pending.clear();
      bytes.remove_prefix(room);
    } else {
      pending += bytes;
      break;
    }
  }
  if (pending.empty() && pending.capacity() > 1024) pending = std::string();
  Flush();
}

void LogFile::End(Stream stream) {
  if (pending_[stream].empty()) return;
  StartBatch(stream);
  Append('P', pending_[stream], {});
  pending_[stream] = std::string();
  Flush();
}

std::string_view LogFile::WriteOut(std::string_view text) {
  while (!text.empty()) {
    ssize_t written = write(fd_.get(), text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      write_errno_ = errno;
      break;
    }
    text.remove_prefix(static_cast<size_t>(written));
  }
  return text;
}

void LogFile::NoteLoss() {
  // A line that was cut short ends here, so that the note and what follows are lines of their own.
  std::string note = fmt::format("{}{} stderr F [caisson: {} bytes in {} log lines are missing here: {}]\n", torn_ ? "\n" : "",
                                 FormatRfc3339Nano(NowNanos()), unnoted_bytes_, unnoted_lines_, strerror(write_errno_));
  std::string_view left = WriteOut(note);
  if (left.size() < note.size()) torn_ = !left.empty();
  if (left.empty()) unnoted_bytes_ = unnoted_lines_ = 0;
}

void LogFile::Flush() {
  if (filled_ == 0) return;
  scratch_->Used(filled_);
  std::string_view text(scratch_->out(), filled_);
  filled_ = 0;
  if (unnoted_lines_ > 0) NoteLoss();
  std::string_view left = unnoted_lines_ > 0 ? text : WriteOut(text);
  if (left.empty()) return;
  if (left.size() < text.size()) torn_ = *(left.data() - 1) != '\n';
  uint64_t lines = static_cast<uint64_t>(std::count(left.begin(), left.end(), '\n'));
  unnoted_bytes_ += left.size(), unnoted_lines_ += lines;
  dropped_bytes_ += left.size(), dropped_lines_ += lines;
}

}  // namespace caisson::task
