// SPDX-License-Identifier: Apache-2.0
#include "sys/mountinfo.h"

#include <fcntl.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/strings.h"
#include "base/unique_fd.h"

namespace caisson::sys {
namespace {

// The next space-separated field of `rest`, which moves on behind it.
std::string_view NextField(std::string_view* rest) {
  size_t end = rest->find(' ');
  std::string_view field = rest->substr(0, end);
  rest->remove_prefix(end == std::string_view::npos ? rest->size() : end + 1);
  return field;
}

// The kernel writes space, tab, newline, backslash (and '#') as \ooo.
std::string Unescape(std::string_view text) {
  auto octal = [](char c) { return c >= '0' && c <= '7'; };
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && octal(text[i + 1]) && octal(text[i + 2]) && octal(text[i + 3])) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

Error BadLine(std::string_view what) { return MakeError(Code::kInvalidArgument, "mountinfo line: {}", what); }

}  // namespace

Result<MountInfo> ParseMountInfoLine(std::string_view line) {
  MountInfo mount;
  auto id = ParseInt64(NextField(&line));
  auto parent = ParseInt64(NextField(&line));
  if (!id || !parent) return BadLine("bad mount id");
  mount.id = *id;
  mount.parent = *parent;
  std::string_view device = NextField(&line);
  size_t colon = device.find(':');
  if (colon == std::string_view::npos) return BadLine("bad device");
  auto major = ParseUint64(device.substr(0, colon));
  auto minor = ParseUint64(device.substr(colon + 1));
  if (!major || !minor || *major > UINT32_MAX || *minor > UINT32_MAX) return BadLine("bad device");
  mount.major = static_cast<uint32_t>(*major);
  mount.minor = static_cast<uint32_t>(*minor);
  mount.root = Unescape(NextField(&line));
  mount.mount_point = Unescape(NextField(&line));
  mount.options = NextField(&line);
  if (mount.root.empty() || mount.mount_point.empty()) return BadLine("no mount point");
  for (;;) {
    if (line.empty()) return BadLine("no '-' separator");
    std::string_view field = NextField(&line);
    if (field == "-") break;
    if (!field.empty()) mount.optional.emplace_back(field);
  }
  mount.fs_type = Unescape(NextField(&line));
  mount.source = Unescape(NextField(&line));
  mount.super_options = line;
  if (mount.fs_type.empty()) return BadLine("no file system type");
  return mount;
}

Result<std::vector<MountInfo>> ParseMountInfo(std::string_view text) {
  std::vector<MountInfo> mounts;
  size_t number = 0;
  while (!text.empty()) {
    size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    ++number;
    auto mount = ParseMountInfoLine(line);
    if (!mount) return std::move(mount.error()).Within(fmt::format("line {}", number));
    mounts.push_back(*std::move(mount));
  }
  return mounts;
}

Result<std::vector<MountInfo>> ReadMountInfo(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return ErrnoError("open '{}'", path);
  std::string text;
  for (;;) {
    size_t have = text.size();
    if (have > limits::kMountInfoBytes) {
      return MakeError(Code::kResourceExhausted, "'{}' is larger than {} bytes", path, limits::kMountInfoBytes);
    }
    text.resize(have + 16384);
    ssize_t n = read(fd.get(), text.data() + have, 16384);
    if (n < 0 && errno == EINTR) n = 0, text.resize(have);
    else if (n < 0) return ErrnoError("read '{}'", path);
    else if (text.resize(have + static_cast<size_t>(n)); n == 0) break;
  }
  auto mounts = ParseMountInfo(text);
  if (!mounts) return std::move(mounts.error()).Within(path);
  return mounts;
}

}  // namespace caisson::sys
