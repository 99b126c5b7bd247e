// SPDX-License-Identifier: Apache-2.0
#include "shim/containerd_vm.h"

#include <sched.h>
#include <unistd.h>

#include <climits>
#include <csignal>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/id.h"
#include "base/limits.h"
#include "base/log.h"
#include "containerd/runc_options.pb.h"
#include "oci/cgroup_systemd.h"
#include "shim/cgroup_record.h"
#include "shim/guest_client.h"
#include "shim/shim_actions.h"
#include "shim/shim_command.h"
#include "sys/guest_image.h"
#include "sys/path.h"
#include "task/metrics.h"
#include "task/task_service.h"
#include "task/timestamp.h"
#include "vmm/accelerator.h"

namespace caisson::shim {
namespace {

namespace v3 = containerd::task::v3;
using containerd::v1::types::Status;

constexpr uint32_t kSignalStatus = 128;

Error NoProcess(const std::string& id, const std::string& what) {
  return MakeError(Code::kFailedPrecondition, "container '{}' stands for the pod's virtual machine and has no process {}", id, what);
}

Result<bool> ReadSystemd(const v3::CreateTaskRequest& request) {
  if (!request.options().type_url().ends_with("containerd.runc.v1.Options")) return false;
  containerd::runc::v1::Options options;
  if (!options.ParseFromString(request.options().value())) return MakeError(Code::kInvalidArgument, "container '{}': its runc options do not parse", request.id());
  TRY(task::CheckRuncOptions(request.id(), options));
  return options.systemd_cgroup();
}

HostFacts ReadHostFacts(const ShimSettings& settings) {
  HostFacts host;
  char name[HOST_NAME_MAX + 1] = {};
  if (gethostname(name, sizeof name - 1) == 0) host.name = name;
  host.processors = std::max(1u, std::thread::hardware_concurrency());
  host.systemd = oci::IsSystemdThere();
  if (settings.accelerator == "auto") host.kvm = vmm::ProbeAccelerator().accelerator == vmm::Accelerator::kKvm;
  return host;
}

Result<> CheckImage(const ShimSettings& settings) {
  for (const std::string& file : {settings.kernel, settings.initrd}) {
    if (access(file.c_str(), R_OK) != 0) return ErrnoError("a pod that is a virtual machine needs the file '{}' (package caisson-guest, or the settings of the shim)", file);
  }
  return sys::CheckGuestImage(settings.kernel, settings.initrd, CAISSON_VERSION);
}

std::vector<oci::RootfsMount> RootfsOf(const v3::CreateTaskRequest& request) {
  std::vector<oci::RootfsMount> mounts;
  for (const auto& mount : request.rootfs()) mounts.push_back({mount.type(), mount.source(), {mount.options().begin(), mount.options().end()}});
  return mounts;
}

int64_t NanosOf(const wkt::Timestamp& time) { return time.seconds() * kNanosPerSecond + time.nanos(); }

}  // namespace

ContainerdVm::ContainerdVm(std::string id, std::string containerd_namespace, sys::EventLoop* loop, ShimSettings settings, task::EventSink on_event)
    : loop_(loop), settings_(std::move(settings)), on_event_(std::move(on_event)), pod_(std::move(id), loop, [this] { OnMachineEnd(kSignalStatus + SIGKILL); }) {
  pod_.SetSeccompCache(kSeccompFolder);
  pod_.ForContainerd(std::move(containerd_namespace), [this](const std::string& config) {
    return AdaptConfig(config, {pod_.id(), static_cast<uint32_t>(getpid()), static_cast<uint32_t>(pod_.SandboxPid()), sandbox_});
  }, [this](const wkt::Any& any) { return PlanSandbox(any); });
}

Result<ContainerdVm::ContainerPtr> ContainerdVm::Find(const std::string& id) {
  auto found = containers_.find(id);
  if (found == containers_.end()) return MakeError(Code::kNotFound, "no container '{}' in this pod", id.substr(0, 128));
  return found->second;
}

Result<ContainerdVm::Process*> ContainerdVm::FindProcess(const ContainerPtr& container, const std::string& exec_id) {
  if (exec_id.empty()) return &container->init;
  auto found = container->execs.find(exec_id);
  if (found == container->execs.end()) return MakeError(Code::kNotFound, "no process '{}' in container '{}'", exec_id.substr(0, 128), container->known.id);
  return found->second.get();
}

uint32_t ContainerdVm::PidOf(const Container& container, uint32_t in_guest) const {
  return sandbox_ && !crio_ && !container.machine ? in_guest : static_cast<uint32_t>(getpid());
}

void ContainerdVm::Create(const v3::CreateTaskRequest& request, Respond<v3::CreateTaskResponse> respond) {
  if (!IsSafeName(request.id())) return respond(MakeError(Code::kInvalidArgument, "'{}' cannot be a container's id", request.id().substr(0, 128)));
  if (containers_.contains(request.id())) return respond(MakeError(Code::kAlreadyExists, "container '{}' exists already", request.id()));
  auto container = std::make_shared<Container>();
  container->known.id = request.id();
  container->known.bundle = request.bundle();
  container->init.known = &container->known.init;
  auto& stdio = container->known.init.stdio;
  stdio.terminal = request.terminal();
  stdio.in_path = request.stdin();
  stdio.out_path = request.stdout();
  stdio.err_path = request.stderr();
  containers_[request.id()] = container;
  auto fail = [this, id = request.id(), respond](Error error) {
    containers_.erase(id);
    respond(std::move(error));
  };
  Boot(request, container, [this, request, container, respond, fail](Result<> booted) {
    if (!booted) return fail(std::move(booted.error()));
    if (container->machine) return Created(container, request, 0, respond);
    guest_.Call<v3::CreateTaskResponse>(guest_service::kTask, "Create", request, [this, request, container, respond, fail](Result<v3::CreateTaskResponse> created) {
      if (!created) return fail(std::move(created.error()));
      Created(container, request, created->pid(), respond);
    });
  });
}

Result<VmRequest> ContainerdVm::PlanMachine(const v3::CreateTaskRequest& request) {
  bool systemd = TRY(ReadSystemd(request));
  // CRI-O says it here, where containerd has said it at the start.
  std::string settings = TRY(SettingsPathOf(request.options()));
  if (!settings.empty()) settings_ = TRY(LoadShimSettings(settings));
  std::string config = TRY(sys::ReadFile(request.bundle() + "/config.json", limits::kJsonBytes));
  VmRequest vm = TRY(MakeVmRequest(config, pod_.id(), systemd, settings_, ReadHostFacts(settings_)));
  TRY(CheckImage(settings_));
  if (!vm.netns_path.empty()) return vm;
  // One of its own, as for any container: its interfaces, if it is to have some, come too late for the guest.
  if (unshare(CLONE_NEWNET) != 0) return ErrnoError("make the pod's network namespace");
  vm.netns_path = "/proc/self/ns/net";
  return vm;
}

Result<pod::v1::SandboxOptions> ContainerdVm::PlanSandbox(const wkt::Any& any) {
  auto config = TRY(ReadPodConfig(any));
  auto options = TRY(OptionsOf(config));
  TRY(CheckImage(settings_));
  TRY(CompleteOptions(config, pod_.id(), settings_, ReadHostFacts(settings_), &options));
  sandbox_ = by_service_ = true;
  return options;
}

void ContainerdVm::Boot(const v3::CreateTaskRequest& request, const ContainerPtr& container, Done done) {
  if (booted_ && *booted_ && !pod_.active()) return done(MakeError(Code::kFailedPrecondition, "the virtual machine of pod '{}' has ended", pod_.id()));
  if (booted_) return done(*booted_);
  if (pod_.active() && !booting_) return done({});  // made by the Sandbox service
  waiting_.push_back(std::move(done));
  if (std::exchange(booting_, true)) return;
  auto vm = PlanMachine(request);
  if (!vm) return Booted(std::move(vm.error()));
  sandbox_ = container->machine = vm->sandbox;
  crio_ = vm->crio;
  pod_.Create(request.bundle(), vm->netns_path, vm->options, [this](Result<> created) {
    if (!created) return Booted(std::move(created));
    pod_.Start([this](Result<> started) { Booted(std::move(started)); });
  });
}

void ContainerdVm::Booted(Result<> result) {
  booting_ = false;
  if (!result) {
    auto stopped = pod_.Stop(kStopMillis);
    if (!stopped) log::Error("stop pod {}: {}", pod_.id(), stopped.error().message);
  }
  booted_ = result;
  for (auto& done : std::exchange(waiting_, {})) done(result);
}

void ContainerdVm::Created(const ContainerPtr& container, const v3::CreateTaskRequest& request, uint32_t pid, const Respond<v3::CreateTaskResponse>& respond) {
  const uint32_t told = PidOf(*container, pid);
  container->known.init.oci.pid = static_cast<int>(told);
  auto written = WriteBundleFile(container->known.bundle, kInitPidFile, fmt::format("{}", told));
  if (!written) log::Warn("{}", written.error().message);
  Publish(task::CreatedEvent(container->known, RootfsOf(request)));
  if (!container->machine) Watch(container, InitOf(container));
  v3::CreateTaskResponse response;
  response.set_pid(told);
  respond(std::move(response));
}

void ContainerdVm::Start(const v3::StartRequest& request, Respond<v3::StartResponse> respond) {
  auto container = Find(request.id());
  if (!container) return respond(std::move(container.error()));
  auto found = FindProcess(*container, request.exec_id());
  if (!found) return respond(std::move(found.error()));
  std::shared_ptr<Process> process(*container, *found);
  if (!request.exec_id().empty()) process = (*container)->execs[request.exec_id()];
  auto started = [this, container = *container, process, respond](Result<v3::StartResponse> answer) {
    process->starting = false;
    if (answer) {
      process->started = true;
      if (process->own.exec_id.empty()) answer->set_pid(PidOf(*container, answer->pid()));
      process->known->oci.pid = static_cast<int>(answer->pid());
      const bool is_init = process->own.exec_id.empty();
      Publish(is_init ? task::StartedEvent(container->known) : task::ExecStartedEvent(container->known, process->own));
      if (!is_init) Watch(container, process);
    }
    respond(std::move(answer));
    if (process->end) TellEnd(container, process);
  };
  process->starting = true;
  if (!(*container)->machine) return guest_.Call<v3::StartResponse>(guest_service::kTask, "Start", request, started);
  if (!pod_.active()) return started(MakeError(Code::kFailedPrecondition, "the virtual machine of pod '{}' has ended", pod_.id()));
  started(v3::StartResponse());
}

void ContainerdVm::Exec(const v3::ExecProcessRequest& request, Respond<wkt::Empty> respond) {
  auto container = Find(request.id());
  if (!container) return respond(std::move(container.error()));
  if ((*container)->machine) return respond(NoProcess(request.id(), "to run another beside"));
  guest_.Call<wkt::Empty>(guest_service::kTask, "Exec", request, [this, request, container = *container, respond](Result<wkt::Empty> added) {
    if (!added) return respond(std::move(added));
    auto process = std::make_shared<Process>();
    process->own.exec_id = request.exec_id();
    container->execs[request.exec_id()] = process;
    Publish(task::ExecAddedEvent(container->known, process->own));
    respond(std::move(added));
  });
}

void ContainerdVm::Watch(const ContainerPtr& container, const std::shared_ptr<Process>& process) {
  v3::WaitRequest request;
  request.set_id(container->known.id);
  request.set_exec_id(process->own.exec_id);
  guest_.Call<v3::WaitResponse>(guest_service::kTask, "Wait", request, [this, container, process](Result<v3::WaitResponse> end) {
    if (end) OnEnd(container, process, *end);
  });
}

void ContainerdVm::OnEnd(const ContainerPtr& container, const std::shared_ptr<Process>& process, const v3::WaitResponse& end) {
  if (process->end) return;
  process->end = end;
  process->known->exited = true;
  process->known->exit_status = end.exit_status();
  process->known->exited_at_nanos = NanosOf(end.exited_at());
  // Its start is told first.
  if (!process->starting) TellEnd(container, process);
}

void ContainerdVm::TellEnd(const ContainerPtr& container, const std::shared_ptr<Process>& process) {
  auto tell = [this, container, process](bool out_of_memory) {
    const bool is_init = process->own.exec_id.empty();
    if (out_of_memory) Publish(task::OomEvent(container->known));
    if (is_init) {
      auto written = WriteBundleFile(container->known.bundle, kExitFile, fmt::format("{} {}", process->known->exit_status, process->known->exited_at_nanos));
      if (!written) log::Warn("{}", written.error().message);
    }
    Publish(task::ExitedEvent(container->known, *process->known));
    process->told = true;
    for (auto& then : std::exchange(process->then, {})) then();
  };
  if (container->machine || !process->own.exec_id.empty()) return tell(false);
  pod::v1::ContainerInfoRequest request;
  request.set_container_id(container->known.id);
  guest_.Call<pod::v1::ContainerInfoResponse>(guest_service::kPod, "ContainerInfo", request,
                                              [tell](Result<pod::v1::ContainerInfoResponse> info) { tell(info && info->oom_killed()); });
}

void ContainerdVm::OnMachineEnd(uint32_t status) {
  for (const auto& [id, container] : containers_) {
    if (!container->machine || container->init.end) continue;
    v3::WaitResponse end;
    end.set_exit_status(status);
    task::SetTime(NowNanos(), end.mutable_exited_at());
    return OnEnd(ContainerPtr(container), InitOf(container), end);
  }
}

void ContainerdVm::Wait(const v3::WaitRequest& request, Respond<v3::WaitResponse> respond) {
  auto container = Find(request.id());
  if (!container) return respond(std::move(container.error()));
  if (!(*container)->machine) return guest_.Call<v3::WaitResponse>(guest_service::kTask, "Wait", request, std::move(respond));
  auto process = FindProcess(*container, request.exec_id());
  if (!process) return respond(std::move(process.error()));
  if ((*process)->told) return respond(*(*process)->end);
  (*process)->then.push_back([process = *process, container = *container, respond] { respond(*process->end); });
}

void ContainerdVm::Kill(const v3::KillRequest& request, Respond<wkt::Empty> respond) {
  auto container = Find(request.id());
  if (!container) return respond(std::move(container.error()));
  if (!(*container)->machine) return guest_.Call<wkt::Empty>(guest_service::kTask, "Kill", request, std::move(respond));
  if (!request.exec_id().empty()) return respond(NoProcess(request.id(), "'" + request.exec_id().substr(0, 128) + "'"));
  if ((*container)->init.end || request.signal() == 0) return respond(wkt::Empty());
  auto stopped = pod_.Stop(kStopMillis);
  if (!stopped) return respond(std::move(stopped.error()));
  OnMachineEnd(kSignalStatus + std::min<uint32_t>(request.signal(), SIGRTMAX));
  respond(wkt::Empty());
}

void ContainerdVm::Delete(const v3::DeleteRequest& request, Respond<v3::DeleteResponse> respond) {
  auto container = Find(request.id());
  if (!container) return respond(std::move(container.error()));
  auto process = FindProcess(*container, request.exec_id());
  if (!process) return respond(std::move(process.error()));
  // Its end is told first.
  if ((*process)->end && !(*process)->told) {
    (*process)->then.push_back([this, request, container = *container, respond] { Remove(container, request, respond); });
    return;
  }
  Remove(*container, request, std::move(respond));
}

void ContainerdVm::Remove(const ContainerPtr& container, const v3::DeleteRequest& request, Respond<v3::DeleteResponse> respond) {
  auto removed = [this, container, request, respond](Result<v3::DeleteResponse> answer) {
    if (!answer) return respond(std::move(answer));
    if (!request.exec_id().empty()) {
      container->execs.erase(request.exec_id());
      return respond(std::move(answer));
    }
    answer->set_pid(static_cast<uint32_t>(container->known.init.oci.pid));
    containers_.erase(container->known.id);
    container->init.starting = true;  // an end that is heard of from now on is not told
    if (containers_.empty() && !sandbox_) {
      auto stopped = pod_.Stop(kStopMillis);
      if (!stopped) log::Error("stop pod {}: {}", pod_.id(), stopped.error().message);
    }
    // Nothing is left for `delete`, which may come late, when another of that name has its place.
    if (!pod_.active()) ForgetCgroups(container->known.bundle);
    Publish(task::DeletedEvent(container->known, container->known.init));
    respond(std::move(answer));
  };
  if (!container->machine) return guest_.Call<v3::DeleteResponse>(guest_service::kTask, "Delete", request, removed);
  if (container->init.started && !container->init.end) return respond(MakeError(Code::kFailedPrecondition, "container '{}' is running", request.id()));
  auto stopped = pod_.Stop(kStopMillis);
  if (!stopped) return respond(std::move(stopped.error()));
  v3::DeleteResponse response;
  if (container->init.end) {
    response.set_exit_status(container->init.end->exit_status());
    *response.mutable_exited_at() = container->init.end->exited_at();
  }
  removed(std::move(response));
}

void ContainerdVm::State(const v3::StateRequest& request, Respond<v3::StateResponse> respond) {
  auto container = Find(request.id());
  if (!container) return respond(std::move(container.error()));
  auto finish = [this, container = *container, is_init = request.exec_id().empty(), respond](Result<v3::StateResponse> state) {
    if (state && is_init) state->set_pid(PidOf(*container, state->pid()));
    respond(std::move(state));
  };
  if (!(*container)->machine) return guest_.Call<v3::StateResponse>(guest_service::kTask, "State", request, finish);
  auto process = FindProcess(*container, request.exec_id());
  if (!process) return respond(std::move(process.error()));
  v3::StateResponse response;
  response.set_id(request.id());
  response.set_bundle((*container)->known.bundle);
  response.set_status((*process)->end ? Status::STOPPED : (*process)->started ? Status::RUNNING : Status::CREATED);
  response.set_stdin((*container)->known.init.stdio.in_path);
  response.set_stdout((*container)->known.init.stdio.out_path);
  response.set_stderr((*container)->known.init.stdio.err_path);
  if ((*process)->end) {
    response.set_exit_status((*process)->end->exit_status());
    *response.mutable_exited_at() = (*process)->end->exited_at();
  }
  finish(std::move(response));
}

// Of the machine: what it takes of the host.
void ContainerdVm::Stats(const v3::StatsRequest& request, Respond<v3::StatsResponse> respond) {
  auto container = Find(request.id());
  if (!container) return respond(std::move(container.error()));
  if (!(*container)->machine) return guest_.Call<v3::StatsResponse>(guest_service::kTask, "Stats", request, std::move(respond));
  if (pod_.cgroup() == nullptr) return respond(MakeError(Code::kFailedPrecondition, "the virtual machine of pod '{}' has no cgroup of its own, or has ended", pod_.id()));
  auto stats = pod_.cgroup()->Stats(oci::StatsPart::kAll);
  if (!stats) return respond(std::move(stats.error()));
  v3::StatsResponse response;
  task::FillMetrics(*stats, pod_.cgroup()->IsV2(), response.mutable_stats());
  respond(std::move(response));
}

void ContainerdVm::SetPaused(const char* method, const std::string& id, const std::string& payload, Respond<wkt::Empty> respond) {
  auto container = Find(id);
  if (!container) return respond(std::move(container.error()));
  if ((*container)->machine) return respond(NoProcess(id, "to pause"));
  const bool pauses = std::string_view(method) == "Pause";
  guest_.Call(guest_service::kTask, method, payload, [this, pauses, container = *container, respond](Result<std::string> done) {
    if (!done) return respond(std::move(done.error()));
    Publish(pauses ? task::PausedEvent(container->known) : task::ResumedEvent(container->known));
    respond(wkt::Empty());
  });
}

}  // namespace caisson::shim
