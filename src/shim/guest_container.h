// SPDX-License-Identifier: Apache-2.0
//
// What a companion keeps of a container in its guest, and of the processes in it. Values of GuestTasks; one thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "caisson/pod/v1/pod.pb.h"
#include "containerd/task_v3.pb.h"
#include "shim/guest_spec.h"
#include "shim/guest_stdio.h"
#include "task/attachments.h"
#include "task/log_file.h"
#include "task/log_program.h"

namespace caisson::shim {

struct GuestProcess {
  using Waiter = std::function<void(const GuestProcess&)>;

  std::string exec_id;  // empty: the container's init
  bool terminal = false, keep_stdin = false;
  std::string in_path, out_path, err_path;  // as in task/process.h; empty: none
  std::shared_ptr<task::LogProgram> log_program;
  uint32_t pid = 0;                         // the guest's
  bool started = false;
  bool exited = false;  // and all that it wrote has been taken
  bool ended_with_vm = false;
  uint32_t exit_status = 0;
  int64_t exited_at_nanos = 0;
  std::vector<Waiter> waiters;

  UniqueFd stdin_writer;  // of the pipe or FIFO that `in` reads; closed: its end comes when the others are
  std::unique_ptr<GuestInput> in;
  std::shared_ptr<GuestOutput> out, err;

  // The outputs reach nobody any more.
  void StopStdio() {
    if (out) out->Stop();
    if (err) err->Stop();
    in.reset();
    stdin_writer.Reset();
    log_program.reset();
  }
};

struct GuestContainer {
  std::string id, bundle;
  bool created = false;    // in the guest; before that nobody finds it
  bool own_stdio = false;  // it comes to the log and to who is attached
  std::unique_ptr<task::LogFile> log;
  std::shared_ptr<GuestProcess> init = std::make_shared<GuestProcess>();
  std::unique_ptr<task::Attachments> attachments;
  std::map<std::string, std::shared_ptr<GuestProcess>> execs;
  std::vector<std::string> serials;  // of its layers' disks
  std::string root_folder;           // the shared folder below its root, where there are no layers; empty: none
  std::vector<GuestVolume> volumes;
  std::optional<int> oom_score_adj;
  std::optional<pod::v1::ContainerInfoResponse> info;  // as the guest told it at the end
  std::vector<pod::v1::Phase> phases;  // of its creation

  void Write(task::LogFile::Stream stream, const std::string& bytes) {
    if (log) log->Write(stream, bytes);
    if (attachments) attachments->Write(stream, bytes);
  }
};

}  // namespace caisson::shim
