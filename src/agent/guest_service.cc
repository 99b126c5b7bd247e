// SPDX-License-Identifier: Apache-2.0
#include "agent/guest_service.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <ctime>
#include <memory>
#include <utility>
#include <vector>

#include "agent/debug.h"
#include "agent/early_init.h"
#include "agent/guest_metrics.h"
#include "agent/launched_container.h"
#include "agent/pod_size.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/strings.h"
#include "caisson/guest/v1/launch.pb.h"
#include "caisson/wkt/wkt.pb.h"
#include "sys/path.h"

namespace caisson::agent {
namespace {

namespace v1 = guest::v1;

constexpr char kService[] = "caisson.guest.v1.Guest";
constexpr int64_t kDiskMillis = 10'000;
// For modules: how long, and how often is looked. They are many and load when nobody wants the processor.
constexpr int64_t kSettleMillis = 10'000, kModuleLookMillis = 20;
constexpr int64_t kPlugMillis = 10'000, kPlugLookMillis = 10;  // for the kernel to take memory into use: emulated some hundred ms

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

Result<> GuestService::Start() {
  task::TasksOptions options;
  options.make_container = [launches = launches_](oci::CreateOptions create) { return CreateLaunched(launches, std::move(create)); };
  options.kill_tree = [launches = launches_](const task::Task& task, const task::Process& process, const std::vector<ino_t>& pipes) {
    KillLaunchedTree(launches, *task.container, process.exited ? nullptr : &process.oci, pipes);
  };
  options.writable_layer = ContainerDir;
  options.pod_cgroup = kPodCgroup;
  tasks_->set_options(std::move(options));
  return disks_.Start();
}

Result<v1::ConfigureResponse> GuestService::Configure(const v1::ConfigureRequest& request) {
  if (configured_) return MakeError(Code::kFailedPrecondition, "this guest is a pod already");
  configured_ = !request.rehearsal();
  auto response = TRY((launches_->Call<v1::ConfigureRequest, v1::ConfigureResponse>("Configure", request)));
  if (response.sandbox_pid() == 0) response.set_sandbox_pid(static_cast<uint32_t>(getpid()));
  return response;
}

void GuestService::Prepare(const v1::PrepareContainerRequest& request, std::function<void(Result<PrepareResponse>)> respond) {
  if (!IsSafeName(request.id())) return respond(MakeError(Code::kInvalidArgument, "'{}' cannot be a container's id", request.id().substr(0, 128)));
  const std::string folder = request.root_folder();
  if (!folder.empty() && !IsSafeName(folder)) return respond(MakeError(Code::kInvalidArgument, "container '{}': '{}' is no shared folder", request.id(), folder.substr(0, 128)));
  if (request.layer_serials().empty() == folder.empty()) return respond(MakeError(Code::kInvalidArgument, "container '{}' has no layers", request.id()));
  std::string dir = ContainerDir(request.id());
  auto made = launches_->Call<v1::PrepareContainerRequest, wkt::Empty>("MakeBundle", request);
  if (!made) return respond(std::move(made.error()));
  std::vector<std::string> serials(request.layer_serials().begin(), request.layer_serials().end());
  const auto root_layers = static_cast<ptrdiff_t>(serials.size());
  serials.insert(serials.end(), request.volume_serials().begin(), request.volume_serials().end());
  int64_t deadline = request.deadline_millis() > 0 ? request.deadline_millis() : kDiskMillis;
  disks_.MountLayers(request.id(), std::move(serials), deadline, [this, id = request.id(), dir, root_layers, folder, await = request.await_modules(), respond](Result<std::vector<std::string>> layers) {
    if (!layers) {
      Release(id);
      return respond(std::move(layers.error()));
    }
    layers->erase(layers->begin() + root_layers, layers->end());
    if (!folder.empty()) layers->push_back(fmt::format("{}/{}", kSharedDir, folder));
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
  v1::ReleaseContainerRequest request;
  request.set_id(id);
  auto removed = launches_->Call<v1::ReleaseContainerRequest, wkt::Empty>("RemoveBundle", request);
  if (!removed) log::Error("release container '{}': {}", id.substr(0, 128), removed.error().message);
  v1::ReleaseContainerResponse response;
  for (std::string& serial : disks_.Release(id)) response.add_unused_serials(std::move(serial));
  return response;
}

void GuestService::Resize(const v1::ResizeRequest& request, int64_t left_millis, std::function<void(Result<v1::ResizeResponse>)> respond) {
  if (request.plugged_bytes() > UsedMemoryBlocks()) {
    if (left_millis <= 0) {
      return respond(MakeError(Code::kDeadlineExceeded, "the guest's kernel uses {} bytes of the memory of its machine, which has {}", UsedMemoryBlocks(), request.plugged_bytes()));
    }
    tasks_->loop()->After(kPlugLookMillis, [this, request, left_millis, respond = std::move(respond)] { Resize(request, left_millis - kPlugLookMillis, respond); });
    return;
  }
  respond(launches_->Call<v1::ResizeRequest, v1::ResizeResponse>("Resize", request));
}

void GuestService::OpenDebug(std::function<void(Result<v1::OpenDebugResponse>)> respond) {
  if (!debug_) return respond(MakeError(Code::kFailedPrecondition, "this machine was not started for debugging"));
  OpenDebugContainer(tasks_, launches_, [respond](Result<> opened) {
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
  Add<v1::SetTimeRequest, v1::SetTimeResponse>(server, "SetTime", [this](const auto& request) -> Result<v1::SetTimeResponse> {
    // To ask needs no rights.
    if (!request.relative() || request.adjust_nanos() != 0) return launches_->Call<v1::SetTimeRequest, v1::SetTimeResponse>("SetTime", request);
    v1::SetTimeResponse response;
    response.set_now_nanos(NowNanos());
    return response;
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
  Add<v1::GetFileRequest, v1::GetFileResponse>(server, "GetFile", [this](const auto& request) {
    return launches_->Call<v1::GetFileRequest, v1::GetFileResponse>("GetFile", request);
  });
  server->HandleTyped<v1::ShareFoldersRequest, v1::ShareFoldersResponse>(kService, "ShareFolders", [this](const auto& request, auto respond) {
    shared_.Share(request.deadline_millis(), [respond](Result<> shared) {
      if (!shared) return respond(std::move(shared.error()));
      respond(v1::ShareFoldersResponse());
    });
  });
  Add<v1::ShareMemoryRequest, v1::ShareMemoryResponse>(server, "ShareMemory", [this](const auto& request) {
    return launches_->Call<v1::ShareMemoryRequest, v1::ShareMemoryResponse>("ShareMemory", request);
  });
  server->HandleTyped<v1::OpenDebugRequest, v1::OpenDebugResponse>(kService, "OpenDebug", [this](const auto&, auto respond) { OpenDebug(std::move(respond)); });
  Add<v1::MetricsRequest, v1::MetricsResponse>(server, "Metrics", [](const auto&) { return ReadGuestMetrics(); });
}

}  // namespace caisson::agent
