// SPDX-License-Identifier: Apache-2.0
#include "cri/rpc/fakes_test.h"

#include <condition_variable>
#include <future>
#include <thread>

#include "caisson/keeper/v1/keeper.pb.h"
#include "caisson/pod/v1/pod.pb.h"
#include "containerd/sandbox.pb.h"
#include "containerd/task_v3.pb.h"
#include "sys/socket.h"

#include <fcntl.h>
#include <sys/socket.h>

namespace caisson::cri {

namespace podv1 = caisson::pod::v1;
namespace sandbox = containerd::runtime::sandbox::v1;
namespace task = containerd::task::v3;

bool World::Fails(const std::string& what) {
  std::lock_guard lock(mutex);
  calls.push_back(what);
  return failing.contains(what);
}
bool World::Hangs(const std::string& what) {
  std::lock_guard lock(mutex);
  return unanswered.contains(what);
}
int World::Count(const std::string& what) {
  std::lock_guard lock(mutex);
  return static_cast<int>(std::count(calls.begin(), calls.end(), what));
}
bool World::Empty() {
  std::lock_guard lock(mutex);
  return companions.empty() && attached.empty() && snapshots.empty() && tasks.empty();
}

Result<image::Image> FakeImages::Find(const std::string& name) {
  if (name != "busybox") return MakeError(Code::kNotFound, "image '{}' does not exist", name);
  image::Image image;
  image.id = "sha256:1234";
  image.repo_tags = {"docker.io/library/busybox:latest"};
  image.repo_digests = {"docker.io/library/busybox@sha256:5678"};
  image.config.cmd = {"sh"};
  image.config.stop_signal = "SIGQUIT";
  return image;
}
Result<image::Snapshot> FakeImages::Prepare(const std::string& key, const std::string&) {
  if (world_->Fails("images.Prepare")) return MakeError(Code::kInternal, "the disk is full");
  std::lock_guard lock(world_->mutex);
  world_->snapshots.insert(key);
  image::Snapshot snapshot;
  snapshot.key = key;
  snapshot.lower_dirs = {"/"};
  snapshot.upper_dir = "/u", snapshot.work_dir = "/w";
  return snapshot;
}
Result<image::Snapshot> FakeImages::FindSnapshot(const std::string& key) {
  return MakeError(Code::kNotFound, "no snapshot '{}'", key);
}
Result<> FakeImages::RemoveSnapshot(const std::string& key) {
  std::lock_guard lock(world_->mutex);
  world_->snapshots.erase(key);
  return {};
}
std::vector<std::string> FakeImages::ListSnapshots() {
  std::lock_guard lock(world_->mutex);
  return {world_->snapshots.begin(), world_->snapshots.end()};
}

Result<net::NetworkResult> FakeCni::Add(const net::Attachment& attachment) {
  if (world_->Fails("cni.Add")) return MakeError(Code::kInternal, "the plugin failed");
  std::lock_guard lock(world_->mutex);
  world_->attached.insert(attachment.container_id);
  net::NetworkResult result;
  result.ips = {"10.1.2.3", "fd00::3"};
  result.raw_json = "{\"ips\":[]}";
  return result;
}
Result<> FakeCni::Del(const net::Attachment& attachment, const net::NetworkResult&) {
  if (world_->Fails("cni.Del")) return MakeError(Code::kInternal, "the plugin failed");
  std::lock_guard lock(world_->mutex);
  world_->attached.erase(attachment.container_id);
  return {};
}

namespace {

struct Task {
  bool started = false, ended = false, oom_killed = false;
  int exit_code = 0;
  int64_t created = 0, started_at = 0, ended_at = 0;
  std::vector<std::function<void(Result<task::WaitResponse>)>> waiters;
};

struct Companion {
  std::string pod_id;
  int pid = 0;
  bool alive = true;
  std::unique_ptr<ttrpc::Server> server;
  std::map<std::string, Task> tasks;
  keeper::v1::StatusResponse kept;  // of one that is a template's keeper
};

wkt::Timestamp At(int64_t nanos) {
  wkt::Timestamp at;
  at.set_seconds(nanos / kNanosPerSecond);
  at.set_nanos(static_cast<int32_t>(nanos % kNanosPerSecond));
  return at;
}

}  // namespace

class Fleet {
 public:
  explicit Fleet(World* w) : world(w), loop(std::move(*sys::EventLoop::Create())), thread_([this] { (void)loop->Run(); }) {}
  ~Fleet() {
    loop->Stop();
    thread_.join();
  }

  // Runs `work` on the loop's thread and waits for it.
  void On(const std::function<void()>& work) {
    std::promise<void> done;
    loop->Post([&] {
      work();
      done.set_value();
    });
    done.get_future().get();
  }

