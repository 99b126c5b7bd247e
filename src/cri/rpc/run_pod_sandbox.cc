// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <future>
#include <thread>

#include "base/id.h"
#include "base/log.h"
#include "base/scope_exit.h"
#include "base/strings.h"
#include "containerd/sandbox.pb.h"
#include "cri/exits.h"
#include "cri/foreign_runtime.h"
#include "cri/handler_probes.h"
#include "cri/pod_files.h"
#include "cri/pod_network.h"
#include "cri/pod_teardown.h"
#include "cri/rpc/rpc.h"
#include "cri/sandbox_spec.h"
#include "cri/steps.h"
#include "net/netns.h"

namespace caisson::cri {
namespace {

namespace sandbox = containerd::runtime::sandbox::v1;

// One pod's creation. Two threads share it: one makes the network, the other the companion; each writes only its own
// part of the record.
struct Creation {
  Context& context;
  Steps steps;
  PodRecord record;
  std::shared_ptr<ShimClient> shim;
  bool released = true;  // nothing is left that a later start would have to undo
  Rollback undo;
  std::string template_folder = {};  // that the VM was to be a clone of
  bool warm = false;                 // the companion is of the pool
};

Result<> CheckRequest(Context& context, const v1::RunPodSandboxRequest& request) {
  const auto& metadata = request.config().metadata();
  if (metadata.name().empty() || metadata.uid().empty()) {
    return MakeError(Code::kInvalidArgument, "the pod sandbox's metadata has no {}",
                     metadata.name().empty() ? "name" : "uid");
  }
  const std::string name = ResolveHandler(context.config, request);
  auto handler = context.config.handlers.find(name);
  if (handler == context.config.handlers.end()) {
    std::vector<std::string> known;
    for (const auto& [other, unused] : context.config.handlers) known.push_back(other);
    return MakeError(Code::kNotFound, "no runtime handler '{}' is configured (there are: {})", name.substr(0, 128),
                     Join(known, ", "));
  }
  TRY(BandwidthOf(request.config()));
  TRY(CheckSandboxConfig(request.config(), context.systemd_cgroup));
  if (handler->second.IsForeign()) {
    TRY(ForeignRuntimeOf(name, handler->second));
    if (context.probes != nullptr) TRY(context.probes->Check(name));
    return CheckForeignPod(name, request.config());
  }
  if (HasUserNamespace(request.config())) TRY(context.user_namespaces.Check(name));
  if (!handler->second.IsVm()) return {};
  TRY(CheckVmHandler(name, handler->second));
  return CheckVmPod(context.config, name, context.vm_accelerators.Of(name), request.config());
}

Result<> MakePodDir(const Creation& creation, const std::string& dir) {
  if (creation.warm) return creation.context.warm_pool.GiveFolder(creation.record.id(), dir);
  std::error_code error;
  std::filesystem::create_directory(dir, error);
  if (!error) std::filesystem::permissions(dir, std::filesystem::perms::owner_all, error);
  if (error) return SysError(error.value(), fmt::format("make directory '{}'", dir));
  return {};
}

Result<> AttachToNetwork(Creation& creation) {
  auto attachment = TRY(AttachmentOf(creation.record));
  SetNetwork(TRY(creation.context.cni.Add(attachment)), creation.record.mutable_network());
  creation.record.mutable_network()->set_attached(true);
  return {};
}

Result<> SpawnCompanion(Creation& creation) {
  if (creation.warm) return {};
  Context& context = creation.context;
  Shims::SpawnOptions options;
  options.pod_id = creation.record.id();
  options.program = TRY(FindCompanion(context.config, creation.record.resolved_handler()));
  options.pod_dir = context.config.PodDir(creation.record.id());
  options.arguments = CompanionArguments(context, creation.record.resolved_handler());
  if (creation.record.has_vm()) options.arguments.insert(options.arguments.end(), {"--sandbox", "vm"});
  creation.shim = TRY(context.shims.Spawn(options));
  return {};
}

bool HasTemplates(const Context& context, const PodRecord& record) {
  return record.has_vm() && context.config.handlers.at(record.resolved_handler()).templates;
}

Result<> CreateSandbox(Creation& creation) {
  Context& context = creation.context;
  const PodRecord& record = creation.record;
  sandbox::CreateSandboxRequest create;
  create.set_sandbox_id(record.id());
  create.set_bundle_path(context.config.PodDir(record.id()));
  create.set_netns_path(record.netns_path());
  create.mutable_options()->set_type_url("caisson.pod.v1.SandboxOptions");
  pod::v1::SandboxOptions options = SandboxOptionsOf(context.config, record.config(), context.systemd_cgroup);
  if (record.has_vm()) {
    *options.mutable_vm() = VmOptionsOf(context.config, record);
    if (HasTemplates(context, record)) creation.template_folder = context.templates.FolderFor(TemplateFor(context.config, record));
    options.mutable_vm()->set_template_dir(creation.template_folder);
  }
  const HandlerConfig& handler = context.config.handlers.at(record.resolved_handler());
  if (handler.IsForeign()) {
    *options.mutable_runtime() = TRY(ForeignRuntimeOf(record.resolved_handler(), handler));
    AddSandboxAnnotations(record.config(), options.mutable_runtime());
  }
  create.mutable_options()->set_value(options.SerializeAsString());
  TRY(creation.shim->Call<sandbox::CreateSandboxResponse>(service::kSandbox, "CreateSandbox", create));
  if (!HasUserNamespace(record.config())) return {};
  sandbox::SandboxStatusRequest ask;
  ask.set_sandbox_id(record.id());
  auto status = TRY(creation.shim->Call<sandbox::SandboxStatusResponse>(service::kSandbox, "SandboxStatus", ask));
  auto path = status.info().find("user_namespace");
  if (path == status.info().end()) return MakeError(Code::kInternal, "the companion does not say where the pod's user namespace is");
  creation.record.set_user_namespace_path(path->second);
  return {};
}

Result<> StartSandbox(Creation& creation, uint32_t* sandbox_pid) {
  sandbox::StartSandboxRequest start;
  start.set_sandbox_id(creation.record.id());
  *sandbox_pid = TRY(creation.shim->Call<sandbox::StartSandboxResponse>(service::kSandbox, "StartSandbox", start)).pid();
  return {};
}

// How its VM has started. What is not known of it does not keep the pod from running.
void LearnOfVm(Creation& creation) {
  Context& context = creation.context;
  sandbox::SandboxStatusRequest ask;
  ask.set_sandbox_id(creation.record.id());
  auto status = creation.shim->Call<sandbox::SandboxStatusResponse>(service::kSandbox, "SandboxStatus", ask);
  if (!status) return log::Warn("pod {}: {}", creation.record.id(), status.error().message);
  auto text = [&](const char* key) {
    auto found = status->info().find(key);
    return found == status->info().end() ? std::string() : found->second.substr(0, 8192);
  };
  auto& vm = *creation.record.mutable_vm();
  vm.set_start(text("start"));
  vm.set_template_error(text("template_error"));
  vm.set_kernel_release(text("kernel"));
  creation.steps.AddPhases(text("phases"));
  if (context.metrics != nullptr) context.metrics->CountVmStart(vm.template_error().empty() ? vm.start() : "fallback");
  if (vm.template_error().empty() || creation.template_folder.empty()) return;
  log::Warn("pod {} booted although there is a template: {}", creation.record.id(), vm.template_error());
  context.templates.Reject(creation.template_folder, vm.template_error());
}

Result<> StartCompanion(Creation& creation, uint32_t* sandbox_pid) {
  TRY(creation.steps.Run("sandbox_create", [&] { return CreateSandbox(creation); }));
  return creation.steps.Run("sandbox_start", [&] { return StartSandbox(creation, sandbox_pid); });
}

// With a user namespace the companion comes first: it is in there that the network namespace has to be made.
Result<> StartPartsInUserNamespace(Creation& creation, uint32_t* sandbox_pid) {
  TRY(creation.steps.Run("shim_spawn", [&] { return SpawnCompanion(creation); }));
  TRY(creation.steps.Run("sandbox_create", [&] { return CreateSandbox(creation); }));
  TRY(creation.steps.Run("netns", [&] {
    return net::BindNetns(fmt::format("/proc/{}/ns/net", creation.shim->pid()), creation.record.netns_path());
  }));
  TRY(creation.steps.Run("cni_add", [&] { return AttachToNetwork(creation); }));
  return creation.steps.Run("sandbox_start", [&] { return StartSandbox(creation, sandbox_pid); });
}

// Namespace and CNI on this thread, the companion on another: it needs the namespace, but not what CNI puts into it. A VM
// boots meanwhile, and takes over what CNI has made when it is started.
Result<> StartParts(Creation& creation) {
  uint32_t sandbox_pid = 0;
  Result<> network, companion;
  const bool vm = creation.record.has_vm();
  auto spawn = [&] { return creation.steps.Run("shim_spawn", [&] { return SpawnCompanion(creation); }); };
  if (HasUserNamespace(creation.record.config()) && !creation.record.netns_path().empty()) {
    companion = StartPartsInUserNamespace(creation, &sandbox_pid);
  } else if (creation.record.netns_path().empty()) {
    companion = spawn();
    if (companion) companion = StartCompanion(creation, &sandbox_pid);
  } else {
    std::promise<bool> netns_made;
    std::thread other([&, made = netns_made.get_future()]() mutable {
      companion = spawn();
      // When the namespace could not be made that is the error to report.
      if (!made.get() || !companion) return;
      companion = vm ? creation.steps.Run("sandbox_create", [&] { return CreateSandbox(creation); })
                     : StartCompanion(creation, &sandbox_pid);
    });
    network = creation.steps.Run("netns", [&] { return net::CreateNetns(creation.record.netns_path()); });
    netns_made.set_value(network.has_value());
    if (network) network = creation.steps.Run("cni_add", [&] { return AttachToNetwork(creation); });
    other.join();
    if (vm && network && companion) {
      companion = creation.steps.Run("sandbox_start", [&] { return StartSandbox(creation, &sandbox_pid); });
    }
  }
  if (vm && network && companion) LearnOfVm(creation);
  TRY(std::move(network));
  TRY(std::move(companion));
  creation.record.set_sandbox_pid(sandbox_pid);
  creation.record.set_shim_pid(static_cast<uint32_t>(creation.shim->pid()));
  creation.record.set_shim_start_ticks(creation.shim->start_ticks());
  return {};
}

void LogFailure(Creation& creation, const Result<>& undone) {
  if (undone) return;
  creation.released = false;
  log::Error("undo pod {}: {}", creation.record.id(), undone.error().message);
}

void DecideRuntime(Context& context, PodRecord* record) {
  const HandlerConfig& handler = context.config.handlers.at(record->resolved_handler());
  record->set_foreign_runtime(handler.runtime.empty() ? handler.runtime_type : handler.runtime);
  if (!handler.IsVm()) return;
  VmSize size = VmSizeOf(handler, record->config(), ReadHostSize());
  auto& vm = *record->mutable_vm();
  vm.set_vmm(handler.vmm);
  vm.set_accelerator(context.vm_accelerators.Of(record->resolved_handler()));
  vm.set_vcpus(size.vcpus);
  vm.set_memory_bytes(size.memory_bytes);
  vm.set_max_vcpus(size.max_vcpus);
  vm.set_machine(handler.machine);
  vm.set_max_memory_bytes(size.max_memory_bytes);
  vm.set_vmm_id(VmmIdOf(handler, record->id()));
  vm.set_debug(handler.debug);
}

// The pod of a machine that waits for it has that machine's id.
void TakeWarmMachine(Creation& creation) {
  Context& context = creation.context;
  PodRecord& record = creation.record;
  if (!HasTemplates(context, record)) return;
  auto machine = context.warm_pool.Take(TemplateFor(context.config, record));
  if (!machine) return;
  creation.undo.Add([&context, machine = *machine] { context.warm_pool.Drop(machine); });
  creation.warm = true;
  creation.shim = machine->shim;
  record.set_id(machine->id);
  record.mutable_vm()->set_vmm_id(VmmIdOf(context.config.handlers.at(record.resolved_handler()), record.id()));
}

// Once it has had the processors for itself, the next of its kind shall start sooner.
void PrepareForNext(Context& context, const PodRecord& record) {
  if (!HasTemplates(context, record)) return;
  const keeper::v1::MakeRequest shape = TemplateFor(context.config, record);
  if (record.vm().start() == "boot") return context.templates.Want(shape);
  context.warm_pool.Want(shape);
}

Result<std::string> Create(Context& context, const v1::RunPodSandboxRequest& request, const std::string& name) {
  // Before the creation, whose undo uses them last.
  std::string dir;
  PodPtr pod;
  Creation creation{context, Steps(context, "run_pod_sandbox"), {}, nullptr, true, {}};
  PodRecord& record = creation.record;
  record.set_id(NewId());
  *record.mutable_config() = request.config();
  record.set_handler(request.runtime_handler());
  record.set_resolved_handler(ResolveHandler(context.config, request));
  record.set_created_at_nanos(NowNanos());
  record.set_state(v1::SANDBOX_READY);
  record.set_boot_id(context.boot_id);
  record.set_systemd_cgroup(context.systemd_cgroup);
  record.set_creating(true);
  DecideRuntime(context, &record);
  TakeWarmMachine(creation);
  if (!HostNetwork(record)) record.set_netns_path(context.config.NetnsPath(record.id()));
  dir = context.config.PodDir(record.id());

  Rollback& undo = creation.undo;
  // Each undo is there before its step, and copes with a step that did nothing. What cannot be undone stays on record
  // for the next start.
  undo.Add([&] {
    if (creation.released) LogFailure(creation, context.pods.Withdraw(record.id()));
  });
  TRY(creation.steps.Run("announce", [&] { return context.pods.Announce(record); }));
  undo.Add([&] {
    std::error_code ignored;
    std::filesystem::remove_all(dir, ignored);
  });
  TRY(creation.steps.Run("pod_dir", [&] { return MakePodDir(creation, dir); }));
  TRY(creation.steps.Run("pod_files", [&] { return WritePodFiles(dir, record.config()); }));
  undo.Add([&] { LogFailure(creation, ReleaseNetwork(context, record)); });
  undo.Add([&] { LogFailure(creation, EndCompanion(context, record, creation.shim)); });
  TRY(StartParts(creation));

  undo.Add([&] { (void)context.pods.Remove(record.id()); });
  TRY(creation.steps.Run("record", [&] {
    record.set_creating(false);
    creation.steps.AppendTo(record.mutable_timeline());
    pod = std::make_shared<Pod>(record);
    pod->set_shim(creation.shim);
    return context.pods.Insert(pod, name);
  }));
  undo.Commit();
  PrepareForNext(context, record);
  // It may have died before there was a pod to tell of it.
  if (creation.shim->gone()) context.background.Post([&context, id = record.id()] { PodDied(context, id); });
  return record.id();
}

}  // namespace

Result<v1::RunPodSandboxResponse> RunPodSandbox(Context& context, const v1::RunPodSandboxRequest& request) {
  TRY(CheckRequest(context, request));
  std::string name = PodName(request.config().metadata());
  v1::RunPodSandboxResponse response;
  auto reservation = context.pods.Reserve(name, Fingerprint(request));
  if (reservation.exists) {
    // The same request again, after its answer was lost, gets the same answer.
    PodPtr pod = TRY(context.pods.Find(*reservation.outcome));
    auto record = pod->Get();
    v1::RunPodSandboxRequest first;
    *first.mutable_config() = record->config();
    first.set_runtime_handler(record->handler());
    if (record->state() != v1::SANDBOX_READY || Fingerprint(first) != Fingerprint(request)) {
      return MakeError(Code::kAlreadyExists, "pod sandbox name '{}' is already used by '{}'", name, record->id());
    }
    response.set_pod_sandbox_id(record->id());
    return response;
  }
  Result<std::string> outcome = std::move(reservation.outcome);
  if (reservation.owner) {
    outcome = Create(context, request, name);
    context.pods.Finish(name, outcome);
    context.sampler.Outdate();
  }
  if (!outcome) return std::move(outcome.error()).Within(fmt::format("run pod sandbox '{}'", name));
  response.set_pod_sandbox_id(*outcome);
  return response;
}

}  // namespace caisson::cri
