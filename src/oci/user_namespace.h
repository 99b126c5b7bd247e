// SPDX-License-Identifier: Apache-2.0
//
// User namespaces that no process lives in: kept by descriptors alone, to be joined (a pod's), or to tell
// mount_setattr(2) how ids are mapped. The caller stays where it is, with all its rights on the host: setns(2) into a
// user namespace would leave it those of the namespace only. From a single-threaded process.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/id_mapping.h"

namespace caisson::oci {

// As /proc/PID/ns has them; not valid where none was asked for.
struct NewNamespaces {
  UniqueFd user, network, ipc, uts;
};

// Makes a user namespace and, owned by it, those of `flags` (CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS). `inside` runs in
// a child that is root of them all, which then ends; its failure is the error. May be empty, and the maps without a root then.
Result<NewNamespaces> MakeUserNamespace(const IdMaps& maps, unsigned long flags,
                                        const std::function<Result<>()>& inside);

// Clones a child of the caller's that is root of `user_namespace` and has new namespaces of `flags`, owned by it; it runs
// `run`, which must not return. The child's pidfd. `keep_groups`: setgroups(2) is denied in the user namespace.
// `pid_namespace` not -1: the child is in the PID namespace of this descriptor, which `user_namespace` owns, or of this pidfd.
Result<UniqueFd> CloneInUserNamespace(int user_namespace, unsigned long flags, const std::function<void()>& run,
                                      bool keep_groups = false, int pid_namespace = -1);

// In a child: enters `user_namespace` and becomes its root, so that what is made there belongs to it.
Result<> EnterUserNamespace(int user_namespace, bool keep_groups = false);
// In a child that is in a user namespace already.
// `keep_groups`: setgroups(2) is denied in it.
Result<> BecomeNamespaceRoot(bool keep_groups = false);

// One user namespace for each way of mapping ids that some mounts want.
class MappingNamespaces {
 public:
  // Does nothing if there is one for these maps.
  Result<> Make(const IdMaps& maps);
  // `namespace_fd` is one with these maps.
  void Add(const IdMaps& maps, UniqueFd namespace_fd) { all_.push_back({maps, std::move(namespace_fd)}); }
  // -1: none was made.
  int Find(const IdMaps& maps) const;

 private:
  struct One {
    IdMaps maps;
    UniqueFd fd;
  };
  std::vector<One> all_;
};

// Whether pods can have user namespaces here: makes one and mounts an overlay over an id-mapped folder below `folder`,
// which is where image layers are. kFailedPrecondition says what the host lacks. Leaves nothing.
Result<> ProbeUserNamespaces(const std::string& folder);

}  // namespace caisson::oci
