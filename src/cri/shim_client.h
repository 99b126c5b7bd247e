// SPDX-License-Identifier: Apache-2.0
//
// ShimClient: one companion as the daemon sees it: its ttRPC connection and a pidfd that tells when it dies. Shims
// spawns companions and finds those that a former daemon left, and runs the one event-loop thread all clients share.
//
// Calls block the calling thread under a deadline, never the loop. Thread-safe. A ShimClient never kills its companion
// unless told; dropping it leaves the companion running.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sys/event_loop.h"
#include "ttrpc/client.h"

namespace caisson::cri {

namespace service {
inline constexpr std::string_view kSandbox = "containerd.runtime.sandbox.v1.Sandbox";
inline constexpr std::string_view kTask = "containerd.task.v3.Task";
inline constexpr std::string_view kPod = "caisson.pod.v1.Pod";
}  // namespace service

class ShimClient {
 public:
  virtual ~ShimClient() = default;

  virtual int pid() const = 0;
  virtual uint64_t start_ticks() const = 0;
  virtual ttrpc::Client& ttrpc() = 0;
  // True once the companion has died.
  virtual bool gone() const = 0;
  // Waits for the companion's death; false if `millis` pass first.
  virtual bool WaitGone(int64_t millis) = 0;
  // SIGKILL to the companion (by pidfd). Gone already: success.
  virtual void Kill() = 0;
  // Ends the connection; the companion stays.
  virtual void Close() = 0;

  // One request with the default deadline (Config::shim_timeout_seconds) or another.
  template <class Response, class Request>
  Result<Response> Call(std::string_view service, std::string_view method, const Request& request,
                        int64_t timeout_millis = 0) {
    return ttrpc().CallSyncTyped<Response>(service, method, request,
                                           timeout_millis > 0 ? timeout_millis : default_timeout_millis_);
  }

 protected:
  int64_t default_timeout_millis_ = 60'000;
};

class Shims {
 public:
  struct SpawnOptions {
    std::string pod_id;
    std::string program;   // the companion's binary
    std::string pod_dir;   // holds shim.sock, shim.pid and shim.log
    std::vector<std::string> arguments;  // after `serve --id … --listen-fd 3`
  };
  // Called on the loop's thread: `died`: the companion is dead and its last words have been read; else only the
  // connection has ended. Must not block: hand over to another thread.
  using EndCallback = std::function<void(const std::string& pod_id, bool died)>;

  static Result<std::unique_ptr<Shims>> Create(int64_t default_timeout_millis);
  virtual ~Shims() = default;  // companions live on
  // Ends the loop's thread: no callback runs afterwards, calls fail when their connection is closed.
  virtual void Stop() = 0;

  // Before the first Spawn or Attach.
  virtual void OnEnd(EndCallback callback) = 0;
  // Starts a companion and connects to it.
  virtual Result<std::shared_ptr<ShimClient>> Spawn(const SpawnOptions& options) = 0;
  // Connects to a companion of a former daemon; kNotFound if it is not that process any more.
  virtual Result<std::shared_ptr<ShimClient>> Attach(const std::string& pod_id, const std::string& pod_dir, int pid,
                                                     uint64_t start_ticks) = 0;
  // The same for a companion that no record names: its pid is read from the file Spawn wrote beside the socket.
  virtual Result<std::shared_ptr<ShimClient>> AttachByFile(const std::string& pod_id, const std::string& pod_dir) = 0;
};

// Runs `program arguments…` of the companion to its end, under a deadline; its output goes to `log_path`.
Result<> RunCompanionCommand(const std::string& program, const std::vector<std::string>& arguments,
                             const std::string& log_path, int64_t deadline_millis);

}  // namespace caisson::cri
