// SPDX-License-Identifier: Apache-2.0
//
// Caller: while it lives this thread makes files as a user and group of the guest's (setfsuid(2)), so that new files are theirs
// by all rules of the folder: its group, its quota, its default ACL. Whether they may has been judged by the guest's kernel,
// so the right to enter and write any folder stays (CAP_DAC_OVERRIDE). Needs CAP_SETUID and CAP_SETGID.
#pragma once

#include <sys/types.h>

namespace caisson::files {

class Caller {
 public:
  Caller(uid_t uid, gid_t gid);
  ~Caller();
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;
  // 0, or why it is not that user's, an errno value: then nothing may be made.
  int error() const { return error_; }

 private:
  const uid_t uid_;
  const gid_t gid_;
  int error_ = 0;
};

}  // namespace caisson::files
