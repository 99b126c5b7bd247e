// SPDX-License-Identifier: Apache-2.0
//
// Tasks: the containers of one pod and their processes, on the event loop: created, started, exec'd into, watched, logged
// and reaped. The Task services (task_service.h) and caisson.pod.v1.Pod (pod_service.h) are made of it.
//
// Unless somebody else does that for it, it reaps every child of the process it lives in, which is a child subreaper, so orphans
// of containers end here too (ended_processes.h).
// One thread, the loop's; the process has no other. Nothing here waits for a container: what may take long (removing
// cgroups, the launch) has a deadline.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/container.h"
#include "sys/event_loop.h"
#include "task/attachments.h"
#include "task/ended_processes.h"
#include "task/events.h"
#include "task/log_file.h"
#include "task/process.h"
#include "task/scratch.h"

namespace caisson::task {

struct Task {
  std::string id, bundle;
  std::unique_ptr<oci::Container> container;
  bool own_stdio = false;  // its output comes to us
  std::unique_ptr<LogFile> log;
  Process init;
  std::unique_ptr<Attachments> attachments;  // since the first client; goes before init's stdio
  std::map<std::string, std::unique_ptr<Process>> execs;
  UniqueFd oom_events;
  bool oom_killed = false;
  bool paused = false;
  uint64_t holds = 0;      // times it was paused for a dump
  std::string checkpoint;  // the folder of the images that Start restores; empty: none
  UniqueFd restorer;       // to criu, from then on until Start
  int64_t created_at_nanos = 0;
};

struct TasksOptions {
  // What makes a container; empty: oci::Container::Create.
  std::function<Result<std::unique_ptr<oci::Container>>(oci::CreateOptions)> make_container;
  std::string seccomp_cache_dir;
  bool systemd_cgroup = false;
  std::string pod_cgroup;  // what the containers' groups are in: a path below each hierarchy; empty: nothing of the pod's
  int shm_fd = -1;
  // Called with the container's bundle and the spec's cgroupsPath before it is made, so that someone can clean up if we are killed.
  std::function<Result<>(const std::string& bundle, const std::string& cgroups_path, bool systemd)> on_cgroup;
  // Called when it is made, before anyone hears of it.
  std::function<Result<>(const Task&)> on_created;
  // Called when its init has ended, and when it has been removed at someone's wish.
  std::function<void(const Task&)> on_ended, on_deleted;
  std::string containerd_namespace;  // of containerd's, for log programs
  EventSink on_event;
  // What ends a process that was exec'd with all that came of it, of these pipes too; empty: we do (process_tree.h).
  std::function<void(const Task&, const Process&, const std::vector<ino_t>& pipes)> kill_tree;
  // The file system that holds what a container has written, statfs(2), where it has one of its own; empty: none has.
  std::function<std::string(const std::string& id)> writable_layer;
};

struct CreateRequest {
  std::string id, bundle;
  std::vector<oci::RootfsMount> rootfs;
  StdioRequest stdio;    // without sinks
  std::optional<bool> systemd_cgroup;  // nothing: as the spec's cgroupsPath has it
  bool own_stdio = false;  // we keep the stdio: log_path, or dropped; else stdio's paths, or /dev/null
  std::string checkpoint;  // not empty: the absolute path of the images (checkpoint.h) that Start restores
  std::string criu_path;   // for that; empty: criu of the usual folders
  std::string log_path;  // output goes there in the CRI's format
  size_t log_max_line_bytes = 0;
};

class Tasks {
 public:
  // `ended`: whom it hears from of processes that have ended; null: OwnChildren. Both outlive it.
  static Result<std::unique_ptr<Tasks>> Create(sys::EventLoop* loop, EndedProcesses* ended = nullptr);
  ~Tasks();

  void set_options(TasksOptions options) { options_ = std::move(options); }
  const TasksOptions& options() const { return options_; }
  sys::EventLoop* loop() { return loop_; }
  // No container is created or started any more, nor anything exec'd.
  void Close() { closed_ = true; }

  Result<Task*> Create(CreateRequest request);
  // kNotFound names the id.
  Result<Task*> Find(const std::string& id);
  // The init with an empty `exec_id`.
  Result<Process*> FindProcess(const std::string& id, const std::string& exec_id);
  // Answers at once but for a container that is restored.
  void Start(Task* task, std::function<void(Result<>)> done);
  // A process to be started in the container.
  Result<Process*> AddExec(Task* task, const std::string& exec_id, oci::ExecOptions options, StdioRequest stdio);
  // On failure it counts as ended.
  Result<> StartExec(Task* task, Process* process);
  void Forget(Task* task, const std::string& exec_id) { task->execs.erase(exec_id); }
  // Ended already: `waiter` runs at once.
  void Wait(Process* process, Process::Waiter waiter);
  // To the container (`all`: to each process in it) or to one process (SIGKILL with `all`: and all that came of it).
  // Ended already: success.
  Result<> Kill(Task* task, const std::string& exec_id, int signal, bool all);
  // Attaches a client to a running container (attachments.h); true if it can write to stdin. kFailedPrecondition for one
  // that does not run or whose stdio is not ours.
  Result<bool> Attach(Task* task, const std::string& attach_id, const Attachments::Paths& paths);
  // SIGKILL to a process that was exec'd and to all that came of it (process_tree.h).
  void KillTree(Task* task, const Process& process);
  Result<> Pause(Task* task);
  Result<> Resume(Task* task);
  // Its checkpoint is in `path` now.
  void Checkpointed(Task* task, const std::string& path) { Publish(&CheckpointedEvent, *task, path); }
  // Removes a container that has ended or was never started; kFailedPrecondition while it runs.
  Result<> Delete(Task* task);
  // SIGKILL to everything, without asking anyone; then all is removed but for what is known of its end.
  Result<> DestroyAll(int64_t deadline_millis);

  const std::map<std::string, std::unique_ptr<Task>>& all() const { return tasks_; }
  // True once an OOM kill was seen in it.
  bool OomKilled(Task* task);

 private:
  explicit Tasks(sys::EventLoop* loop) : loop_(loop), scratch_(loop) {}
  void TakeEnds();
  void OnInitExit(Task* task);
  void WatchOom(Task* task);
  void UnwatchOom(Task* task);
  Result<> OpenLog(const CreateRequest& request, Task* task);
  Result<> EndCreated(Task* task);
  Result<> PrepareRestorer(const CreateRequest& request, oci::Restorer* restorer, Task* task);
  void Started(Task* task, int64_t at_nanos);
  Process* FindByPid(int pid, Task** task);
  template <class... Args>
  void Publish(Event (*make)(const Args&...), const Args&... args) {
    if (options_.on_event) options_.on_event(make(args...));
  }

  sys::EventLoop* loop_;
  Scratch scratch_;
  std::unique_ptr<EndedProcesses> children_;  // where nobody else told us
  EndedProcesses* ended_ = nullptr;
  TasksOptions options_;
  bool closed_ = false;
  std::map<std::string, std::unique_ptr<Task>> tasks_;
};

}  // namespace caisson::task
