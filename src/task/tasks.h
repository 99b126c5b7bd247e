// SPDX-License-Identifier: Apache-2.0
//
// Tasks: the containers of one pod and their processes, on the event loop: created, started, exec'd into, watched, logged
// and reaped. The Task services (task_service.h) and caisson.pod.v1.Pod (pod_service.h) are made of it.
//
// It reaps every child of the process it lives in, which is a child subreaper, so orphans of containers end here too.
// One thread, the loop's; the process has no other.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/container.h"
#include "sys/event_loop.h"
#include "task/log_file.h"
#include "task/process.h"

namespace caisson::task {

struct Task {
  std::string id, bundle;
  std::unique_ptr<oci::Container> container;
  std::unique_ptr<LogFile> log;
  Process init;
  std::map<std::string, std::unique_ptr<Process>> execs;
  std::map<std::string, oci::ExecOptions> prepared;         // exec'd by Task.Exec, not started yet
  std::map<std::string, StdioRequest> prepared_stdio;
  UniqueFd oom_events;
  bool oom_killed = false;
  bool paused = false;
  int64_t created_at_nanos = 0;
};

struct TasksOptions {
  std::string seccomp_cache_dir;
  bool systemd_cgroup = false;
  int shm_fd = -1;
  // Called with the spec's cgroupsPath before a container is made, so that someone can clean up if we are killed.
  std::function<Result<>(const std::string& cgroups_path, bool systemd)> on_cgroup;
};

struct CreateRequest {
  std::string id, bundle;
  std::vector<oci::RootfsMount> rootfs;
  StdioRequest stdio;
  std::string log_path;  // not empty: output goes there in the CRI's format
  size_t log_max_line_bytes = 0;
};

class Tasks {
 public:
  // Blocks SIGCHLD for the process and takes it from a signalfd(2). `loop` outlives it.
  static Result<std::unique_ptr<Tasks>> Create(sys::EventLoop* loop);
  ~Tasks();

  void set_options(TasksOptions options) { options_ = std::move(options); }
  sys::EventLoop* loop() { return loop_; }

  Result<Task*> Create(CreateRequest request);
  // kNotFound names the id.
  Result<Task*> Find(const std::string& id);
  // The init with an empty `exec_id`.
  Result<Process*> FindProcess(const std::string& id, const std::string& exec_id);
  Result<> Start(Task* task);
  // Starts a process in the container; `on_exit` runs when it has ended (and is forgotten after it).
  Result<Process*> Exec(Task* task, const std::string& exec_id, oci::ExecOptions options, StdioRequest stdio);
  void Forget(Task* task, const std::string& exec_id) { task->execs.erase(exec_id); }
  // Ended already: `waiter` runs at once.
  void Wait(Process* process, Process::Waiter waiter);
  Result<> Kill(Task* task, const std::string& exec_id, int signal, bool all);
  // SIGKILL to a process that was exec'd and to all that came of it, in and out of its session.
  void KillTree(Task* task, const Process& process);
  // Removes an ended container; kFailedPrecondition while it runs.
  Result<> Delete(Task* task);
  // SIGKILL to everything, without asking anyone; then all is removed. For the pod's end.
  Result<> DestroyAll(int64_t deadline_millis);

  const std::map<std::string, std::unique_ptr<Task>>& all() const { return tasks_; }
  // True once an OOM kill was seen in it.
  bool OomKilled(Task* task);

 private:
  explicit Tasks(sys::EventLoop* loop) : loop_(loop) {}
  void OnChild();
  void OnInitExit(Task* task);
  void WatchOom(Task* task);
  // Fills the spec's process defaults for an exec from the container's own.
  Process* FindByPid(int pid, Task** task);

  sys::EventLoop* loop_;
  UniqueFd signals_;
  TasksOptions options_;
  std::map<std::string, std::unique_ptr<Task>> tasks_;
};

}  // namespace caisson::task
