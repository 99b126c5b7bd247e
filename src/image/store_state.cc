// SPDX-License-Identifier: Apache-2.0
#include "image/store_state.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/id.h"
#include "base/limits.h"
#include "base/scope_exit.h"
#include "base/strings.h"
#include "image/below.h"
#include "image/digest.h"
#include "image/erofs.h"
#include "image/image_config.h"
#include "image/reference.h"
#include "image/remove_tree.h"
#include "sys/path.h"

namespace caisson::image {
namespace {

namespace fs = std::filesystem;

constexpr char kImages[] = "image", kNames[] = "name", kLayers[] = "layer", kSnapshots[] = "snapshot";
constexpr char kEmptyFolder[] = "empty";  // in <root>/l, for images without layers
constexpr size_t kMinPrefix = 4;
// What a pull left is kept so long for its next attempt.
constexpr int64_t kLeftoverSeconds = 24 * 3600;

std::vector<std::string> NamesIn(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code failed;
  for (fs::directory_iterator at(folder, failed), end; !failed && at != end; at.increment(failed)) names.push_back(at->path().filename());
  return names;
}

// Removes files (not folders) of `folder` that are older than `age` seconds and not `used`; their bytes.
uint64_t RemoveFiles(const std::string& folder, int64_t age, const std::function<bool(const std::string& name)>& used) {
  uint64_t freed = 0;
  int64_t newest = NowNanos() / kNanosPerSecond - age;
  for (const auto& name : NamesIn(folder)) {
    if (used(name)) continue;
    std::string path = folder + "/" + name;
    struct stat info {};
    if (lstat(path.c_str(), &info) != 0 || S_ISDIR(info.st_mode) || info.st_mtim.tv_sec > newest) continue;
    if (unlink(path.c_str()) == 0) freed += static_cast<uint64_t>(info.st_size);
  }
  return freed;
}

bool IsHex(std::string_view text) { return text.find_first_not_of("0123456789abcdef") == std::string_view::npos; }

Result<> MakeDir(const std::string& path, mode_t mode) {
  if (mkdir(path.c_str(), mode) != 0 && errno != EEXIST) return ErrnoError("make folder '{}'", path);
  return {};
}

}  // namespace

Result<std::unique_ptr<StoreState>> StoreState::Open(const std::string& root, std::vector<std::string> pinned,
                                                     const std::string& mkfs_erofs) {
  std::unique_ptr<StoreState> state(new StoreState(root, std::move(pinned), mkfs_erofs.empty() ? DefaultMkfsErofs() : mkfs_erofs));
  TRY(state->OpenAll());
  return state;
}

StoreState::~StoreState() {
  trash_thread_.request_stop();
  changed_.notify_all();
}

Result<> StoreState::OpenAll() {
  std::error_code failed;
  fs::create_directories(root_, failed);
  if (failed) return SysError(failed.value(), "make folder '" + root_ + "'");
  chmod(root_.c_str(), 0700);
  lock_ = UniqueFd(open((root_ + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock_) return ErrnoError("open '{}/lock'", root_);
  if (flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) return MakeError(Code::kFailedPrecondition, "the image store '{}' is in use by another process", root_);
  for (const char* name : {"/l", "/e", "/s", "/trash"}) TRY(MakeDir(root_ + name, 0700));
  TRY(MakeDir(LayerPath(kEmptyFolder), 0755));
  TRY(blobs_.Prepare());
  auto boot_id = sys::ReadFile("/proc/sys/kernel/random/boot_id", 64);
  boot_id_ = boot_id ? std::string(Trim(*boot_id)) : "";
  metadata_ = TRY(Metadata::Open(root_ + "/images.db"));
  TRY(Load());
  TRY(RemoveStale());
  trash_thread_ = std::jthread([this](const std::stop_token& stop) { EmptyTrash(stop); });
  return {};
}

Result<> StoreState::Load() {
  TRY(metadata_->ForEach(kImages, [&](const std::string& id, const Json& json) -> Result<> {
    images_[id] = TRY(ImageFromJson(id, json));
    return {};
  }));
  TRY(metadata_->ForEach(kNames, [&](const std::string& name, const Json& json) -> Result<> {
    if (!json.is_string()) return MakeError(Code::kDataLoss, "the record of the name '{}' is damaged", name);
    std::string id = json.get<std::string>();
    if (images_.contains(id)) names_[name] = std::move(id);
    return {};
  }));
  TRY(metadata_->ForEach(kLayers, [&](const std::string& id, const Json& json) -> Result<> {
    layers_[id] = TRY(LayerFromJson(id, json));
    return {};
  }));
  return metadata_->ForEach(kSnapshots, [&](const std::string& id, const Json& json) -> Result<> {
    snapshots_[id] = TRY(SnapshotFromJson(id, json));
    return {};
  });
}

// What no record names, and layers of which a power failure may have taken content.
Result<> StoreState::RemoveStale() {
  std::set<std::string> folders = {kEmptyFolder};
  for (auto it = layers_.begin(); it != layers_.end();) {
    const LayerRecord& layer = it->second;
    bool believed = layer.synced || layer.boot_id == boot_id_;
    if (believed && access(LayerPath(layer.folder).c_str(), F_OK) == 0) {
      folders.insert(layer.folder);
      if (auto number = ParseUint64(layer.folder)) last_number_ = std::max(last_number_, *number);
      ++it;
      continue;
    }
    TRY(metadata_->Delete(kLayers, it->first));
    it = layers_.erase(it);
  }
  // An image of which a layer is gone is no image: it is pulled again.
  std::vector<std::string> broken;
  for (const auto& [id, image] : images_) {
    if (std::any_of(image.chain.begin(), image.chain.end(), [&](const std::string& chain) { return !layers_.contains(chain); })) broken.push_back(id);
  }
  for (const auto& id : broken) TRY(RemoveImageLocked(id));
  for (const auto& name : NamesIn(root_ + "/l")) {
    if (!folders.contains(name)) ToTrash(LayerPath(name));
  }
  FindErofs(folders);
  for (const auto& key : NamesIn(root_ + "/s")) {
    if (!snapshots_.contains(key)) ToTrash(SnapshotFolder(key));
  }
  for (const auto& name : NamesIn(root_ + "/ingest")) {
    if (name.find('.') != std::string::npos || name.find('-') != std::string::npos) ToTrash(root_ + "/ingest/" + name);
  }
  TRY(CollectLocked(kLeftoverSeconds, kLeftoverSeconds));
  trash_waiting_ = true;
  return {};
}

void StoreState::ToTrash(const std::string& path) {
  std::string target = root_ + "/trash/" + NewId().substr(0, 24);
  // Where renaming fails there is nothing to rename, or nothing that could be done.
  if (rename(path.c_str(), target.c_str()) == 0) trash_waiting_ = true;
  changed_.notify_all();
}

void StoreState::EmptyTrash(const std::stop_token& stop) {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      if (!changed_.wait(lock, stop, [&] { return trash_waiting_; })) return;
      trash_waiting_ = false;
    }
    for (const auto& name : NamesIn(root_ + "/trash")) {
      if (stop.stop_requested()) return;
      (void)RemoveTree(root_ + "/trash/" + name);  // what stays is tried again at the next start
    }
  }
}

Result<ImageRecord*> StoreState::FindLocked(const std::string& name) {
  auto by_id = images_.find(name.starts_with("sha256:") ? name : "sha256:" + name);
  if (by_id != images_.end()) return &by_id->second;
  if (auto reference = ParseReference(name)) {
    auto named = names_.end();
    if (!reference->digest.empty()) named = names_.find(reference->Digested(reference->digest));
    else named = names_.find(reference->Tagged());
    auto image = named == names_.end() ? images_.end() : images_.find(named->second);
    if (image != images_.end()) return &image->second;
  }
  std::string_view prefix = name;
  if (prefix.starts_with("sha256:")) prefix.remove_prefix(7);
  ImageRecord* found = nullptr;
  if (prefix.size() >= kMinPrefix && prefix.size() <= 64 && IsHex(prefix)) {
    for (auto& [id, record] : images_) {
      if (!std::string_view(id).substr(7).starts_with(prefix)) continue;
      if (found != nullptr) return MakeError(Code::kInvalidArgument, "image id '{}' is ambiguous", name);
      found = &record;
    }
  }
  if (found == nullptr) return MakeError(Code::kNotFound, "image '{}' is not here", name.substr(0, 512));
  return found;
}

Image StoreState::Describe(const ImageRecord& record) {
  Image image;
  image.id = record.id;
  image.size_bytes = record.size_bytes;
  image.pulled_at_nanos = record.pulled_at_nanos;
  image.artifact_type = record.artifact_type;
  for (const auto& [name, id] : names_) {
    if (id != record.id) continue;
    (name.find('@') == std::string::npos ? image.repo_tags : image.repo_digests).push_back(name);
  }
  for (const auto& pin : pinned_) {
    auto reference = ParseReference(pin);
    std::string full = reference ? (reference->digest.empty() ? reference->Tagged() : reference->Digested(reference->digest)) : pin;
    auto named = names_.find(full);
    image.pinned = image.pinned || (named != names_.end() && named->second == record.id);
  }
  if (auto config = ParseImageConfig(record.config_bytes)) {
    image.config = std::move(config->config);
    image.diff_ids = std::move(config->diff_ids);
  }
  return image;
}

Result<Image> StoreState::Find(const std::string& name) {
  std::lock_guard lock(mutex_);
  return Describe(*TRY(FindLocked(name)));
}

std::vector<Image> StoreState::List() {
  std::lock_guard lock(mutex_);
  std::vector<Image> all;
  for (const auto& [id, record] : images_) all.push_back(Describe(record));
  return all;
}

Result<> StoreState::AddImage(const ImageRecord& record, const std::vector<std::string>& names) {
  std::lock_guard lock(mutex_);
  std::vector<Metadata::Row> rows = {{kImages, record.id, DumpJson(ToJson(record))}};
  for (const auto& name : names) rows.push_back({kNames, name, DumpJson(Json(record.id))});
  TRY(metadata_->PutAll(rows));
  images_[record.id] = record;
  for (const auto& name : names) names_[name] = record.id;
  return {};
}

Result<> StoreState::RemoveImageLocked(const std::string& id) {
  for (auto it = names_.begin(); it != names_.end();) {
    if (it->second != id) {
      ++it;
      continue;
    }
    TRY(metadata_->Delete(kNames, it->first));
    it = names_.erase(it);
  }
  TRY(metadata_->Delete(kImages, id));
  images_.erase(id);
  return {};
}

Result<> StoreState::Remove(const std::string& name) {
  std::lock_guard lock(mutex_);
  auto found = FindLocked(name);
  if (!found) return found.error().code == Code::kNotFound ? Result<>() : Result<>(std::move(found.error()));
  std::string id = (*found)->id;
  auto reference = ParseReference(name);
  std::string full = !reference ? "" : reference->digest.empty() ? reference->Tagged() : reference->Digested(reference->digest);
  if (names_.contains(full) && names_[full] == id) {
    TRY(metadata_->Delete(kNames, full));
    names_.erase(full);
    // The digest of a tag's pull is no name that anyone gave: it goes with the last tag.
    bool tagged = std::any_of(names_.begin(), names_.end(), [&](const auto& entry) { return entry.second == id && entry.first.find('@') == std::string::npos; });
    bool named = std::any_of(names_.begin(), names_.end(), [&](const auto& entry) { return entry.second == id; });
    if (tagged || (named && full.find('@') != std::string::npos)) return {};
  }
  TRY(RemoveImageLocked(id));
  if (pulls_ > 0) {
    collect_later_ = true;
    return {};
  }
  TRY(CollectLocked(0, kLeftoverSeconds));
  return {};
}

Result<uint64_t> StoreState::CollectLocked(int64_t blob_age, int64_t ingest_age) {
  std::set<std::string> used_layers, used_blobs;
  for (const auto& [id, image] : images_) {
    used_layers.insert(image.chain.begin(), image.chain.end());
    used_blobs.insert(image.blobs.begin(), image.blobs.end());
  }
  for (const auto& [key, snapshot] : snapshots_) used_layers.insert(snapshot.chain.begin(), snapshot.chain.end());
  uint64_t freed = 0;
  for (auto it = layers_.begin(); it != layers_.end();) {
    if (used_layers.contains(it->first)) {
      ++it;
      continue;
    }
    TRY(metadata_->Delete(kLayers, it->first));
    freed += it->second.bytes;
    ToTrash(LayerPath(it->second.folder));
    freed += DropErofsLocked(it->second.folder);
    it = layers_.erase(it);
  }
  for (const char* algorithm : {"sha256", "sha512"}) {
    freed += RemoveFiles(root_ + "/blobs/" + algorithm, blob_age, [&](const std::string& hex) { return used_blobs.contains(std::string(algorithm) + ":" + hex); });
  }
  return freed + RemoveFiles(root_ + "/ingest", ingest_age, [](const std::string&) { return false; });
}

Result<uint64_t> StoreState::CollectGarbage() {
  std::lock_guard lock(mutex_);
  if (pulls_ > 0) {
    collect_later_ = true;
    return uint64_t{0};
  }
  return CollectLocked(0, 0);
}

void StoreState::BeginPull() {
  std::lock_guard lock(mutex_);
  ++pulls_;
}

void StoreState::EndPull(bool useless) {
  std::lock_guard lock(mutex_);
  collect_later_ = collect_later_ || useless;
  if (--pulls_ > 0) return;
  int64_t age = std::exchange(collect_later_, false) ? 0 : kLeftoverSeconds;
  (void)CollectLocked(age, age);  // a later one tries again
}

Result<> StoreState::ClaimBlob(const std::string& digest, const std::stop_token& cancel) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait(lock, cancel, [&] { return !claimed_blobs_.contains(digest); })) return MakeError(Code::kCancelled, "the pull was cancelled");
  claimed_blobs_.insert(digest);
  return {};
}

