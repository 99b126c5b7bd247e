// SPDX-License-Identifier: Apache-2.0
//
// TemplateKeeper: the process that makes a template and then holds it (caisson.keeper.v1). It boots a VM that is no pod's:
// no disk, a network card that leads nowhere, an agent that has been asked nothing but what it is. When the guest has nothing
// left to do it is paused and saved, its VMM ends, memory and state are sealed, and only then there is a socket to take them
// from (template_socket.h).
//
// Life cycle: Make once; it ends (`on_end`) when that has failed or nobody has used the template for as long as Make said; or
// by SIGKILL, at any time: what clones have taken is theirs. All it leaves is its folder, which is the daemon's to remove. One
// thread, the loop's; the VMM's few calls block it.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "caisson/keeper/v1/keeper.pb.h"
#include "shim/template_socket.h"
#include "sys/event_loop.h"
#include "ttrpc/client.h"
#include "ttrpc/greeting.h"
#include "ttrpc/server.h"
#include "vmm/vm.h"

namespace caisson::shim {

class TemplateKeeper {
 public:
  // `folder`: its own, nobody else may enter. `loop` outlives it.
  TemplateKeeper(std::string id, std::string folder, sys::EventLoop* loop, std::function<void()> on_end);
  ~TemplateKeeper();

  // Before the server listens; it outlives the server.
  void Register(ttrpc::Server* server);

 private:
  using Made = std::function<void(Result<keeper::v1::MakeResponse>)>;

  void Make(const keeper::v1::MakeRequest& request, Made respond);
  Result<> Begin();
  Result<> StartVm(vmm::VmConfig config);
  void OnGreeted(Result<UniqueFd> stream);
  // Asks the agent until its machine has settled, or that has taken too long.
  void Ask();
  // The agent is left alone, so that it listens for another when it is saved.
  void Leave();
  Result<> Save();
  Result<> Publish();
  void OnClient();
  // The first word is the last.
  void Finish(Result<> result);
  void DropVm();
  void RestartIdleTimer();
  keeper::v1::StatusResponse Status() const;

  const std::string id_, folder_, run_dir_;
  sys::EventLoop* loop_;
  std::function<void()> on_end_;
  keeper::v1::MakeRequest request_;
  bool begun_ = false;
  Made respond_;
  UniqueFd port_;  // our end of the machine's port for files
  std::unique_ptr<vmm::Vm> vm_;
  std::unique_ptr<ttrpc::Greeting> greeting_;
  std::shared_ptr<ttrpc::Client> client_;
  int64_t settle_by_ = 0;  // on the monotonic clock
  TemplateFiles files_;
  UniqueFd listener_;
  sys::EventLoop::TimerId step_timer_ = 0, idle_timer_ = 0;
  int64_t made_at_ = 0, used_at_ = 0;
  uint64_t uses_ = 0;
};

}  // namespace caisson::shim
