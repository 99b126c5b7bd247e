// SPDX-License-Identifier: Apache-2.0
//
// EndedProcesses: where Tasks hears that processes have ended: from the kernel, which it reaps them of (OwnChildren), or from
// whoever does that for it. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::task {

struct EndedProcess {
  int pid = 0;
  uint32_t status = 0;  // the exit status, 128 + signal where one ended it
  int signal = 0;       // that ended it; 0: none
  int64_t at_nanos = 0;
};

class EndedProcesses {
 public:
  virtual ~EndedProcesses() = default;
  // Polls readable when there may be one. Its owner is this object.
  virtual int fd() const = 0;
  // The next of them; none: not now. Does not wait.
  virtual std::optional<EndedProcess> Next() = 0;
};

// Every child of this process, which becomes a child subreaper; SIGCHLD is blocked and taken from a signalfd(2).
Result<std::unique_ptr<EndedProcesses>> OwnChildren();

}  // namespace caisson::task