void StoreState::ReleaseBlob(const std::string& digest) {
  std::lock_guard lock(mutex_);
  claimed_blobs_.erase(digest);
  changed_.notify_all();
}

Result<bool> StoreState::ClaimLayer(const std::string& chain_id, const std::stop_token& cancel) {
  std::unique_lock lock(mutex_);
  // Claims go from the lowest layer up, so two pulls cannot wait for each other.
  if (!changed_.wait(lock, cancel, [&] { return !claimed_.contains(chain_id); })) return MakeError(Code::kCancelled, "the pull was cancelled");
  if (layers_.contains(chain_id)) return false;
  claimed_.insert(chain_id);
  return true;
}

void StoreState::ReleaseLayer(const std::string& chain_id) {
  std::lock_guard lock(mutex_);
  claimed_.erase(chain_id);
  changed_.notify_all();
}

Result<std::string> StoreState::NewLayerFolder() {
  std::lock_guard lock(mutex_);
  for (;;) {
    std::string name = fmt::format("{}", ++last_number_);
    if (mkdir(LayerPath(name).c_str(), 0755) == 0) return name;
    if (errno != EEXIST) return ErrnoError("make folder '{}'", LayerPath(name));
  }
}

Result<> StoreState::CommitLayer(const std::string& chain_id, const std::string& folder, const Unpacked& unpacked) {
  std::lock_guard lock(mutex_);
  LayerRecord record{chain_id, folder, boot_id_, unpacked.bytes, unpacked.inodes, false};
  TRY(metadata_->Put(kLayers, chain_id, ToJson(record)));
  layers_[chain_id] = std::move(record);
  return {};
}

