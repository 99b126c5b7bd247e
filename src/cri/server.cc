// SPDX-License-Identifier: Apache-2.0
#include "cri/server.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>

#include "cri/v1/api.grpc.pb.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "base/clock.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "cri/control.h"
#include "cri/daemon_metrics.h"
#include "cri/events.h"
#include "cri/grpc_status.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {
namespace {

constexpr int64_t kLastAnswersMillis = 200;  // for answers that are being written when the server ends
constexpr int64_t kEventMillis = 500;   // until a client's end is noticed
constexpr size_t kPartBytes = 1 << 20;  // of a streamed list
constexpr int kMaxReceiveBytes = 16 << 20;   // what the kubelet itself allows

// The RPCs in work. gRPC's own shutdown waits for clients to hang up, which an idle one may never do; ours waits for work.
class Calls {
 public:
  bool Enter() {
    std::lock_guard lock(mutex_);
    if (closed_) return false;
    ++in_work_;
    ++entered_;
    return true;
  }
  uint64_t entered() const {
    std::lock_guard lock(mutex_);
    return entered_;
  }
  void Leave() {
    std::lock_guard lock(mutex_);
    if (--in_work_ == 0) idle_.notify_all();
  }
  // No more; returns when none is in work, or at the deadline.
  void Close(int64_t millis) {
    std::unique_lock lock(mutex_);
    closed_ = true;
    idle_.wait_for(lock, std::chrono::milliseconds(millis), [this] { return in_work_ == 0; });
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  bool closed_ = false;
  int in_work_ = 0;
  uint64_t entered_ = 0;
};

template <class Work, class Request, class Response>
grpc::Status Serve(Context& context, Calls& calls, const char* verb, Work work, const Request& request, Response* response) {
  if (!calls.Enter()) return {grpc::StatusCode::UNAVAILABLE, "caissond is about to end"};
  struct Leaving {
    Calls& calls;
    ~Leaving() { calls.Leave(); }
  } leaving{calls};
  log::Debug("{}", verb);
  const int64_t begin = MonotonicNanos();
  auto result = work(context, request);
  grpc::Status status = result ? grpc::Status::OK : ToStatus(verb, result.error());
  if (context.metrics != nullptr) context.metrics->CountRpc(verb, CodeName(status.error_code()), MonotonicNanos() - begin);
  if (result) response->Swap(&*result);
  return status;
}

#define SERVE(Verb)                                                                              \
  grpc::Status Verb(grpc::ServerContext*, const v1::Verb##Request* request, v1::Verb##Response* response) override { \
    return Serve(context_, calls_, #Verb, &cri::Verb, *request, response);                               \
  }

// A list in parts, for clients whose messages are bounded.
#define SERVE_PARTS(Verb, ListVerb, list_field, part_field, take_filter)                                        \
  grpc::Status Verb(grpc::ServerContext*, const v1::Verb##Request* request, grpc::ServerWriter<v1::Verb##Response>* writer) override { \
    v1::ListVerb##Request wanted;                                                                               \
    take_filter(wanted, request);                                                                               \
    v1::ListVerb##Response all;                                                                                 \
    grpc::Status status = Serve(context_, calls_, #Verb, &cri::ListVerb, wanted, &all);                         \
    if (!status.ok()) return status;                                                                            \
    return WriteParts(*all.mutable_##list_field(), &v1::Verb##Response::add_##part_field, writer);              \
  }
#define TAKE_FILTER(wanted, request) *wanted.mutable_filter() = request->filter()
#define NO_FILTER(wanted, request) static_cast<void>(request)
#define SERVE_LIST(Verb, ListVerb, list_field, part_field) SERVE_PARTS(Verb, ListVerb, list_field, part_field, TAKE_FILTER)
#define SERVE_ALL(Verb, ListVerb, list_field, part_field) SERVE_PARTS(Verb, ListVerb, list_field, part_field, NO_FILTER)

// Each part of about kPartBytes; an empty list is no part.
template <class Item, class Part>
grpc::Status WriteParts(google::protobuf::RepeatedPtrField<Item>& items, Item* (Part::*add)(), grpc::ServerWriter<Part>* writer) {
  Part part;
  size_t bytes = 0;
  for (int i = 0; i < items.size(); ++i) {
    bytes += items[i].ByteSizeLong();
    (part.*add)()->Swap(&items[i]);
    if (bytes < kPartBytes && i + 1 < items.size()) continue;
    if (!writer->Write(part)) return {grpc::StatusCode::CANCELLED, "the client has gone"};
    part.Clear();
    bytes = 0;
  }
  return grpc::Status::OK;
}

class RuntimeService final : public v1::RuntimeService::Service {
 public:
  RuntimeService(Context& context, Calls& calls) : context_(context), calls_(calls) {}

  SERVE(Version)
  SERVE(RunPodSandbox)
  SERVE(StopPodSandbox)
  SERVE(RemovePodSandbox)
  SERVE(PodSandboxStatus)
  SERVE(ListPodSandbox)
  SERVE(CreateContainer)
  SERVE(StartContainer)
  SERVE(StopContainer)
  SERVE(RemoveContainer)
  SERVE(ListContainers)
  SERVE(ContainerStatus)
  SERVE(UpdateContainerResources)
  SERVE(UpdatePodSandboxResources)
  SERVE(ReopenContainerLog)
  SERVE(Exec)
  SERVE(Attach)
  SERVE(PortForward)
  SERVE(ContainerStats)
  SERVE(ListContainerStats)
  SERVE(PodSandboxStats)
  SERVE(ListPodSandboxStats)
  SERVE(ListMetricDescriptors)
  SERVE(ListPodSandboxMetrics)
  SERVE(UpdateRuntimeConfig)
  SERVE(Status)
  SERVE(RuntimeConfig)

  grpc::Status ExecSync(grpc::ServerContext* call, const v1::ExecSyncRequest* request, v1::ExecSyncResponse* response) override {
    auto work = [call](Context& context, const v1::ExecSyncRequest& wanted) {
      return cri::ExecSync(context, wanted, [call] { return call->IsCancelled(); });
    };
    return Serve(context_, calls_, "ExecSync", work, *request, response);
  }
  // Not one of the calls in work: it lasts as long as its client, and ends with the daemon by itself.
  grpc::Status GetContainerEvents(grpc::ServerContext* call, const v1::GetEventsRequest*,
                                  grpc::ServerWriter<v1::ContainerEventResponse>* writer) override {
    auto client = context_.events->Listen();
    if (!client) return ToStatus("GetContainerEvents", client.error());
    writer->SendInitialMetadata();
    while (!call->IsCancelled()) {
      auto event = (*client)->Next(kEventMillis);
      if (!event) return ToStatus("GetContainerEvents", event.error());
      if (*event && !writer->Write(**event)) break;
    }
    return {grpc::StatusCode::CANCELLED, "the client has gone"};
  }
  SERVE(CheckpointContainer)
  SERVE_LIST(StreamPodSandboxes, ListPodSandbox, items, pod_sandboxes)
  SERVE_LIST(StreamContainers, ListContainers, containers, containers)
  SERVE_LIST(StreamContainerStats, ListContainerStats, stats, container_stats)
  SERVE_LIST(StreamPodSandboxStats, ListPodSandboxStats, stats, pod_sandbox_stats)
  SERVE_ALL(StreamPodSandboxMetrics, ListPodSandboxMetrics, pod_metrics, pod_sandbox_metrics)

 private:
  Context& context_;
  Calls& calls_;
};

class ImageService final : public v1::ImageService::Service {
 public:
  ImageService(Context& context, Calls& calls) : context_(context), calls_(calls) {}

  SERVE(ListImages)
  SERVE(ImageStatus)
  SERVE(PullImage)
  SERVE(RemoveImage)
  SERVE(ImageFsInfo)
  SERVE_LIST(StreamImages, ListImages, images, images)

 private:
  Context& context_;
  Calls& calls_;
};

// A socket file that nobody serves is replaced; one that is served is somebody's.
Result<> CheckFree(const std::string& path) {
  sockaddr_un address = {};
  if (path.size() >= sizeof address.sun_path) {
    return MakeError(Code::kInvalidArgument, "the socket path '{}' is longer than {} bytes", path,
                     sizeof address.sun_path - 1);
  }
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return ErrnoError("socket");
  int rc = connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
  if (rc == 0 || errno == EAGAIN) {
    return MakeError(Code::kFailedPrecondition, "the socket '{}' is served by another process", path);
  }
  return {};
}

class GrpcServer : public Server {
 public:
  explicit GrpcServer(Context& context)
      : context_(context), runtime_(context, calls_), image_(context, calls_), control_(MakeControlService(context)) {}

  Result<> Listen(const Config& config) {
    std::string socket = config.SocketPath();
    grpc::ServerBuilder builder;
    grpc::ResourceQuota quota("caissond");
    quota.SetMaxThreads(config.max_threads);
    builder.SetResourceQuota(quota);
    builder.SetMaxReceiveMessageSize(kMaxReceiveBytes);
    builder.SetMaxSendMessageSize(-1);
    // One queue, one or two threads waiting on it: what is idle costs little, and each RPC in work has its own thread.
    builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 2);
    TRY(CheckFree(socket));
    int bound = 0, image_bound = 1;
    // gRPC makes the socket with the process's umask: never open to others, not even for a moment.
    mode_t old = umask(0117);
    builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials(), &bound);
    builder.RegisterService(&runtime_);
    builder.RegisterService(&image_);
    builder.RegisterService(control_.get());
    if (!config.image_socket.empty()) {
      auto free = CheckFree(config.image_socket);
      if (!free) return umask(old), std::move(free.error());
      builder.AddListeningPort("unix:" + config.image_socket, grpc::InsecureServerCredentials(), &image_bound);
    }
    server_ = builder.BuildAndStart();
    umask(old);
    if (!server_ || bound == 0 || image_bound == 0) {
      return MakeError(Code::kUnavailable, "cannot serve on '{}'", bound ? config.image_socket : socket);
    }
    return {};
  }

  void Stop(int64_t millis) override {
    if (context_.events != nullptr) context_.events->Close();
    calls_.Close(millis);
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(kLastAnswersMillis));
    server_->Wait();
  }

  uint64_t rpcs() const override { return calls_.entered(); }

 private:
  Context& context_;
  Calls calls_;
  RuntimeService runtime_;
  ImageService image_;
  std::unique_ptr<grpc::Service> control_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

Result<std::unique_ptr<Server>> Server::Start(Context& context) {
  auto server = std::make_unique<GrpcServer>(context);
  TRY(server->Listen(context.config));
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace caisson::cri
