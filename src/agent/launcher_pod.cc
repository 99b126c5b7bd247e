// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <string>
#include <utility>
#include <vector>

#include "agent/debug.h"
#include "agent/disks.h"
#include "agent/early_init.h"
#include "agent/guest_clock.h"
#include "agent/launcher.h"
#include "agent/memory_folders.h"
#include "agent/pod_size.h"
#include "agent/rights.h"
#include "agent/shared_folders.h"
#include "agent/volumes.h"
#include "base/clock.h"
#include "base/id.h"
#include "caisson/guest/v1/guest.pb.h"
#include "caisson/guest/v1/launch.pb.h"
#include "caisson/wkt/wkt.pb.h"
#include "sys/interfaces.h"
#include "sys/new_file.h"
#include "sys/sysctl.h"
#include "task/pod_init.h"
#include "task/pod_shm.h"

namespace caisson::agent {
namespace {

namespace v1 = guest::v1;

Result<> SetClock(int64_t nanos) {
  timespec time{nanos / kNanosPerSecond, nanos % kNanosPerSecond};
  if (clock_settime(CLOCK_REALTIME, &time) != 0) return ErrnoError("set the clock");
  return {};
}

// random(4): credited, so that what waits for entropy goes on, and mixed in, so that clones differ.
Result<> AddEntropy(const std::string& bytes) {
  if (bytes.empty() || bytes.size() > 512) return MakeError(Code::kInvalidArgument, "{} bytes of entropy; 1 to 512 are taken", bytes.size());
  UniqueFd fd(open("/dev/urandom", O_WRONLY | O_CLOEXEC));
  if (!fd) return ErrnoError("open /dev/urandom");
  std::vector<char> buffer(sizeof(rand_pool_info) + bytes.size());
  auto* pool = reinterpret_cast<rand_pool_info*>(buffer.data());
  pool->entropy_count = static_cast<int>(bytes.size() * 8);
  pool->buf_size = static_cast<int>(bytes.size());
  std::memcpy(pool->buf, bytes.data(), bytes.size());
  if (ioctl(fd.get(), RNDADDENTROPY, pool) != 0) return ErrnoError("add entropy");
  if (ioctl(fd.get(), RNDRESEEDCRNG) != 0) return ErrnoError("reseed the random numbers");
  return {};
}

sys::NetworkSetup NetworkOf(const v1::ConfigureRequest& request) {
  sys::NetworkSetup setup;
  for (const auto& one : request.interfaces()) {
    setup.interfaces.push_back({one.name(), one.mac(), one.mtu(), {one.addresses().begin(), one.addresses().end()}});
  }
  for (const auto& one : request.routes()) {
    setup.routes.push_back({one.destination(), one.gateway(), one.device(), one.source(), one.scope(), one.on_link(), one.metric()});
  }
  for (const auto& one : request.neighbours()) setup.neighbours.push_back({one.address(), one.mac(), one.device()});
  return setup;
}

Result<v1::ConfigureResponse> Configure(const v1::ConfigureRequest& request, Descriptors*) {
  TRY(SetClock(request.now_nanos()));
  TRY(AddEntropy(request.entropy()));
  if (sethostname(request.hostname().data(), request.hostname().size()) != 0) return ErrnoError("set the hostname '{}'", request.hostname());
  for (const auto& [name, value] : request.sysctls()) {
    TRY(sys::CheckPodSysctl(name, value, false, false));
    TRY(sys::WriteSysctl(name, value));
  }
  TRY(sys::ApplyNetwork(NetworkOf(request)));
  auto shm = TRY(task::PodShm::Make(request.shm_bytes(), 0, 0, kShmDir, true));
  v1::ConfigureResponse response;
  if (request.rehearsal()) return response;
  shm.Leave();
  if (request.share_pid()) {
    auto init = TRY(task::PodInit::Start(-1, false));
    response.set_sandbox_pid(static_cast<uint32_t>(init.pid()));
    init.Leave();
  }
  return response;
}

Result<v1::SetTimeResponse> SetTime(const v1::SetTimeRequest& request, Descriptors*) {
  v1::SetTimeResponse response;
  response.set_now_nanos(NowNanos());
  TRY(request.relative() ? AdjustClock(request.adjust_nanos()) : SetClock(request.now_nanos()));
  return response;
}

// The messenger reads what it has written there, by its group.
Result<> WriteBundle(const std::string& dir, const v1::PrepareContainerRequest& request) {
  std::string options = fmt::format("mode=0710,gid={}", kNobodysId);
  if (request.scratch_bytes() > 0) options += fmt::format(",size={}", request.scratch_bytes());
  if (mount("scratch", dir.c_str(), "tmpfs", MS_NODEV, options.c_str()) != 0) return ErrnoError("mount the writable layer of '{}'", request.id());
  for (const char* below : {"/rootfs", "/upper", "/work"}) {
    if (mkdir((dir + below).c_str(), 0755) != 0) return ErrnoError("make '{}{}'", dir, below);
  }
  std::string config = dir + "/config.json";
  TRY(sys::WriteNewFile(config, request.config_json(), 0640));
  if (chown(config.c_str(), 0, kNobodysId) != 0) return ErrnoError("own '{}'", config);
  if (!request.has_seccomp()) return {};
  v1::ExecRecord record;
  *record.mutable_filter() = request.seccomp();
  return sys::WriteNewFile(RecordPath(dir), record.SerializeAsString(), 0600);
}

Result<wkt::Empty> RemoveBundle(const v1::ReleaseContainerRequest& request, Descriptors*) {
  if (!IsSafeName(request.id())) return MakeError(Code::kInvalidArgument, "'{}' cannot be a container's id", request.id().substr(0, 128));
  std::string dir = ContainerDir(request.id());
  umount2(dir.c_str(), MNT_DETACH);
  rmdir(dir.c_str());
  RemoveVolumes(request.id() + ".");
  return wkt::Empty();
}

Result<wkt::Empty> MakeBundle(const v1::PrepareContainerRequest& request, Descriptors* fds) {
  if (!IsSafeName(request.id())) return MakeError(Code::kInvalidArgument, "'{}' cannot be a container's id", request.id().substr(0, 128));
  std::string dir = ContainerDir(request.id());
  mkdir(fmt::format("{}/containers", kRunDir).c_str(), 0711);
  mkdir(fmt::format("{}/empty", kRunDir).c_str(), 0755);  // beneath an image of one layer
  if (mkdir(dir.c_str(), 0700) != 0) return ErrnoError("make '{}'", dir);
  auto written = WriteBundle(dir, request);
  if (written) return wkt::Empty();
  v1::ReleaseContainerRequest undo;
  undo.set_id(request.id());
  (void)RemoveBundle(undo, fds);
  return std::move(written.error());
}

// Memory first: a limit may be of it.
Result<v1::ResizeResponse> Resize(const v1::ResizeRequest& request, Descriptors*) {
  v1::ResizeResponse response;
  TRY(LimitPodMemory(request.memory_limit_bytes()));
  response.set_processors(TRY(SetProcessors(request.processors())));
  return response;
}

Result<wkt::Empty> PutVolume(const v1::PutVolumeRequest& request, Descriptors*) {
  TRY(WriteVolume(request));
  return wkt::Empty();
}

Result<v1::GetFileResponse> GetFile(const v1::GetFileRequest& request, Descriptors*) {
  return ReadVolumeFile(request.volume(), request.path(), request.limit());
}

Result<v1::ShareMemoryResponse> ShareMemory(const v1::ShareMemoryRequest& request, Descriptors*) {
  TRY(MountMemoryFolder(request));
  return v1::ShareMemoryResponse();
}

Result<wkt::Empty> ShareFolders(const wkt::Empty&, Descriptors* fds) {
  fds->go = TRY(MountSharedFolders());
  return wkt::Empty();
}

Result<v1::MountLayersResponse> MountLayers(const v1::MountLayersRequest& request, Descriptors*) {
  v1::MountLayersResponse response;
  for (bool mounted : TRY(MountLayerDisks(request))) response.add_mounted(mounted);
  return response;
}

Result<wkt::Empty> UnmountLayers(const v1::UnmountLayersRequest& request, Descriptors*) {
  for (const std::string& serial : request.serials()) UnmountLayerDisk(serial);
  return wkt::Empty();
}

Result<v1::ProbeDisksResponse> ProbeDisks(const v1::ProbeDisksRequest& request, Descriptors*) {
  v1::ProbeDisksResponse response;
  for (const std::string& device : request.devices()) response.add_ready(TRY(CanOpenDisk(device)));
  return response;
}

Result<v1::DebugBundleResponse> MakeDebugBundle(const wkt::Empty&, Descriptors*) {
  v1::DebugBundleResponse response;
  response.set_bundle(TRY(WriteDebugBundle()));
  return response;
}

}  // namespace

std::span<const LauncherCall> PodCalls() {
  static constexpr LauncherCall kCalls[] = {
      {"Configure", &ServeCall<&Configure>},
      {"SetTime", &ServeCall<&SetTime>},
      {"MakeBundle", &ServeCall<&MakeBundle>},
      {"RemoveBundle", &ServeCall<&RemoveBundle>},
      {"Resize", &ServeCall<&Resize>},
      {"PutVolume", &ServeCall<&PutVolume>},
      {"GetFile", &ServeCall<&GetFile>},
      {"ShareFolders", &ServeCall<&ShareFolders>},
      {"ShareMemory", &ServeCall<&ShareMemory>},
      {"MountLayers", &ServeCall<&MountLayers>},
      {"UnmountLayers", &ServeCall<&UnmountLayers>},
      {"ProbeDisks", &ServeCall<&ProbeDisks>},
      {"MakeDebugBundle", &ServeCall<&MakeDebugBundle>},
  };
  return kCalls;
}

}  // namespace caisson::agent
