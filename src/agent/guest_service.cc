// SPDX-License-Identifier: Apache-2.0
#include "agent/guest_service.h"

#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <memory>
#include <utility>
#include <vector>

#include "agent/debug.h"
#include "agent/early_init.h"
#include "agent/guest_metrics.h"
#include "agent/pod_size.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strings.h"
#include "sys/interfaces.h"
#include "sys/new_file.h"
#include "sys/path.h"
#include "sys/sysctl.h"

namespace caisson::agent {
namespace {

namespace v1 = guest::v1;

constexpr char kService[] = "caisson.guest.v1.Guest";
constexpr int64_t kDiskMillis = 10'000;
// For modules: how long, and how often is looked. They are many and load when nobody wants the processor.
constexpr int64_t kSettleMillis = 10'000, kModuleLookMillis = 20;
constexpr int64_t kPlugMillis = 10'000, kPlugLookMillis = 10;  // for the kernel to take memory into use: emulated some hundred ms

std::string ContainerDir(const std::string& id) { return fmt::format("{}/containers/{}", kRunDir, id); }

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

Result<> WriteBundle(const std::string& dir, const v1::PrepareContainerRequest& request) {
  std::string options = "mode=0700";
  if (request.scratch_bytes() > 0) options += fmt::format(",size={}", request.scratch_bytes());
  if (mount("scratch", dir.c_str(), "tmpfs", MS_NODEV, options.c_str()) != 0) return ErrnoError("mount the writable layer of '{}'", request.id());
  for (const char* below : {"/rootfs", "/upper", "/work"}) {
    if (mkdir((dir + below).c_str(), 0755) != 0) return ErrnoError("make '{}{}'", dir, below);
  }
  return sys::WriteNewFile(dir + "/config.json", request.config_json());
}

template <class Request, class Response, class Call>
void Add(ttrpc::Server* server, const char* method, Call call) {
  server->HandleTyped<Request, Response>(kService, method, [call](const Request& request, std::function<void(Result<Response>)> respond) {
    respond(call(request));
  });
}

}  // namespace

Result<v1::HelloResponse> GuestService::Hello() {
  v1::HelloResponse response;
  response.set_version(CAISSON_VERSION);
  utsname name{};
  uname(&name);
  response.set_kernel_release(name.release);
  timespec boot{};
  clock_gettime(CLOCK_BOOTTIME, &boot);
  response.set_boot_nanos(boot.tv_sec * kNanosPerSecond + boot.tv_nsec);
  response.set_settled(access(kSettledFile, F_OK) == 0);
  std::string known = TRY(sys::ReadFile("/proc/filesystems", limits::kCgroupFileBytes));
  for (std::string_view line : Split(known, '\n')) {
    for (std::string_view type : {"virtiofs", "9p", "fuse"}) {
      if (line.substr(line.rfind('\t') + 1) == type) response.add_filesystems(std::string(type));
    }
  }
  return response;
}

Result<v1::ConfigureResponse> GuestService::Configure(const v1::ConfigureRequest& request) {
  if (configured_) return MakeError(Code::kFailedPrecondition, "this guest is a pod already");
  configured_ = true;
  TRY(SetClock(request.now_nanos()));
  TRY(AddEntropy(request.entropy()));
  if (sethostname(request.hostname().data(), request.hostname().size()) != 0) return ErrnoError("set the hostname '{}'", request.hostname());
  for (const auto& [name, value] : request.sysctls()) {
    TRY(sys::CheckPodSysctl(name, value, false, false));
    TRY(sys::WriteSysctl(name, value));
  }
  TRY(sys::ApplyNetwork(NetworkOf(request)));
  shm_ = TRY(task::PodShm::Make(request.shm_bytes(), 0, 0, fmt::format("{}/shm", kRunDir)));
  if (request.share_pid()) init_.emplace(TRY(task::PodInit::Start(-1)));
  task::TasksOptions options;
  options.shm_fd = shm_.fd();
  options.seccomp_cache_dir = fmt::format("{}/seccomp", kRunDir);
  mkdir(options.seccomp_cache_dir.c_str(), 0700);
  options.writable_layer = ContainerDir;
  options.pod_cgroup = kPodCgroup;
  tasks_->set_options(std::move(options));
  v1::ConfigureResponse response;
  response.set_sandbox_pid(static_cast<uint32_t>(init_ ? init_->pid() : getpid()));
  return response;
}

void GuestService::Prepare(const v1::PrepareContainerRequest& request, std::function<void(Result<PrepareResponse>)> respond) {
  if (!IsSafeName(request.id())) return respond(MakeError(Code::kInvalidArgument, "'{}' cannot be a container's id", request.id().substr(0, 128)));
  if (request.layer_serials().empty()) return respond(MakeError(Code::kInvalidArgument, "container '{}' has no layers", request.id()));
  std::string dir = ContainerDir(request.id());
  mkdir(fmt::format("{}/containers", kRunDir).c_str(), 0700);
  mkdir(fmt::format("{}/empty", kRunDir).c_str(), 0755);  // beneath an image of one layer
  if (mkdir(dir.c_str(), 0700) != 0) return respond(ErrnoError("make '{}'", dir));
  auto written = WriteBundle(dir, request);
  if (!written) {
    Release(request.id());
    return respond(std::move(written.error()));
  }
  std::vector<std::string> serials(request.layer_serials().begin(), request.layer_serials().end());
  const auto root_layers = static_cast<ptrdiff_t>(serials.size());
  serials.insert(serials.end(), request.volume_serials().begin(), request.volume_serials().end());
  int64_t deadline = request.deadline_millis() > 0 ? request.deadline_millis() : kDiskMillis;
  disks_.MountLayers(request.id(), std::move(serials), deadline, [this, id = request.id(), dir, root_layers, await = request.await_modules(), respond](Result<std::vector<std::string>> layers) {
    if (!layers) {
      Release(id);
      return respond(std::move(layers.error()));
    }
    layers->erase(layers->begin() + root_layers, layers->end());
    PrepareResponse response;
    response.set_bundle(dir);
    response.mutable_rootfs()->set_type("overlay");
    response.mutable_rootfs()->set_source("overlay");
    response.mutable_rootfs()->add_options("upperdir=" + dir + "/upper");
    response.mutable_rootfs()->add_options("workdir=" + dir + "/work");
    response.mutable_rootfs()->add_options("lowerdir=" + Join(*layers, ":"));
    if (!await) return respond(std::move(response));
    AwaitModules(kSettleMillis, [response, respond] { respond(response); });
  });
}

void GuestService::AwaitDisks(const v1::AwaitDisksRequest& request, std::function<void(Result<v1::AwaitDisksResponse>)> respond) {
  std::vector<std::string> serials(request.serials().begin(), request.serials().end());
  disks_.Await(std::move(serials), request.deadline_millis() > 0 ? request.deadline_millis() : kDiskMillis,
               [respond](Result<std::vector<std::string>> paths) {
                 if (!paths) return respond(std::move(paths.error()));
                 v1::AwaitDisksResponse response;
                 for (const std::string& path : *paths) {
                   struct stat info {};
                   if (stat(path.c_str(), &info) != 0) return respond(ErrnoError("look at '{}'", path));
                   auto* disk = response.add_disks();
                   disk->set_major_number(major(info.st_rdev));
                   disk->set_minor_number(minor(info.st_rdev));
                 }
                 respond(std::move(response));
               });
}

void GuestService::AwaitModules(int64_t left_millis, std::function<void()> done) {
  if (access(kSettledFile, F_OK) == 0) return done();
  if (left_millis <= 0) {
    log::Warn("the kernel's modules are not all there yet");
    return done();
  }
  tasks_->loop()->After(kModuleLookMillis, [this, left_millis, done = std::move(done)] { AwaitModules(left_millis - kModuleLookMillis, done); });
}

v1::ReleaseContainerResponse GuestService::Release(const std::string& id) {
  v1::ReleaseContainerResponse response;
  std::string dir = ContainerDir(id);
  umount2(dir.c_str(), MNT_DETACH);
  rmdir(dir.c_str());
  volumes_.RemoveAll(id + ".");
  for (std::string& serial : disks_.Release(id)) response.add_unused_serials(std::move(serial));
  return response;
}

// Memory first: a limit may be of it.
void GuestService::Resize(const v1::ResizeRequest& request, int64_t left_millis, std::function<void(Result<v1::ResizeResponse>)> respond) {
  if (request.plugged_bytes() > UsedMemoryBlocks()) {
    if (left_millis <= 0) {
      return respond(MakeError(Code::kDeadlineExceeded, "the guest's kernel uses {} bytes of the memory of its machine, which has {}", UsedMemoryBlocks(), request.plugged_bytes()));
    }
    tasks_->loop()->After(kPlugLookMillis, [this, request, left_millis, respond = std::move(respond)] { Resize(request, left_millis - kPlugLookMillis, respond); });
    return;
  }
  auto resized = [&]() -> Result<v1::ResizeResponse> {
    v1::ResizeResponse response;
    TRY(LimitPodMemory(request.memory_limit_bytes()));
    response.set_processors(TRY(SetProcessors(request.processors())));
    return response;
  }();
  respond(std::move(resized));
}

void GuestService::OpenDebug(std::function<void(Result<v1::OpenDebugResponse>)> respond) {
  if (!debug_) return respond(MakeError(Code::kFailedPrecondition, "this machine was not started for debugging"));
  OpenDebugContainer(tasks_, [respond](Result<> opened) {
    if (!opened) return respond(std::move(opened.error()));
    respond(v1::OpenDebugResponse());
  });
}

void GuestService::RegisterStreams(ttrpc::Server* server) {
  server->HandleTyped<v1::DialRequest, v1::DialResponse>(kService, "Dial", [this](const auto& request, auto respond) {
    if (request.port() == 0 || request.port() > UINT16_MAX) return respond(MakeError(Code::kInvalidArgument, "{} is no port", request.port()));
    int64_t deadline = request.deadline_millis() > 0 ? request.deadline_millis() : limits::kForwardConnectMillis;
    streams_.Dial(request.id(), static_cast<uint16_t>(request.port()), deadline, [respond](Result<> dialed) {
      if (!dialed) return respond(std::move(dialed.error()));
      respond(v1::DialResponse());
    });
  });
  server->HandleTyped<v1::ReadStreamRequest, v1::ReadStreamResponse>(kService, "ReadStream", [this](const auto& request, auto respond) {
    streams_.Read(request.id(), request.max_bytes(), [respond](Result<task::KeptOutput::Part> part) {
      if (!part) return respond(std::move(part.error()));
      v1::ReadStreamResponse response;
      response.set_data(std::move(part->data));
      response.set_ended(part->ended);
      respond(std::move(response));
    });
  });
  server->HandleTyped<v1::WriteStreamRequest, v1::WriteStreamResponse>(kService, "WriteStream", [this](const auto& request, auto respond) {
    streams_.Write(request.id(), request.data(), [respond](Result<> written) {
      if (!written) return respond(std::move(written.error()));
      respond(v1::WriteStreamResponse());
    });
  });
  Add<v1::CloseStreamRequest, v1::CloseStreamResponse>(server, "CloseStream", [this](const auto& request) -> Result<v1::CloseStreamResponse> {
    streams_.Close(request.id(), request.only_write());
    return v1::CloseStreamResponse();
  });
}

void GuestService::Register(ttrpc::Server* server) {
  RegisterStreams(server);
  Add<v1::HelloRequest, v1::HelloResponse>(server, "Hello", [this](const auto&) { return Hello(); });
  Add<v1::ConfigureRequest, v1::ConfigureResponse>(server, "Configure", [this](const auto& request) { return Configure(request); });
  Add<v1::SetTimeRequest, v1::SetTimeResponse>(server, "SetTime", [](const auto& request) -> Result<v1::SetTimeResponse> {
    TRY(SetClock(request.now_nanos()));
    return v1::SetTimeResponse();
  });
  server->HandleTyped<v1::PrepareContainerRequest, PrepareResponse>(
      kService, "PrepareContainer", [this](const auto& request, auto respond) { Prepare(request, std::move(respond)); });
  Add<v1::ReleaseContainerRequest, v1::ReleaseContainerResponse>(
      server, "ReleaseContainer", [this](const auto& request) -> Result<v1::ReleaseContainerResponse> { return Release(request.id()); });
  server->HandleTyped<v1::AwaitDisksRequest, v1::AwaitDisksResponse>(
      kService, "AwaitDisks", [this](const auto& request, auto respond) { AwaitDisks(request, std::move(respond)); });
  server->HandleTyped<v1::ResizeRequest, v1::ResizeResponse>(
      kService, "Resize", [this](const auto& request, auto respond) { Resize(request, kPlugMillis, std::move(respond)); });
  Add<v1::PutFilesRequest, v1::PutFilesResponse>(server, "PutFiles", [this](const auto& request) -> Result<v1::PutFilesResponse> {
    TRY(volumes_.Put(request));
    return v1::PutFilesResponse();
  });
  Add<v1::GetFileRequest, v1::GetFileResponse>(server, "GetFile", [this](const auto& request) -> Result<v1::GetFileResponse> {
    v1::GetFileResponse response;
    response.set_content(TRY(volumes_.Get(request.volume(), request.path(), request.limit())));
    return response;
  });
  server->HandleTyped<v1::ShareFoldersRequest, v1::ShareFoldersResponse>(kService, "ShareFolders", [this](const auto& request, auto respond) {
    shared_.Share(request.deadline_millis(), [respond](Result<> shared) {
      if (!shared) return respond(std::move(shared.error()));
      respond(v1::ShareFoldersResponse());
    });
  });
  server->HandleTyped<v1::OpenDebugRequest, v1::OpenDebugResponse>(kService, "OpenDebug", [this](const auto&, auto respond) { OpenDebug(std::move(respond)); });
  Add<v1::MetricsRequest, v1::MetricsResponse>(server, "Metrics", [](const auto&) { return ReadGuestMetrics(); });
}

}  // namespace caisson::agent
