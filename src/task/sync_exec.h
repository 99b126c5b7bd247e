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
#include <utility>
#include <vector>

#include "caisson/pod/v1/pod.pb.h"
#include "sys/event_loop.h"
#include "task/process.h"

namespace caisson::task {

class SyncExec;

// Where they run: the containers of a pod, whoever makes them.
class ExecHost {
 public:
  virtual ~ExecHost() = default;

  virtual sys::EventLoop* loop() = 0;
  // Runs `args` as the container's own process is run, without a terminal. `done` runs at once or later; on failure nothing is left.
  virtual void StartExec(const std::string& container_id, const std::string& exec_id, std::vector<std::string> args, StdioRequest stdio,
                         std::function<void(Result<>)> done) = 0;
  // Null: it has gone.
  virtual Process* FindExec(const std::string& container_id, const std::string& exec_id) = 0;
  // Ended already: `waiter` runs at once.
  virtual void WaitExec(Process* process, Process::Waiter waiter) = 0;
  // SIGKILL to it and all that came of it.
  virtual void KillExec(const std::string& container_id, const std::string& exec_id) = 0;
  virtual void ForgetExec(const std::string& container_id, const std::string& exec_id) = 0;
};

class SyncExecs {
 public:
  using Respond = std::function<void(Result<pod::v1::ExecSyncResponse>)>;

  explicit SyncExecs(std::shared_ptr<ExecHost> host) : host_(std::move(host)) {}

  void Start(const pod::v1::ExecSyncRequest& request, Respond respond);
  void More(const pod::v1::ExecSyncMoreRequest& request, Respond respond);

 private:
  friend class SyncExec;
  std::shared_ptr<ExecHost> host_;
  uint64_t count_ = 0;
  std::map<std::pair<std::string, std::string>, std::weak_ptr<SyncExec>> running_;  // by container and exec id
};

}  // namespace caisson::task
