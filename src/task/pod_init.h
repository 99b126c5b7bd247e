// SPDX-License-Identifier: Apache-2.0
//
// PodInit: PID 1 of a PID namespace that all containers of a pod share. The kernel gives it every orphan of the pod; it
// reaps them and does nothing else. When its maker ends (the companion; in a VM nobody, since the machine ends as a whole) it ends, and
// with it, by the kernel's rule, everything in the namespace (pid_namespaces(7)).
//
// Every container of the pod sees it, so it has nothing to offer: an empty read-only root, no capability, no descriptor,
// nobody's user id, and it cannot be traced by a container without CAP_SYS_PTRACE.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::task {

class PodInit {
 public:
  // Clones it from a single-threaded process. When this returns it is complete. `user_namespace`: the one that is to own
  // the PID namespace; -1: the caller's. `ends_with_maker`: when this process ends.
  static Result<PodInit> Start(int user_namespace, bool ends_with_maker = true);
  PodInit() = default;
  PodInit(PodInit&&) = default;
  PodInit& operator=(PodInit&&) = delete;
  ~PodInit() { Kill(); }

  int pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }
  // Ends and reaps it. Idempotent.
  void Kill();
  // It stays when the object goes.
  void Leave() { pidfd_.Reset(); }

 private:
  int pid_ = 0;
  UniqueFd pidfd_;
};

}  // namespace caisson::task
