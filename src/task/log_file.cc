// SPDX-License-Identifier: Apache-2.0
#include "task/log_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/limits.h"

namespace caisson::task {
namespace {
constexpr std::string_view kNames[] = {"stdout", "stderr"};
}

Result<std::unique_ptr<LogFile>> LogFile::Open(const std::string& path, size_t max_line_bytes) {
  std::unique_ptr<LogFile> log(new LogFile(path, max_line_bytes == 0 ? limits::kLogChunkBytes : max_line_bytes));
  log->fd_ = TRY(log->OpenPath());
  return log;
}

Result<UniqueFd> LogFile::OpenPath() const {
  // O_NONBLOCK: a FIFO without a reader must not hang us; it is refused below.
  UniqueFd fd(open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0640));
  if (!fd) return ErrnoError("open container log '{}'", path_);
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return ErrnoError("look at container log '{}'", path_);
  if (!S_ISREG(info.st_mode)) return MakeError(Code::kInvalidArgument, "container log '{}' is not a regular file", path_);
  return fd;
}

Result<> LogFile::Reopen() {
  UniqueFd fd = TRY(OpenPath());
  fd_ = std::move(fd);
  torn_ = false;
  return {};
}

void LogFile::Append(Stream stream, char tag, std::string_view text) {
  out_ += head_[stream];
  out_ += tag;
  out_ += ' ';
  out_ += text;
  out_ += '\n';
}

void LogFile::Write(Stream stream, std::string_view bytes) {
  // One time for all lines that came together: they were written before now, and nobody knows when.
  head_[stream] = FormatRfc3339Nano(NowNanos());
  head_[stream] += ' ';
  head_[stream] += kNames[stream];
  head_[stream] += ' ';
  std::string& pending = pending_[stream];
  while (!bytes.empty()) {
    size_t end = bytes.find('\n');
    size_t room = max_line_bytes_ - pending.size();
    if (end != std::string_view::npos && end <= room) {
      if (pending.empty()) {
        Append(stream, 'F', bytes.substr(0, end));
      } else {
        pending += bytes.substr(0, end);
        Append(stream, 'F', pending);
        pending.clear();
      }
      bytes.remove_prefix(end + 1);
    } else if (bytes.size() >= room && (bytes.size() > room || end == std::string_view::npos)) {
      pending += bytes.substr(0, room);
      Append(stream, 'P', pending);
      pending.clear();
      bytes.remove_prefix(room);
    } else {
      pending += bytes;
      break;
    }
  }
  Flush();
}

void LogFile::End(Stream stream) {
  if (pending_[stream].empty()) return;
  Append(stream, 'P', pending_[stream]);
  pending_[stream] = std::string();
  Flush();
}

void LogFile::Flush() {
  if (torn_ && !out_.empty()) out_.insert(0, 1, '\n');
  std::string_view rest = out_;
  while (!rest.empty()) {
    ssize_t written = write(fd_.get(), rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) break;
    rest.remove_prefix(static_cast<size_t>(written));
  }
  if (!rest.empty()) {
    dropped_bytes_ += rest.size();
    torn_ = rest.size() < out_.size() && out_[out_.size() - rest.size() - 1] != '\n';
  } else if (!out_.empty()) {
    torn_ = false;
  }
  out_.clear();
  if (out_.capacity() > (256 << 10)) out_.shrink_to_fit();
}

}  // namespace caisson::task
