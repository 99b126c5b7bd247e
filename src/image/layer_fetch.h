// SPDX-License-Identifier: Apache-2.0
//
// One layer from its source to an unpacked folder, as a pipeline of two threads: one takes bytes from the source, hashes
// and keeps them; the other decompresses, hashes and unpacks. Neither waits for the whole blob.
#pragma once

#include <atomic>
#include <functional>
#include <stop_token>
#include <string>

#include "base/result.h"
#include "image/image_store.h"
#include "image/manifest.h"
#include "image/registry.h"
#include "image/unpack.h"

namespace caisson::image {

// Streams bytes [offset, blob.size) of a blob into the sink.
using BlobSource = std::function<Result<>(const Descriptor& blob, uint64_t offset, const BlobSink& sink)>;

// Where blobs are kept: <root>/blobs/<algorithm>/<hex>, unfinished ones in <root>/ingest.
class BlobFolder {
 public:
  explicit BlobFolder(std::string root) : root_(std::move(root)) {}
  Result<> Prepare();
  std::string BlobPath(const std::string& digest) const;
  std::string IngestPath(const std::string& digest) const;
  bool Has(const std::string& digest) const;
  // Writes a small blob whose digest has been verified.
  Result<> Put(const std::string& digest, const std::string& bytes);
  Result<std::string> Get(const std::string& digest, size_t max_bytes) const;

 private:
  std::string root_;
};

struct LayerRequest {
  Descriptor blob;
  std::string diff_id;
  std::string folder;  // an existing empty folder to unpack into
  std::function<void(uint64_t done_bytes)> on_bytes;
  std::stop_token cancel;
};

// The blob as it is, as the file `name` (relative, folders are made) in the request's folder; its diff_id is not looked at.
// The file and the kept blob share their bytes. kInvalidArgument for a name that is none, or is taken.
Result<Unpacked> FetchFile(const BlobFolder& blobs, const BlobSource& source, const LayerRequest& request, const std::string& name);

// Blob and content are verified. On failure a broken blob is gone, an unfinished one stays to be resumed.
Result<Unpacked> FetchLayer(const BlobFolder& blobs, const BlobSource& source, const LayerRequest& request);

}  // namespace caisson::image
