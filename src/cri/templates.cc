// SPDX-License-Identifier: Apache-2.0
#include "cri/templates.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>

#include "base/id.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/strings.h"
#include "cri/daemon_metrics.h"
#include "cri/pod_teardown.h"
#include "cri/strays.h"
#include "cri/version.h"
#include "cri/vm_pod.h"

namespace caisson::cri {
namespace {

constexpr std::string_view kPrefix = "template-", kService = "caisson.keeper.v1.Keeper";
constexpr size_t kKeyDigits = 16, kSaltDigits = 8;
constexpr int64_t kMakeMillis = 180'000;
constexpr int64_t kStatusMillis = 2'000;
constexpr int64_t kKeeperGoneMillis = 5'000;
// Where Debian puts what `vmm_path` does not name. Only to notice that it has changed.
constexpr const char* kDefaultVmms[] = {"/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-system-aarch64"};

// Changes when the file is replaced or written.
std::string IdentityOf(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return path + " is not there\n";
  return fmt::format("{} {} {} {} {}.{} {}.{}\n", path, info.st_dev, info.st_ino, info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec,
                     info.st_ctim.tv_sec, info.st_ctim.tv_nsec);
}

bool SameSize(const keeper::v1::MakeRequest& a, const keeper::v1::MakeRequest& b) {
  return a.handler() == b.handler() && a.share_memory() == b.share_memory() && a.vm().vcpus() == b.vm().vcpus() && a.vm().max_vcpus() == b.vm().max_vcpus() &&
         a.vm().memory_bytes() == b.vm().memory_bytes() && a.vm().machine() == b.vm().machine() && a.vm().max_memory_bytes() == b.vm().max_memory_bytes() && a.vm().accelerator() == b.vm().accelerator();
}

}  // namespace

keeper::v1::MakeRequest TemplateFor(const Config& config, const PodRecord& record) {
  keeper::v1::MakeRequest request;
  request.set_handler(record.resolved_handler());
  *request.mutable_vm() = VmOptionsOf(config, record);
  request.mutable_vm()->clear_cgroup_path();
  request.mutable_vm()->clear_cpu_limit();
  request.mutable_vm()->clear_uid();
  request.mutable_vm()->clear_gid();
  // A page that a clone touches and the template has not is then also in the file, charged to who touched it (shmem).
  request.set_share_memory(record.config().linux().resources().memory_limit_in_bytes() <= 0);
  request.set_idle_millis(config.templates.idle_seconds * 1000);
  return request;
}

Result<std::string> Templates::KeyOf(const keeper::v1::MakeRequest& shape) const {
  std::string text = fmt::format("{}\n{} {} {} {} {} {} {} {} {}\n", kVersion, shape.vm().vmm(), shape.vm().machine(), shape.vm().accelerator(), shape.vm().vcpus(),
                                 shape.vm().max_vcpus(), shape.vm().memory_bytes(), shape.vm().max_memory_bytes(), shape.share_memory(), shape.vm().debug());
  text += IdentityOf(TRY(FindCompanion(config_, shape.handler())));
  text += IdentityOf(shape.vm().kernel()) + IdentityOf(shape.vm().initrd());
  if (!shape.vm().program().empty()) return HexEncode(Sha256(text + IdentityOf(shape.vm().program()))).substr(0, kKeyDigits);
  for (const char* program : kDefaultVmms) text += IdentityOf(program);
  return HexEncode(Sha256(text)).substr(0, kKeyDigits);
}

void Templates::Count(const char* outcome) const {
  if (metrics_ != nullptr) metrics_->CountTemplate(outcome);
}

void Templates::RemoveFolder(const std::string& id) const {
  std::error_code error;
  std::filesystem::remove_all(FolderOf(id), error);  // follows no link
  if (error) log::Error("remove '{}': {}", FolderOf(id), error.message());
}

Templates::Entries::iterator Templates::FindKey(const std::string& key) {
  return std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) { return entry.second.key == key && entry.second.state != State::kEnding; });
}

// By force and at once: a keeper is owed no goodbye.
void Templates::End(Template* entry) {
  entry->state = State::kEnding;
  if (entry->shim) entry->shim->Kill();
}

void Templates::Fail(Template* entry, const std::string& id, const std::string& why) {
  log::Warn("template {}: {}; pods of its kind boot", id, why);
  if (entry->shim) entry->shim->Kill();
  entry->state = State::kFailed;
  entry->error = why;
  entry->since_nanos = NowNanos();
  entry->failed_at = MonotonicNanos();
  Count("failed");
}

void Templates::EndStale(const keeper::v1::MakeRequest& shape, const std::string& key) {
  for (auto& [id, entry] : entries_) {
    if (entry.key == key || !SameSize(entry.shape, shape) || entry.state == State::kEnding || entry.state == State::kMaking) continue;
    log::Info("template {} is of files that have changed", id);
    End(&entry);
  }
}

