// SPDX-License-Identifier: Apache-2.0
#include "image/image_store.h"

#include <sys/stat.h>

#include <condition_variable>
#include <list>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "base/id.h"
#include "base/limits.h"
#include "base/scope_exit.h"
#include "image/assemble.h"
#include "image/import.h"
#include "image/registry.h"
#include "image/remove_tree.h"
#include "image/store_state.h"

namespace caisson::image {
namespace {

// One pull of one reference, with all who wait for it. The work is the store's: a waiter that gives up ends only its wait.
struct PullJob {
  std::mutex mutex;
  std::condition_variable done;
  std::optional<Result<std::string>> outcome;
  std::list<std::function<void(const Progress&)>> listeners;
  std::map<std::string, Progress> latest;
};

class Store : public ImageStore {
 public:
  Store(Options options, std::unique_ptr<StoreState> state, std::unique_ptr<Registry> registry)
      : options_(std::move(options)), state_(std::move(state)), registry_(std::move(registry)) {}

  ~Store() override {
    stop_.request_stop();
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [&] { return running_ == 0; });  // transfers end on the stop token
  }

  Result<Image> Pull(const std::string& name, PullOptions options) override {
    Reference reference = TRY(ParseReference(name));
    auto job = Join(reference, options);
    std::unique_lock lock(job->mutex);
    auto listener = job->listeners.end();
    if (options.on_progress) {
      for (const auto& [digest, progress] : job->latest) options.on_progress(progress);
      listener = job->listeners.insert(job->listeners.end(), options.on_progress);
    }
    auto finished = [&] { return job->outcome.has_value(); };
    if (options.deadline_millis > 0) {
      job->done.wait_for(lock, std::chrono::milliseconds(options.deadline_millis), finished);
    } else {
      job->done.wait(lock, finished);
    }
    if (listener != job->listeners.end()) job->listeners.erase(listener);
    if (!finished()) return MakeError(Code::kDeadlineExceeded, "pull '{}': not done within {} ms; it goes on", name, options.deadline_millis);
    Result<std::string> outcome = *job->outcome;
    lock.unlock();
    if (!outcome) return std::move(outcome.error()).Within("pull '" + name.substr(0, 512) + "'");
    return state_->Find(*outcome);
  }

  void EndPulls() override { stop_.request_stop(); }

  Result<Image> Find(const std::string& name) override { return state_->Find(name); }
  std::vector<Image> List() override { return state_->List(); }
  Result<> Remove(const std::string& name) override { return state_->Remove(name); }

  Result<std::vector<Image>> Import(const std::string& path, const std::string& name_if_untagged) override {
    std::string scratch = options_.root + "/ingest/import-" + NewId().substr(0, 16);
    if (mkdir(scratch.c_str(), 0700) != 0) return ErrnoError("make folder '{}'", scratch);
    ScopeExit clean([&] { (void)RemoveTree(scratch); });
    std::vector<Image> images;
    for (const auto& id : TRY(ImportImages(*state_, path, name_if_untagged, scratch))) images.push_back(TRY(state_->Find(id)));
    TRY(state_->SyncLayers());
    return images;
  }

  Result<Snapshot> Prepare(const std::string& key, const std::string& image_id) override { return state_->Prepare(key, image_id); }
  Result<Snapshot> PrepareView(const std::string& key, const std::string& image_id) override { return state_->PrepareView(key, image_id); }
  Result<std::vector<std::string>> ErofsLayers(const std::string& key) override { return state_->ErofsLayers(key, stop_.get_token()); }
  Result<Snapshot> FindSnapshot(const std::string& key) override { return state_->FindSnapshot(key); }
  Result<> RemoveSnapshot(const std::string& key) override { return state_->RemoveSnapshot(key); }
  Result<Usage> SnapshotUsage(const std::string& key) override {
    if (TRY(state_->FindSnapshot(key)).upper_dir.empty()) return Usage();  // a view has nothing of its own
    return MeasureTree(state_->SnapshotFolder(key) + "/fs");
  }
  std::vector<std::string> ListSnapshots() override { return state_->ListSnapshots(); }
  Result<Usage> FilesystemUsage() override { return state_->LayersUsage(); }
  std::string FilesystemPath() const override { return options_.root; }
  Result<uint64_t> CollectGarbage() override { return state_->CollectGarbage(); }

