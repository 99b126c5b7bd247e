// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include <nlohmann/json.hpp>

#include "base/id.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/scope_exit.h"
#include "caisson/pod/v1/pod.pb.h"
#include "containerd/task_v3.pb.h"
#include "cri/checkpoint_folder.h"
#include "cri/rpc/rpc.h"
#include "cri/steps.h"
#include "cri/verbose.h"
#include "image/checkpoint_archive.h"
#include "image/remove_tree.h"
#include "sys/new_file.h"
#include "sys/path.h"

namespace caisson::cri {
namespace {

namespace task = containerd::task::v3;

constexpr int64_t kHoldMillis = 600'000;   // for copying the writable layer; then the container goes on by itself
constexpr int64_t kDumpAnswerMillis = 30'000;  // beyond criu's own deadline

Result<> MakeFolder(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return ErrnoError("make directory '{}'", path);
  return {};
}

Result<> CheckLocation(const std::string& location) {
  bool good = location.starts_with('/') && !location.ends_with('/') && location.size() < limits::kPathBytes - 64 &&
              location.find('\0') == std::string::npos;
  if (!good) return MakeError(Code::kInvalidArgument, "the location '{}' is not an absolute path of a file", location.substr(0, 256));
  struct stat info {};
  if (lstat(location.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    return MakeError(Code::kInvalidArgument, "'{}' is there and no regular file", location);
  }
  return {};
}

Result<> DumpProcesses(Context& context, ShimClient& shim, const std::string& id, const std::string& images, int64_t seconds) {
  pod::v1::CheckpointOptions options;
  options.set_criu_path(context.config.checkpoint.criu);
  int64_t millis = seconds > 0 ? std::min(seconds, limits::kCheckpointMillis / 1000) * 1000 : limits::kCheckpointMillis;
  options.set_deadline_millis(millis);
  options.set_hold_millis(kHoldMillis);
  task::CheckpointTaskRequest request;
  request.set_id(id);
  request.set_path(images);
  request.mutable_options()->set_type_url("caisson.pod.v1.CheckpointOptions");
  request.mutable_options()->set_value(options.SerializeAsString());
  TRY(shim.Call<wkt::Empty>(service::kTask, "Checkpoint", request, millis + kDumpAnswerMillis));
  return {};
}

Result<> Resume(ShimClient& shim, const std::string& id) {
  task::ResumeRequest request;
  request.set_id(id);
  auto resumed = shim.Call<wkt::Empty>(service::kTask, "Resume", request);
  // Removed meanwhile: nothing stands still.
  if (!resumed && resumed.error().code != Code::kNotFound) return std::move(resumed.error());
  return {};
}

// What other runtimes write too; checkpointctl(1) reads it.
std::string ConfigDump(const ContainerRecord& record) {
  return DumpJson({{"id", record.id()},
                   {"name", record.config().metadata().name()},
                   {"rootfsImage", record.config().image().image()},
                   {"rootfsImageRef", record.image_id()},
                   {"rootfsImageName", record.image_name()},
                   {"runtime", "caisson"},
                   {"createdTime", FormatRfc3339Nano(record.created_at_nanos())},
                   {"checkpointedTime", FormatRfc3339Nano(NowNanos())}});
}

struct Checkpoint {
  Context& context;
  std::shared_ptr<const ContainerRecord> record;
  std::shared_ptr<ShimClient> shim;
  std::string folder;  // the archive's content
};

Result<> DumpAndCopy(const Checkpoint& checkpoint, Steps& steps, int64_t seconds) {
  const std::string& id = checkpoint.record->id();
  std::string images = checkpoint.folder + "/checkpoint";
  TRY(MakeFolder(images));
  image::Snapshot snapshot = TRY(checkpoint.context.images.FindSnapshot(checkpoint.record->snapshot_key()));
  // Of a dump that failed the companion lets it go on itself. One that stands still for another checkpoint is not ours to thaw.
  bool held = false;
  ScopeExit resume([&] {
    if (!held) return;
    if (auto resumed = Resume(*checkpoint.shim, id); !resumed) log::Error("resume container {}: {}", id, resumed.error().message);
  });
  TRY(steps.Run("dump", [&]() -> Result<> {
    TRY(DumpProcesses(checkpoint.context, *checkpoint.shim, id, images, seconds));
    held = true;
    return {};
  }));
  return steps.Run("layer", [&]() -> Result<> {
    if (snapshot.upper_dir.empty()) return {};
    return image::PackLayer(snapshot.upper_dir, checkpoint.folder + "/rootfs-diff.tar");
  });
}

Result<> Describe(const Checkpoint& checkpoint) {
  const std::string& folder = checkpoint.folder;
  std::string spec = TRY(sys::ReadFile(checkpoint.context.config.ContainerDir(checkpoint.record->id()) + "/config.json", limits::kJsonBytes));
  TRY(sys::WriteNewFile(folder + "/spec.dump", spec));
  TRY(sys::WriteNewFile(folder + "/config.dump", ConfigDump(*checkpoint.record)));
  TRY(sys::WriteNewFile(folder + "/status.dump", MessageJson(ContainerStatusOf(*checkpoint.record))));
  for (const char* name : {"/dump.log", "/stats-dump"}) {
    // At the top, where others have them.
    if (rename((folder + "/checkpoint" + name).c_str(), (folder + name).c_str()) != 0 && errno != ENOENT) return ErrnoError("move '{}'", name + 1);
  }
  return {};
}

Result<> WriteArchive(const std::string& folder, const std::string& location) {
  const std::string partial = fmt::format("{}.{}.partial", location, NewId().substr(0, 12));
  ScopeExit remove([&] { unlink(partial.c_str()); });
  TRY(image::PackFolder(folder, partial));
  if (rename(partial.c_str(), location.c_str()) != 0) return ErrnoError("rename to '{}'", location);
  return {};
}

Result<> Make(Checkpoint& checkpoint, const v1::CheckpointContainerRequest& request) {
  TRY(MakeFolder(checkpoint.context.config.CheckpointsDir()));
  checkpoint.folder = checkpoint.context.config.CheckpointDir(checkpoint.record->id()) + std::string(kDumpSuffix);
  if (mkdir(checkpoint.folder.c_str(), 0700) != 0) {
    if (errno == EEXIST) return MakeError(Code::kFailedPrecondition, "a checkpoint of it is being made already");
    return ErrnoError("make directory '{}'", checkpoint.folder);
  }
  ScopeExit remove([&] {
    if (auto removed = image::RemoveTree(checkpoint.folder); !removed) log::Error("{}", removed.error().message);
  });
  Steps steps(checkpoint.context, "checkpoint_container");
  TRY(DumpAndCopy(checkpoint, steps, request.timeout()));
  return steps.Run("archive", [&]() -> Result<> {
    TRY(Describe(checkpoint));
    return WriteArchive(checkpoint.folder, request.location());
  });
}

}  // namespace

Result<v1::CheckpointContainerResponse> CheckpointContainer(Context& context, const v1::CheckpointContainerRequest& request) {
  ContainerPtr container = TRY(context.containers.Find(request.container_id()));
  TRY(CheckLocation(request.location()));
  TRY(RunningContainer(context, container->id()));
  PodPtr pod = TRY(context.pods.Find(container->Get()->pod_id()));
  if (pod->Get()->has_vm()) return MakeError(Code::kUnimplemented, "container '{}' is in a VM: its processes are the guest's", container->id());
  TRY(context.checkpoints.Check());
  Checkpoint checkpoint{context, container->Get(), pod->shim(), {}};
  if (!checkpoint.shim) return MakeError(Code::kFailedPrecondition, "pod sandbox '{}' is not ready", pod->id());
  const int64_t begin = MonotonicNanos();
  auto made = Make(checkpoint, request);
  if (!made) return std::move(made.error()).Within(fmt::format("checkpoint container '{}'", container->id()));
  // For the audit: it holds all that the container had in memory.
  log::Info("checkpoint of container {} for the CRI: {}, {} ms", container->id(), request.location(), (MonotonicNanos() - begin) / kNanosPerMilli);
  return v1::CheckpointContainerResponse();
}

}  // namespace caisson::cri