void StoreState::DiscardFolder(const std::string& folder) {
  std::lock_guard lock(mutex_);
  ToTrash(LayerPath(folder));
}

std::vector<std::string> StoreState::LowerDirs(const std::vector<std::string>& chain) {
  std::lock_guard lock(mutex_);
  std::vector<std::string> dirs;
  for (auto it = chain.rbegin(); it != chain.rend(); ++it) {
    auto layer = layers_.find(*it);
    if (layer == layers_.end()) continue;
    dirs.push_back(LayerPath(layer->second.folder));
    if (IsOpaque(dirs.back())) break;
  }
  if (dirs.empty()) dirs.push_back(LayerPath(kEmptyFolder));
  return dirs;
}

Result<> StoreState::SyncLayers() {
  std::vector<std::string> fresh;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, layer] : layers_) {
      if (!layer.synced) fresh.push_back(id);
    }
  }
  if (fresh.empty()) return {};
  if (syncfs(lock_.get()) != 0) return ErrnoError("sync '{}'", root_);
  std::lock_guard lock(mutex_);
  for (const auto& id : fresh) {
    auto layer = layers_.find(id);
    if (layer == layers_.end()) continue;
    layer->second.synced = true;
    TRY(metadata_->Put(kLayers, id, ToJson(layer->second)));
  }
  return {};
}

