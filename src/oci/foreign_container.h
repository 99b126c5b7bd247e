// SPDX-License-Identifier: Apache-2.0
//
// A Container (container.h) that another project's OCI runtime makes: the second implementation of that interface. The container's
// processes become children of this process, a child subreaper, when the runtime's own have ended. Its root is mounted by us, in our
// mount namespace, on the bundle's folder, and unmounted by Delete; what a process that dies in between leaves is cleaned up by
// RemoveForeignRemains.
//
// Every call that the runtime has a part in blocks under a deadline. Ending a container needs nobody's cooperation: signals
// go to its processes, SIGKILL to its cgroup.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "oci/container.h"
#include "oci/runtime_program.h"

namespace caisson::oci {

struct ForeignOptions {
  RuntimeProgram runtime;
  std::string shm_path;  // the pod's /dev/shm; empty: none
  std::map<std::string, std::string> annotations;  // further ones of the container
  // Of a sandboxed runtime: the sandbox's group, where its containers' processes of ours live, to end with it; null: this is it.
  Cgroup* sandbox = nullptr;
};

// As Container::Create. Errors: also what the runtime says. kUnimplemented: to be restored from a checkpoint.
Result<std::unique_ptr<Container>> CreateForeign(const ForeignOptions& foreign, CreateOptions options);

// Unmounts what a container of a dead process had mounted in its bundle, whose processes have ended. Nothing there: success.
void RemoveForeignRemains(const std::string& bundle);

}  // namespace caisson::oci
