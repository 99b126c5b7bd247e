// SPDX-License-Identifier: Apache-2.0
#include "cri/streaming.h"

#include <sys/stat.h>

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <map>
#include <mutex>
#include <thread>

#include "base/guest_words.h"
#include "base/id.h"
#include "base/limits.h"
#include "base/log.h"
#include "containerd/runc_options.pb.h"
#include "containerd/task_v3.pb.h"
#include "cri/exec_id.h"
#include "cri/exec_request.h"
#include "cri/pod_connect.h"
#include "cri/pod_forward.h"
#include "cri/stream_session.h"

namespace caisson::cri {
namespace {

namespace task = containerd::task::v3;

constexpr auto kEndTime = std::chrono::seconds(5);  // for the sessions' ends when the daemon ends
constexpr int64_t kStaleMillis = 30'000;            // for each step of ending what a former daemon has left

stream::ServerOptions ServerOptions(const StreamingSettings& settings) {
  stream::ServerOptions options;
  options.address = settings.address;
  options.port = static_cast<uint16_t>(settings.port);
  options.base_url = settings.base_url;
  options.tls_certificate = settings.tls_certificate;
  options.tls_key = settings.tls_key;
  options.idle_timeout_millis = settings.idle_timeout_seconds * 1000;
  return options;
}

// Kill, and for a process of Exec Wait and Delete; on the thread of the companions' connections, which nothing here holds up.
void EndStale(const std::shared_ptr<ShimClient>& shim, const std::string& container, const std::string& exec, bool forget) {
  shim->ttrpc().Call(service::kTask, "Kill", KillExec(container, exec).SerializeAsString(), kStaleMillis, [=](Result<std::string>) {
    if (!forget) return;
    auto wait = ExecRequest<task::WaitRequest>(container, exec).SerializeAsString();
    shim->ttrpc().Call(service::kTask, "Wait", wait, kStaleMillis, [=](Result<std::string>) {
      auto remove = ExecRequest<task::DeleteRequest>(container, exec).SerializeAsString();
      shim->ttrpc().Call(service::kTask, "Delete", remove, kStaleMillis, [](Result<std::string>) {});
    });
  });
}

void EndStaleOf(const std::shared_ptr<ShimClient>& shim, const std::string& container, const std::string& instance) {
  task::PidsRequest request;
  request.set_id(container);
  shim->ttrpc().Call(service::kTask, "Pids", request.SerializeAsString(), kStaleMillis, [=](Result<std::string> reply) {
    task::PidsResponse pids;
    if (!reply || !pids.ParseFromString(*reply)) return;
    for (const auto& process : pids.processes()) {
      containerd::runc::v1::ProcessDetails details;
      if (!process.has_info() || !details.ParseFromString(process.info().value())) continue;
      bool streamed = IsStale(details.exec_id(), kStreamExec, instance);
      if (streamed || IsStale(details.exec_id(), kSyncExec, instance)) EndStale(shim, container, details.exec_id(), streamed);
    }
  });
}

class StreamingBackend : public Streaming, private stream::Backend {
 public:
  StreamingBackend(Context& context, std::unique_ptr<sys::EventLoop> loop, std::unique_ptr<PodConnector> connector)
      : context_(context), loop_(std::move(loop)), connector_(std::move(connector)), thread_([this] { (void)loop_->Run(); }) {}

  ~StreamingBackend() override {
    *ends_ = true;
    server_.reset();
    {
      std::unique_lock lock(mutex_);
      closed_.wait_for(lock, kEndTime, [this] { return sessions_.empty(); });
    }
    loop_->Post([this] { loop_->Stop(); });
    thread_.join();
  }

  Result<> Serve() {
    std::error_code error;
    std::filesystem::remove_all(Folder(), error);
    if (mkdir(Folder().c_str(), 0700) != 0) return ErrnoError("make directory '{}'", Folder());
    for (const ContainerPtr& container : context_.containers.List()) {
      auto record = container->Get();
      if (record->state() != runtime::v1::CONTAINER_RUNNING) continue;
      auto pod = context_.pods.Find(record->pod_id());
      auto shim = pod ? (*pod)->shim() : nullptr;
      if (shim) EndStaleOf(shim, container->id(), context_.instance);
    }
    for (const PodPtr& pod : context_.pods.List()) {
      auto shim = pod->shim();
      if (shim && pod->Get()->vm().debug()) EndStaleOf(shim, kGuestDebugContainer, context_.instance);
    }
    auto started = stream::Server::Start(ServerOptions(context_.config.streaming), *this);
    if (!started) return std::move(started.error()).Within("streaming server");
    server_ = std::move(*started);
    return {};
  }