bool Templates::MakeRoom(uint64_t bytes) {
  const auto most_bytes = static_cast<uint64_t>(config_.templates.max_bytes);
  if (config_.templates.max_count <= 0 || bytes > most_bytes) return false;
  for (;;) {
    int64_t count = 0;
    uint64_t taken = bytes;
    Template* oldest = nullptr;
    for (auto& [id, entry] : entries_) {
      if (entry.state != State::kMaking && entry.state != State::kReady) continue;
      ++count;
      taken += entry.shape.vm().memory_bytes();
      if (entry.state == State::kReady && (oldest == nullptr || entry.used_nanos < oldest->used_nanos)) oldest = &entry;
    }
    if (count < config_.templates.max_count && taken <= most_bytes) return true;
    if (oldest == nullptr) return false;
    End(oldest);
    Count("evicted");
  }
}

std::string Templates::FolderFor(const keeper::v1::MakeRequest& shape) {
  auto key = KeyOf(shape);
  if (!key) return "";
  std::lock_guard lock(mutex_);
  EndStale(shape, *key);
  auto found = FindKey(*key);
  if (found == entries_.end() || found->second.state != State::kReady) return "";
  found->second.used_nanos = NowNanos();
  return FolderOf(found->first);
}

void Templates::Want(const keeper::v1::MakeRequest& shape) {
  auto key = KeyOf(shape);
  if (!key) return log::Warn("no template: {}", key.error().message);
  std::string id;
  {
    std::lock_guard lock(mutex_);
    // Failed ones have no process: an entry that is old enough goes.
    std::erase_if(entries_, [](const auto& one) {
      return !one.second.shim && (one.second.state == State::kEnding || (one.second.state == State::kFailed && MonotonicNanos() - one.second.failed_at > kAgainNanos));
    });
    if (FindKey(*key) != entries_.end() || !MakeRoom(shape.vm().memory_bytes())) return;
    id = fmt::format("{}{}-{}", kPrefix, *key, NewId().substr(0, kSaltDigits));
    entries_[id] = {*key, shape, State::kMaking, NowNanos(), NowNanos(), "", 0, nullptr};
  }
  background_.Start([this, id] { Make(id); });
}

Result<std::shared_ptr<ShimClient>> Templates::Spawn(const std::string& id, const std::string& handler) {
  Shims::SpawnOptions options;
  options.pod_id = id;
  options.program = TRY(FindCompanion(config_, handler));
  options.pod_dir = FolderOf(id);
  options.arguments = {"--sandbox", "template", "--folder", options.pod_dir};
  if (mkdir(options.pod_dir.c_str(), 0700) != 0) return ErrnoError("make '{}'", options.pod_dir);
  return shims_.Spawn(options);
}

void Templates::Make(const std::string& id) {
  keeper::v1::MakeRequest shape;
  {
    std::lock_guard lock(mutex_);
    auto found = entries_.find(id);
    if (found == entries_.end()) return;
    shape = found->second.shape;
  }
  // As a user of its own, as each VMM.
  if (auto handler = config_.handlers.find(shape.handler()); handler != config_.handlers.end()) {
    uint32_t user = VmmIdOf(handler->second, id);
    shape.mutable_vm()->set_uid(user);
    shape.mutable_vm()->set_gid(user);
  }
  auto shim = Spawn(id, shape.handler());
  if (!shim) return OnMade(id, std::move(shim.error()));
  {
    std::lock_guard lock(mutex_);
    auto found = entries_.find(id);
    if (found == entries_.end() || found->second.state != State::kMaking) {
      (*shim)->Kill();
    } else {
      found->second.shim = *shim;
    }
  }
  // No thread waits: the daemon may end meanwhile.
  (*shim)->ttrpc().Call(kService, "Make", shape.SerializeAsString(), kMakeMillis, [this, id](Result<std::string> reply) {
    Result<> made = reply ? faults_.At("template.make") : Result<>(std::move(reply.error()));
    background_.Post([this, id, made = std::make_shared<Result<>>(std::move(made))] { OnMade(id, std::move(*made)); });
  });
}

void Templates::OnMade(const std::string& id, Result<> made) {
  std::lock_guard lock(mutex_);
  auto found = entries_.find(id);
  if (found == entries_.end()) return RemoveFolder(id);  // removed while it was being made
  Template& entry = found->second;
  if (entry.state != State::kMaking) return;
  // A file that was replaced while it was being read is in there under its old name.
  auto key = KeyOf(entry.shape);
  if (made && (!key || *key != entry.key)) made = MakeError(Code::kAborted, "its files changed while it was being made");
  if (!made) {
    Fail(&entry, id, made.error().message);
    return RemoveFolder(id);
  }
  entry.state = State::kReady;
  entry.since_nanos = NowNanos();
  Count("made");
  log::Info("template {} of handler '{}' is ready: {} vCPUs, {} MiB", id, entry.shape.handler(), entry.shape.vm().vcpus(),
            entry.shape.vm().memory_bytes() >> 20);
}

void Templates::Reject(const std::string& folder, const std::string& why) {
  std::lock_guard lock(mutex_);
  for (auto& [id, entry] : entries_) {
    if (entry.state == State::kReady && FolderOf(id) == folder) Fail(&entry, id, "a clone of it failed: " + why);
  }
}

