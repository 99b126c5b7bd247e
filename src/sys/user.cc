// SPDX-License-Identifier: Apache-2.0
#include "sys/user.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <functional>

#include "base/limits.h"
#include "base/strings.h"
#include "sys/path.h"

namespace caisson::sys {
namespace {

// What other engines accept too: beyond it, signed and unsigned readers of an id disagree (and (uid_t)-1 means "none").
constexpr uint64_t kMaxId = 2147483647;

bool AllDigits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::optional<uint32_t> ParseId(std::string_view text) {
  if (!AllDigits(text)) return std::nullopt;
  auto number = ParseUint64(text);
  if (!number || *number > kMaxId) return std::nullopt;
  return static_cast<uint32_t>(*number);
}

// A name as passwd(5) can hold it, that no program takes for an option or a number.
Result<> CheckName(std::string_view name, const char* what) {
  bool good = !name.empty() && name.size() <= 256 && name[0] != '-' && name[0] != '+';
  for (unsigned char c : name) good = good && c > ' ' && c != 127 && c != ':' && c != ',' && c != '/';
  if (good) return {};
  return MakeError(Code::kInvalidArgument, "'{}' cannot be a {}", name.substr(0, 64), what);
}

template <size_t N>
using Fields = std::array<std::string_view, N>;

// Calls `each` with the first N fields of every line that has as many, until it answers false.
template <size_t N>
void ForEachLine(std::string_view text, const std::function<bool(const Fields<N>&)>& each) {
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    Fields<N> fields;
    size_t count = 0;
    while (count < N) {
      size_t colon = line.find(':');
      fields[count++] = line.substr(0, colon);
      if (colon == std::string_view::npos) break;
      line.remove_prefix(colon + 1);
    }
    if (count == N && !each(fields)) return;
  }
}

struct PasswdEntry {
  std::string_view name, home;
  uint32_t uid = 0, gid = 0;
};

// The first entry that `matches`, as getpwent(3) would find it.
std::optional<PasswdEntry> FindPasswd(std::string_view passwd, const std::function<bool(const PasswdEntry&)>& matches) {
  std::optional<PasswdEntry> found;
  ForEachLine<6>(passwd, [&](const Fields<6>& fields) {
    auto uid = ParseId(fields[2]), gid = ParseId(fields[3]);
    if (fields[0].empty() || !uid || !gid) return true;
    PasswdEntry entry{fields[0], fields[5], *uid, *gid};
    if (!matches(entry)) return true;
    found = entry;
    return false;
  });
  return found;
}

Result<uint32_t> ResolveGroup(std::string_view group_file, std::string_view word) {
  if (AllDigits(word)) {
    if (auto gid = ParseId(word)) return *gid;
    return MakeError(Code::kInvalidArgument, "group '{}' is out of range", word.substr(0, 64));
  }
  TRY(CheckName(word, "group's name"));
  std::optional<uint32_t> found;
  ForEachLine<3>(group_file, [&](const Fields<3>& fields) {
    if (fields[0] == word) found = ParseId(fields[2]);
    return !found;
  });
  if (found) return *found;
  return MakeError(Code::kNotFound, "no group '{}' in the container's /etc/group", word);
}

Result<> AddGroup(std::vector<uint32_t>* groups, uint32_t gid) {
  if (std::find(groups->begin(), groups->end(), gid) != groups->end()) return {};
  if (groups->size() >= limits::kUserGroups) {
    return MakeError(Code::kResourceExhausted, "more than {} supplementary groups", limits::kUserGroups);
  }
  groups->push_back(gid);
  return {};
}

Result<> AddMemberships(std::string_view group_file, std::string_view name, std::vector<uint32_t>* groups) {
  Result<> added;
  ForEachLine<4>(group_file, [&](const Fields<4>& fields) {
    std::string_view members = fields[3];
    while (!members.empty()) {
      std::string_view member = members.substr(0, members.find(','));
      members.remove_prefix(std::min(members.size(), member.size() + 1));
      if (Trim(member) != name) continue;
      if (auto gid = ParseId(fields[2])) added = AddGroup(groups, *gid);
      break;
    }
    return added.has_value();
  });
  return added;
}

}  // namespace

Result<User> ResolveUserIn(std::string_view passwd, std::string_view group, const UserRequest& request) {
  std::string_view text = request.user.empty() ? std::string_view("0") : std::string_view(request.user);
  std::string_view who = text.substr(0, text.find(':'));
  User user;
  std::optional<PasswdEntry> entry;
  if (AllDigits(who)) {
    auto uid = ParseId(who);
    if (!uid) return MakeError(Code::kInvalidArgument, "user '{}' is out of range", who.substr(0, 64));
    entry = FindPasswd(passwd, [&](const PasswdEntry& each) { return each.uid == *uid; });
    user.uid = *uid;
  } else {
    TRY(CheckName(who, "user's name"));
    entry = FindPasswd(passwd, [&](const PasswdEntry& each) { return each.name == who; });
    if (!entry) return MakeError(Code::kNotFound, "no user '{}' in the container's /etc/passwd", who);
    user.uid = entry->uid;
  }
  if (entry) {
    user.gid = entry->gid;
    user.name = entry->name;
    if (entry->home.starts_with('/')) user.home = entry->home;
  }
  bool names_group = who.size() < text.size();
  if (names_group) user.gid = TRY(ResolveGroup(group, text.substr(who.size() + 1)));
  if (request.gid) user.gid = *request.gid;
  for (uint32_t gid : request.supplemental) TRY(AddGroup(&user.groups, gid));
  // A group that the user names takes the place of the user's own ones, as `docker run --user` has it; the CRI's
  // runAsGroup does not (SupplementalGroupsPolicy "Merge").
  if (request.merge_groups && !names_group && !user.name.empty()) TRY(AddMemberships(group, user.name, &user.groups));
  return user;
}

std::string HomeOf(uint32_t uid, std::string_view passwd) {
  auto entry = FindPasswd(passwd, [&](const PasswdEntry& each) { return each.uid == uid; });
  return entry && entry->home.starts_with('/') ? std::string(entry->home) : "/";
}

Result<std::string> ReadUserFile(int root_fd, const char* path) {
  // O_NONBLOCK: it may be a FIFO. O_PATH first would not help: opening a device can act, but images hold no devices
  // that the container may use.
  auto file = OpenInRoot(root_fd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!file) {
    int err = file.error().sys_errno;
    if (err == ENOENT || err == ENOTDIR || err == ELOOP || err == ENXIO) return std::string();
    return std::move(file.error());
  }
  struct stat info {};
  if (fstat(file->get(), &info) != 0) return ErrnoError("look at '{}'", path);
  if (!S_ISREG(info.st_mode)) return std::string();
  auto content = ReadAll(file->get(), limits::kUserFileBytes);
  if (!content) return std::move(content.error()).Within(fmt::format("'{}' of the container", path));
  return content;
}

Result<User> ResolveUser(int root_fd, const UserRequest& request) {
  std::string passwd = TRY(ReadUserFile(root_fd, "/etc/passwd"));
  std::string group = TRY(ReadUserFile(root_fd, "/etc/group"));
  return ResolveUserIn(passwd, group, request);
}

}  // namespace caisson::sys
