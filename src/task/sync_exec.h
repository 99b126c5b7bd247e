// SPDX-License-Identifier: Apache-2.0
//
// SyncExecs: the processes of ExecSync (caisson.pod.v1.Pod): run in a container, their output collected and answered with
// their end. More output than limits::kExecSyncChunkBytes is answered in parts, and the process waits meanwhile; if
// nobody asks for the next part it is killed. One thread, the loop's.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "caisson/pod/v1/pod.pb.h"
#include "task/tasks.h"

namespace caisson::task {

class SyncExec;

class SyncExecs {
 public:
  using Respond = std::function<void(Result<pod::v1::ExecSyncResponse>)>;

  // `tasks` outlives it and is the last to use it.
  explicit SyncExecs(Tasks* tasks) : tasks_(tasks) {}

  void Start(const pod::v1::ExecSyncRequest& request, Respond respond);
  void More(const pod::v1::ExecSyncMoreRequest& request, Respond respond);

 private:
  friend class SyncExec;
  Tasks* tasks_;
  uint64_t count_ = 0;
  std::map<std::pair<std::string, std::string>, std::weak_ptr<SyncExec>> running_;  // by container and exec id
};

}  // namespace caisson::task