  // The following are called on the loop's thread.
  void Launch(const std::string& pod_id);
  Result<UniqueFd> Connect(const std::string& pod_id);
  void Die(Companion& companion);
  void End(Companion& companion, const std::string& id, int exit_code, bool oom_killed);
  Companion* Of(const std::string& pod_id) {
    auto at = companions.find(pod_id);
    return at == companions.end() ? nullptr : at->second.get();
  }

  World* const world;
  std::unique_ptr<sys::EventLoop> loop;
  std::map<std::string, std::shared_ptr<Companion>> companions;
  std::function<void(const std::string&)> on_death;
  std::mutex alive_mutex;
  std::condition_variable died;

 private:
  template <class Request, class Response>
  void Serve(Companion* companion, std::string_view service, const std::string& method,
             std::function<void(const Request&, std::function<void(Result<Response>)>)> handler) {
    companion->server->HandleTyped<Request, Response>(
        service, method, [this, method, handler](const Request& request, std::function<void(Result<Response>)> reply) {
          if (world->Fails(method)) return reply(MakeError(Code::kInternal, "made up failure of {}", method));
          if (world->Hangs(method)) return;
          handler(request, std::move(reply));
        });
  }
  void ServeSandbox(Companion* companion);
  void ServeTask(Companion* companion);
  void ServePod(Companion* companion);
  void ServeKeeper(Companion* companion);

