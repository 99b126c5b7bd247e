// SPDX-License-Identifier: Apache-2.0
//
// The events that containerd expects of a shim (containerd.events, docs of runtime v2, "Events"), as values: whoever
// started the companion may have them published. Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "oci/container.h"

namespace caisson::task {

struct Task;
struct Process;

struct Event {
  std::string topic;     // "/tasks/exit"
  std::string type_url;  // "containerd.events.TaskExit"
  std::string payload;
};
using EventSink = std::function<void(Event)>;

Event CreatedEvent(const Task& task, const std::vector<oci::RootfsMount>& rootfs);
Event StartedEvent(const Task& task);
Event ExecAddedEvent(const Task& task, const Process& process);
Event ExecStartedEvent(const Task& task, const Process& process);
Event ExitedEvent(const Task& task, const Process& process);
Event OomEvent(const Task& task);
Event PausedEvent(const Task& task);
Event ResumedEvent(const Task& task);
Event CheckpointedEvent(const Task& task, const std::string& path);
Event DeletedEvent(const Task& task, const Process& process);

}  // namespace caisson::task
