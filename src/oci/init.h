// SPDX-License-Identifier: Apache-2.0
//
// The child's side of starting or restoring a process: from clone to execve. All functions end in execve or in _exit after telling
// the launcher why (oci/control.h).
//
// The child is a copy of a single-threaded process, so ordinary code runs in it. It is not dumpable until execve:
// others in a shared PID namespace cannot open its /proc/PID/exe, which is still the runtime's binary, nor its
// descriptors. What remains of CVE-2019-5736 (an image whose program is a link to /proc/self/exe) is met by
// sys/sealed_program.h.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "oci/cgroup.h"
#include "oci/container.h"
#include "oci/plan.h"
#include "oci/seccomp.h"
#include "oci/user_namespace.h"

namespace caisson::oci {

struct JoinNamespace {
  int flag = 0;
  UniqueFd fd;
  std::string path;  // for errors
};

struct InitOptions {
  const CreateOptions& create;
  const Plan& plan;
  Cgroup* cgroup = nullptr;
  std::vector<int> cgroup_join_fds;
  const SeccompFilter* filter = nullptr;
  std::vector<JoinNamespace> joins;
  UniqueFd user_namespace;     // valid: the one to join
  MappingNamespaces mappings;  // those of the plan's mounts
  UniqueFd shm;                // valid: a detached clone of the pod's /dev/shm, for this container
  int control = -1;
};
// In a process that has the plan's new namespaces already.
[[noreturn]] void RunInit(const InitOptions& options);
// For a plan with a user namespace, in a process that has no new namespace yet: opens what that namespace would be kept
// out of, joins and enters, then clones init as its own sibling, sends its pidfd and ends.
[[noreturn]] void RunOuter(const InitOptions& options);

// For a container that is to be restored, in a process with a mount namespace of its own: mounts all that the container is
// to have, waits for the start and becomes the restorer.
[[noreturn]] void RunRestorer(const InitOptions& options);

// criu(8) that dumps a running container. It stays in our own namespaces but for the cgroup's.
struct DumperInit {
  const std::string& program;
  const UniqueFd& socket;
  int init_pidfd = -1;
  bool cgroup_namespace = false;  // the container has one of its own
  int control = -1;
};
[[noreturn]] void RunDumper(const DumperInit& options);

struct ExecInit {
  const ExecOptions& exec;
  int init_pidfd = -1;
  ExecTarget target;
  std::vector<int> cgroup_join_fds;
  bool die_with_parent = true;
  int control = -1;
};
[[noreturn]] void RunExec(const ExecInit& options);

}  // namespace caisson::oci