  stream::Server& server() override { return *server_; }

 private:
  std::string Folder() const { return context_.config.state + "/streams"; }

  void Exec(const stream::ExecTarget& target, StreamDone done) override { Open(target, false, std::move(done)); }
  void Attach(const stream::ExecTarget& target, StreamDone done) override { Open(target, true, std::move(done)); }

  void Open(const stream::ExecTarget& target, bool attach, StreamDone done) {
    auto container = target.pod_id.empty() ? context_.containers.Find(target.container_id) : Result<ContainerPtr>(nullptr);
    if (!container) return done(std::move(container.error()));
    auto pod = context_.pods.Find(*container ? (*container)->Get()->pod_id() : target.pod_id);
    if (!pod) return done(std::move(pod.error()));
    std::string id = NewExecId(kStreamExec, context_.instance);
    StreamSession::Setup setup{context_, loop_, *container, *pod, target, id, Folder() + "/" + id, ends_};
    auto session = attach ? StreamSession::MakeAttach(std::move(setup)) : StreamSession::MakeExec(std::move(setup));
    {
      std::lock_guard lock(mutex_);
      size_t& count = of_pod_[(*pod)->id()];
      if (count >= limits::kStreamPodSessions) {
        return done(MakeError(Code::kResourceExhausted, "pod sandbox '{}' has {} exec and attach sessions already", (*pod)->id(), count));
      }
      ++count;
      sessions_[id] = session;
    }
    const auto& name = (*pod)->Get()->config().metadata();
    // For the audit.
    log::Info("{} {} of pod {}/{} for {}: {}{}", attach ? "attach to" : "exec in", *container ? "container " + (*container)->id() : "the guest",
              name.namespace_(), name.name(), target.peer, attach ? "" : target.args.front().substr(0, 256), target.tty ? " (tty)" : "");
    loop_->Post([this, session, done = std::move(done), pod_id = (*pod)->id(), id] {
      session->Start(done, [this, pod_id, id] { Forget(pod_id, id); });
    });
  }

  void Forget(const std::string& pod_id, const std::string& id) {
    std::shared_ptr<StreamSession> session;  // goes after the lock
    std::lock_guard lock(mutex_);
    auto count = of_pod_.find(pod_id);
    if (--count->second == 0) of_pod_.erase(count);
    auto node = sessions_.extract(id);
    if (!node.empty()) session = std::move(node.mapped());
    closed_.notify_all();
  }

  void Connect(const std::string& pod_id, uint16_t port, std::function<void(Result<UniqueFd>)> done) override {
    auto pod = context_.pods.Find(pod_id);
    if (!pod) return done(std::move(pod.error()));
    auto record = (*pod)->Get();
    if (record->state() != runtime::v1::SANDBOX_READY) {
      return done(MakeError(Code::kFailedPrecondition, "pod sandbox '{}' is not ready", pod_id));
    }
    if (record->has_vm()) {
      std::string path = fmt::format("{}/forward-{}", Folder(), NewId().substr(0, 24));
      return ForwardThroughCompanion(loop_, (*pod)->shim(), path, port, std::move(done));
    }
    loop_->Post([this, netns = record->netns_path(), port, done = std::move(done)] { connector_->Connect(netns, port, done); });
  }

  Context& context_;
  std::shared_ptr<sys::EventLoop> loop_;
  std::unique_ptr<PodConnector> connector_;
  std::mutex mutex_;
  std::condition_variable closed_;
  std::map<std::string, std::shared_ptr<StreamSession>> sessions_;
  std::map<std::string, size_t> of_pod_;
  std::shared_ptr<std::atomic<bool>> ends_ = std::make_shared<std::atomic<bool>>(false);
  std::thread thread_;
  std::unique_ptr<stream::Server> server_;
};

}  // namespace

Result<std::unique_ptr<Streaming>> Streaming::Start(Context& context) {
  auto loop = TRY(sys::EventLoop::Create());
  auto connector = TRY(PodConnector::Create(loop.get()));
  auto backend = std::make_unique<StreamingBackend>(context, std::move(loop), std::move(connector));
  TRY(backend->Serve());
  return std::unique_ptr<Streaming>(std::move(backend));
}

}  // namespace caisson::cri
