// SPDX-License-Identifier: Apache-2.0
//
// Mount options in words to what mount(2) and mount_setattr(2) take. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "oci/id_mapping.h"

namespace caisson::oci {

enum class MountKind {
  kFileSystem,  // mount(2) of `type`
  kProc,        // as kFileSystem, on a folder that no link leads to
  kSysfs,       // the same; a bind of the host's where the kernel refuses a new one (user namespaces)
  kBind,
  kShm,     // "caisson-shm": a clone of the pod's /dev/shm
  kCgroup,  // the container's own groups, whatever the host's version
  kImage,   // "caisson-image": an image's layers, read-only, or what is at `sub_path` in them
};

// One entry of the spec's `mounts`, decided.
struct MountPlan {
  MountKind kind = MountKind::kFileSystem;
  std::string destination, type, source;
  bool recursive = false;                                // a bind of the whole tree
  unsigned long flags = 0;                               // MS_* of the mount: nosuid, nodev, noexec, ro, atime …
  unsigned long clear_flags = 0;                         // MS_* that are taken away ("rw", "suid", "exec", "dev")
  unsigned long recursive_set = 0, recursive_clear = 0;  // the same for the whole tree: "rro", "rnosuid", …
  IdMaps id_maps;                                        // whose ids the owners' are shown as; empty: their own
  bool map_ids = false, map_ids_recursive = false;       // said so: of the whole tree too
  unsigned long propagation = 0;                         // MS_SHARED, MS_SLAVE, MS_PRIVATE, with MS_REC; 0: none said
  bool copy_up = false;                                  // a tmpfs begins with what it covers ("tmpcopyup")
  std::string sub_path;                                  // kImage: relative; empty: the whole image
  std::string data;                                      // the rest, comma-separated, for the file system
};

// Errors: kInvalidArgument for combinations that cannot be, kUnimplemented for options that are not supported.
Result<MountPlan> PlanMount(const std::string& destination, const std::string& type, const std::string& source,
                            const std::vector<std::string>& options);
// "rslave" and its kin to MS_*; 0 for the empty word.
Result<unsigned long> PropagationFlag(const std::string& word);
// "ro,nosuid" for MS_* attributes, "rslave" for a propagation; for people.
std::string DescribeFlags(unsigned long flags);

}  // namespace caisson::oci