Result<Snapshot> StoreState::SnapshotOf(const SnapshotRecord& record) {
  Snapshot snapshot;
  snapshot.key = record.key;
  for (auto it = record.chain.rbegin(); it != record.chain.rend(); ++it) {
    auto layer = layers_.find(*it);
    if (layer == layers_.end()) return MakeError(Code::kDataLoss, "snapshot '{}': a layer of its image is gone", record.key);
    snapshot.lower_dirs.push_back(LayerPath(layer->second.folder));
    if (IsOpaque(snapshot.lower_dirs.back())) break;
  }
  if (snapshot.lower_dirs.empty()) snapshot.lower_dirs.push_back(LayerPath(kEmptyFolder));
  if (record.view) {
    if (snapshot.lower_dirs.size() == 1) snapshot.lower_dirs.push_back(LayerPath(kEmptyFolder));
    return snapshot;
  }
  snapshot.upper_dir = SnapshotFolder(record.key) + "/fs";
  snapshot.work_dir = SnapshotFolder(record.key) + "/work";
  return snapshot;
}

Result<Snapshot> StoreState::Prepare(const std::string& key, const std::string& image) {
  if (!IsSafeName(key)) return MakeError(Code::kInvalidArgument, "'{}' is no snapshot key", key.substr(0, 128));
  std::lock_guard lock(mutex_);
  if (snapshots_.contains(key)) return MakeError(Code::kAlreadyExists, "snapshot '{}' exists already", key);
  SnapshotRecord record{key, "", {}, false};
  ImageRecord* found = TRY(FindLocked(image));
  record.image_id = found->id;
  record.chain = found->chain;
  Rollback rollback;
  std::string folder = SnapshotFolder(key);
  rollback.Add([&] { ToTrash(folder); });
  TRY(MakeDir(folder, 0700));
  TRY(MakeDir(folder + "/fs", 0755));
  TRY(MakeDir(folder + "/work", 0700));
  // Overlay shows the upper's own mode and owner for the root: they are to be the image's.
  auto snapshot = TRY(SnapshotOf(record));
  struct stat info {};
  if (stat(snapshot.lower_dirs[0].c_str(), &info) != 0 || chown(snapshot.upper_dir.c_str(), info.st_uid, info.st_gid) != 0 ||
      chmod(snapshot.upper_dir.c_str(), info.st_mode & 07777) != 0) {
    return ErrnoError("prepare '{}'", snapshot.upper_dir);
  }
  TRY(metadata_->Put(kSnapshots, key, ToJson(record)));
  snapshots_[key] = std::move(record);
  rollback.Commit();
  return snapshot;
}

