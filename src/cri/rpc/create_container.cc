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
#include "sys/cgroup.h"

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
  std::vector<std::vector<std::string>> image_volumes;
  std::string spec_json;
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

Result<> WriteFile(const std::string& path, std::string_view text) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return ErrnoError("create '{}'", path);
  while (!text.empty()) {
    ssize_t n = write(fd.get(), text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError("write '{}'", path);
    text.remove_prefix(static_cast<size_t>(n));
  }
  return {};
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
                             sys::IsPureV2(),
                             creation.image_volumes};
  ContainerSpec spec = TRY(BuildContainerSpec(inputs));
  creation.spec_json = std::move(spec.json);
  record.set_cgroup_path(spec.cgroup_path);
  *record.mutable_user() = std::move(spec.user);
  return {};
}

Result<> PrepareSnapshot(Creation& creation) {
  creation.snapshot =
      TRY(creation.context.images.Prepare(creation.record.snapshot_key(), creation.record.image_id()));
  creation.image_volumes = TRY(PrepareImageVolumes(creation.context.images, creation.record));
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
  return WriteFile(dir + "/config.json", creation.spec_json);
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

Result<> CreateTask(Creation& creation) {
  const ContainerRecord& record = creation.record;
  const v1::ContainerConfig& config = record.config();
  task::CreateTaskRequest request;
  request.set_id(record.id());
  request.set_bundle(creation.context.config.ContainerDir(record.id()));
  request.set_terminal(config.tty());
  TRY(AddRootfs(creation.snapshot, creation.pod_record->config(), &request));
  pod::v1::CreateOptions options;
  options.set_log_path(record.log_path());
  options.set_stdin(config.stdin());
  options.set_stdin_once(config.stdin_once());
  options.set_terminal(config.tty());
  options.set_log_max_line_bytes(creation.context.config.containers.log_line_bytes);
  options.set_stop_signal(record.stop_signal());
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
  TRY(creation.steps.Run("snapshot", [&] { return PrepareSnapshot(creation); }));
  TRY(creation.steps.Run("bundle", [&] { return MakeBundle(creation); }));
  if (!record.log_path().empty()) TRY(MakeLogDir(record.log_path()));
  undo.Add([&] { LogFailure(creation, EndTask(*creation.shim, record.id())); });
  TRY(creation.steps.Run("task_create", [&] { return CreateTask(creation); }));
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
  Creation creation{context, pod, pod->Get(), pod->shim(), {}, Steps(context, "create_container"), {}, {}, {}, {}, true, {}};
  if (creation.pod_record->state() != v1::SANDBOX_READY || !creation.shim) {
    return MakeError(Code::kFailedPrecondition, "pod sandbox '{}' is not ready", pod->id());
  }
  creation.image = TRY(context.images.Find(config.image().image()));
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
  DescribeImage(creation.image, &record);
  record.set_stop_signal(TRY(StopSignalOf(config, creation.image.config)));
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
