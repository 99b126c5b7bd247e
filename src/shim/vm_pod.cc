// SPDX-License-Identifier: Apache-2.0
#include "shim/vm_pod.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "net/tc.h"
#include "shim/cgroup_record.h"
#include "shim/template_socket.h"
#include "shim/vm_machine.h"
#include "sys/netlink.h"
#include "sys/path.h"
#include "ttrpc/client.h"

namespace caisson::shim {
namespace {

// A clone that has said nothing in this time never will; it would have booted by then.
constexpr int64_t kWakeMillis = 10'000;
// A keeper only sends what it has; one that does not is frozen.
constexpr int64_t kTemplateMillis = 1'000;
// From the end of the channel to that of the VMM, where the one comes of the other.
constexpr int64_t kChannelMillis = 500;
constexpr int64_t kConfigureMillis = 30'000;
constexpr size_t kConsoleTailBytes = 600, kPanicBytes = 8 << 10;
constexpr size_t kEntropyBytes = 64;

Error Refused(const std::string& id, const char* what) {
  return MakeError(Code::kFailedPrecondition, "pod sandbox '{}': a VM cannot have {}; use a handler whose sandbox is native", id, what);
}

Result<> CheckOptions(const std::string& id, const pod::v1::SandboxOptions& options) {
  if (!options.has_vm()) return MakeError(Code::kInvalidArgument, "pod sandbox '{}': its options say nothing of a VM", id);
  if (options.host_network()) return Refused(id, "the host's network");
  if (options.host_ipc()) return Refused(id, "the host's IPC namespace");
  if (options.uid_maps_size() > 0 || options.gid_maps_size() > 0) return Refused(id, "a user namespace of the host's");
  return CheckVmOptions(options.vm());
}

Result<int> IndexOf(const std::string& name) {
  auto socket = TRY(sys::RouteSocket::Open());
  for (const sys::Link& link : TRY(socket.Links(limits::kNetnsInterfaces))) {
    if (link.name == name) return link.index;
  }
  return MakeError(Code::kNotFound, "the pod's network namespace has no interface '{}'", name);
}

void FillNetwork(const sys::NetworkSetup& setup, guest::v1::ConfigureRequest* request) {
  for (const auto& one : setup.interfaces) {
    auto* to = request->add_interfaces();
    to->set_name(one.name);
    to->set_mac(one.mac);
    to->set_mtu(one.mtu);
    for (const auto& address : one.addresses) to->add_addresses(address);
  }
  for (const auto& one : setup.routes) {
    auto* to = request->add_routes();
    to->set_destination(one.destination);
    to->set_gateway(one.gateway);
    to->set_device(one.device);
    to->set_source(one.source);
    to->set_scope(one.scope);
    to->set_on_link(one.on_link);
    to->set_metric(one.metric);
  }
  for (const auto& one : setup.neighbours) {
    auto* to = request->add_neighbours();
    to->set_address(one.address);
    to->set_mac(one.mac);
    to->set_device(one.device);
  }
}

}  // namespace

VmPod::VmPod(std::string id, sys::EventLoop* loop, std::function<void()> on_end)
    : SandboxPod(std::move(id)), loop_(loop), on_end_(std::move(on_end)), tasks_(loop, &client_), service_(loop, &client_), clock_(loop, &client_, [this] { OnSilence(); }, {}) {}

VmPod::~VmPod() { (void)Stop(kStopMillis); }

void VmPod::Register(ttrpc::Server* server, const std::function<void()>& on_shutdown) {
  tasks_.Register(server, on_shutdown);
  service_.Register(server);
  RegisterResize(server);
  RegisterWarmUp(server);
}

void VmPod::ForContainerd(std::string containerd_namespace, GuestTasks::Adapt adapt, ReadAny read_options) {
  tasks_.ForContainerd(std::move(containerd_namespace), std::move(adapt));
  read_options_ = std::move(read_options);
}

// In whose network namespace the pod's network is.
int VmPod::ToldPid() const { return read_options_ ? getpid() : sandbox_pid_; }

// In the pod's network namespace, which this process enters for good.
Result<> VmPod::MakeTap(const std::string& netns_path) {
  if (netns_path.empty()) return {};
  UniqueFd netns(open(netns_path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!netns) return ErrnoError("open the pod's network namespace '{}'", netns_path);
  if (setns(netns.get(), CLONE_NEWNET) != 0) return ErrnoError("enter the pod's network namespace '{}'", netns_path);
  tap_ = TRY(net::OpenTap(0, kFirstMtu));
  return {};
}

Result<> VmPod::MakeConfig(const std::string& folder) {
  config_ = VmConfigOf(id(), folder + "/vm", options_.vm());
  if (mkdir(config_.run_dir.c_str(), 0700) != 0 && errno != EEXIST) return ErrnoError("make '{}'", config_.run_dir);
  return {};
}

// Recorded first, so that someone can clean up if we are killed.
Result<> VmPod::MakeCgroup(const std::string& bundle) {
  if (options_.vm().cgroup_path().empty()) return {};
  TRY(RecordCgroup(bundle, options_.vm().cgroup_path(), options_.systemd_cgroup()));
  cgroup_ = TRY(oci::Cgroup::Create({options_.vm().cgroup_path(), options_.systemd_cgroup(), {}, false}));
  for (const auto& hierarchy : cgroup_->Hierarchies()) config_.cgroup_procs.push_back(hierarchy.path + "/cgroup.procs");
  return {};
}

Result<> VmPod::Prepare(const std::string& bundle, const std::string& netns_path, const pod::v1::SandboxOptions& options) {
  TRY(CheckFresh());
  TRY(CheckOptions(id(), options));
  if (!bundle.starts_with('/')) return MakeError(Code::kInvalidArgument, "pod sandbox '{}': its bundle '{}' is not absolute", id(), bundle);
  state_ = State::kFailed;
  const pod::v1::VmOptions former = std::exchange(options_, options).vm();
  bundle_ = bundle;
  if (options.vm().debug()) tasks_.AllowDebug();
  TRY(MakeConfig(bundle));
  TRY(MakeCgroup(bundle));
  if (!TakeOver(netns_path, former)) {
    TRY(MakeTap(netns_path));
    TRY(StartMachine());
  }
  vcpus_ = config_.vcpus;
  memory_bytes_ = config_.memory_bytes;
  created_at_nanos_ = NowNanos();
  state_ = State::kCreated;
  return {};
}

Result<> VmPod::StartMachine() {
  if (options_.vm().template_dir().empty()) return StartOne(false);
  auto started = StartOne(true);
  return started ? started : FallBack(started.error());
}

Result<> VmPod::StartOne(bool clone) {
  cloned_ = clone;
  ++attempt_;
  phase_began_ = NowNanos();
  machine_began_ = MonotonicNanos();
  vmm::VmConfig config = config_;
  if (tap_) config.nic.tap_fd = tap_->fd.get();
  TemplateFiles from;
  if (clone) {
    from = TRY(TakeTemplate(options_.vm().template_dir(), config.memory_bytes, kTemplateMillis));
    if (from.memory) config.memory = {sys::FdPath(from.memory.get()), false};
    config.restore_from = sys::FdPath(from.state.get());
  }
  auto [files, files_of_vm] = TRY(MakeFilesPort());
  config.files_fd = files_of_vm.get();
  tasks_.files()->SetGuest(std::move(files), config.cgroup_procs, [this](const std::string& reason) { EndWith({"FileServerDied", reason}); });
  vm_ = TRY(vmm::CreateQemu(std::move(config), loop_));
  TRY(vm_->Start(kVmmMillis));
  AddPhase(clone ? "vm_restore" : "vm_spawn", phase_began_);
  TRY(loop_->Watch(vm_->pidfd(), EPOLLIN, [this](uint32_t) { OnVmmEnd(); }));
  tasks_.SetVm(vm_.get());
  service_.SetVm(vm_.get());
  UniqueFd channel = TRY(vm_->OpenChannel(kVmmMillis));
  greeting_ = ttrpc::Greeting::AsClient(loop_, std::move(channel), clone ? kWakeMillis : kBootMillis,
                                        [this](Result<UniqueFd> stream) { OnGreeted(std::move(stream)); });
  phase_began_ = NowNanos();
  return {};
}

Result<> VmPod::FallBack(const Error& why) {
  template_error_ = why.message;
  log::Warn("pod {}: no clone of template '{}', it boots: {}", id(), options_.vm().template_dir(), why.message);
  DropMachine();
  return StartOne(false);
}

void VmPod::DropMachine() {
  ++attempt_;
  greeting_.reset();
  greeted_.reset();
  loop_->Post([former = client_.Disconnect()] {});
  tasks_.SetVm(nullptr);
  service_.SetVm(nullptr);
  if (vm_ && vm_->pidfd() >= 0) loop_->Unwatch(vm_->pidfd());
  vm_.reset();
}

void VmPod::Create(const std::string& bundle, const std::string& netns_path, const pod::v1::SandboxOptions& options, Done done) {
  auto booted = Prepare(bundle, netns_path, options);
  if (!booted && vm_) KillVm("it could not be started");
  done(std::move(booted));
}

void VmPod::OnGreeted(Result<UniqueFd> stream) {
  if (stream) {
    auto client = ttrpc::Client::Create(loop_, std::move(*stream));
    if (client) {
      (*client)->OnClosed([this, attempt = attempt_] {
        if (!client_.ended()) loop_->After(kChannelMillis, [this, attempt] { attempt == attempt_ ? OnChannelEnd() : void(); });
      });
      client_.Connect(std::move(*client));
    }
    greeted_ = client ? Result<>() : Result<>(std::move(client.error()));
    AddPhase(cloned_ ? "vm_wake" : "vm_boot", phase_began_);
    service_.SetStart(MonotonicNanos() - machine_began_, cloned_);
  } else {
    greeted_ = std::move(stream.error());
    if (MayFallBack()) {
      auto again = FallBack(greeted_->error());
      if (again) return;
      greeted_ = std::move(again.error());
    }
  }
  if (unowned_ != Unowned::kNone) return OnUnownedAgent();
  if (starting_) Configure();
}

void VmPod::Start(Done done) {
  if (state_ != State::kCreated || starting_) {
    return done(MakeError(Code::kFailedPrecondition, "pod sandbox '{}' is not in the state 'created'", id()));
  }
  starting_ = std::move(done);
  if (greeted_) Configure();
}

// What CNI has made is the guest's from here on. Its own stack hears of no frame any more.
Result<> VmPod::TakeOverNetwork(guest::v1::ConfigureRequest* request) {
  if (!tap_) return {};
  sys::NetworkSetup setup = TRY(sys::ReadNetwork());
  std::erase_if(setup.interfaces, [&](const auto& one) { return one.name == tap_->name; });
  std::erase_if(setup.routes, [&](const auto& one) { return one.device == tap_->name; });
  std::erase_if(setup.neighbours, [&](const auto& one) { return one.device == tap_->name; });
  if (setup.interfaces.empty()) return {};
  if (setup.interfaces.size() > 1) {
    return MakeError(Code::kUnimplemented, "the pod's network has {} interfaces; a VM pod has one", setup.interfaces.size());
  }
  TRY(net::JoinInterfaces(TRY(IndexOf(setup.interfaces.front().name)), tap_->index));
  FillNetwork(setup, request);
  return {};
}

Result<guest::v1::ConfigureRequest> VmPod::MakeConfiguration() {
  guest::v1::ConfigureRequest request;
  TRY(TakeOverNetwork(&request));
  std::string entropy(kEntropyBytes, '\0');
  if (getrandom(entropy.data(), entropy.size(), 0) != static_cast<ssize_t>(entropy.size())) return ErrnoError("get entropy for the guest");
  request.set_entropy(std::move(entropy));
  request.set_hostname(options_.hostname());
  *request.mutable_sysctls() = options_.sysctls();
  request.set_shm_bytes(options_.shm_bytes());
  request.set_share_pid(options_.share_pid());
  request.set_now_nanos(NowNanos());
  return request;
}

void VmPod::Configure() {
  if (!*greeted_) return FinishStart(std::move(*greeted_));
  client_.Call<guest::v1::HelloResponse>(guest_service::kGuest, "Hello", guest::v1::HelloRequest(), cloned_ ? kWakeMillis : kConfigureMillis,
                                         [this, attempt = attempt_, begin = NowNanos()](Result<guest::v1::HelloResponse> hello) {
    if (attempt != attempt_) return;
    if (!hello && MayFallBack()) {
      auto again = FallBack(hello.error());
      return again ? void() : FinishStart(std::move(again));
    }
    if (!hello) return FinishStart(std::move(hello.error()));
    AddPhase("vm_agent", begin);
    // The guest's messages are no contract between versions.
    if (hello->version() != CAISSON_VERSION) {
      return FinishStart(MakeError(Code::kFailedPrecondition, "the agent in '{}' is of version '{}', and this is {}: install the package caisson-guest of the same version, or run tools/build-guest",
                                   options_.vm().initrd(), hello->version().substr(0, 64), CAISSON_VERSION));
    }
    kernel_release_ = hello->kernel_release();
    SendConfiguration();
  });
}

void VmPod::SendConfiguration() {
  configuring_ = true;
  int64_t begin = NowNanos();
  auto request = MakeConfiguration();
  if (!request) return FinishStart(std::move(request.error()));
  AddPhase("vm_network", begin);
  client_.Call<guest::v1::ConfigureResponse>(guest_service::kGuest, "Configure", *request, kConfigureMillis,
                                             [this, begin = NowNanos()](Result<guest::v1::ConfigureResponse> configured) {
    if (!configured) return FinishStart(std::move(configured.error()));
    AddPhase("vm_configure", begin);
    sandbox_pid_ = static_cast<int>(configured->sandbox_pid());
    // Not before: a boot needs more than the pod will.
    if (options_.vm().has_cpu_limit()) LimitCpu(options_.vm().cpu_limit());
    state_ = State::kReady;
    auto clock = clock_.Start();
    if (!clock) log::Warn("pod {}: {}", id(), clock.error().message);
    auto ready = tasks_.OnReady();
    if (!ready) log::Warn("pod {}: its ports cannot be forwarded: {}", id(), ready.error().message);
    FinishStart({});
  });
}

void VmPod::FinishStart(Result<> result) {
  Done done = std::exchange(starting_, nullptr);
  if (!done) return;  // stopped meanwhile
  if (result) return done({});
  done(MakeError(result.error().code, "{}", WithConsole(result.error().message)));
}

std::string VmPod::WithConsole(const std::string& message) const {
  std::string tail = vm_ ? vm_->ConsoleTail(kConsoleTailBytes) : "";
  return tail.empty() ? message : message + "; its console ends with: " + tail;
}

VmEnd VmPod::EndOfVm() {
  uint64_t oom_kills = 0;
  if (auto stats = cgroup_ ? cgroup_->Stats(oci::StatsPart::kAll) : MakeError(Code::kNotFound, "no cgroup")) oom_kills = stats->memory.oom_kills;
  std::string status = vm_->EndReason();
  return ExplainVmEnd(status, oom_kills, vm_->ConsoleTail(kPanicBytes));
}

void VmPod::OnVmmEnd() {
  if (unowned_ != Unowned::kNone) return EndUnowned(vm_->EndReason());
  VmEnd end = EndOfVm();
  if (MayFallBack()) {
    auto again = FallBack(MakeError(Code::kUnavailable, "{}", end.message));
    if (again) return;
    end.message += "; " + again.error().message;
  }
  EndWith(end);
}

void VmPod::OnChannelEnd() {
  if (client_.ended() || (state_ != State::kCreated && state_ != State::kReady)) return;
  if (MayFallBack()) {
    auto again = FallBack(MakeError(Code::kUnavailable, "its agent closed the channel"));
    if (again) return;
  }
  EndWith({"ChannelBroken", WithConsole("the channel to the agent in the pod's VM broke")});
}

void VmPod::OnSilence() {
  constexpr int64_t kMillis = GuestClock::kUnanswered * GuestClock::Times().answer_millis;
  EndWith({"AgentSilent", WithConsole(fmt::format("the agent in the pod's VM has answered nothing for {} s", kMillis / 1000))});
}

void VmPod::EndWith(const VmEnd& end) {
  log::Error("pod {}: {}: {}", id(), end.reason, end.message);
  auto written = WriteVmEnd(bundle_, end);
  if (!written) log::Error("pod {}: {}", id(), written.error().message);
  tasks_.SetEnd(end);
  if (starting_) FinishStart(MakeError(Code::kInternal, "{}", end.message));
  auto stopped = End(end.message, kStopMillis);
  if (!stopped) log::Error("pod {}: {}", id(), stopped.error().message);
  on_end_();
}

void VmPod::KillVm(const std::string& why) {
  if (vm_->pidfd() >= 0) loop_->Unwatch(vm_->pidfd());
  greeting_.reset();
  clock_.Stop();
  client_.End(why);
  tasks_.OnVmEnd();
  vm_->Kill();
  tap_.reset();
}

void VmPod::AddPhase(const char* name, int64_t begin) { phases_ += fmt::format("{} {} {}\n", name, begin, NowNanos()); }

Result<> VmPod::End(const std::string& why, int64_t deadline_millis) {
  if (state_ == State::kStopped) return {};
  if (vm_) KillVm(why);
  if (cgroup_) TRY(cgroup_->Delete(Deadline::After(deadline_millis)));
  cgroup_.reset();
  if (starting_) FinishStart(MakeError(Code::kCancelled, "pod sandbox '{}' has been stopped", id()));
  if (!config_.run_dir.empty()) rmdir(config_.run_dir.c_str());
  SetStopped();
  return {};
}

std::map<std::string, std::string> VmPod::Info() const {
  return {{"vmm", options_.vm().vmm()},          {"accelerator", options_.vm().accelerator()},
          {"kernel", kernel_release_},           {"start", !cloned_ ? "boot" : was_warm_ ? "warm" : "clone"},
          {"template_error", template_error_},   {"phases", phases_}};
}

}  // namespace caisson::shim
