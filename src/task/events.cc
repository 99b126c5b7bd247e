// SPDX-License-Identifier: Apache-2.0
#include "task/events.h"

#include "base/clock.h"
#include "containerd/events.pb.h"
#include "task/tasks.h"
#include "task/timestamp.h"

namespace caisson::task {
namespace {

namespace ev = containerd::events;

template <class Message>
Event Make(const char* topic, const Message& message) {
  return {topic, message.GetTypeName(), message.SerializeAsString()};
}

// The init's process id is the container's own (as containerd's shims have it).
const std::string& IdOf(const Task& task, const Process& process) { return process.exec_id.empty() ? task.id : process.exec_id; }

}  // namespace

Event CreatedEvent(const Task& task, const std::vector<oci::RootfsMount>& rootfs) {
  ev::TaskCreate event;
  event.set_container_id(task.id);
  event.set_bundle(task.bundle);
  event.set_pid(static_cast<uint32_t>(task.init.oci.pid));
  event.set_checkpoint(task.checkpoint);
  for (const auto& mount : rootfs) {
    auto* added = event.add_rootfs();
    added->set_type(mount.type);
    added->set_source(mount.source);
    for (const std::string& option : mount.options) added->add_options(option);
  }
  event.mutable_io()->set_stdin(task.init.stdio.in_path);
  event.mutable_io()->set_stdout(task.init.stdio.out_path);
  event.mutable_io()->set_stderr(task.init.stdio.err_path);
  event.mutable_io()->set_terminal(task.init.stdio.terminal);
  return Make("/tasks/create", event);
}

Event StartedEvent(const Task& task) {
  ev::TaskStart event;
  event.set_container_id(task.id);
  event.set_pid(static_cast<uint32_t>(task.init.oci.pid));
  return Make("/tasks/start", event);
}

Event ExecAddedEvent(const Task& task, const Process& process) {
  ev::TaskExecAdded event;
  event.set_container_id(task.id);
  event.set_exec_id(process.exec_id);
  return Make("/tasks/exec-added", event);
}

Event ExecStartedEvent(const Task& task, const Process& process) {
  ev::TaskExecStarted event;
  event.set_container_id(task.id);
  event.set_exec_id(process.exec_id);
  event.set_pid(static_cast<uint32_t>(process.oci.pid));
  return Make("/tasks/exec-started", event);
}

Event ExitedEvent(const Task& task, const Process& process) {
  ev::TaskExit event;
  event.set_container_id(task.id);
  event.set_id(IdOf(task, process));
  event.set_pid(static_cast<uint32_t>(process.oci.pid));
  event.set_exit_status(process.exit_status);
  SetTime(process.exited_at_nanos, event.mutable_exited_at());
  return Make("/tasks/exit", event);
}

Event OomEvent(const Task& task) {
  ev::TaskOOM event;
  event.set_container_id(task.id);
  return Make("/tasks/oom", event);
}

Event PausedEvent(const Task& task) {
  ev::TaskPaused event;
  event.set_container_id(task.id);
  return Make("/tasks/paused", event);
}

Event ResumedEvent(const Task& task) {
  ev::TaskResumed event;
  event.set_container_id(task.id);
  return Make("/tasks/resumed", event);
}

Event CheckpointedEvent(const Task& task, const std::string& path) {
  ev::TaskCheckpointed event;
  event.set_container_id(task.id);
  event.set_checkpoint(path);
  return Make("/tasks/checkpointed", event);
}

Event DeletedEvent(const Task& task, const Process& process) {
  ev::TaskDelete event;
  event.set_container_id(task.id);
  event.set_id(process.exec_id);
  event.set_pid(static_cast<uint32_t>(process.oci.pid));
  event.set_exit_status(process.exit_status);
  SetTime(process.exited_at_nanos, event.mutable_exited_at());
  return Make("/tasks/delete", event);
}

}  // namespace caisson::task
