// SPDX-License-Identifier: Apache-2.0
#include "shim/guest_tasks.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/clock.h"
#include "base/guest_words.h"
#include "base/id.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strings.h"
#include "shim/guest_spec.h"
#include "shim/root_tree.h"
#include "sys/path.h"
#include "sys/pipe.h"
#include "task/process.h"
#include "task/timestamp.h"

namespace caisson::shim {
namespace {

namespace v3 = containerd::task::v3;
using containerd::v1::types::Status;

constexpr char kCreateOptionsType[] = "caisson.pod.v1.CreateOptions";
constexpr int64_t kDiskMillis = 10'000;
constexpr int64_t kKillMillis = 10'000;
constexpr uint32_t kKilledStatus = 128 + 9, kLastStatus = 255;

// What a guest says of an end. Its clock may be wrong, and it may say anything: no time to come, no status that is none (wait(2)).
int64_t EndOf(const wkt::Timestamp& time) {
  const int64_t now = NowNanos();
  bool sane = time.seconds() >= 0 && time.seconds() <= now / kNanosPerSecond && time.nanos() >= 0 && time.nanos() < kNanosPerSecond;
  return sane ? std::min(now, time.seconds() * kNanosPerSecond + time.nanos()) : now;
}

uint32_t StatusOf(const v3::WaitResponse& ended) { return std::min(ended.exit_status(), kLastStatus); }

Result<> ReadOptions(const wkt::Any& any, GuestContainer* container) {
  if (!any.type_url().ends_with(kCreateOptionsType)) return {};
  pod::v1::CreateOptions options;
  if (!options.ParseFromString(any.value())) return MakeError(Code::kInvalidArgument, "container '{}': its CreateOptions do not parse", container->id);
  container->own_stdio = true;
  container->init->terminal = options.terminal();
  container->init->keep_stdin = options.stdin();
  container->init->in_path = container->init->out_path = container->init->err_path = "";
  return {};
}

// The log needs the Scratch, which outlives the container.
Result<> OpenLog(const wkt::Any& any, task::Scratch* scratch, GuestContainer* container) {
  pod::v1::CreateOptions options;
  if (!container->own_stdio || !options.ParseFromString(any.value()) || options.log_path().empty()) return {};
  container->log = TRY(task::LogFile::Open(options.log_path(), static_cast<size_t>(std::max<int64_t>(0, options.log_max_line_bytes())), scratch));
  return {};
}

const char* BufferIf(bool wanted) { return wanted ? task::kBufferPath : ""; }

}  // namespace

// One CreateTask from its request to its answer.
struct GuestTasks::Creation {
  ContainerPtr container;
  GuestSpec spec;
  std::vector<containerd::types::Mount> root;
  std::optional<oci::SeccompFilter> filter;
  bool shares_root = false;  // what `root` makes of the bundle's folder
  size_t root_layers = 0, volume_layers = 0;  // of the container's disks, where those of its root and those of its volumes end
  Respond<v3::CreateTaskResponse> respond;
  int64_t phase_began = NowNanos();

