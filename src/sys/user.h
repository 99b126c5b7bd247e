// SPDX-License-Identifier: Apache-2.0
//
// Who a user's or group's name is in a file system that a stranger made: /etc/passwd and /etc/group of a container's
// root, read through a descriptor of that root (passwd(5), group(5)). Links stay inside the root, only regular files of
// at most limits::kUserFileBytes are read, broken lines are passed over. Nothing is cached. Any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace caisson::sys {

struct UserRequest {
  // The image config's `User`: "name", "1000", "name:group", "1000:1000"; empty: root. All digits is always a number,
  // never a name, whatever /etc/passwd says.
  std::string user;
  std::optional<uint32_t> gid;         // takes the place of the primary group that `user` says or implies
  std::vector<uint32_t> supplemental;  // further groups
  bool merge_groups = true;            // add the groups that /etc/group puts the user in
};

struct User {
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> groups;  // supplementary, each once, in order; the primary one only where it was named as such
  std::string name;              // empty: the number has no entry
  std::string home = "/";
};

// Errors: kNotFound naming the user or group that has no entry; kInvalidArgument for a number that is no id (above
// 2147483647) or a text that cannot be a name; kResourceExhausted for a file past its limit or groups past
// limits::kUserGroups; what open(2) says but "not there", which reads as an empty file.
Result<User> ResolveUser(int root_fd, const UserRequest& request);
// The same on the texts themselves. Pure.
Result<User> ResolveUserIn(std::string_view passwd, std::string_view group, const UserRequest& request);

// The home folder of `uid` by `passwd`; "/" where it says none.
std::string HomeOf(uint32_t uid, std::string_view passwd);
// /etc/passwd or another such file of the root: empty if it is missing or not a regular file.
Result<std::string> ReadUserFile(int root_fd, const char* path);

}  // namespace caisson::sys
