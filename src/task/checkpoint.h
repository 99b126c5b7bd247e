// SPDX-License-Identifier: Apache-2.0
//
// Checkpoints of a container, by criu(8): its processes are dumped into images in a folder while it goes on, and a container
// that was created from such images gets their processes when it is started. Mounts other than the root and procfs are not
// in the images but named there: a restored process finds those of its new container.
//
// What is in the folder: criu's images and descriptors.json, which says what the dumped init's first three descriptors were
// (as runc writes it), and mounts.json, where mounts were that are not in the images. It is read as foreign. One thread, the loop's; nothing waits.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "oci/seccomp.h"
#include "task/tasks.h"

namespace caisson::task {

struct CheckpointRequest {
  std::string images_path;  // an empty folder
  std::string work_path;    // a folder for criu's log; empty: images_path
  std::string criu_path;    // empty: criu of the usual folders
  int64_t deadline_millis = 0;  // 0: limits::kCheckpointMillis
  // Not 0: the container is frozen when `done` runs, so that its files can be copied as the images know them; it is thawed
  // by Tasks::Resume, or by itself after so long.
  int64_t hold_millis = 0;
};

// The absolute path of criu. kFailedPrecondition: there is none.
Result<std::string> FindCriu(const std::string& path);

// kNotFound unless `path` is an absolute path of a folder; kFailedPrecondition on a host without cgroup v2.
Result<> CheckImages(const std::string& path);

// Dumps a running container. The container goes on whatever comes of it, unless criu had to be killed in the middle. Errors:
// kFailedPrecondition for a container that cannot be dumped, with criu's words; kDeadlineExceeded.
void Dump(Tasks* tasks, sys::EventLoop* loop, Task* task, const CheckpointRequest& request, std::function<void(Result<>)> done);

// Restores into a container that was created for it (CreateRequest::checkpoint) and whose restorer runs. On success its
// init is the restored one. kPermissionDenied for images that would have more than the container (oci/restored.h); then and
// on every other error all that was restored is killed.
void Restore(Tasks* tasks, sys::EventLoop* loop, Task* task, std::function<void(Result<>)> done);

// Pure. Whatever chain of filters in seccomp.img a process names, `filter` is in it; kPermissionDenied else, also for a
// process that has loaded filters of its own beside it: which comes first is not to be told from this image alone.
Result<> CheckFilters(std::string_view image, const oci::SeccompFilter& filter);

}  // namespace caisson::task
