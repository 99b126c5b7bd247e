// SPDX-License-Identifier: Apache-2.0
//
// An empty, read-only file system in place of the host's, for a process that needs no path any more. The caller is in a mount
// namespace of its own and has CAP_SYS_ADMIN there. Allocates nothing: also for a child after clone.
#pragma once

namespace caisson::sys {

// Null, or the step that has failed, with its errno: then the process is good for nothing but its end.
const char* EnterEmptyRoot();

}  // namespace caisson::sys
