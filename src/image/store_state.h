// SPDX-License-Identifier: Apache-2.0
//
// StoreState: images, names, layers and writable snapshots in memory and in Metadata, and their folders on disk. It knows
// what refers to what; it fetches nothing. Thread-safe.
//
//   <root>/l/<n>            an unpacked layer
//   <root>/e/<n>.erofs    the same as an EROFS image, once a VM has asked for it; its name says that it is whole
//   <root>/s/<key>/{fs,work} a container's writable layer
//   <root>/trash            what is being deleted
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "image/layer_fetch.h"
#include "image/metadata.h"
#include "image/records.h"

namespace caisson::image {

class StoreState {
 public:
  // Opens or makes the store at `root`; a second process is refused. What a former one left unfinished is removed.
  static Result<std::unique_ptr<StoreState>> Open(const std::string& root, std::vector<std::string> pinned,
                                                  const std::string& mkfs_erofs = "");
  ~StoreState();

  const BlobFolder& blobs() const { return blobs_; }
  BlobFolder& blobs() { return blobs_; }

  Result<Image> Find(const std::string& name);
  std::vector<Image> List();
  // Adds or updates an image and lets `names` (tags and repository@digest) point to it.
  Result<> AddImage(const ImageRecord& record, const std::vector<std::string>& names);
  Result<> Remove(const std::string& name);

  // Layers. Claim waits while another pull makes the same one; true: the caller makes it and then commits or releases.
  Result<bool> ClaimLayer(const std::string& chain_id, const std::stop_token& cancel);
  void ReleaseLayer(const std::string& chain_id);
  // One at a time fetches a blob: layers of different chains may be the same blob.
  Result<> ClaimBlob(const std::string& digest, const std::stop_token& cancel);
  void ReleaseBlob(const std::string& digest);
  // An empty folder to unpack into; not yet anyone's.
  Result<std::string> NewLayerFolder();
  Result<> CommitLayer(const std::string& chain_id, const std::string& folder, const Unpacked& unpacked);
  std::string LayerPath(const std::string& folder) const { return root_ + "/l/" + folder; }
  void DiscardFolder(const std::string& folder);
  std::vector<std::string> LowerDirs(const std::vector<std::string>& chain);
  // Brings all layers' content to the disk (syncfs(2)) and remembers it.
  Result<> SyncLayers();
  // While one lives nothing is collected: a pull's layers belong to no image yet.
  void BeginPull();
  // `useless`: what the pull has fetched is of no use to a later one, so it is collected.
  void EndPull(bool useless);

  Result<Snapshot> Prepare(const std::string& key, const std::string& image);
  Result<Snapshot> PrepareView(const std::string& key, const std::string& image);
  Result<Snapshot> FindSnapshot(const std::string& key);
  Result<> RemoveSnapshot(const std::string& key);
  std::vector<std::string> ListSnapshots();
  std::string SnapshotFolder(const std::string& key) const { return root_ + "/s/" + key; }

  // The layers of a snapshot as EROFS images, topmost first, made where there are none; who waits for the same one gets the
  // maker's outcome. The snapshot must outlive the call.
  Result<std::vector<std::string>> ErofsLayers(const std::string& key, const std::stop_token& stop);

  Result<Usage> LayersUsage();
  Result<uint64_t> CollectGarbage();

 private:
  struct ErofsJob {
    bool done = false;
    Result<> outcome;
  };
  StoreState(std::string root, std::vector<std::string> pinned, std::string mkfs_erofs)
      : root_(std::move(root)), pinned_(std::move(pinned)), mkfs_erofs_(std::move(mkfs_erofs)), blobs_(root_) {}
  Result<> OpenAll();
  Result<> Load();
  Result<> RemoveStale();
  Result<ImageRecord*> FindLocked(const std::string& name);
  Image Describe(const ImageRecord& record);
  Result<> RemoveImageLocked(const std::string& id);
  // Files that nothing refers to go when they are older than these ages in seconds.
  Result<uint64_t> CollectLocked(int64_t blob_age, int64_t ingest_age);
  void ToTrash(const std::string& path);
  std::string ErofsPath(const std::string& folder) const { return root_ + "/e/" + folder + ".erofs"; }
  void FindErofs(const std::set<std::string>& folders);
  Result<> MakeErofsOnce(const std::string& folder, const std::stop_token& stop);
  Result<> RecordErofsLocked(const std::string& folder);
  // The bytes it took.
  uint64_t DropErofsLocked(const std::string& folder);
  Result<Snapshot> SnapshotOf(const SnapshotRecord& record);
  void EmptyTrash(const std::stop_token& stop);

  const std::string root_;
  const std::vector<std::string> pinned_;
  const std::string mkfs_erofs_;
  BlobFolder blobs_;
  std::string boot_id_;
  UniqueFd lock_;
  std::unique_ptr<Metadata> metadata_;

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::map<std::string, ImageRecord> images_;
  std::map<std::string, std::string> names_;  // tag or repository@digest to image id
  std::map<std::string, LayerRecord> layers_;
  std::map<std::string, SnapshotRecord> snapshots_;
  std::set<std::string> claimed_, claimed_blobs_;
  std::map<std::string, uint64_t> erofs_;  // folder of a layer to the bytes of its image
  std::map<std::string, std::shared_ptr<ErofsJob>> erofs_jobs_;
  int pulls_ = 0;
  bool collect_later_ = false;
  uint64_t last_number_ = 0;
  bool trash_waiting_ = false;
  std::jthread trash_thread_;
};

}  // namespace caisson::image