  int next_pid_ = 1'000'000'000;
  std::thread thread_;
};

void Fleet::ServeSandbox(Companion* companion) {
  Serve<sandbox::CreateSandboxRequest, sandbox::CreateSandboxResponse>(
      companion, service::kSandbox, "CreateSandbox", [](const auto&, auto reply) { reply(sandbox::CreateSandboxResponse()); });
  Serve<sandbox::StartSandboxRequest, sandbox::StartSandboxResponse>(
      companion, service::kSandbox, "StartSandbox", [companion](const auto&, auto reply) {
        sandbox::StartSandboxResponse response;
        response.set_pid(static_cast<uint32_t>(companion->pid));
        reply(response);
      });
  Serve<sandbox::StopSandboxRequest, sandbox::StopSandboxResponse>(
      companion, service::kSandbox, "StopSandbox", [](const auto&, auto reply) { reply(sandbox::StopSandboxResponse()); });
  Serve<sandbox::PingRequest, sandbox::PingResponse>(
      companion, service::kSandbox, "PingSandbox", [](const auto&, auto reply) { reply(sandbox::PingResponse()); });
  Serve<sandbox::ShutdownSandboxRequest, sandbox::ShutdownSandboxResponse>(
      companion, service::kSandbox, "ShutdownSandbox", [this, companion](const auto&, auto reply) {
        reply(sandbox::ShutdownSandboxResponse());
        // After the answer has been sent.
        loop->After(1, [this, id = companion->pod_id] {
          if (Companion* live = Of(id)) Die(*live);
        });
      });
}

void Fleet::ServeTask(Companion* companion) {
  Serve<task::CreateTaskRequest, task::CreateTaskResponse>(
      companion, service::kTask, "Create", [this, companion](const auto& request, auto reply) {
        companion->tasks[request.id()].created = NowNanos();
        {
          std::lock_guard lock(world->mutex);
          world->tasks.insert(request.id());
        }
        task::CreateTaskResponse response;
        response.set_pid(77);
        reply(response);
      });
  Serve<task::StartRequest, task::StartResponse>(
      companion, service::kTask, "Start", [companion](const auto& request, auto reply) {
        Task& started = companion->tasks[request.id()];
        started.started = true;
        started.started_at = NowNanos();
        task::StartResponse response;
        response.set_pid(77);
        reply(response);
      });
  Serve<task::KillRequest, wkt::Empty>(
      companion, service::kTask, "Kill", [this, companion](const auto& request, auto reply) {
        if (!companion->tasks.contains(request.id())) return reply(MakeError(Code::kNotFound, "no task"));
        reply(wkt::Empty());
        if (request.signal() == 9 || !world->deaf) {
          End(*companion, request.id(), 128 + static_cast<int>(request.signal()), false);
        }
      });
  Serve<task::WaitRequest, task::WaitResponse>(
      companion, service::kTask, "Wait", [companion](const auto& request, auto reply) {
        auto at = companion->tasks.find(request.id());
        if (at == companion->tasks.end()) return reply(MakeError(Code::kNotFound, "no task"));
        if (!at->second.ended) return at->second.waiters.push_back(reply);
        task::WaitResponse response;
        response.set_exit_status(static_cast<uint32_t>(at->second.exit_code));
        *response.mutable_exited_at() = At(at->second.ended_at);
        reply(response);
      });
  Serve<task::DeleteRequest, task::DeleteResponse>(
      companion, service::kTask, "Delete", [this, companion](const auto& request, auto reply) {
        if (companion->tasks.erase(request.id()) == 0) return reply(MakeError(Code::kNotFound, "no task"));
        std::lock_guard lock(world->mutex);
        world->tasks.erase(request.id());
        reply(task::DeleteResponse());
      });
}

void Fleet::ServePod(Companion* companion) {
  Serve<podv1::WarmUpRequest, podv1::WarmUpResponse>(companion, service::kPod, "WarmUp", [](const auto&, auto reply) { reply(podv1::WarmUpResponse()); });
  Serve<podv1::ContainerInfoRequest, podv1::ContainerInfoResponse>(
      companion, service::kPod, "ContainerInfo", [companion](const auto& request, auto reply) {
        auto at = companion->tasks.find(request.container_id());
        if (at == companion->tasks.end()) return reply(MakeError(Code::kNotFound, "no task"));
        podv1::ContainerInfoResponse response;
        response.set_pid(77);
        response.set_created_at_nanos(at->second.created);
        response.set_started_at_nanos(at->second.started_at);
        response.set_finished_at_nanos(at->second.ended_at);
        response.set_exit_code(at->second.exit_code);
        response.set_oom_killed(at->second.oom_killed);
        response.set_running(at->second.started && !at->second.ended);
        reply(response);
      });
  Serve<podv1::StatsRequest, podv1::StatsResponse>(companion, service::kPod, "Stats", [this, companion](const auto&, auto reply) {
    podv1::StatsResponse response;
    std::lock_guard lock(world->mutex);
    for (const auto& figures : world->figures[companion->pod_id]) *response.add_containers() = figures;
    reply(response);
  });
  // Port 1: says that it has connected, and has not.
  Serve<podv1::ForwardRequest, podv1::ForwardResponse>(companion, service::kPod, "Forward", [](const auto& request, auto reply) {
    if (request.port() == 1) return reply(podv1::ForwardResponse());
    auto fd = sys::ConnectUnix(request.socket_path());
    if (!fd) return reply(std::move(fd.error()));
    std::string said = fmt::format("port {}", request.port());
    if (write(fd->get(), said.data(), said.size()) < 0) return reply(ErrnoError("write"));
    reply(podv1::ForwardResponse());
  });
  Serve<podv1::ExecSyncRequest, podv1::ExecSyncResponse>(
      companion, service::kPod, "ExecSync", [](const auto& request, auto reply) {
        podv1::ExecSyncResponse response;
        response.set_stdout(request.args(0));
        response.set_exit_code(3);
        response.set_timed_out(request.args(0) == "hang");
        reply(response);
      });
}

void Fleet::ServeKeeper(Companion* companion) {
  constexpr std::string_view kService = "caisson.keeper.v1.Keeper";
  Serve<keeper::v1::MakeRequest, keeper::v1::MakeResponse>(companion, kService, "Make", [companion](const auto& request, auto reply) {
    companion->kept.set_ready(true);
    *companion->kept.mutable_made() = request;
    companion->kept.set_made_at_nanos(NowNanos());
    reply(keeper::v1::MakeResponse());
  });
  Serve<keeper::v1::StatusRequest, keeper::v1::StatusResponse>(companion, kService, "Status",
                                                               [companion](const auto&, auto reply) { reply(companion->kept); });
}

void Fleet::Launch(const std::string& pod_id) {
  auto companion = std::make_shared<Companion>();
  companion->pod_id = pod_id;
  companion->pid = next_pid_++;
  companion->server = ttrpc::Server::Create(loop.get());
  ServeSandbox(companion.get());
  ServeTask(companion.get());
  ServePod(companion.get());
  ServeKeeper(companion.get());
  std::lock_guard lock(world->mutex);
  world->companions.insert(pod_id);
  companions[pod_id] = std::move(companion);
}

Result<UniqueFd> Fleet::Connect(const std::string& pod_id) {
  Companion* companion = Of(pod_id);
  if (!companion) return MakeError(Code::kNotFound, "the companion is gone");
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) return ErrnoError("socketpair");
  UniqueFd ours(ends[0]);
  TRY(companion->server->Serve(UniqueFd(ends[1])));
  return ours;
}

void Fleet::Die(Companion& companion) {
  std::string pod_id = companion.pod_id;
  std::shared_ptr<Companion> last = companions[pod_id];
  {
    std::lock_guard lock(world->mutex);
    world->companions.erase(pod_id);
    for (const auto& [id, task] : last->tasks) world->tasks.erase(id);
  }
  companions.erase(pod_id);
  last->server.reset();
  {
    std::lock_guard lock(alive_mutex);
    last->alive = false;
    died.notify_all();
  }
  if (on_death) on_death(pod_id);
}

