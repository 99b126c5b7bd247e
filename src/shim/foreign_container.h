// SPDX-License-Identifier: Apache-2.0
//
// What a companion keeps of a container that another project's shim makes, and of the processes in it. Values of ForeignTasks; one thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "shim/foreign_client.h"
#include "task/attachments.h"
#include "task/log_file.h"
#include "task/process.h"

namespace caisson::shim {

struct ForeignProcess {
  task::Process process;       // its stdio, by FIFOs of ours that the shim opens, and its end
  task::FifoPaths fifos;
  std::vector<ino_t> pipes;    // that it was started with as its output, where its pid is one of the host's
  bool started = false;
  bool exiting = false;        // it has ended; what it wrote may still be on its way
  bool ended_with_shim = false;
  uint32_t status = 0;
  int64_t ended_at_nanos = 0;
};

struct ForeignContainer {
  std::string id, bundle;
  std::string cgroup_path, process_json;
  std::shared_ptr<ForeignClient> shim;  // that serves it
  bool created = false;    // by the shim; before that nobody finds it
  bool own_stdio = false;  // it comes to the log and to who is attached
  bool paused = false, oom_killed = false;
  int64_t created_at_nanos = 0;
  std::unique_ptr<task::LogFile> log;
  std::shared_ptr<ForeignProcess> init = std::make_shared<ForeignProcess>();
  std::unique_ptr<task::Attachments> attachments;  // goes before init's stdio
  std::map<std::string, std::shared_ptr<ForeignProcess>> execs;

  void Write(task::LogFile::Stream stream, std::string_view bytes) {
    if (log) log->Write(stream, bytes);
    if (attachments) attachments->Write(stream, bytes);
  }
};

}  // namespace caisson::shim
