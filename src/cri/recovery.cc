// SPDX-License-Identifier: Apache-2.0
#include "cri/recovery.h"

#include <atomic>
#include <filesystem>
#include <set>
#include <thread>

#include "base/id.h"
#include "base/log.h"
#include "caisson/pod/v1/pod.pb.h"
#include "containerd/sandbox.pb.h"
#include "cri/exits.h"
#include "cri/pod_network.h"
#include "cri/pod_teardown.h"
#include "net/netns.h"

namespace caisson::cri {
namespace {

namespace fs = std::filesystem;
namespace sandbox = containerd::runtime::sandbox::v1;
namespace v1 = runtime::v1;

constexpr int64_t kAnswerMillis = 5'000;  // of a companion that is asked how things are
constexpr int kThreads = 8;               // so that a few hung companions do not keep the others waiting

// Runs `work` for each item on a few threads; returns when all are done.
template <class Item>
void ForEach(const std::vector<Item>& items, const std::function<void(const Item&)>& work) {
  std::atomic<size_t> next = 0;
  auto run = [&] {
    for (size_t i; (i = next++) < items.size();) work(items[i]);
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min<size_t>(kThreads, items.size()); ++i) threads.emplace_back(run);
  run();
  for (std::thread& thread : threads) thread.join();
}

std::vector<std::string> NamesIn(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator at(dir, error), end; !error && at != end; at.increment(error)) {
    names.push_back(at->path().filename().string());
  }
  return names;
}

Result<> CatchUp(Context& context, const ContainerPtr& container, const std::shared_ptr<ShimClient>& shim) {
  pod::v1::ContainerInfoRequest request;
  request.set_container_id(container->id());
  auto info = shim->Call<pod::v1::ContainerInfoResponse>(service::kPod, "ContainerInfo", request, kAnswerMillis);
  if (!info && info.error().code != Code::kNotFound) return std::move(info.error());
  if (!info) {
    RecordExit(context, container,
               {.exit_code = kUnknownExitCode, .started_at_nanos = 0, .finished_at_nanos = 0, .oom_killed = false,
                .reason = "Unknown", .message = "the pod's companion no longer knows the container"});
    return {};
  }
  if (info->finished_at_nanos() != 0) {
    RecordExit(context, container,
               {.exit_code = info->exit_code(), .started_at_nanos = info->started_at_nanos(),
                .finished_at_nanos = info->finished_at_nanos(), .oom_killed = info->oom_killed(), .reason = "",
                .message = ""});
    return {};
  }
  // The former daemon may have died between Task.Start and its record.
  if (info->started_at_nanos() != 0 && container->Get()->state() == v1::CONTAINER_CREATED) {
    TRY(context.containers.Update(container, [&](ContainerRecord& record) {
      record.set_state(v1::CONTAINER_RUNNING);
      record.set_started_at_nanos(info->started_at_nanos());
      record.set_pid(info->pid());
    }));
  }
  WatchExit(context, container, shim);
  return {};
}

void EndRecord(Context& context, const PodPtr& pod, const std::string& reason, const std::string& message) {
  for (const ContainerPtr& container : ContainersOf(context, pod->id())) {
    RecordExit(context, container,
               {.exit_code = kUnknownExitCode, .started_at_nanos = 0, .finished_at_nanos = 0, .oom_killed = false,
                .reason = reason, .message = message});
  }
  (void)context.pods.Observe(pod, [&](PodRecord& record) {
    if (record.state() == v1::SANDBOX_NOTREADY) return;
    record.set_state(v1::SANDBOX_NOTREADY);
    record.set_stopped_at_nanos(NowNanos());
    record.set_reason(message);
  });
}

void RecoverRebooted(Context& context, const PodPtr& pod) {
  EndRecord(context, pod, "NodeRebooted", "the node has been booted since the container ran");
  auto released = ReleaseNetwork(context, *pod->Get());
  if (!released) log::Warn("{}", released.error().message);  // StopPodSandbox tries again
  (void)context.pods.Observe(pod, [&](PodRecord& record) {
    record.set_shim_pid(0);
    record.set_sandbox_pid(0);
    record.set_boot_id(context.boot_id);
    if (released) record.mutable_network()->set_attached(false), record.clear_netns_path();
  });
}

void RecoverPod(Context& context, const PodPtr& pod) {
  std::lock_guard lock(pod->operation);
  switch (FateOf(*pod->Get(), context.boot_id)) {
    case PodFate::kNothing: return;
    case PodFate::kRebooted: return RecoverRebooted(context, pod);
    case PodFate::kReattach: break;
  }
  auto attached = AttachPod(context, pod);
  if (attached) return;
  log::Warn("pod {}: {}", pod->id(), attached.error().message);
  auto record = pod->Get();
  // It lives but does not answer: what it holds can only be taken from it by force.
  if (auto shim = context.shims.Attach(pod->id(), context.config.PodDir(pod->id()), static_cast<int>(record->shim_pid()),
                                       record->shim_start_ticks())) {
    (*shim)->Kill();
    (*shim)->WaitGone(kAnswerMillis);
  }
  EndRecord(context, pod, "CompanionDied", "the pod's companion process died while caissond was not running");
  if (auto cleaned = CleanUpAfterCompanion(context, pod); !cleaned) log::Error("{}", cleaned.error().message);
}

// A pod whose creation a former daemon did not finish.
void UndoPod(Context& context, PodRecord record) {
  log::Info("undo the unfinished creation of pod {}", record.id());
  if (record.boot_id() == context.boot_id) {
    if (auto shim = context.shims.AttachByFile(record.id(), context.config.PodDir(record.id()))) {
      if (auto ended = EndCompanion(context, record, *shim); !ended) log::Error("{}", ended.error().message);
    }
  }
  // ADD may or may not have run; DEL copes with both.
  record.mutable_network()->set_attached(!record.netns_path().empty());
  if (auto released = ReleaseNetwork(context, record); !released) {
    log::Error("{}; it is tried again at the next start", released.error().message);
    return;
  }
  std::error_code ignored;
  fs::remove_all(context.config.PodDir(record.id()), ignored);
  (void)context.pods.Withdraw(record.id());
}

void UndoContainer(Context& context, const ContainerRecord& record) {
  log::Info("undo the unfinished creation of container {}", record.id());
  auto pod = context.pods.Find(record.pod_id());
  if (std::shared_ptr<ShimClient> shim = pod ? (*pod)->shim() : nullptr) {
    if (auto ended = EndTask(*shim, record.id()); !ended) {
      log::Error("{}; it is tried again at the next start", ended.error().message);
      return;
    }
  }
  if (auto removed = RemoveContainerFiles(context, record); !removed) {
    log::Error("{}; it is tried again at the next start", removed.error().message);
    return;
  }
  (void)context.containers.Withdraw(record.id());
}

// Things with an id as their name that no record explains.
void RemoveOrphans(Context& context, const std::set<std::string>& unfinished) {
  auto known_pod = [&](const std::string& id) { return unfinished.contains(id) || context.pods.Find(id).has_value(); };
  auto known_container = [&](const std::string& id) {
    return unfinished.contains(id) || context.containers.Find(id).has_value();
  };
  std::error_code ignored;
  for (const std::string& id : NamesIn(context.config.state + "/pods")) {
    if (!IsSafeName(id) || known_pod(id)) continue;
    log::Warn("pod {} is in no record: it is removed", id);
    PodRecord stranger;
    stranger.set_id(id);
    stranger.set_resolved_handler(context.config.default_handler);
    if (auto shim = context.shims.AttachByFile(id, context.config.PodDir(id))) {
      if (auto ended = EndCompanion(context, stranger, *shim); !ended) log::Error("{}", ended.error().message);
    } else if (auto cleaned = RunCleanup(context, stranger); !cleaned) {
      log::Error("{}", cleaned.error().message);
    }
    if (net::IsNetns(context.config.NetnsPath(id))) {
      stranger.set_netns_path(context.config.NetnsPath(id));
      stranger.mutable_network()->set_attached(true);
      if (auto released = ReleaseNetwork(context, stranger); !released) log::Error("{}", released.error().message);
    }
    fs::remove_all(context.config.PodDir(id), ignored);
  }
  for (const std::string& id : NamesIn(context.config.state + "/netns")) {
    if (IsSafeName(id) && !known_pod(id)) (void)net::RemoveNetns(context.config.NetnsPath(id));
  }
  for (const std::string& id : NamesIn(context.config.state + "/containers")) {
    if (IsSafeName(id) && !known_container(id)) fs::remove_all(context.config.ContainerDir(id), ignored);
  }
  for (const std::string& key : context.images.ListSnapshots()) {
    if (known_container(key)) continue;
    if (auto removed = context.images.RemoveSnapshot(key); !removed) log::Error("{}", removed.error().message);
  }
}

}  // namespace

