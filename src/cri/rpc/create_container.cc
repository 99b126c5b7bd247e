// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "base/id.h"
#include "base/log.h"
#include "base/scope_exit.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "caisson/pod/v1/pod.pb.h"
#include "containerd/task_v3.pb.h"
#include "cri/container_spec.h"
#include "cri/exits.h"
#include "cri/image_volume.h"
#include "cri/log_path.h"
#include "cri/pod_teardown.h"
#include "cri/rpc/rpc.h"
#include "cri/signal_name.h"
#include "cri/steps.h"
#include "cri/user_namespace.h"
#include "image/checkpoint_archive.h"
#include "sys/cgroup.h"
#include "sys/new_file.h"

namespace caisson::cri {
namespace {

namespace task = containerd::task::v3;

struct Creation {
  Context& context;
  const PodPtr& pod;
  std::shared_ptr<const PodRecord> pod_record;
  std::shared_ptr<ShimClient> shim;
  image::Image image;
  Steps steps;
  ContainerRecord record;
  image::Snapshot snapshot;
  std::vector<std::string> disks;  // of a VM: the image's layers, topmost first
  std::vector<std::vector<std::string>> image_volumes;
  std::string spec_json;
  std::string checkpoint;  // the folder of an archive that the container is restored from; empty: none
  bool released = true;  // nothing is left that a later start would have to undo
  Rollback undo;
};

// The container's own word first, then the image's, then SIGTERM (CRI: ContainerConfig.stop_signal).
Result<std::string> StopSignalOf(const v1::ContainerConfig& config, const image::ImageConfig& image) {
  std::string word = config.stop_signal() != v1::RUNTIME_DEFAULT ? v1::Signal_Name(config.stop_signal())
                     : !image.stop_signal.empty()                 ? image.stop_signal
                                                                  : "SIGTERM";
  return SignalName(TRY(SignalNumber(word)));
}

// The init whose PID namespace is joined; 0 unless the container asks for another's (NamespaceMode TARGET).
Result<uint32_t> TargetPid(const Creation& creation) {
  const auto& options = creation.record.config().linux().security_context().namespace_options();
  if (options.pid() != v1::TARGET) return 0;
  ContainerPtr target = TRY(creation.context.containers.Find(options.target_id()));
  auto record = target->Get();
  if (record->pod_id() != creation.pod->id() || record->state() != v1::CONTAINER_RUNNING) {
    return MakeError(Code::kFailedPrecondition, "the target container '{}' is not a running container of the same pod",
                     target->id());
  }
  return record->pid();
}

Result<> BuildSpec(Creation& creation) {
  ContainerRecord& record = creation.record;
  uint32_t target_pid = TRY(TargetPid(creation));
  ContainerSpecInputs inputs{creation.context.config,
                             *creation.pod_record,
                             record,
                             creation.image,
                             creation.snapshot.lower_dirs,
                             creation.context.config.PodDir(creation.pod->id()),
                             target_pid,
                             creation.context.systemd_cgroup,
                             creation.pod_record->has_vm() || sys::IsPureV2(),
                             creation.image_volumes};
  ContainerSpec spec = TRY(BuildContainerSpec(inputs));
  creation.spec_json = std::move(spec.json);
  record.set_cgroup_path(spec.cgroup_path);
  *record.mutable_user() = std::move(spec.user);
  return {};
}

Result<> PrepareSnapshot(Creation& creation) {
  image::ImageStore& images = creation.context.images;
  const std::string& key = creation.record.snapshot_key();
  const bool vm = creation.pod_record->has_vm();
  // What a container in a VM writes stays in there.
  creation.snapshot = vm ? TRY(images.PrepareView(key, creation.record.image_id())) : TRY(images.Prepare(key, creation.record.image_id()));
  if (vm) creation.disks = TRY(images.ErofsLayers(key));
  creation.image_volumes = TRY(PrepareImageVolumes(images, creation.record, vm));
  if (!creation.checkpoint.empty()) {
    TRY(image::UnpackWritableLayer(creation.checkpoint, creation.snapshot.upper_dir, creation.snapshot.lower_dirs));
  }
  const v1::PodSandboxConfig& pod = creation.pod_record->config();
  if (!HasUserNamespace(pod)) return {};
  // The root of an overlay is as its upper folder is, which has the owner that the image's has.
  const char* upper = creation.snapshot.upper_dir.c_str();
  struct stat info {};
  if (lstat(upper, &info) != 0) return ErrnoError("look at '{}'", upper);
  HostIds owner = HostIdsOf(pod, info.st_uid, info.st_gid);
  if (lchown(upper, owner.uid, owner.gid) != 0 || chmod(upper, info.st_mode & 07777) != 0) return ErrnoError("give '{}' to the pod's root", upper);
  return {};
}

// As containerd's snapshotters write it: "CONTAINER:HOST:SIZE,…".
std::string MapOption(const char* word, const IdMappings& mappings) {
  std::vector<std::string> ranges;
  for (const auto& one : mappings) ranges.push_back(fmt::format("{}:{}:{}", one.container_id(), one.host_id(), one.length()));
  return fmt::format("{}={}", word, Join(ranges, ","));
}

Result<> MakeBundle(Creation& creation) {
  TRY(BuildSpec(creation));
  std::string dir = creation.context.config.ContainerDir(creation.record.id());
  for (const std::string& path : {dir, dir + "/rootfs"}) {
    if (mkdir(path.c_str(), 0700) != 0) return ErrnoError("make directory '{}'", path);
  }
  return sys::WriteNewFile(dir + "/config.json", creation.spec_json);
}

// containerd.types.Mount as the snapshotters of containerd write it: the container's init mounts it.
Result<> AddRootfs(const image::Snapshot& snapshot, const v1::PodSandboxConfig& pod, task::CreateTaskRequest* request) {
  auto& mount = *request->add_rootfs();
  std::string lower = TRY(LowerDirOption(snapshot.lower_dirs));
  if (HasUserNamespace(pod)) {
    const auto& space = UserNamespaceOf(pod);
    mount.add_options(MapOption("uidmap", space.uids()));
    mount.add_options(MapOption("gidmap", space.gids()));
  }
  if (snapshot.upper_dir.empty() && snapshot.lower_dirs.size() == 1) {
    mount.set_type("bind");
    mount.set_source(snapshot.lower_dirs.front());
    for (const char* option : {"rbind", "ro"}) mount.add_options(option);
    return {};
  }
  mount.set_type("overlay");
  mount.set_source("overlay");
  if (!snapshot.upper_dir.empty()) {
    mount.add_options("upperdir=" + snapshot.upper_dir);
    mount.add_options("workdir=" + snapshot.work_dir);
  }
  mount.add_options("lowerdir=" + lower);
  return {};
}

// What a VM's companion attaches: the guest makes the overlay.
void AddDisks(const std::vector<std::string>& disks, task::CreateTaskRequest* request) {
  for (const std::string& disk : disks) {
    auto& mount = *request->add_rootfs();
    mount.set_type("erofs");
    mount.set_source(disk);
    mount.add_options("ro");
  }
}

Result<> CreateTask(Creation& creation) {
  const ContainerRecord& record = creation.record;
  const v1::ContainerConfig& config = record.config();
  task::CreateTaskRequest request;
  request.set_id(record.id());
  request.set_bundle(creation.context.config.ContainerDir(record.id()));
  request.set_terminal(config.tty());
  if (!creation.checkpoint.empty()) request.set_checkpoint(creation.checkpoint + "/checkpoint");
  if (creation.pod_record->has_vm()) {
    AddDisks(creation.disks, &request);
  } else {
    TRY(AddRootfs(creation.snapshot, creation.pod_record->config(), &request));
  }
  pod::v1::CreateOptions options;
  options.set_log_path(record.log_path());
  options.set_stdin(config.stdin());
  options.set_stdin_once(config.stdin_once());
  options.set_terminal(config.tty());
  options.set_log_max_line_bytes(creation.context.config.containers.log_line_bytes);
  options.set_stop_signal(record.stop_signal());
  options.set_criu_path(creation.context.config.checkpoint.criu);
  request.mutable_options()->set_type_url("caisson.pod.v1.CreateOptions");
  request.mutable_options()->set_value(options.SerializeAsString());
  creation.record.set_pid(TRY(creation.shim->Call<task::CreateTaskResponse>(service::kTask, "Create", request)).pid());
  return {};
}

void LogFailure(Creation& creation, const Result<>& undone) {
  if (undone) return;
  creation.released = false;
  log::Error("undo container {}: {}", creation.record.id(), undone.error().message);
}

void DescribeImage(const image::Image& image, ContainerRecord* record) {
  record->set_image_id(image.id);
  record->set_image_ref(image.repo_digests.empty() ? image.id : image.repo_digests.front());
  record->set_image_name(!image.repo_tags.empty()      ? image.repo_tags.front()
                         : !image.repo_digests.empty() ? image.repo_digests.front()
                                                       : image.id);
}

Result<> TakeImage(Creation& creation) {
  DescribeImage(creation.image, &creation.record);
  creation.record.set_stop_signal(TRY(StopSignalOf(creation.record.config(), creation.image.config)));
  return {};
}

// Nothing but the processes, the files and which image is below them comes of the archive: all that the container may and
// has is what this request says. The image is looked up and not fetched, its names are those that it has here.
Result<> OpenCheckpoint(Creation& creation) {
  Context& context = creation.context;
  if (mkdir(context.config.CheckpointsDir().c_str(), 0700) != 0 && errno != EEXIST) return ErrnoError("make directory '{}'", context.config.CheckpointsDir());
  creation.checkpoint = context.config.CheckpointDir(creation.record.id());
  const std::string& archive = creation.record.checkpoint();
  auto config = TRY(image::UnpackCheckpoint(archive, creation.checkpoint));
  for (const std::string& name : {config.image_ref, config.image_name}) {
    if (name.empty() || name.starts_with('/')) continue;
    auto found = context.images.Find(name);
    if (!found || !found->artifact_type.empty()) continue;
    creation.image = std::move(*found);
    return TakeImage(creation);
  }
  return MakeError(Code::kFailedPrecondition, "the image of checkpoint '{}' is not on this node: '{}', '{}'", archive, config.image_name.substr(0, 256),
                   config.image_ref.substr(0, 256));
}

// Where the time went in there; not worth a failure.
void AddGuestPhases(Creation& creation) {
  pod::v1::ContainerInfoRequest request;
  request.set_container_id(creation.record.id());
  auto info = creation.shim->Call<pod::v1::ContainerInfoResponse>(service::kPod, "ContainerInfo", request);
  if (!info) return;
  for (const auto& phase : info->phases()) creation.steps.AddPhase(phase.name(), phase.begin_nanos(), phase.end_nanos());
}

Result<> RunSteps(Creation& creation, const std::string& name, ContainerPtr* made) {
  Context& context = creation.context;
  ContainerRecord& record = creation.record;
  Rollback& undo = creation.undo;
  // Each undo is there before its step and copes with a step that did nothing.
  undo.Add([&] {
    if (creation.released) LogFailure(creation, context.containers.Withdraw(record.id()));
  });
  TRY(creation.steps.Run("announce", [&] { return context.containers.Announce(record); }));
  undo.Add([&] { LogFailure(creation, RemoveContainerFiles(context, record)); });
  if (!record.checkpoint().empty()) TRY(creation.steps.Run("checkpoint", [&] { return OpenCheckpoint(creation); }));
  TRY(creation.steps.Run("snapshot", [&] { return PrepareSnapshot(creation); }));
  TRY(creation.steps.Run("bundle", [&] { return MakeBundle(creation); }));
  if (!record.log_path().empty()) TRY(MakeLogDir(record.log_path()));
  undo.Add([&] { LogFailure(creation, EndTask(*creation.shim, record.id())); });
  TRY(creation.steps.Run("task_create", [&] { return CreateTask(creation); }));
  if (creation.pod_record->has_vm()) AddGuestPhases(creation);
  undo.Add([&] { (void)context.containers.Remove(record.id()); });
  return creation.steps.Run("record", [&]() -> Result<> {
    record.set_creating(false);
    creation.steps.AppendTo(record.mutable_timeline());
    *made = std::make_shared<Container>(record);
    TRY(context.containers.Insert(*made, name));
    // RemovePodSandbox looks for containers once more after it took the pod out: one of the two sees the other.
    TRY(context.pods.Find(creation.pod->id()));
    return {};
  });
}

Result<std::string> Create(Context& context, const v1::CreateContainerRequest& request, const PodPtr& pod,
                           const std::string& name) {
  const v1::ContainerConfig& config = request.config();
  Creation creation{context, pod, pod->Get(), pod->shim(), {}, Steps(context, "create_container"), {}, {}, {}, {}, {}, {}, true, {}};
  if (creation.pod_record->state() != v1::SANDBOX_READY || !creation.shim) {
    return MakeError(Code::kFailedPrecondition, "pod sandbox '{}' is not ready", pod->id());
  }
  // No reference begins so: it is the path of a checkpoint's archive, as other runtimes take it.
  const bool restores = config.image().image().starts_with('/');
  if (restores && creation.pod_record->has_vm()) {
    return MakeError(Code::kUnimplemented, "image '{}': a checkpoint is not restored in a VM", config.image().image());
  } else if (restores) {
    TRY(context.checkpoints.CheckRestore());
  } else {
    creation.image = TRY(context.images.Find(config.image().image()));
  }
  if (!creation.image.artifact_type.empty()) {
    return MakeError(Code::kInvalidArgument, "image '{}' is an artifact of type '{}': it can be mounted as a volume, not run",
                     config.image().image(), creation.image.artifact_type);
  }
  ContainerRecord& record = creation.record;
  record.set_id(NewId());
  record.set_pod_id(pod->id());
  *record.mutable_config() = config;
  record.set_created_at_nanos(NowNanos());
  record.set_state(v1::CONTAINER_CREATED);
  record.set_creating(true);
  record.set_snapshot_key(record.id());
  if (restores) {
    record.set_checkpoint(config.image().image());
  } else {
    TRY(TakeImage(creation));
  }
  record.set_log_path(TRY(JoinLogPath(creation.pod_record->config().log_directory(), config.log_path())));
  *record.mutable_resources() = config.linux().resources();
  ContainerPtr made;
  TRY(RunSteps(creation, name, &made));
  creation.undo.Commit();
  WatchExit(context, made, creation.shim);
  // Whoever ended the companion may have looked for its containers before this one was there.
  if (creation.shim->gone()) context.background.Post([&context, id = pod->id()] { PodDied(context, id); });
  return record.id();
}

Result<> CheckRequest(const v1::CreateContainerRequest& request) {
  if (request.config().metadata().name().empty()) {
    return MakeError(Code::kInvalidArgument, "the container's metadata has no name");
  }
  if (request.config().image().image().empty()) {
    return MakeError(Code::kInvalidArgument, "container '{}' names no image", request.config().metadata().name());
  }
  return {};
}

}  // namespace

Result<v1::CreateContainerResponse> CreateContainer(Context& context, const v1::CreateContainerRequest& request) {
  TRY(CheckRequest(request));
  PodPtr pod = TRY(context.pods.Find(request.pod_sandbox_id()));
  std::string name = ContainerName(pod->id(), request.config().metadata());
  v1::CreateContainerResponse response;
  auto reservation = context.containers.Reserve(name, Fingerprint(request.config()));
  if (reservation.exists) {
    ContainerPtr container = TRY(context.containers.Find(*reservation.outcome));
    auto record = container->Get();
    if (record->state() != v1::CONTAINER_CREATED || Fingerprint(record->config()) != Fingerprint(request.config())) {
      return MakeError(Code::kAlreadyExists, "container name '{}' is already used by '{}'", name, record->id());
    }
    response.set_container_id(record->id());
    return response;
  }
  Result<std::string> outcome = std::move(reservation.outcome);
  if (reservation.owner) {
    outcome = Create(context, request, pod, name);
    context.containers.Finish(name, outcome);
  }
  if (!outcome) {
    return std::move(outcome.error()).Within(fmt::format("create container '{}'", request.config().metadata().name()));
  }
  response.set_container_id(*outcome);
  return response;
}

}  // namespace caisson::cri