Result<Snapshot> StoreState::PrepareView(const std::string& key, const std::string& image) {
  if (!IsSafeName(key)) return MakeError(Code::kInvalidArgument, "'{}' is no snapshot key", key.substr(0, 128));
  std::lock_guard lock(mutex_);
  if (snapshots_.contains(key)) return MakeError(Code::kAlreadyExists, "snapshot '{}' exists already", key);
  ImageRecord* found = TRY(FindLocked(image));
  SnapshotRecord record{key, found->id, found->chain, true};
  auto snapshot = TRY(SnapshotOf(record));
  TRY(metadata_->Put(kSnapshots, key, ToJson(record)));
  snapshots_[key] = std::move(record);
  return snapshot;
}

Result<Snapshot> StoreState::FindSnapshot(const std::string& key) {
  std::lock_guard lock(mutex_);
  auto found = snapshots_.find(key);
  if (found == snapshots_.end()) return MakeError(Code::kNotFound, "no snapshot '{}'", key.substr(0, 128));
  return SnapshotOf(found->second);
}

Result<> StoreState::RemoveSnapshot(const std::string& key) {
  if (!IsSafeName(key)) return MakeError(Code::kInvalidArgument, "'{}' is no snapshot key", key.substr(0, 128));
  std::lock_guard lock(mutex_);
  auto found = snapshots_.find(key);
  if (found == snapshots_.end()) return {};
  TRY(metadata_->Delete(kSnapshots, key));
  // The last that used an image which is gone: its layers go too.
  bool view = found->second.view;
  bool image_gone = !images_.contains(found->second.image_id);
  snapshots_.erase(found);
  if (!view) ToTrash(SnapshotFolder(key));
  if (image_gone && pulls_ == 0) TRY(CollectLocked(0, kLeftoverSeconds));
  return {};
}

