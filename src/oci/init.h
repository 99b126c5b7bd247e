// SPDX-License-Identifier: Apache-2.0
//
// The child's side of starting a process: from clone to execve. Both functions end in execve or in _exit after telling
// the launcher why (oci/control.h).
//
// The child is a copy of a single-threaded process, so ordinary code runs in it. It is not dumpable until execve: others
// in a shared PID namespace cannot open its /proc/PID/exe, which is still the runtime's binary (CVE-2019-5736), nor its
// descriptors. It dies with the launcher's process if asked to (PR_SET_PDEATHSIG).
#pragma once

#include <vector>

#include "base/unique_fd.h"
#include "oci/cgroup.h"
#include "oci/container.h"
#include "oci/seccomp.h"

namespace caisson::oci {

struct JoinNamespace {
  int flag = 0;
  UniqueFd fd;
  std::string path;  // for errors
};

struct InitOptions {
  const CreateOptions& create;
  Cgroup* cgroup = nullptr;
  std::vector<int> cgroup_join_fds;
  const SeccompFilter* filter = nullptr;
  std::vector<JoinNamespace> joins;
  bool new_user_namespace = false;
  int control = -1;
};
[[noreturn]] void RunInit(const InitOptions& options);

struct ExecInit {
  const ExecOptions& exec;
  int init_pidfd = -1;
  int namespace_flags = 0;  // of setns(2) on the pidfd
  std::vector<int> cgroup_join_fds;
  const SeccompFilter* filter = nullptr;
  bool die_with_parent = true;
  int control = -1;
};
[[noreturn]] void RunExec(const ExecInit& options);

}  // namespace caisson::oci