 private:
  static std::string KeyOf(const Reference& reference, const PullOptions& options) {
    std::string key = reference.ToString();
    // Others' credentials must not decide, nor be decided by, this pull.
    if (options.credentials) {
      const Credentials& c = *options.credentials;
      for (const auto* part : {&c.username, &c.password, &c.auth, &c.server_address, &c.identity_token, &c.registry_token}) key += '\0' + *part;
    }
    return key;
  }

  std::shared_ptr<PullJob> Join(const Reference& reference, const PullOptions& options) {
    std::string key = KeyOf(reference, options);
    std::lock_guard lock(mutex_);
    auto& job = jobs_[key];
    if (job) return job;
    job = std::make_shared<PullJob>();
    ++running_;
    std::thread([this, key, reference, credentials = options.credentials, job = job] { RunJob(key, reference, credentials, job); }).detach();
    return job;
  }

  void RunJob(const std::string& key, const Reference& reference, const std::optional<Credentials>& credentials, const std::shared_ptr<PullJob>& job) {
    auto outcome = Work(reference, credentials, *job);
    if (!outcome && stop_.stop_requested()) outcome = MakeError(Code::kUnavailable, "the pull was ended with its daemon");
    bool pulled = outcome.has_value();
    {
      std::lock_guard lock(mutex_);
      jobs_.erase(key);  // who comes now starts anew
    }
    {
      std::lock_guard lock(job->mutex);
      job->outcome = std::move(outcome);
      job->done.notify_all();
    }
    // After the answer: what a power failure would take is only the time to pull again.
    if (pulled) (void)state_->SyncLayers();
    std::lock_guard lock(mutex_);
    if (--running_ == 0) registry_->CloseIdleConnections();
    idle_.notify_all();
  }

  Result<std::string> Work(const Reference& reference, const std::optional<Credentials>& credentials, PullJob& job) {
    CallControl control{stop_.get_token(), std::nullopt};
    auto resolved = TRY(registry_->Resolve(reference, credentials, HostPlatform(), control));
    AssembleRequest request;
    request.manifest = resolved.parsed;
    request.manifest_digest = resolved.manifest.digest;
    request.manifest_bytes = resolved.manifest_bytes;
    request.root_digest = resolved.root.digest;
    request.root_bytes = resolved.root_bytes;
    if (!IsArtifact(resolved.parsed)) request.config_bytes = TRY(registry_->FetchSmallBlob(reference, resolved.parsed.config, credentials, limits::kImageConfigBytes, control));
    if (reference.digest.empty()) request.names.push_back(reference.Tagged());
    request.names.push_back(reference.Digested(resolved.root.digest));
    request.parallel = options_.max_parallel_downloads;
    request.cancel = stop_.get_token();
    request.source = [&](const Descriptor& blob, uint64_t offset, const BlobSink& sink) {
      return registry_->FetchBlob(reference, blob, credentials, offset, sink, control);
    };
    request.on_progress = [&job](const Progress& progress) {
      std::lock_guard lock(job.mutex);
      job.latest[progress.digest] = progress;
      for (const auto& listener : job.listeners) listener(progress);
    };
    return AssembleImage(*state_, request);
  }

  const Options options_;
  std::unique_ptr<StoreState> state_;
  std::unique_ptr<Registry> registry_;
  std::stop_source stop_;
  std::mutex mutex_;
  std::condition_variable idle_;
  std::map<std::string, std::shared_ptr<PullJob>> jobs_;
  int running_ = 0;
};

}  // namespace

Result<std::unique_ptr<ImageStore>> ImageStore::Open(Options options) {
  auto state = TRY(StoreState::Open(options.root, options.pinned_images, options.mkfs_erofs));
  RegistryOptions registry;
  registry.certs_dir = options.certs_dir;
  registry.docker_config = options.docker_config;
  registry.stall_timeout_millis = options.stall_timeout_millis;
  auto client = TRY(Registry::Create(registry));
  return std::unique_ptr<ImageStore>(std::make_unique<Store>(std::move(options), std::move(state), std::move(client)));
}

}  // namespace caisson::image