  // A phase ends here, the next begins.
  void EndPhase(const char* name) {
    pod::v1::Phase phase;
    phase.set_name(name);
    phase.set_begin_nanos(phase_began);
    phase.set_end_nanos(phase_began = NowNanos());
    container->phases.push_back(std::move(phase));
  }
};

void GuestTasks::SetVm(vmm::Vm* vm) {
  vm_ = vm;
  ApplyOomScore();
}

// What has been the pod's stays so while it has no container.
void GuestTasks::ApplyOomScore() {
  std::optional<int> least;
  for (const auto& [id, container] : containers_) {
    if (container->oom_score_adj && !container->init->exited) least = std::min(*container->oom_score_adj, least.value_or(*container->oom_score_adj));
  }
  oom_score_ = least.value_or(oom_score_);
  for (int pid : {vm_ != nullptr ? vm_->pid() : 0, files_.pid()}) {
    if (pid > 0) SetOomScore(pid, oom_score_);
  }
}

void GuestTasks::AllowDebug() {
  debug_ = std::make_shared<GuestContainer>();
  debug_->id = kGuestDebugContainer;
  debug_->created = true;
}

Result<GuestTasks::ContainerPtr> GuestTasks::Find(const std::string& id) {
  if (debug_ && id == kGuestDebugContainer) return debug_;
  auto found = containers_.find(id);
  if (found == containers_.end() || !found->second->created) return MakeError(Code::kNotFound, "no container '{}' in this pod", id.substr(0, 128));
  return found->second;
}

Result<GuestTasks::ProcessPtr> GuestTasks::FindProcess(const std::string& id, const std::string& exec_id) {
  ContainerPtr container = TRY(Find(id));
  if (exec_id.empty()) return container->init;
  auto found = container->execs.find(exec_id);
  if (found == container->execs.end()) return MakeError(Code::kNotFound, "no process '{}' in container '{}'", exec_id.substr(0, 128), id);
  return found->second;
}

Result<> GuestTasks::AttachDisk(const std::string& serial, const UniqueFd& fd, bool read_only, GuestContainer* container) {
  if (vm_ == nullptr) return MakeError(Code::kFailedPrecondition, "the pod's VM has ended");
  auto [disk, is_new] = disks_.try_emplace(serial);
  disk->second.containers.insert(container->id);
  container->serials.push_back(serial);
  if (!is_new) return {};
  disk->second.read_only = read_only;
  auto attached = vm_->Attach({serial, fd.get(), read_only}, kDiskMillis);
  if (!attached) disks_.erase(disk);
  return attached;
}

Result<> GuestTasks::AttachLayer(const std::string& path, GuestContainer* container) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  auto attached = fd ? AttachDisk(LayerSerial(path), fd, true, container) : Result<>(ErrnoError("open it"));
  if (!attached) return std::move(attached.error()).Within(fmt::format("attach layer '{}'", path));
  return {};
}

