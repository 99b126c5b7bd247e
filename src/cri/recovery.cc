// SPDX-License-Identifier: Apache-2.0
#include "cri/recovery.h"

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <set>
#include <thread>

#include "base/id.h"
#include "base/log.h"
#include "caisson/pod/v1/pod.pb.h"
#include "containerd/sandbox.pb.h"
#include "containerd/task_v3.pb.h"
#include "cri/checkpoint_folder.h"
#include "cri/daemon_metrics.h"
#include "cri/exits.h"
#include "cri/image_volume.h"
#include "cri/network_check.h"
#include "cri/pod_network.h"
#include "cri/pod_teardown.h"
#include "cri/strays.h"
#include "image/remove_tree.h"
#include "net/netns.h"

namespace caisson::cri {
namespace {

namespace fs = std::filesystem;
namespace sandbox = containerd::runtime::sandbox::v1;
namespace v1 = runtime::v1;

constexpr int64_t kAnswerMillis = 5'000;  // of a companion that is asked how things are
constexpr int64_t kUndoMillis = 10'000;   // the daemon's start waits so long for unfinished pods to be undone
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
                .finished_at_nanos = info->finished_at_nanos(), .oom_killed = info->oom_killed(), .reason = info->end_reason(),
                .message = info->end_message()});
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
  // The network's record stays until its DEL (ReleaseRebooted, or StopPodSandbox if that comes first).
  (void)context.pods.Observe(pod, [&](PodRecord& record) {
    record.set_shim_pid(0);
    record.set_sandbox_pid(0);
    record.set_boot_id(context.boot_id);
  });
}

