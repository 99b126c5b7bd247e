// SPDX-License-Identifier: Apache-2.0
//
// What criu(8) has restored, held against what the new container was to have. Images of a checkpoint are foreign: they say
// which credentials, filters, files and mounts a process gets, and criu obeys. So nothing in them is believed; what counts is
// what the kernel says of the processes before they run (proc(5)).
//
// Looked at: namespaces, mounts, credentials, seccomp, and where the files are that processes have open, mapped or as their
// root, folder or program. Not looked at: memory and registers, which are the container's own affair; sockets, which are of
// the pod's network namespace.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "oci/plan.h"
#include "oci/spec.h"
#include "sys/mountinfo.h"

namespace caisson::oci {

// kFailedPrecondition with the reason for a container that cannot be restored into: a terminal, a PID namespace that is
// not its own, a user namespace, hooks.
Result<> CheckRestorable(const Spec& spec, const Plan& plan);

struct Expected {
  const Spec& spec;  // with ids resolved
  bool filtered = false;
  const std::string& root_path;  // where the restorer has mounted what the container is to have
  int restorer = 0;
};
// kPermissionDenied naming the first difference. `pids`: the container's processes, the restorer's may be among them; all
// but that one stand still.
Result<> CheckRestored(const Expected& expected, int init, const std::vector<int>& pids);

// Parts of it, pure.
// Each mount below `root_path` is in `restored` at the same place: of the same file system (of a procfs: one), the same part
// of it, no less read-only, nosuid, nodev and noexec; and there is no other.
Result<> CompareMounts(const std::vector<sys::MountInfo>& expected, const std::string& root_path, const std::vector<sys::MountInfo>& restored);
// `status`: of /proc/PID/task/TID/status.
Result<> CheckCredentials(const ProcessSpec& process, bool filtered, std::string_view status);

}  // namespace caisson::oci