// Whoever may open a device may read and write it, as in a native pod; who else has it open on the host is not our affair.
Result<> GuestTasks::AttachDevice(const GuestDisk& disk, GuestContainer* container) {
  const uint64_t number = makedev(static_cast<unsigned>(disk.major), static_cast<unsigned>(disk.minor));
  auto there = std::find_if(disks_.begin(), disks_.end(), [&](const auto& one) { return one.second.device == number; });
  // One device is one disk in the guest: two would not see each other's writes.
  if (there != disks_.end() && there->second.read_only && !disk.read_only) {
    return MakeError(Code::kFailedPrecondition, "device '{}' cannot be written in this pod, where another container has it read-only", disk.path);
  }
  UniqueFd fd(open(disk.path.c_str(), (disk.read_only ? O_RDONLY : O_RDWR) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!fd) return ErrnoError("open device '{}' {}", disk.path, disk.read_only ? "for reading" : "for writing");
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return ErrnoError("look at device '{}'", disk.path);
  if (!S_ISBLK(info.st_mode) || info.st_rdev != number) {
    return MakeError(Code::kFailedPrecondition, "'{}' is not the block device {}:{} any more", disk.path, disk.major, disk.minor);
  }
  // Some kernels let one that is read-only be opened all the same.
  int is_read_only = 0;
  if (!disk.read_only && ioctl(fd.get(), BLKROGET, &is_read_only) == 0 && is_read_only != 0) {
    return MakeError(Code::kPermissionDenied, "open device '{}' for writing: it is read-only", disk.path);
  }
  std::string serial = there != disks_.end() ? there->first : DiskSerial(disk, ++devices_attached_);
  auto attached = AttachDisk(serial, fd, disk.read_only, container);
  if (!attached) return std::move(attached.error()).Within(fmt::format("attach device '{}'", disk.path));
  disks_[serial].device = number;
  return {};
}

Result<> GuestTasks::AttachLayers(const v3::CreateTaskRequest& request, Creation* creation) {
  GuestContainer* container = creation->container.get();
  creation->shares_root = std::any_of(request.rootfs().begin(), request.rootfs().end(), [](const auto& mount) { return mount.type() != "erofs"; }) || request.rootfs().empty();
  for (const auto& mount : request.rootfs()) {
    if (mount.type() != "erofs") continue;  // PutRoot
    if (creation->shares_root) return MakeError(Code::kUnimplemented, "the root file system of a container of a VM pod is made of disks and of mounts");
    TRY(AttachLayer(mount.source(), container));
  }
  creation->root_layers = container->serials.size();
  for (const std::string& layer : creation->spec.image_layers) TRY(AttachLayer(layer, container));
  creation->volume_layers = container->serials.size();
  for (const GuestDisk& disk : creation->spec.disks) TRY(AttachDevice(disk, container));
  return {};
}

Result<> GuestTasks::Plan(const v3::CreateTaskRequest& request, Creation* creation) {
  GuestContainer& container = *creation->container;
  if (!request.checkpoint().empty()) return MakeError(Code::kUnimplemented, "container '{}': restoring a checkpoint is not supported", request.id());
  container.init->terminal = request.terminal();
  container.init->in_path = request.stdin();
  container.init->out_path = request.stdout();
  container.init->err_path = request.stderr();
  TRY(ReadOptions(request.options(), &container));
  std::string config = TRY(sys::ReadFile(request.bundle() + "/config.json", limits::kJsonBytes));
  if (adapt_) config = TRY(adapt_(config));
  creation->spec = TRY(MakeGuestSpec(request.id(), config, KindOfVolume));
  if (creation->spec.seccomp) creation->filter = TRY(oci::CompileSeccomp(*creation->spec.seccomp, seccomp_cache_));
  container.volumes = creation->spec.volumes;
  container.oom_score_adj = creation->spec.oom_score_adj;
  TRY(OpenLog(request.options(), &scratch_, &container));
  TRY(OpenStdio(creation->container, container.init));
  return AttachLayers(request, creation);
}

void GuestTasks::Create(const v3::CreateTaskRequest& request, Respond<v3::CreateTaskResponse> respond) {
  if (!IsSafeName(request.id())) return respond(MakeError(Code::kInvalidArgument, "'{}' cannot be a container's id", request.id().substr(0, 128)));
  if (containers_.contains(request.id())) return respond(MakeError(Code::kAlreadyExists, "container '{}' exists already", request.id()));
  auto creation = std::make_shared<Creation>();
  creation->respond = std::move(respond);
  creation->container = std::make_shared<GuestContainer>();
  creation->container->id = request.id();
  creation->container->bundle = request.bundle();
  containers_[request.id()] = creation->container;
  task::LogProgram::StartFor(loop_, request.stdout(), request.stderr(), request.id(), containerd_namespace_,
                             [this, request, creation](Result<std::shared_ptr<task::LogProgram>> program) {
                               if (!program) return Fail(creation, std::move(program.error()));
                               creation->container->init->log_program = std::move(*program);
                               auto planned = Plan(request, creation.get());
                               if (!planned) return Fail(creation, std::move(planned.error()));
                               creation->EndPhase("vm_disks");
                               creation->root.assign(request.rootfs().begin(), request.rootfs().end());
                               PutRoot(creation);
                             });
}

void GuestTasks::PutRoot(const CreationPtr& creation) {
  if (!creation->shares_root) return PutVolumes(creation, 0);
  GuestContainer& container = *creation->container;
  const std::string& path = creation->spec.root_path;
  auto tree = OpenRootTree(creation->root, path.starts_with('/') ? path : container.bundle + "/" + path);
  if (!tree) return Fail(creation, std::move(tree.error()));
  container.root_folder = fmt::format("root{}", ++root_folders_);
  files_.PutConstant(container.root_folder, std::move(*tree), [this, creation](Result<> put) {
    if (!put) return Fail(creation, std::move(put.error()));
    creation->EndPhase("vm_root");
    PutVolumes(creation, 0);
  });
}

void GuestTasks::PutVolumes(const CreationPtr& creation, size_t next) {
  if (next == creation->container->volumes.size()) return NumberDevices(creation);
  volumes_.Put(creation->container->id, creation->container->volumes[next], [this, creation, next](Result<> put) {
    if (!put) return Fail(creation, std::move(put.error()));
    PutVolumes(creation, next + 1);
  });
}

void GuestTasks::NumberDevices(const CreationPtr& creation) {
  if (!creation->container->volumes.empty()) creation->EndPhase("vm_volumes");
  ApplyOomScore();  // its file server may be new
  if (creation->spec.disks.empty()) return Prepare(creation);
  guest::v1::AwaitDisksRequest request;
  const auto& serials = creation->container->serials;
  for (size_t i = creation->volume_layers; i < serials.size(); ++i) request.add_serials(serials[i]);
  request.set_deadline_millis(kDiskMillis);
  client_->Call<guest::v1::AwaitDisksResponse>(guest_service::kGuest, "AwaitDisks", request, GuestClient::kTimeoutMillis,
                                               [this, creation](Result<guest::v1::AwaitDisksResponse> there) {
                                                 if (!there) return Fail(creation, std::move(there.error()));
                                                 std::vector<std::pair<uint32_t, uint32_t>> numbers;
                                                 for (const auto& disk : there->disks()) numbers.emplace_back(disk.major_number(), disk.minor_number());
                                                 auto numbered = NumberDisks(creation->spec.config_json, creation->spec.disks, numbers);
                                                 if (!numbered) return Fail(creation, std::move(numbered.error()));
                                                 creation->spec.config_json = std::move(*numbered);
                                                 creation->EndPhase("vm_devices");
                                                 Prepare(creation);
                                               });
}

void GuestTasks::Prepare(const CreationPtr& creation) {
  guest::v1::PrepareContainerRequest request;
  request.set_id(creation->container->id);
  request.set_config_json(std::move(creation->spec.config_json));
  if (creation->filter) {
    request.mutable_seccomp()->set_bpf(std::move(creation->filter->bpf));
    request.mutable_seccomp()->set_flags(creation->filter->flags);
  }
  const auto& serials = creation->container->serials;
  for (size_t i = 0; i < creation->volume_layers; ++i) i < creation->root_layers ? request.add_layer_serials(serials[i]) : request.add_volume_serials(serials[i]);
  request.set_deadline_millis(kDiskMillis);
  request.set_await_modules(creation->spec.wants_modules);
  request.set_root_folder(creation->container->root_folder);
  client_->Call<guest::v1::PrepareContainerResponse>(guest_service::kGuest, "PrepareContainer", request, GuestClient::kTimeoutMillis,
                                                     [this, creation](Result<guest::v1::PrepareContainerResponse> prepared) {
                                                       if (!prepared) return Fail(creation, std::move(prepared.error()));
                                                       creation->EndPhase("vm_rootfs");
                                                       CreateInGuest(creation, *prepared);
                                                     });
}

void GuestTasks::CreateInGuest(const CreationPtr& creation, const guest::v1::PrepareContainerResponse& prepared) {
  const GuestContainer& container = *creation->container;
  const GuestProcess& init = *container.init;
  v3::CreateTaskRequest request;
  request.set_id(container.id);
  request.set_bundle(prepared.bundle());
  auto* rootfs = request.add_rootfs();
  rootfs->set_type(prepared.rootfs().type());
  rootfs->set_source(prepared.rootfs().source());
  for (const auto& option : prepared.rootfs().options()) rootfs->add_options(option);
  request.set_terminal(init.terminal);
  request.set_stdin(BufferIf(init.in != nullptr));
  request.set_stdout(BufferIf(init.out != nullptr));
  request.set_stderr(BufferIf(init.err != nullptr));
  client_->Call<v3::CreateTaskResponse>(guest_service::kTask, "Create", request, GuestClient::kTimeoutMillis,
                                        [this, creation](Result<v3::CreateTaskResponse> created) {
                                          if (!created) return Fail(creation, std::move(created.error()));
                                          creation->EndPhase("vm_container");
                                          creation->container->created = true;
                                          creation->container->init->pid = created->pid();
                                          StartStdio(creation->container->init);
                                          Watch(creation->container, creation->container->init);
                                          creation->respond(std::move(created));
                                        });
}

void GuestTasks::Fail(const CreationPtr& creation, Error why) {
  creation->container->init->StopStdio();
  containers_.erase(creation->container->id);
  ApplyOomScore();
  Release(creation->container);
  creation->respond(std::move(why));
}

void GuestTasks::Release(const ContainerPtr& container) {
  guest::v1::ReleaseContainerRequest request;
  request.set_id(container->id);
  client_->Call<guest::v1::ReleaseContainerResponse>(
      guest_service::kGuest, "ReleaseContainer", request, GuestClient::kTimeoutMillis, [this, container](Result<guest::v1::ReleaseContainerResponse> released) {
        volumes_.Release(container->id);
        if (!container->root_folder.empty()) files_.Remove(container->root_folder);
        for (const std::string& serial : container->serials) {
          auto disk = disks_.find(serial);
          if (disk == disks_.end()) continue;
          disk->second.containers.erase(container->id);
          if (!disk->second.containers.empty()) continue;
          disks_.erase(disk);
          if (!released || vm_ == nullptr) continue;
          auto detached = vm_->Detach(serial, kDiskMillis);
          if (!detached) log::Warn("detach the disk '{}': {}", serial, detached.error().message);
        }
      });
}

// The FIFOs of a client, or the log and whoever is attached.
Result<> GuestTasks::OpenStdio(const ContainerPtr& container, const ProcessPtr& process) {
  auto pipe_of = [&](bool is_stderr) { return ProcessPipe(client_, container->id, process->exec_id, is_stderr); };
  bool own = container->own_stdio && process == container->init;
  if (own && process->keep_stdin) {
    sys::PipeEnds pipe = TRY(sys::OpenPipe("a pipe for stdio"));
    process->stdin_writer = std::move(pipe.writer);
    process->in = std::make_unique<GuestInput>(loop_, pipe_of(false), std::move(pipe.reader));
  } else if (!process->in_path.empty()) {
    UniqueFd reader = TRY(task::OpenFifo(process->in_path, O_RDONLY));
    // ctr may have seen the end of its input before it can say so (CloseIO): for other clients than caissond it is the FIFO's, whose last
    // writer goes. One that has not had a writer yet does not look ended (poll(2)).
    if (!adapt_ || process == container->init) process->stdin_writer = TRY(task::OpenFifo(process->in_path, O_WRONLY));
    process->in = std::make_unique<GuestInput>(loop_, pipe_of(false), std::move(reader));
  }
  if (own) {
    OpenOwnOutput(container);
    return {};
  }
  task::LogProgram* program = process->log_program.get();
  if (!process->out_path.empty()) {
    UniqueFd to = TRY(task::OpenClientOutput(process->out_path, program ? &program->out : nullptr));
    process->out = std::make_shared<GuestOutput>(loop_, pipe_of(false), SinkTo(loop_, std::move(to)), nullptr);
  }
  if (!process->err_path.empty() && !process->terminal) {
    UniqueFd to = TRY(task::OpenClientOutput(process->err_path, program ? &program->err : nullptr));
    process->err = std::make_shared<GuestOutput>(loop_, pipe_of(true), SinkTo(loop_, std::move(to)), nullptr);
  }
  return {};
}

void GuestTasks::OpenOwnOutput(const ContainerPtr& container) {
  auto make = [&](task::LogFile::Stream stream) {
    std::weak_ptr<GuestContainer> weak = container;
    auto sink = [weak, stream](const std::string& bytes, const std::function<void()>& next) {
      if (auto alive = weak.lock()) alive->Write(stream, bytes);
      next();
    };
    auto on_end = [weak, stream] {
      auto alive = weak.lock();
      if (alive && alive->log) alive->log->End(stream);
    };
    return std::make_shared<GuestOutput>(loop_, ProcessPipe(client_, container->id, "", stream == task::LogFile::kStderr), sink, on_end);
  };
  container->init->out = make(task::LogFile::kStdout);
  if (!container->init->terminal) container->init->err = make(task::LogFile::kStderr);
}

void GuestTasks::StartStdio(const ProcessPtr& process) {
  if (process->in) process->in->Start();
  if (process->out) process->out->Start();
  if (process->err) process->err->Start();
}

void GuestTasks::Watch(const ContainerPtr& container, const ProcessPtr& process) {
  v3::WaitRequest request;
  request.set_id(container->id);
  request.set_exec_id(process->exec_id);
  client_->Call<v3::WaitResponse>(guest_service::kTask, "Wait", request, ttrpc::Client::kNoTimeout,
                                  [this, container, process](Result<v3::WaitResponse> ended) {
                                    // The channel is closed a moment before the VMM has ended; only then it is known why.
                                    bool lost = !ended && ended.error().code == Code::kUnavailable && !client_->ended();
                                    if (lost) return lost_.push_back([this, container, process] { OnWaited(container, process, nullptr); });
                                    OnWaited(container, process, ended ? &*ended : nullptr);
                                  });
}

void GuestTasks::OnWaited(const ContainerPtr& container, const ProcessPtr& process, const v3::WaitResponse* ended) {
  uint32_t status = ended != nullptr ? StatusOf(*ended) : kKilledStatus;
  int64_t at = ended != nullptr ? EndOf(ended->exited_at()) : NowNanos();
  process->ended_with_vm = ended == nullptr && client_->ended();
  // All that it wrote is taken before anyone hears of the end.
  auto end = [this, container, process, status, at] { OnExit(container, process, status, at); };
  auto then_err = [process, end] { process->err ? process->err->OnExit(end) : end(); };
  process->out ? process->out->OnExit(then_err) : then_err();
}

void GuestTasks::OnVmEnd() {
  vm_ = nullptr;
  files_.End();
  forwards_.StopListening();
  for (auto& end : std::exchange(lost_, {})) end();
}

void GuestTasks::OnExit(const ContainerPtr& container, const ProcessPtr& process, uint32_t status, int64_t at_nanos) {
  if (process->exited) return;
  process->exit_status = status;
  process->exited_at_nanos = at_nanos;
  process->in.reset();
  process->stdin_writer.Reset();
  auto tell = [this, process] {
    process->exited = true;
    ApplyOomScore();
    for (auto& waiter : std::exchange(process->waiters, {})) waiter(*process);
  };
  if (process != container->init) return tell();
  if (container->attachments) container->attachments->Finish();
  // Asked now, since there may be no guest later.
  pod::v1::ContainerInfoRequest request;
  request.set_container_id(container->id);
  client_->Call<pod::v1::ContainerInfoResponse>(guest_service::kPod, "ContainerInfo", request, GuestClient::kTimeoutMillis,
                                                [this, container, tell](Result<pod::v1::ContainerInfoResponse> info) {
                                                  if (info) container->info = std::move(*info);
                                                  volumes_.BringBack(container->volumes, tell);
                                                });
}

void GuestTasks::Start(const v3::StartRequest& request, Respond<v3::StartResponse> respond) {
  auto container = Find(request.id());
  if (!container) return respond(std::move(container.error()));
  auto process = FindProcess(request.id(), request.exec_id());
  if (!process) return respond(std::move(process.error()));
  client_->Call<v3::StartResponse>(guest_service::kTask, "Start", request, GuestClient::kTimeoutMillis,
                                   [this, container = *container, process = *process, respond](Result<v3::StartResponse> started) {
                                     if (!started) {
                                       if (!process->exec_id.empty() && !process->started) {
                                         process->StopStdio();
                                         Watch(container, process);  // who waits for it already hears of its end: the guest counts it as ended
                                       }
                                       return respond(std::move(started));
                                     }
                                     process->started = true;
                                     process->pid = started->pid();
                                     if (!process->exec_id.empty()) {
                                       StartStdio(process);
                                       Watch(container, process);
                                     }
                                     respond(std::move(started));
                                   });
}

void GuestTasks::Exec(v3::ExecProcessRequest request, Respond<wkt::Empty> respond) {
  if (request.id() == kGuestDebugContainer && !debug_) {
    return respond(MakeError(Code::kFailedPrecondition, "no process may be run in this pod's guest: it was started without 'debug'"));
  }
  auto found = Find(request.id());
  if (!found) return respond(std::move(found.error()));
  if (*found != debug_) return ExecIn(*found, std::move(request), std::move(respond));
  client_->Call<guest::v1::OpenDebugResponse>(guest_service::kGuest, "OpenDebug", guest::v1::OpenDebugRequest(), GuestClient::kTimeoutMillis,
                                              [this, request = std::move(request), respond](Result<guest::v1::OpenDebugResponse> opened) {
                                                if (!opened) return respond(std::move(opened.error()));
                                                ExecIn(debug_, request, respond);
                                              });
}

void GuestTasks::ExecIn(const ContainerPtr& container, v3::ExecProcessRequest request, Respond<wkt::Empty> respond) {
  if (container->execs.contains(request.exec_id())) {
    return respond(MakeError(Code::kAlreadyExists, "process '{}' exists already in container '{}'", request.exec_id().substr(0, 128), request.id()));
  }
  auto process = std::make_shared<GuestProcess>();
  process->exec_id = request.exec_id();
  process->terminal = request.terminal();
  process->in_path = request.stdin();
  process->out_path = request.stdout();
  process->err_path = request.stderr();
  container->execs[process->exec_id] = process;
  task::LogProgram::StartFor(loop_, request.stdout(), request.stderr(), request.id(), containerd_namespace_,
                             [this, request, container, process, respond](Result<std::shared_ptr<task::LogProgram>> program) {
                               if (program) process->log_program = std::move(*program);
                               Result<> opened = program ? OpenStdio(container, process) : Result<>(std::move(program.error()));
                               if (opened) return AddExec(container, process, request, respond);
                               container->execs.erase(process->exec_id);
                               respond(std::move(opened.error()));
                             });
}

void GuestTasks::AddExec(const ContainerPtr& container, const ProcessPtr& process, v3::ExecProcessRequest request, Respond<wkt::Empty> respond) {
  request.set_stdin(BufferIf(process->in != nullptr));
  request.set_stdout(BufferIf(process->out != nullptr));
  request.set_stderr(BufferIf(process->err != nullptr));
  client_->Call<wkt::Empty>(guest_service::kTask, "Exec", request, GuestClient::kTimeoutMillis, [container, process, respond](Result<wkt::Empty> added) {
    if (!added) container->execs.erase(process->exec_id);
    respond(std::move(added));
  });
}

void GuestTasks::Wait(const v3::WaitRequest& request, Respond<v3::WaitResponse> respond) {
  auto process = FindProcess(request.id(), request.exec_id());
  if (!process) return respond(std::move(process.error()));
  auto answer = [respond](const GuestProcess& ended) {
    v3::WaitResponse response;
    response.set_exit_status(ended.exit_status);
    task::SetTime(ended.exited_at_nanos, response.mutable_exited_at());
    respond(std::move(response));
  };
  if ((*process)->exited) return answer(**process);
  (*process)->waiters.push_back(answer);
}

void GuestTasks::Kill(std::string_view payload, Respond<wkt::Empty> respond) {
  if (client_->ended()) return respond(wkt::Empty());  // with the machine
  client_->Call(guest_service::kTask, "Kill", std::string(payload), kKillMillis, [respond](Result<std::string> killed) {
    if (!killed) return respond(std::move(killed.error()));
    respond(wkt::Empty());
  });
}

void GuestTasks::Delete(const v3::DeleteRequest& request, Respond<v3::DeleteResponse> respond) {
  auto found = Find(request.id());
  if (!found) return respond(std::move(found.error()));
  auto process = FindProcess(request.id(), request.exec_id());
  if (!process) return respond(std::move(process.error()));
  auto finish = [this, container = *found, process = *process, respond](Result<v3::DeleteResponse> deleted) {
    if (!deleted && !client_->ended()) return respond(std::move(deleted));
    v3::DeleteResponse response = deleted ? std::move(*deleted) : v3::DeleteResponse();
    if (process->exited) {
      response.set_pid(process->pid);
      response.set_exit_status(process->exit_status);
      task::SetTime(process->exited_at_nanos, response.mutable_exited_at());
    }
    process->StopStdio();
    if (process != container->init) {
      container->execs.erase(process->exec_id);
      return respond(std::move(response));
    }
    for (auto& [id, exec] : container->execs) exec->StopStdio();
    containers_.erase(container->id);
    Release(container);
    respond(std::move(response));
  };
  client_->Call<v3::DeleteResponse>(guest_service::kTask, "Delete", request, GuestClient::kTimeoutMillis, finish);
}

void GuestTasks::State(const v3::StateRequest& request, Respond<v3::StateResponse> respond) {
  auto found = Find(request.id());
  if (!found) return respond(std::move(found.error()));
  auto process = FindProcess(request.id(), request.exec_id());
  if (!process) return respond(std::move(process.error()));
  auto finish = [this, container = *found, process = *process, respond](Result<v3::StateResponse> state) {
    if (!state && !client_->ended()) return respond(std::move(state));
    v3::StateResponse response = state ? std::move(*state) : v3::StateResponse();
    response.set_id(container->id);
    response.set_exec_id(process->exec_id);
    response.set_bundle(container->bundle);
    response.set_terminal(process->terminal);
    response.set_stdin(process->in_path);
    response.set_stdout(process->out_path);
    response.set_stderr(process->err_path);
    if (process->exited) {
      response.set_status(Status::STOPPED);
      response.set_exit_status(process->exit_status);
      task::SetTime(process->exited_at_nanos, response.mutable_exited_at());
    }
    respond(std::move(response));
  };
  client_->Call<v3::StateResponse>(guest_service::kTask, "State", request, GuestClient::kTimeoutMillis, finish);
}

Result<wkt::Empty> GuestTasks::CloseIo(const v3::CloseIORequest& request) {
  ProcessPtr process = TRY(FindProcess(request.id(), request.exec_id()));
  // What is still in the pipe goes first; then its end is passed on.
  if (request.stdin()) process->stdin_writer.Reset();
  return wkt::Empty();
}

void GuestTasks::Info(const pod::v1::ContainerInfoRequest& request, Respond<pod::v1::ContainerInfoResponse> respond) {
  auto found = Find(request.container_id());
  if (!found) return respond(std::move(found.error()));
  ContainerPtr container = *found;
  client_->Call<pod::v1::ContainerInfoResponse>(
      guest_service::kPod, "ContainerInfo", request, GuestClient::kTimeoutMillis, [this, container, respond](Result<pod::v1::ContainerInfoResponse> info) {
        if (!info && !client_->ended()) return respond(std::move(info));
        pod::v1::ContainerInfoResponse known = info ? std::move(*info) : container->info.value_or(pod::v1::ContainerInfoResponse());
        // Ours to say, not the guest's.
        known.clear_end_reason();
        known.clear_end_message();
        known.clear_phases();
        for (const auto& phase : container->phases) *known.add_phases() = phase;
        if (info) return respond(std::move(known));
        if (container->init->ended_with_vm) {
          known.set_end_reason(end_.reason);
          known.set_end_message(end_.message);
        }
        known.set_running(false);
        known.set_pid(container->init->pid);
        known.set_exit_code(static_cast<int32_t>(container->init->exit_status));
        known.set_finished_at_nanos(container->init->exited_at_nanos);
        respond(std::move(known));
      });
}

Result<bool> GuestTasks::Attach(const pod::v1::AttachRequest& request) {
  ContainerPtr container = TRY(Find(request.container_id()));
  if (!container->own_stdio) return MakeError(Code::kFailedPrecondition, "the stdio of container '{}' is another's", container->id);
  if (container->init->exited || !container->init->started) return MakeError(Code::kFailedPrecondition, "container '{}' is not running", container->id);
  if (!container->attachments) container->attachments = std::make_unique<task::Attachments>(loop_, &scratch_);
  UniqueFd writer;
  if (container->init->stdin_writer && !request.stdin_path().empty()) {
    writer = UniqueFd(fcntl(container->init->stdin_writer.get(), F_DUPFD_CLOEXEC, 3));
    if (!writer) return ErrnoError("duplicate the stdin of container '{}'", container->id);
  }
  bool has_stdin = writer.valid();
  TRY(container->attachments->Add(request.attach_id(), {request.life_path(), request.stdin_path(), request.stdout_path(), request.stderr_path()},
                                  std::move(writer)));
  return has_stdin;
}

}  // namespace caisson::shim