void Fleet::End(Companion& companion, const std::string& id, int exit_code, bool oom_killed) {
  auto at = companion.tasks.find(id);
  if (at == companion.tasks.end() || at->second.ended) return;
  Task& ended = at->second;
  ended.ended = true;
  ended.exit_code = exit_code;
  ended.oom_killed = oom_killed;
  ended.ended_at = NowNanos();
  task::WaitResponse response;
  response.set_exit_status(static_cast<uint32_t>(exit_code));
  *response.mutable_exited_at() = At(ended.ended_at);
  for (auto& waiter : std::exchange(ended.waiters, {})) waiter(response);
}

namespace {

class FakeShim : public ShimClient {
 public:
  FakeShim(std::shared_ptr<Fleet> fleet, std::shared_ptr<Companion> companion, std::shared_ptr<ttrpc::Client> client)
      : fleet_(std::move(fleet)), companion_(std::move(companion)), client_(std::move(client)) {
    default_timeout_millis_ = 20'000;
  }
  ~FakeShim() override { client_->Close(); }
  int pid() const override { return companion_->pid; }
  uint64_t start_ticks() const override { return 1; }
  ttrpc::Client& ttrpc() override { return *client_; }
  bool gone() const override {
    std::lock_guard lock(fleet_->alive_mutex);
    return !companion_->alive;
  }
  bool WaitGone(int64_t millis) override {
    std::unique_lock lock(fleet_->alive_mutex);
    return fleet_->died.wait_for(lock, std::chrono::milliseconds(millis), [this] { return !companion_->alive; });
  }
  void Kill() override {
    fleet_->loop->Post([fleet = fleet_.get(), id = companion_->pod_id] {
      if (Companion* live = fleet->Of(id)) fleet->Die(*live);
    });
  }
  void Close() override { client_->Close(); }

 private:
  std::shared_ptr<Fleet> fleet_;
  std::shared_ptr<Companion> companion_;
  std::shared_ptr<ttrpc::Client> client_;
};

class FakeShims : public Shims {
 public:
  explicit FakeShims(std::shared_ptr<Fleet> fleet) : fleet_(std::move(fleet)) {}
  ~FakeShims() override { Stop(); }
  void Stop() override {
    fleet_->On([this] {
      fleet_->on_death = nullptr;
      for (auto& made : clients_) {
        if (auto client = made.lock()) client->Close();
      }
    });
    // No callback of theirs comes after what they have posted.
    fleet_->On([] {});
  }
  void OnEnd(EndCallback callback) override {
    fleet_->On([this, callback] { fleet_->on_death = [callback](const std::string& id) { callback(id, true); }; });
  }
  Result<std::shared_ptr<ShimClient>> Spawn(const SpawnOptions& options) override {
    if (fleet_->world->Fails("spawn")) return MakeError(Code::kInternal, "made up failure of spawn");
    fleet_->On([&] { fleet_->Launch(options.pod_id); });
    return AttachByFile(options.pod_id, options.pod_dir);
  }
  Result<std::shared_ptr<ShimClient>> Attach(const std::string& pod_id, const std::string& pod_dir, int,
                                             uint64_t) override {
    return AttachByFile(pod_id, pod_dir);
  }
  Result<std::shared_ptr<ShimClient>> AttachByFile(const std::string& pod_id, const std::string&) override {
    Result<std::shared_ptr<ShimClient>> made = MakeError(Code::kUnknown, "");
    fleet_->On([&] { made = Make(pod_id); });
    return made;
  }

 private:
  Result<std::shared_ptr<ShimClient>> Make(const std::string& pod_id) {
    UniqueFd socket = TRY(fleet_->Connect(pod_id));
    auto client = TRY(ttrpc::Client::Create(fleet_->loop.get(), std::move(socket)));
    clients_.emplace_back(client);
    return std::shared_ptr<ShimClient>(std::make_shared<FakeShim>(fleet_, fleet_->companions[pod_id], client));
  }
  std::shared_ptr<Fleet> fleet_;
  std::vector<std::weak_ptr<ttrpc::Client>> clients_;  // on the fleet's thread
};

}  // namespace

std::shared_ptr<Fleet> MakeFleet(World* world) { return std::make_shared<Fleet>(world); }

void KillCompanion(Fleet& fleet, const std::string& pod_id) {
  fleet.On([&] {
    if (Companion* live = fleet.Of(pod_id)) fleet.Die(*live);
  });
}

void EndContainer(Fleet& fleet, const std::string& container_id, int exit_code, bool oom_killed) {
  fleet.On([&] {
    for (auto& [id, companion] : fleet.companions) fleet.End(*companion, container_id, exit_code, oom_killed);
  });
}

std::unique_ptr<Shims> MakeFakeShims(std::shared_ptr<Fleet> fleet) { return std::make_unique<FakeShims>(std::move(fleet)); }

}  // namespace caisson::cri
