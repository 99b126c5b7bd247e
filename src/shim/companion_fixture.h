// SPDX-License-Identifier: Apache-2.0
//
// CompanionTest starts a real companion as caissond does (an already listening socket as descriptor 3), speaks ttRPC to
// it, runs containers of a root file system of busybox alone, and checks after each test that nothing is left on the
// host: no process, mount, cgroup. For *_root_test.cc.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "caisson/pod/v1/pod.pb.h"
#include "containerd/sandbox.pb.h"
#include "containerd/task_v3.pb.h"
#include "sys/event_loop.h"
#include "ttrpc/client.h"

namespace caisson::shim {

namespace sandbox = containerd::runtime::sandbox::v1;
namespace v3 = containerd::task::v3;

struct LogLine {
  std::string time, stream, tag, text;
};

class CompanionTest : public testing::Test {
 protected:
  static constexpr char kSandbox[] = "containerd.runtime.sandbox.v1.Sandbox";
  static constexpr char kTask[] = "containerd.task.v3.Task";
  static constexpr char kPod[] = "caisson.pod.v1.Pod";
  static constexpr int64_t kMillis = 60'000;

  void SetUp() override;
  void TearDown() override;

  void Spawn();
  // Waits for the companion's end and reaps it; its wait status.
  int AwaitCompanion();
  // A pod with host network (or, with a user namespace, one of its own); created and started.
  void StartPod() { StartPod({}); }
  void StartPod(pod::v1::SandboxOptions options, const std::string& netns_path = "");
  Result<sandbox::CreateSandboxResponse> CreateSandbox(const pod::v1::SandboxOptions& options, const std::string& netns_path = "");

  // A configuration as caissond would write it; own mount, PID and cgroup namespace, the pod's IPC and UTS.
  nlohmann::json Spec(const std::string& script);
  // Writes the bundle and calls Task.Create, with the log at LogPath(id).
  Result<v3::CreateTaskResponse> Create(const std::string& id, const nlohmann::json& spec, pod::v1::CreateOptions options = {});
  Result<v3::CreateTaskResponse> Create(const std::string& id, const std::string& script) { return Create(id, Spec(script)); }
  Result<v3::CreateTaskResponse> Create(const std::string& id, const char* script) { return Create(id, Spec(script)); }
  Result<v3::StartResponse> Start(const std::string& id);
  // Both, which must succeed.
  void Run(const std::string& id, const std::string& script);
  v3::WaitResponse Wait(const std::string& id);
  Result<v3::DeleteResponse> Delete(const std::string& id);
  Result<wkt::Empty> Kill(const std::string& id, int signal, bool all = false);
  Result<pod::v1::ContainerInfoResponse> Info(const std::string& id);
  Result<pod::v1::ExecSyncResponse> ExecSync(const std::string& id, std::vector<std::string> args, int64_t timeout_millis = 0,
                                             uint64_t limit = 0);

  template <class Response, class Request>
  Result<Response> Call(const char* service, const char* method, const Request& request) {
    return client_->CallSyncTyped<Response>(service, method, request, kMillis);
  }

  std::string LogPath(const std::string& id) const { return folder_ + "/logs/" + id + "/0.log"; }
  std::vector<LogLine> Log(const std::string& path) const;
  // The texts of the lines, P parts joined.
  std::string LogText(const std::string& path) const;
  // Until `done`, by looking every few milliseconds; a failure of the test after a minute.
  static void Await(const char* what, const std::function<bool()>& done);
  // Host pids of processes whose command line has `marker`.
  static std::vector<int> Processes(const std::string& marker);
  std::vector<std::string> Cgroups() const;
  static size_t Mounts();

  std::string name_, folder_, bundle_, rootfs_;
  int pid_ = -1;
  std::shared_ptr<ttrpc::Client> client_;

 private:
  std::unique_ptr<sys::EventLoop> loop_;
  std::thread thread_;
  size_t mounts_before_ = 0;
};

}  // namespace caisson::shim