bool Templates::OnEnd(const std::string& id, bool died) {
  if (!id.starts_with(kPrefix)) return false;
  std::lock_guard lock(mutex_);
  auto found = entries_.find(id);
  if (!died) {
    // One that lives, but that we do not hear of any more, is nobody's. One that dies closes its connection first.
    if (found != entries_.end() && found->second.shim) found->second.shim->Kill();
    return true;
  }
  RemoveFolder(id);
  if (found == entries_.end()) return true;
  Template& entry = found->second;
  entry.shim = nullptr;
  if (entry.state == State::kMaking) {
    Fail(&entry, id, "its keeper has died");
  } else if (entry.state != State::kFailed) {
    if (entry.state == State::kReady) log::Info("template {} has ended", id);
    entries_.erase(found);
  }
  return true;
}

bool Templates::Adopt(const std::string& id) {
  auto shim = shims_.AttachByFile(id, FolderOf(id));
  if (!shim) return false;
  auto status = (*shim)->Call<keeper::v1::StatusResponse>(kService, "Status", keeper::v1::StatusRequest(), kStatusMillis);
  bool good = status && status->ready();
  std::string key;
  if (good) {
    auto handler = config_.handlers.find(status->made().handler());
    good = handler != config_.handlers.end() && handler->second.IsVm() && handler->second.templates;
    // What the handler's configuration says now.
    keeper::v1::MakeRequest& shape = *status->mutable_made();
    if (good) {
      shape.mutable_vm()->set_program(handler->second.vmm_path);
      shape.mutable_vm()->set_kernel(handler->second.kernel);
      shape.mutable_vm()->set_initrd(handler->second.initrd);
    }
    key = KeyOf(shape).value_or("");
    good = good && id.starts_with(fmt::format("{}{}-", kPrefix, key));
  }
  std::lock_guard lock(mutex_);
  if (good) good = FindKey(key) == entries_.end() && MakeRoom(status->made().vm().memory_bytes());
  if (!good) {
    (*shim)->Kill();
    (*shim)->WaitGone(kKeeperGoneMillis);
    return false;
  }
  int64_t used = std::max(status->made_at_nanos(), status->used_at_nanos());
  entries_[id] = {key, status->made(), State::kReady, status->made_at_nanos(), used, "", 0, *shim};
  log::Info("template {} is taken over", id);
  return true;
}

void Templates::Recover() {
  std::set<std::string> gone;
  std::error_code error;
  for (std::filesystem::directory_iterator at(config_.TemplateDir(), error), end; !error && at != end; at.increment(error)) {
    std::string id = at->path().filename().string();
    if (IsSafeName(id) && id.starts_with(kPrefix)) gone.insert(id);
  }
  std::erase_if(gone, [this](const std::string& id) { return Adopt(id); });
  // Those whose pid had not been noted down yet.
  for (const Stray& stray : FindStrays(gone)) KillStray(stray);
  for (const std::string& id : gone) RemoveFolder(id);
}

std::vector<TemplateInfo> Templates::List() {
  std::vector<std::pair<TemplateInfo, std::shared_ptr<ShimClient>>> found;
  {
    std::lock_guard lock(mutex_);
    for (auto& [id, entry] : entries_) {
      auto key = KeyOf(entry.shape);
      if (entry.state == State::kReady && (!key || *key != entry.key)) End(&entry);
      if (entry.state == State::kEnding) continue;
      constexpr const char* kWords[] = {"making", "ready", "failed"};
      found.push_back({{id, kWords[static_cast<int>(entry.state)], entry.shape, 0, 0, entry.since_nanos, 0, entry.error}, entry.shim});
    }
  }
  std::vector<TemplateInfo> infos;
  for (auto& [info, shim] : found) {
    if (shim) {
      auto status = shim->Call<keeper::v1::StatusResponse>(kService, "Status", keeper::v1::StatusRequest(), kStatusMillis);
      if (status) info.bytes = status->bytes(), info.uses = status->uses(), info.used_at_nanos = status->used_at_nanos();
    }
    infos.push_back(std::move(info));
  }
  return infos;
}

Result<> Templates::Remove(const std::string& id) {
  std::shared_ptr<ShimClient> shim;
  {
    std::lock_guard lock(mutex_);
    auto found = entries_.find(id);
    if (found == entries_.end() || found->second.state == State::kEnding) return MakeError(Code::kNotFound, "no template '{}'", id.substr(0, 128));
    shim = found->second.shim;
    End(&found->second);
    // Without a keeper there is nobody whose end would remove it; one that is being started finds it gone.
    if (!shim) entries_.erase(found);
  }
  if (!shim) return {};
  if (!shim->WaitGone(kKeeperGoneMillis)) return MakeError(Code::kDeadlineExceeded, "the keeper (pid {}) of template '{}' does not die", shim->pid(), id);
  RemoveFolder(id);  // the entry goes when its death has been heard of
  return {};
}

void Templates::Close() {
  std::lock_guard lock(mutex_);
  for (auto& [id, entry] : entries_) {
    if (entry.shim) entry.shim->Close();
  }
}

}  // namespace caisson::cri
