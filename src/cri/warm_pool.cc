// SPDX-License-Identifier: Apache-2.0
#include "cri/warm_pool.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <set>
#include <vector>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "caisson/pod/v1/pod.pb.h"
#include "cri/pod_teardown.h"
#include "cri/strays.h"
#include "cri/vm_pod.h"
#include "image/erofs.h"

namespace caisson::cri {
namespace {

constexpr std::string_view kWarmPrefix = "warm-";
constexpr char kWarmUpProgram[] = "companion";  // in the disk: `pause` and `exit` are verbs of it
constexpr int64_t kWarmUpMillis = 60'000;
constexpr int64_t kWarmGoneMillis = 5'000;

}  // namespace

std::string WarmPool::FolderOf(const std::string& id) const { return fmt::format("{}/{}{}", config_.TemplateDir(), kWarmPrefix, id); }

void WarmPool::RemoveFolder(const std::string& id) const {
  std::error_code error;
  std::filesystem::remove_all(FolderOf(id), error);  // follows no link
  if (error) log::Error("remove '{}': {}", FolderOf(id), error.message());
}

void WarmPool::End(Entry* entry) {
  entry->ending = true;
  if (entry->shim) entry->shim->Kill();
}

void WarmPool::Recover() {
  std::set<std::string> left;
  std::error_code error;
  for (std::filesystem::directory_iterator at(config_.TemplateDir(), error), end; !error && at != end; at.increment(error)) {
    std::string name = at->path().filename().string();
    if (at->is_directory(error) && name.starts_with(kWarmPrefix)) left.insert(name.substr(kWarmPrefix.size()));
  }
  for (const Stray& stray : FindStrays(left)) KillStray(stray);
  for (const std::string& id : left) RemoveFolder(id);
}

std::optional<WarmPool::Machine> WarmPool::Take(const keeper::v1::MakeRequest& shape) {
  if (config_.templates.warm_count <= 0 || !shape.share_memory()) return std::nullopt;
  auto key = templates_.KeyOf(shape);
  if (!key) return std::nullopt;
  std::lock_guard lock(mutex_);
  touched_ = MonotonicNanos();
  for (auto& [id, entry] : entries_) {
    if (entry.key != *key || !entry.ready || entry.ending || entry.shim->gone()) continue;
    Machine machine{id, entry.shim};
    entries_.erase(id);
    return machine;
  }
  return std::nullopt;
}

Result<> WarmPool::GiveFolder(const std::string& id, const std::string& pod_dir) {
  if (std::rename(FolderOf(id).c_str(), pod_dir.c_str()) != 0) return ErrnoError("rename '{}' to '{}'", FolderOf(id), pod_dir);
  return {};
}

void WarmPool::Drop(const Machine& machine) {
  machine.shim->Kill();
  if (!machine.shim->WaitGone(kWarmGoneMillis)) log::Error("the companion (pid {}) of a warm machine does not die", machine.shim->pid());
  RemoveFolder(machine.id);
}

void WarmPool::Want(const keeper::v1::MakeRequest& shape) {
  if (config_.templates.warm_count <= 0 || !shape.share_memory()) return;
  {
    std::lock_guard lock(mutex_);
    touched_ = MonotonicNanos();
    wanted_ = shape;
    if (working_ || closing_) return;
    working_ = true;
  }
  background_.Start([this] { Work(); });
}

void WarmPool::Work() {
  std::unique_lock lock(mutex_);
  while (!closing_) {
    const int64_t left = touched_ + quiet_nanos_ - MonotonicNanos();
    if (left > 0) {
      changed_.wait_for(lock, std::chrono::nanoseconds(left));
      continue;
    }
    const keeper::v1::MakeRequest shape = *wanted_;
    auto key = templates_.KeyOf(shape);
    if (!key || !MakeRoom(*key)) break;
    lock.unlock();
    auto made = Make(shape, *key);
    lock.lock();
    if (made || closing_) continue;
    log::Warn("no machine is warmed up for pods of handler '{}': {}", shape.handler(), made.error().message);
    failed_[*key] = MonotonicNanos();
  }
  working_ = false;
}

bool WarmPool::MakeRoom(const std::string& key) {
  std::erase_if(failed_, [](const auto& one) { return MonotonicNanos() - one.second > Templates::kAgainNanos; });
  if (failed_.contains(key)) return false;
  for (;;) {
    int64_t all = 0, alike = 0;
    Entry* oldest = nullptr;
    for (auto& [id, entry] : entries_) {
      if (entry.ending) continue;
      ++all;
      if (entry.key == key) {
        ++alike;
      } else if (oldest == nullptr || entry.since < oldest->since) {
        oldest = &entry;
      }
    }
    if (alike >= config_.templates.warm_count) return false;
    if (all < config_.templates.warm_count) return true;
    End(oldest);
  }
}

Result<> WarmPool::Make(const keeper::v1::MakeRequest& shape, const std::string& key) {
  const std::string id = NewId();
  {
    std::lock_guard lock(mutex_);
    entries_[id] = {key, false, false, MonotonicNanos(), nullptr};
  }
  auto filled = Fill(shape, id);
  std::lock_guard lock(mutex_);
  auto found = entries_.find(id);
  if (found == entries_.end()) {  // its companion has died
    RemoveFolder(id);
    return filled ? MakeError(Code::kUnavailable, "its companion has died") : std::move(filled);
  }
  if (filled && !found->second.ending) {
    found->second.ready = true;
    log::Info("a machine is warm for pods of handler '{}'", shape.handler());
    return {};
  }
  End(&found->second);
  if (!found->second.shim) {
    entries_.erase(found);
    RemoveFolder(id);
  }
  return filled;
}

// Nobody can take it yet, so nobody holds the lock.
Result<> WarmPool::Fill(const keeper::v1::MakeRequest& shape, const std::string& id) {
  pod::v1::WarmUpRequest request;
  *request.mutable_vm() = shape.vm();
  request.mutable_vm()->set_template_dir(templates_.FolderFor(shape));
  if (request.vm().template_dir().empty()) return MakeError(Code::kNotFound, "there is no template");
  auto handler = config_.handlers.find(shape.handler());
  if (handler == config_.handlers.end()) return MakeError(Code::kNotFound, "there is no such handler");
  const uint32_t user = VmmIdOf(handler->second, id);
  request.mutable_vm()->set_uid(user);
  request.mutable_vm()->set_gid(user);
  request.set_idle_millis(config_.templates.idle_seconds * 1000);
  Shims::SpawnOptions options;
  options.pod_id = id;
  options.program = TRY(FindCompanion(config_, shape.handler()));
  options.pod_dir = FolderOf(id);
  options.arguments = {"--seccomp-cache", config_.SeccompCacheDir(), "--sandbox", "vm"};
  TRY(MakeDisk(options.program));
  request.set_folder(options.pod_dir);
  request.set_disk(DiskPath());
  const std::string program = std::string("/") + kWarmUpProgram;
  for (const char* word : {program.c_str(), "pause"}) request.add_args(word);
  for (const char* word : {program.c_str(), "exit", "0"}) request.add_exec_args(word);
  if (mkdir(options.pod_dir.c_str(), 0700) != 0) return ErrnoError("make '{}'", options.pod_dir);
  auto shim = TRY(shims_.Spawn(options));
  {
    std::lock_guard lock(mutex_);
    auto found = entries_.find(id);
    if (found == entries_.end() || closing_) {
      shim->Kill();
      return MakeError(Code::kCancelled, "it is not wanted any more");
    }
    found->second.shim = shim;
  }
  TRY(shim->Call<pod::v1::WarmUpResponse>(service::kPod, "WarmUp", request, kWarmUpMillis));
  return faults_.At("warm_pool.make");
}

// Once for each program that companions are made of: a disk with that alone.
Result<> WarmPool::MakeDisk(const std::string& companion) {
  if (disk_of_ == companion && image::IsWholeErofs(DiskPath())) return {};
  const std::string tree = config_.TemplateDir() + "/rehearsal";
  std::error_code error;
  std::filesystem::remove_all(tree, error);
  if (!error) std::filesystem::create_directory(tree, error);
  if (!error) std::filesystem::copy_file(companion, tree + "/" + kWarmUpProgram, error);
  if (error) return SysError(error.value(), fmt::format("copy '{}' to '{}'", companion, tree));
  auto made = image::MakeErofs(image::DefaultMkfsErofs(), tree, DiskPath(), stop_.get_token());
  std::filesystem::remove_all(tree, error);
  TRY(std::move(made));
  disk_of_ = companion;
  return {};
}

void WarmPool::Clear() {
  std::lock_guard lock(mutex_);
  for (auto& [id, entry] : entries_) End(&entry);
}

size_t WarmPool::Count() {
  std::lock_guard lock(mutex_);
  return static_cast<size_t>(std::count_if(entries_.begin(), entries_.end(), [](const auto& one) { return one.second.ready && !one.second.ending; }));
}

bool WarmPool::OnEnd(const std::string& id, bool died) {
  std::lock_guard lock(mutex_);
  auto found = entries_.find(id);
  if (found == entries_.end()) return false;
  // One that lives, but that we do not hear of any more, is nobody's.
  if (!died) {
    End(&found->second);
    return true;
  }
  if (found->second.ready && !found->second.ending) log::Info("a warm machine has ended");
  entries_.erase(found);
  RemoveFolder(id);
  return true;
}

void WarmPool::Close() {
  std::vector<Machine> left;
  stop_.request_stop();
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    for (auto& [id, entry] : entries_) {
      if (entry.shim) left.push_back({id, entry.shim});
    }
  }
  changed_.notify_all();
  for (const Machine& machine : left) Drop(machine);
}

}  // namespace caisson::cri
