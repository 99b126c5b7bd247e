// SPDX-License-Identifier: Apache-2.0
//
// RuntimeProgram: an OCI runtime's binary of another project's, as its command line is known from runc (create, start, exec, kill,
// delete). Each run of it blocks under a deadline, after which it is killed with its process group; what it says went wrong
// is taken from its log, as far as limits allow. For single-threaded processes that leave its orphans to themselves (subreapers).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/container.h"

namespace caisson::oci {

struct RuntimeProgram {
  std::string program;                 // absolute
  std::vector<std::string> arguments;  // of each run, before its command
  std::string root;                    // the folder of its own state: all containers of a pod have the same
  bool systemd_cgroup = false;
  // Its containers live in a kernel of its own, in processes that are none of the host's (gVisor's runsc): one sandbox for the pod,
  // which its first container makes.
  bool sandboxed = false;
};

// Asks the program what it is (`--version`) and completes `runtime`. kFailedPrecondition: it does not run.
Result<> Identify(RuntimeProgram* runtime);

// One run: `command` follows what all runs have in common. `log`: a path that is written anew. With `stdio` its descriptors are the
// program's, else the null device. Errors: kDeadlineExceeded; kInternal with what the program says of its failure.
Result<> RunRuntime(const RuntimeProgram& runtime, const std::vector<std::string>& command, const std::string& log, const Stdio& stdio,
                    int64_t deadline_millis);
// The same with its output, of at most limits::kJsonBytes.
Result<std::string> AskRuntime(const RuntimeProgram& runtime, const std::vector<std::string>& command, const std::string& log, int64_t deadline_millis);
// Starts it and leaves it to the caller to reap.
Result<Process> StartRuntime(const RuntimeProgram& runtime, const std::vector<std::string>& command, const std::string& log, const Stdio& stdio);
// What it has written to `log` of its failure; else `otherwise`.
std::string SaidIn(const std::string& log, const std::string& otherwise);

// A socket at which a runtime delivers the master of a new terminal (--console-socket). The path is gone with it.
class ConsoleSocket {
 public:
  // In the folder `folder`; a long path is no obstacle.
  static Result<ConsoleSocket> Listen(const std::string& folder);
  ConsoleSocket(ConsoleSocket&& other) = default;
  ConsoleSocket& operator=(ConsoleSocket&& other) {
    std::swap(listener_, other.listener_);
    std::swap(folder_, other.folder_);
    std::swap(path_, other.path_);
    return *this;
  }
  ~ConsoleSocket();

  const std::string& path() const { return path_; }
  // The terminal. kDeadlineExceeded: none came.
  Result<UniqueFd> Take(int64_t deadline_millis);

 private:
  ConsoleSocket() = default;
  UniqueFd listener_, folder_;
  std::string path_;
};

}  // namespace caisson::oci