PodFate FateOf(const PodRecord& record, const std::string& boot_id) {
  bool rebooted = record.boot_id() != boot_id;
  if (rebooted && (record.shim_pid() != 0 || record.network().attached() || !record.netns_path().empty() ||
                   record.state() == v1::SANDBOX_READY)) {
    return PodFate::kRebooted;
  }
  return record.shim_pid() != 0 || record.state() == v1::SANDBOX_READY ? PodFate::kReattach : PodFate::kNothing;
}

Result<> AttachPod(Context& context, const PodPtr& pod) {
  auto record = pod->Get();
  auto shim = TRY(context.shims.Attach(pod->id(), context.config.PodDir(pod->id()),
                                       static_cast<int>(record->shim_pid()), record->shim_start_ticks()));
  sandbox::PingRequest ping;
  ping.set_sandbox_id(pod->id());
  TRY(shim->Call<sandbox::PingResponse>(service::kSandbox, "PingSandbox", ping, kAnswerMillis));
  for (const ContainerPtr& container : ContainersOf(context, pod->id())) {
    if (container->Get()->state() != v1::CONTAINER_EXITED) TRY(CatchUp(context, container, shim));
  }
  pod->set_shim(shim);
  return {};
}

void PodLost(Context& context, const std::string& pod_id) {
  auto found = context.pods.Find(pod_id);
  if (!found) return;
  context.background.Start([&context, pod = *found] {
    std::lock_guard lock(pod->operation);
    std::shared_ptr<ShimClient> old = pod->shim();
    if (!old || old->gone() || !old->ttrpc().closed()) return;
    log::Warn("the connection to the companion of pod {} was lost", pod->id());
    if (auto attached = AttachPod(context, pod); !attached) {
      log::Error("pod {}: {}; its companion is killed", pod->id(), attached.error().message);
      old->Kill();
    }
  });
}

Result<> Recover(Context& context) {
  auto unfinished_pods =
      TRY(context.pods.Load([](const PodRecord& record) { return PodName(record.config().metadata()); }));
  auto unfinished_containers = TRY(context.containers.Load(
      [](const ContainerRecord& record) { return ContainerName(record.pod_id(), record.config().metadata()); }));
  std::set<std::string> unfinished;
  for (const PodRecord& record : unfinished_pods) unfinished.insert(record.id());
  for (const ContainerRecord& record : unfinished_containers) unfinished.insert(record.id());
  ForEach<PodPtr>(context.pods.List(), [&](const PodPtr& pod) { RecoverPod(context, pod); });
  ForEach<ContainerRecord>(unfinished_containers, [&](const ContainerRecord& record) { UndoContainer(context, record); });
  ForEach<PodRecord>(unfinished_pods, [&](const PodRecord& record) { UndoPod(context, record); });
  RemoveOrphans(context, unfinished);
  return {};
}

}  // namespace caisson::cri