std::vector<std::string> StoreState::ListSnapshots() {
  std::lock_guard lock(mutex_);
  std::vector<std::string> keys;
  for (const auto& [key, record] : snapshots_) keys.push_back(key);
  return keys;
}

// Those of layers that are there and that are whole; what a crash left of others goes.
void StoreState::FindErofs(const std::set<std::string>& folders) {
  for (const auto& name : NamesIn(root_ + "/e")) {
    std::string folder = name.substr(0, name.find('.'));
    bool ours = folders.contains(folder) && ErofsPath(folder) == root_ + "/e/" + name && IsWholeErofs(ErofsPath(folder));
    if (!ours || !RecordErofsLocked(folder)) ToTrash(root_ + "/e/" + name);
  }
}

Result<> StoreState::RecordErofsLocked(const std::string& folder) {
  struct stat info {};
  if (lstat(ErofsPath(folder).c_str(), &info) != 0) return ErrnoError("stat '{}'", ErofsPath(folder));
  erofs_[folder] = static_cast<uint64_t>(info.st_blocks) * 512;
  return {};
}

uint64_t StoreState::DropErofsLocked(const std::string& folder) {
  auto found = erofs_.find(folder);
  if (found == erofs_.end()) return 0;
  uint64_t bytes = found->second;
  ToTrash(ErofsPath(folder));
  erofs_.erase(found);
  return bytes;
}

Result<> StoreState::MakeErofsOnce(const std::string& folder, const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  if (erofs_.contains(folder)) {
    if (IsWholeErofs(ErofsPath(folder))) return {};
    DropErofsLocked(folder);
  }
  auto [entry, first] = erofs_jobs_.try_emplace(folder);
  if (!first) {
    auto job = entry->second;
    changed_.wait(lock, [&] { return job->done; });
    return job->outcome;
  }
  auto job = entry->second = std::make_shared<ErofsJob>();
  lock.unlock();
  auto made = MakeErofs(mkfs_erofs_, LayerPath(folder), ErofsPath(folder), stop);
  lock.lock();
  if (made) made = RecordErofsLocked(folder);
  bool used = folder == kEmptyFolder ||
              std::any_of(layers_.begin(), layers_.end(), [&](const auto& layer) { return layer.second.folder == folder; });
  if (made && !used) {
    DropErofsLocked(folder);
    made = MakeError(Code::kNotFound, "the layer '{}' was removed meanwhile", folder);
  }
  erofs_jobs_.erase(folder);
  job->outcome = made;
  job->done = true;
  changed_.notify_all();
  return made;
}

Result<std::vector<std::string>> StoreState::ErofsLayers(const std::string& key, const std::stop_token& stop) {
  Snapshot snapshot = TRY(FindSnapshot(key));
  std::vector<std::string> files;
  for (const std::string& dir : snapshot.lower_dirs) {
    std::string folder = dir.substr(dir.rfind('/') + 1);
    // A view has it so that overlay has two; a VM's overlay has an upper folder.
    if (folder == kEmptyFolder && !files.empty()) continue;
    auto made = MakeErofsOnce(folder, stop);
    if (!made) return std::move(made.error()).Within(fmt::format("EROFS image of layer '{}'", folder));
    files.push_back(ErofsPath(folder));
  }
  return files;
}

Result<Usage> StoreState::LayersUsage() {
  std::lock_guard lock(mutex_);
  Usage usage;
  for (const auto& [id, layer] : layers_) {
    usage.bytes += layer.bytes;
    usage.inodes += layer.inodes;
  }
  for (const auto& [folder, bytes] : erofs_) {
    usage.bytes += bytes;
    ++usage.inodes;
  }
  std::set<std::string> blobs;
  for (const auto& [id, image] : images_) {
    if (blobs.insert(image.manifest_digest).second) usage.bytes += image.size_bytes;
    usage.inodes += image.blobs.size();
  }
  return usage;
}

}  // namespace caisson::image