// The networks of pods that a reboot ended. After the daemon serves: what a plugin talks to may itself be a pod.
void ReleaseRebooted(Context& context, const std::vector<PodPtr>& pods) {
  ForEach<PodPtr>(pods, [&](const PodPtr& pod) {
    std::lock_guard lock(pod->operation);
    if (!pod->Get()->network().attached() && pod->Get()->netns_path().empty()) return;
    auto released = ReleaseNetwork(context, *pod->Get());
    if (!released) return log::Warn("{}; StopPodSandbox tries again", released.error().message);
    (void)context.pods.Observe(pod, [](PodRecord& record) {
      record.mutable_network()->set_attached(false);
      record.clear_netns_path();
    });
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
  auto end = VmEndOf(context, pod->id());
  EndRecord(context, pod, end ? end->reason : "CompanionDied",
            end ? end->message : "the pod's companion process died while caissond was not running");
  if (auto cleaned = CleanUpAfterCompanion(context, pod); !cleaned) log::Error("{}", cleaned.error().message);
}

// The companion of a pod that is undone, and what it left: asked to end if it answers, else by force.
Result<> UndoCompanion(Context& context, const PodRecord& record, const std::vector<const Stray*>& strays) {
  std::error_code ignored;
  if (!fs::exists(context.config.PodDir(record.id()), ignored)) return {};  // it starts in there
  if (auto shim = context.shims.AttachByFile(record.id(), context.config.PodDir(record.id()))) {
    return EndCompanion(context, record, *shim);
  }
  for (const Stray* stray : strays) {
    if (stray->kind == Stray::Kind::kCompanion) KillStray(*stray);
  }
  return RunCleanup(context, record);
}

// A pod whose creation a former daemon did not finish, or that no record explains.
void UndoPod(Context& context, PodRecord record, const std::vector<const Stray*>& strays) {
  log::Info("undo the unfinished creation of pod {}", record.id());
  if (record.boot_id() == context.boot_id) {
    if (auto ended = UndoCompanion(context, record, strays); !ended) {
      log::Error("{}; it is tried again at the next start", ended.error().message);
      return;
    }
  }
  // An ADD that is still at work would take an address after our DEL has given all back.
  for (const Stray* stray : strays) {
    if (stray->kind == Stray::Kind::kPlugin) AwaitStray(*stray, context.config.cni.add_timeout_seconds * 1000);
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

// Undoes them on threads that Background waits for, and returns when all are done or kUndoMillis have passed: a hanging
// plugin must not keep the node from being served.
void UndoPods(Context& context, std::vector<PodRecord> records) {
  if (records.empty()) return;
  struct Undone {
    std::mutex mutex;
    std::condition_variable changed;
    bool all = false;
  };
  auto undone = std::make_shared<Undone>();
  context.background.Start([&context, undone, records = std::move(records)] {
    std::set<std::string> ids;
    for (const PodRecord& record : records) ids.insert(record.id());
    std::vector<Stray> strays = FindStrays(ids);
    for (const Stray& stray : strays) {
      if (context.metrics != nullptr) context.metrics->CountStray(stray.kind == Stray::Kind::kCompanion ? "companion" : "plugin");
    }
    ForEach<PodRecord>(records, [&](const PodRecord& record) {
      std::vector<const Stray*> own;
      for (const Stray& stray : strays) {
        if (stray.pod_id == record.id()) own.push_back(&stray);
      }
      UndoPod(context, record, own);
    });
    std::lock_guard lock(undone->mutex);
    undone->all = true;
    undone->changed.notify_all();
  });
  std::unique_lock lock(undone->mutex);
  if (!undone->changed.wait_for(lock, std::chrono::milliseconds(kUndoMillis), [&] { return undone->all; })) {
    log::Warn("some pods whose creation was not finished are still being undone");
  }
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

// Containers whose pod was removed while they were being created: their creator died before it saw that.
void RemovePodless(Context& context) {
  for (const ContainerPtr& container : context.containers.List()) {
    if (context.pods.Find(container->Get()->pod_id())) continue;
    log::Warn("container {} has no pod: it is removed", container->id());
    if (auto removed = DiscardContainer(context, container); !removed) log::Error("{}", removed.error().message);
  }
}

// A pod whose folder is there although no record explains it.
PodRecord Stranger(const Context& context, const std::string& id) {
  log::Warn("pod {} is in no record: it is removed", id);
  PodRecord record;
  record.set_id(id);
  record.set_boot_id(context.boot_id);
  record.set_resolved_handler(context.config.default_handler);
  if (net::IsNetns(context.config.NetnsPath(id))) record.set_netns_path(context.config.NetnsPath(id));
  return record;
}

// Things with an id as their name that no record explains.
void RemoveOrphans(Context& context, const std::set<std::string>& unfinished) {
  auto known_pod = [&](const std::string& id) { return unfinished.contains(id) || context.pods.Find(id).has_value(); };
  auto known_container = [&](const std::string& id) {
    return unfinished.contains(id) || context.containers.Find(id).has_value();
  };
  std::error_code ignored;
  for (const std::string& id : NamesIn(context.config.state + "/netns")) {
    if (IsSafeName(id) && !known_pod(id)) (void)net::RemoveNetns(context.config.NetnsPath(id));
  }
  for (const std::string& id : NamesIn(context.config.state + "/containers")) {
    if (IsSafeName(id) && !known_container(id)) fs::remove_all(context.config.ContainerDir(id), ignored);
  }
  for (const std::string& key : context.images.ListSnapshots()) {
    if (known_container(SnapshotOwner(key))) continue;
    if (auto removed = context.images.RemoveSnapshot(key); !removed) log::Error("{}", removed.error().message);
  }
}

// Checkpoints that a former daemon had under way. Their containers may stand still for it.
void EndCheckpoints(Context& context) {
  for (const std::string& name : NamesIn(context.config.CheckpointsDir())) {
    std::string id = name;
    bool dump = id.ends_with(kDumpSuffix);
    if (dump) id.resize(id.size() - kDumpSuffix.size());
    auto container = context.containers.Find(id);
    if (container && !dump) continue;  // what it is restored from
    auto pod = container ? context.pods.Find((*container)->Get()->pod_id()) : Result<PodPtr>(MakeError(Code::kNotFound, "no container"));
    if (auto shim = pod ? (*pod)->shim() : nullptr) {
      containerd::task::v3::ResumeRequest request;
      request.set_id(id);
      (void)shim->Call<wkt::Empty>(service::kTask, "Resume", request);
    }
    if (auto removed = image::RemoveTree(context.config.CheckpointsDir() + "/" + name); !removed) log::Error("{}", removed.error().message);
  }
}

// What plugins still hold for pods that nobody knows (spec 1.1, GC). Before the daemon serves: an ADD under way would not
// be among the valid ones.
void CollectNetworks(Context& context) {
  std::vector<net::Attachment> valid;
  for (const PodPtr& pod : context.pods.List()) {
    if (!pod->Get()->network().attached()) continue;
    if (auto attachment = AttachmentOf(*pod->Get())) valid.push_back(std::move(*attachment));
  }
  auto collected = context.cni.Gc(valid);
  // No network yet is not worth a word: kubelets start before their network is there.
  if (!collected && context.cni.Ready()) log::Warn("CNI GC: {}", collected.error().message);
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
  std::vector<PodPtr> rebooted;
  for (const PodPtr& pod : context.pods.List()) {
    if (FateOf(*pod->Get(), context.boot_id) == PodFate::kRebooted) rebooted.push_back(pod);
  }
  ForEach<PodPtr>(context.pods.List(), [&](const PodPtr& pod) { RecoverPod(context, pod); });
  ForEach<ContainerRecord>(unfinished_containers, [&](const ContainerRecord& record) { UndoContainer(context, record); });
  RemovePodless(context);
  for (const std::string& id : NamesIn(context.config.state + "/pods")) {
    if (!IsSafeName(id) || unfinished.contains(id) || context.pods.Find(id)) continue;
    unfinished_pods.push_back(Stranger(context, id));
    unfinished.insert(id);
  }
  UndoPods(context, std::move(unfinished_pods));
  RemoveOrphans(context, unfinished);
  EndCheckpoints(context);
  context.templates.Recover();
  context.warm_pool.Recover();
  CollectNetworks(context);
  CheckNetworks(context);
  if (!rebooted.empty()) {
    context.background.Start([&context, rebooted = std::move(rebooted)] { ReleaseRebooted(context, rebooted); });
  }
  return {};
}

}  // namespace caisson::cri
