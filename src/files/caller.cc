// SPDX-License-Identifier: Apache-2.0
#include "files/caller.h"

#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

namespace caisson::files {
namespace {

constexpr auto kNobody = static_cast<uid_t>(-1);  // an id that asks for the present one: setfsuid(2) has no other way

// capabilities(7): a change of the file system's user from 0 takes the rights over files away.
int KeepOverride() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) return errno;
  data[CAP_TO_INDEX(CAP_DAC_OVERRIDE)].effective |= CAP_TO_MASK(CAP_DAC_OVERRIDE);
  return syscall(SYS_capset, &header, data) == 0 ? 0 : errno;
}

}  // namespace

Caller::Caller(uid_t uid, gid_t gid) : uid_(uid), gid_(gid) {
  if (gid_ != 0) {
    setfsgid(gid_);
    // An id that the kernel does not know changes nothing and is no error.
    if (static_cast<gid_t>(setfsgid(kNobody)) != gid_) error_ = EINVAL;
  }
  if (uid_ != 0 && error_ == 0) {
    setfsuid(uid_);
    error_ = static_cast<uid_t>(setfsuid(kNobody)) == uid_ ? KeepOverride() : EINVAL;
  }
}

Caller::~Caller() {
  if (uid_ != 0) setfsuid(0);  // brings the rights back that are permitted
  if (gid_ != 0) setfsgid(0);
}

}  // namespace caisson::files
