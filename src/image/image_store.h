// SPDX-License-Identifier: Apache-2.0
//
// ImageStore: what the daemon knows of images. Pulls, lists, removes them and turns one into a container's root
// filesystem. Everything below `root` belongs to it; one process at a time (a lock file says so).
//
// Thread-safe. Pulls of one reference join; layers are shared and fetched once. Every wait has a deadline of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace caisson::image {

// The CRI's AuthConfig. Secret: never logged, never in an error.
struct Credentials {
  std::string username, password, auth /* base64 user:password */, server_address, identity_token, registry_token;
};

// What of the OCI image config the runtime uses (image-spec config.md). Bounded and checked when pulled.
struct ImageConfig {
  std::string user;  // as written: "", "uid", "name", "uid:gid", …
  std::vector<std::string> env, entrypoint, cmd;
  std::string working_dir, stop_signal;
  std::vector<std::string> volumes;
  std::map<std::string, std::string> labels;
  std::string os, architecture, variant;
};

struct Image {
  std::string id;                         // "sha256:…" of the image config
  std::vector<std::string> repo_tags;     // "docker.io/library/busybox:1.36"
  std::vector<std::string> repo_digests;  // "docker.io/library/busybox@sha256:…"
  uint64_t size_bytes = 0;                // compressed size of config and layers, as containerd reports
  bool pinned = false;
  ImageConfig config;
  std::vector<std::string> diff_ids;
  std::string artifact_type;              // not empty: files without a config, to be mounted and not run
  int64_t pulled_at_nanos = 0;
};

// Of one layer or blob during a pull.
struct Progress {
  std::string digest;
  uint64_t done_bytes = 0, total_bytes = 0;
  bool unpacked = false;
};

struct PullOptions {
  std::optional<Credentials> credentials;
  std::function<void(const Progress&)> on_progress;  // any thread; may be empty
  int64_t deadline_millis = 0;                       // 0: none but the stall timeout
  std::string snapshotter;                           // reserved: "" is overlay
};

// One container's writable root filesystem over an image.
struct Snapshot {
  std::string key;
  std::vector<std::string> lower_dirs;  // topmost first, absolute
  std::string upper_dir, work_dir;      // absolute; empty for a read-only view
};

struct Usage {
  uint64_t bytes = 0, inodes = 0;
};

struct Options {
  std::string root;                       // e.g. /var/lib/caisson/images
  std::string certs_dir;                  // containerd's hosts.toml tree, e.g. /etc/caisson/certs.d
  std::string docker_config;              // a docker config.json, or empty
  std::vector<std::string> pinned_images; // references that are never garbage
  int max_parallel_downloads = 3;
  std::string mkfs_erofs;                 // the program; empty: where distributions put it
  int64_t stall_timeout_millis = 60'000;  // no byte for so long ends a transfer attempt
};

class ImageStore {
 public:
  static Result<std::unique_ptr<ImageStore>> Open(Options options);
  virtual ~ImageStore() = default;

  // Pulls `reference` and returns the image. The work goes on for other waiters when one of them gives up.
  virtual Result<Image> Pull(const std::string& reference, PullOptions options) = 0;
  // Ends the pulls and conversions under way, and those to come, with kUnavailable (kCancelled): the daemon ends. What they fetched is kept.
  virtual void EndPulls() {}
  // `name`: a reference, an image id, or an unambiguous prefix of one (at least 4 hex digits). kNotFound if absent.
  virtual Result<Image> Find(const std::string& name) = 0;
  virtual std::vector<Image> List() = 0;
  // Removes one tag, or with an id (or the last tag) the image. Absent: success. Used by a container: what refers to
  // it stays until that snapshot is removed.
  virtual Result<> Remove(const std::string& name) = 0;
  // Imports docker-archive, oci-archive (a file) or an OCI layout (a directory). Returns what it added.
  virtual Result<std::vector<Image>> Import(const std::string& path, const std::string& name_if_untagged) = 0;

  // A new writable layer named `key` over image `image_id`. kAlreadyExists if the key is in use.
  virtual Result<Snapshot> Prepare(const std::string& key, const std::string& image_id) = 0;
  // A read-only view named `key` of image `image_id`: at least two folders, as overlay wants without an upper one. Kept
  // until RemoveSnapshot, as a writable layer is.
  virtual Result<Snapshot> PrepareView(const std::string& key, const std::string& image_id) = 0;
  // The layers of snapshot `key` as EROFS images, topmost first, for a VM: files of mode 0400 that many share and nobody
  // writes, there for as long as the snapshot. Made on first use, which takes a while. Errors: see image/erofs.h.
  virtual Result<std::vector<std::string>> ErofsLayers(const std::string& key) = 0;
  virtual Result<Snapshot> FindSnapshot(const std::string& key) = 0;
  // Absent: success.
  virtual Result<> RemoveSnapshot(const std::string& key) = 0;
  virtual Result<Usage> SnapshotUsage(const std::string& key) = 0;
  virtual std::vector<std::string> ListSnapshots() = 0;

  // Bytes and inodes that images, with their EROFS forms (not writable layers), take on disk, and the folder they are in.
  virtual Result<Usage> FilesystemUsage() = 0;
  virtual std::string FilesystemPath() const = 0;
  // Deletes blobs, layers and partial downloads that nothing refers to. Returns the bytes freed.
  virtual Result<uint64_t> CollectGarbage() = 0;
};

}  // namespace caisson::image
