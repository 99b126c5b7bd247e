// SPDX-License-Identifier: Apache-2.0
//
// Requests of the Task API to a process that was exec'd in a container. Pure.
#pragma once

#include <signal.h>

#include <string>

#include "containerd/task_v3.pb.h"

namespace caisson::cri {

// Any of Task's requests that name a process by its container and its own id.
template <class Request>
Request ExecRequest(const std::string& container_id, const std::string& exec_id) {
  Request request;
  request.set_id(container_id);
  request.set_exec_id(exec_id);
  return request;
}

// The process goes with all that came of it.
inline containerd::task::v3::KillRequest KillExec(const std::string& container_id, const std::string& exec_id) {
  auto request = ExecRequest<containerd::task::v3::KillRequest>(container_id, exec_id);
  request.set_signal(SIGKILL);
  request.set_all(true);
  return request;
}

}  // namespace caisson::cri
