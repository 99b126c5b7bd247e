// SPDX-License-Identifier: Apache-2.0
#include "shim/foreign_pod.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "containerd/ttrpc_events.pb.h"
#include "shim/cgroup_record.h"
#include "shim/foreign_spec.h"
#include "shim/foreign_start.h"
#include "sys/new_file.h"
#include "sys/own_program.h"
#include "sys/socket.h"

namespace caisson::shim {
namespace {

namespace events = containerd::services::events::ttrpc::v1;

constexpr char kEventsSocket[] = "events.sock";
constexpr size_t kSocketPathBytes = 100;  // sun_path has 108, and not every shim knows a way around it
constexpr int64_t kForeignEndMillis = 10'000;

Result<> MakePrivateFolder(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0) return ErrnoError("make '{}'", path);
  return {};
}

}  // namespace

ForeignPod::ForeignPod(std::string id, std::string seccomp_cache_dir, task::Tasks* tasks, std::function<void()> on_end)
    : SandboxPod(id), tasks_(tasks), loop_(tasks->loop()), on_end_(std::move(on_end)), native_(std::move(id), std::move(seccomp_cache_dir), tasks),
      shims_(loop_, [this](VmEnd end) {
        if (active()) EndWith(end);
      }),
      containers_(loop_, &shims_) {}

ForeignPod::~ForeignPod() { (void)Stop(kStopMillis); }

Result<> ForeignPod::MakeSandboxBundle() {
  SandboxContainer container{id(), TRY(sys::OwnProgram()), CgroupBesideContainers(options_, "sandbox-" + id()), getpid(), bundle_ + "/shm"};
  for (const std::string& folder : {bundle_ + "/io", bundle_ + "/sandbox", SandboxBundle(), SandboxBundle() + "/rootfs"}) TRY(MakePrivateFolder(folder));
  return sys::WriteNewFile(SandboxBundle() + "/config.json", SandboxContainerSpec(container, options_));
}

Result<> ForeignPod::ListenForEvents() {
  const std::string path = bundle_ + "/" + kEventsSocket;
  folder_ = UniqueFd(open(bundle_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!folder_) return ErrnoError("open '{}'", bundle_);
  events_path_ = path.size() < kSocketPathBytes ? path : fmt::format("/proc/{}/fd/{}/{}", getpid(), folder_.get(), kEventsSocket);
  events_ = ttrpc::Server::Create(loop_);
  events_->HandleTyped<events::ForwardRequest, wkt::Empty>(
      "containerd.services.events.ttrpc.v1.Events", "Forward", [this](const events::ForwardRequest& request, std::function<void(Result<wkt::Empty>)> respond) {
        containers_.OnEvent(request.envelope().topic(), request.envelope().event());
        respond(wkt::Empty());
      });
  return events_->Listen(TRY(sys::ListenUnix(path)));
}

Result<> ForeignPod::Prepare(const std::string& bundle, const pod::v1::SandboxOptions& options) {
  TRY(CheckFresh());
  if (options.runtime().type().empty() || !options.runtime().program().starts_with('/')) {
    return MakeError(Code::kInvalidArgument, "pod sandbox '{}': its options name no shim", id());
  }
  if (options.uid_maps_size() > 0 || options.gid_maps_size() > 0) {
    return MakeError(Code::kUnimplemented, "pod sandbox '{}': a pod with another project's shim cannot have a user namespace", id());
  }
  if (!bundle.starts_with('/')) return MakeError(Code::kInvalidArgument, "pod sandbox '{}': its bundle '{}' is not absolute", id(), bundle);
  options_ = options;
  bundle_ = bundle;
  state_ = State::kFailed;
  TRY(MakeSandboxBundle());
  TRY(ListenForEvents());
  record_ = std::make_unique<ForeignRecord>(bundle_);
  TRY(record_->Begin(options.runtime().program(), events_path_));
  containers_.SetPod({bundle_, bundle_ + "/shm", options.cgroup_parent(), options.systemd_cgroup(), TRY(ShimOptionsOf(options.runtime(), options.systemd_cgroup())), record_.get()});
  TRY(record_->Add(id(), SandboxBundle()));
  TRY(shims_.Begin({options.runtime().program(), bundle_, events_path_, CgroupBesideContainers(options, "shim-" + id()), options.systemd_cgroup(),
                    TRY(ShimOptionsOf(options.runtime(), options.systemd_cgroup())), record_.get()}));
  shim_ = TRY(shims_.StartFor(id(), SandboxBundle()));
  return {};
}

void ForeignPod::Create(const std::string& bundle, const std::string& netns_path, const pod::v1::SandboxOptions& options, Done done) {
  auto prepared = Prepare(bundle, options);
  if (!prepared) return done(std::move(prepared));
  native_.Create(bundle, netns_path, options, [this, done = std::move(done)](Result<> created) {
    if (created) {
      created_at_nanos_ = NowNanos();
      state_ = State::kCreated;
    }
    done(std::move(created));
  });
}

void ForeignPod::Start(Done done) {
  if (state_ != State::kCreated) return done(MakeError(Code::kFailedPrecondition, "pod sandbox '{}' is not in the state 'created'", id()));
  native_.Start([this, done = std::move(done)](Result<> started) {
    if (!started) return done(std::move(started));
    auto ready = [this, done](Result<> running) {
      if (running && state_ == State::kCreated) state_ = State::kReady;
      done(std::move(running));
    };
    containers_.RunSandboxContainer(id(), SandboxBundle(), shim_, ready, [this](uint32_t status) { OnSandboxEnd(status); });
  });
}

void ForeignPod::OnSandboxEnd(uint32_t status) {
  if (shim_->ended() || !active()) return;
  loop_->Post([this, status] {
    if (active()) EndWith({"SandboxEnded", fmt::format("the pod's sandbox container ended with status {}", status)});
  });
}

void ForeignPod::EndWith(const VmEnd& end) {
  log::Error("pod {}: {}: {}", id(), end.reason, end.message);
  auto written = WriteVmEnd(bundle_, end);
  if (!written) log::Error("pod {}: {}", id(), written.error().message);
  auto ended = End(end.message, end, kForeignEndMillis);
  if (!ended) log::Error("pod {}: {}", id(), ended.error().message);
  on_end_();
}

Result<> ForeignPod::Stop(int64_t deadline_millis) { return End("the pod has been stopped", {}, deadline_millis); }

Result<> ForeignPod::End(const std::string& why, const VmEnd& end, int64_t deadline_millis) {
  if (state_ == State::kStopped) return {};
  const Deadline deadline = Deadline::After(deadline_millis);
  // All processes first, and nobody's help is needed for it; the shim's own are the last of them.
  auto killed = containers_.KillAll(deadline);
  if (killed) killed = shims_.Kill(deadline);
  shims_.End(why);
  containers_.OnShimEnd(end);
  events_.reset();
  if (!bundle_.empty()) {
    auto cleaned = CleanUp(bundle_);
    if (cleaned) cleaned = CleanUpForeign(bundle_);
    if (killed) killed = std::move(cleaned);
  }
  auto native = native_.Stop(deadline.RemainingMillis());
  TRY(std::move(killed));
  TRY(std::move(native));
  SetStopped();
  return {};
}

}  // namespace caisson::shim
