// SPDX-License-Identifier: Apache-2.0
#include "cli/log_reader.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

namespace caisson::cli {
namespace {
constexpr size_t kReadBytes = 64 << 10;
// A line of the log is one write of at most 16 KiB and its head; anything far longer is not a log of ours.
constexpr size_t kMaxLineBytes = 1 << 20;
}  // namespace

bool LogReader::ParseLine(std::string_view line, bool* is_stderr, bool* whole, std::string_view* text) {
  size_t first = line.find(' ');
  if (first == std::string_view::npos) return false;
  std::string_view rest = line.substr(first + 1);
  if (rest.starts_with("stdout ")) {
    *is_stderr = false;
  } else if (rest.starts_with("stderr ")) {
    *is_stderr = true;
  } else {
    return false;
  }
  rest.remove_prefix(7);
  if (rest.size() < 2 || (rest[0] != 'F' && rest[0] != 'P') || rest[1] != ' ') return false;
  *whole = rest[0] == 'F';
  *text = rest.substr(2);
  return true;
}

bool LogReader::Reopened() {
  struct stat now {}, open {};
  if (stat(path_.c_str(), &now) != 0 || fstat(fd_.get(), &open) != 0) return false;
  return now.st_ino != open.st_ino || now.st_dev != open.st_dev;
}

Result<> LogReader::ReadNew(const Sink& sink) {
  for (;;) {
    if (!fd_) {
      fd_ = UniqueFd(open(path_.c_str(), O_RDONLY | O_CLOEXEC));
      if (!fd_) {
        if (errno == ENOENT) return {};
        return ErrnoError("open log '{}'", path_);
      }
      if (tail_ >= 0) TRY(SkipToTail());
    }
    bool reopened = Reopened();  // before draining: what comes after belongs to the new file
    TRY(Drain(sink));
    if (!reopened) return {};
    fd_.Reset();
  }
}

Result<> LogReader::Drain(const Sink& sink) {
  char buffer[kReadBytes];
  for (;;) {
    ssize_t got = read(fd_.get(), buffer, sizeof buffer);
    if (got < 0) return ErrnoError("read log '{}'", path_);
    if (got == 0) return {};
    pending_.append(buffer, static_cast<size_t>(got));
    size_t begin = 0;
    for (size_t end; (end = pending_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      bool is_stderr = false, whole = false;
      std::string_view text;
      if (!ParseLine(std::string_view(pending_).substr(begin, end - begin), &is_stderr, &whole, &text)) continue;
      std::string out(text);
      if (whole) out.push_back('\n');
      sink(is_stderr, out);
    }
    pending_.erase(0, begin);
    if (pending_.size() > kMaxLineBytes) return MakeError(Code::kDataLoss, "log '{}': a line is longer than {} bytes", path_, kMaxLineBytes);
  }
}

Result<> LogReader::SkipToTail() {
  int wanted = std::exchange(tail_, -1);
  off_t position = lseek(fd_.get(), 0, SEEK_END);
  int ends = 0;
  char buffer[kReadBytes];
  while (position > 0) {
    size_t step = static_cast<size_t>(std::min<off_t>(position, sizeof buffer));
    ssize_t got = pread(fd_.get(), buffer, step, position - static_cast<off_t>(step));
    if (got != static_cast<ssize_t>(step)) return ErrnoError("read log '{}'", path_);
    for (size_t i = step; i-- > 0;) {
      if (buffer[i] == '\n' && ++ends > wanted) {
        lseek(fd_.get(), position - static_cast<off_t>(step - i) + 1, SEEK_SET);
        return {};
      }
    }
    position -= static_cast<off_t>(step);
  }
  lseek(fd_.get(), 0, SEEK_SET);
  return {};
}

}  // namespace caisson::cli
