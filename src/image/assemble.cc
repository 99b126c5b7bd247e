// SPDX-License-Identifier: Apache-2.0
#include "image/assemble.h"

#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>

#include "base/clock.h"
#include "base/limits.h"
#include "base/scope_exit.h"
#include "base/unique_fd.h"
#include "image/below.h"
#include "image/digest.h"
#include "image/image_config.h"
#include "image/unpack.h"

namespace caisson::image {
namespace {

constexpr uint64_t kProgressStep = 256 << 10;
constexpr char kTitle[] = "org.opencontainers.image.title";  // image-spec annotations.md

// One layer that is not here yet.
struct Missing {
  size_t index;
  std::string chain_id, folder;
  Unpacked unpacked;
};

class Assembly {
 public:
  Assembly(StoreState& state, const AssembleRequest& request) : state_(state), request_(request) {}

  ~Assembly() {
    for (auto& layer : missing_) {
      if (!layer.folder.empty()) state_.DiscardFolder(layer.folder);
      state_.ReleaseLayer(layer.chain_id);
    }
  }

  Result<std::string> Run() {
    if (IsArtifact(request_.manifest)) return RunArtifact();
    auto config = TRY(ParseImageConfig(request_.config_bytes));
    const auto& layers = request_.manifest.layers;
    if (layers.size() != config.diff_ids.size()) {
      return MakeError(Code::kInvalidArgument, "the manifest has {} layers, the image config {} diff_ids", layers.size(), config.diff_ids.size());
    }
    if (layers.size() > static_cast<size_t>(limits::kImageLayers)) return MakeError(Code::kResourceExhausted, "the image has more than {} layers", limits::kImageLayers);
    chain_ = ChainIds(config.diff_ids);
    for (size_t i = 0; i < layers.size(); ++i) {
      TRY(LayerFormatOf(layers[i]));
      Report(layers[i], 0, false);
      if (TRY(state_.ClaimLayer(chain_[i], request_.cancel))) {
        missing_.push_back({i, chain_[i], "", {}});
      } else {
        Report(layers[i], static_cast<uint64_t>(layers[i].size), true);
      }
    }
    TRY(FetchMissing(config.diff_ids));
    TRY(CommitMissing());
    return Record();
  }

 private:
  // One layer of all the files. Not in parts: what the artifact has is known by its manifest alone.
  Result<std::string> RunArtifact() {
    TRY(CheckArtifact());
    chain_ = {Sha256Digest("artifact " + request_.manifest_digest)};
    if (TRY(state_.ClaimLayer(chain_[0], request_.cancel))) {
      missing_.push_back({0, chain_[0], "", {}});
      missing_[0].folder = TRY(state_.NewLayerFolder());
      for (const auto& blob : request_.manifest.layers) TRY(FetchArtifactFile(missing_[0], blob));
      TRY(CommitMissing());
    }
    return Record();
  }

  // Whatever cannot be a folder of files is refused by its kind: helm charts, signatures, …
  Result<> CheckArtifact() {
    const auto& layers = request_.manifest.layers;
    bool any = std::any_of(layers.begin(), layers.end(), [](const Descriptor& blob) { return blob.annotations.contains(kTitle); });
    if (any) return {};
    return MakeError(Code::kUnimplemented,
                     "it is no image but an artifact of type '{}' (config '{}'), and none of its {} layers is a file with a name ({})",
                     ArtifactTypeOf(request_.manifest), request_.manifest.config.media_type, layers.size(), kTitle);
  }

  // A blob without a name is something that only tools of that artifact type understand.
  Result<> FetchArtifactFile(Missing& layer, const Descriptor& blob) {
    auto title = blob.annotations.find(kTitle);
    if (title == blob.annotations.end()) return {};
    TRY(state_.ClaimBlob(blob.digest, request_.cancel));
    ScopeExit release([&] { state_.ReleaseBlob(blob.digest); });
    LayerRequest fetch{blob, "", state_.LayerPath(layer.folder), [&](uint64_t done) { Report(blob, done, false); }, request_.cancel};
    auto file = FetchFile(state_.blobs(), request_.source, fetch, title->second);
    if (!file) return std::move(file.error()).Within(fmt::format("artifact file '{}'", blob.digest));
    layer.unpacked.inodes += file->inodes;
    Report(blob, static_cast<uint64_t>(blob.size), true);
    return {};
  }

  void Report(const Descriptor& blob, uint64_t done, bool unpacked) {
    if (request_.on_progress) request_.on_progress({blob.digest, done, static_cast<uint64_t>(blob.size), unpacked});
  }

  Result<> FetchOne(Missing& layer, const std::string& diff_id, const std::stop_token& cancel) {
    const Descriptor& blob = request_.manifest.layers[layer.index];
    TRY(state_.ClaimBlob(blob.digest, cancel));
    ScopeExit release([&] { state_.ReleaseBlob(blob.digest); });
    layer.folder = TRY(state_.NewLayerFolder());
    LayerRequest fetch{blob, diff_id, state_.LayerPath(layer.folder), {}, cancel};
    uint64_t reported = 0;
    fetch.on_bytes = [&](uint64_t done) {
      if (done < reported + kProgressStep) return;
      reported = done;
      Report(blob, done, false);
    };
    auto unpacked = FetchLayer(state_.blobs(), request_.source, fetch);
    if (!unpacked) {
      bool named = unpacked.error().message.find(blob.digest) != std::string::npos;
      return named ? std::move(unpacked.error()) : std::move(unpacked.error()).Within(fmt::format("layer '{}'", blob.digest));
    }
    layer.unpacked = *unpacked;
    Report(blob, static_cast<uint64_t>(blob.size), true);
    return {};
  }

  Result<> FetchMissing(const std::vector<std::string>& diff_ids) {
    std::stop_source stop;
    std::stop_callback cancelled(request_.cancel, [&] { stop.request_stop(); });
    std::atomic<size_t> next = 0;
    std::mutex mutex;
    std::optional<Error> first;
    auto work = [&] {
      for (size_t i; (i = next++) < missing_.size();) {
        auto fetched = stop.stop_requested() ? Result<>(MakeError(Code::kCancelled, "the pull was cancelled"))
                                             : FetchOne(missing_[i], diff_ids[missing_[i].index], stop.get_token());
        if (fetched) continue;
        std::lock_guard lock(mutex);
        if (!first) first = std::move(fetched.error());  // what follows is only its consequence
        stop.request_stop();
      }
    };
    std::vector<std::thread> threads;
    size_t count = std::min<size_t>(missing_.size(), static_cast<size_t>(std::max(1, request_.parallel)));
    for (size_t i = 1; i < count; ++i) threads.emplace_back(work);
    work();
    for (auto& thread : threads) thread.join();
    if (first) return std::move(*first);
    return {};
  }

  // From the lowest up: a layer is completed from those below it.
  Result<> CommitMissing() {
    for (auto& layer : missing_) {
      UniqueFd root(open(state_.LayerPath(layer.folder).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (!root) return ErrnoError("open '{}'", state_.LayerPath(layer.folder));
      std::vector<std::string> below(chain_.begin(), chain_.begin() + static_cast<ptrdiff_t>(layer.index));
      TRY(CompleteFromBelow(root.get(), &layer.unpacked, state_.LowerDirs(below)));
      TRY(state_.CommitLayer(layer.chain_id, layer.folder, layer.unpacked));
      layer.folder.clear();
    }
    return {};
  }

  Result<std::string> Record() {
    ImageRecord record;
    bool artifact = IsArtifact(request_.manifest);
    // Artifacts have all the same empty config, or none that says what they are.
    record.id = Sha256Digest(artifact ? request_.manifest_bytes : request_.config_bytes);
    if (artifact) record.artifact_type = ArtifactTypeOf(request_.manifest);
    record.root_digest = request_.root_digest;
    record.manifest_digest = request_.manifest_digest;
    record.config_bytes = request_.config_bytes;
    record.chain = chain_;
    record.pulled_at_nanos = NowNanos();
    record.size_bytes = request_.manifest_bytes.size() + request_.config_bytes.size();
    record.blobs = {request_.manifest_digest};
    if (!artifact) {
      record.blobs.push_back(record.id);
      TRY(state_.blobs().Put(record.id, request_.config_bytes));
    }
    TRY(state_.blobs().Put(request_.manifest_digest, request_.manifest_bytes));
    if (request_.root_digest != request_.manifest_digest) {
      TRY(state_.blobs().Put(request_.root_digest, request_.root_bytes));
      record.blobs.push_back(request_.root_digest);
    }
    for (const auto& layer : request_.manifest.layers) {
      record.blobs.push_back(layer.digest);
      record.size_bytes += static_cast<uint64_t>(layer.size);
    }
    TRY(state_.AddImage(record, request_.names));
    return record.id;
  }

  StoreState& state_;
  const AssembleRequest& request_;
  std::vector<std::string> chain_;
  std::vector<Missing> missing_;
};

}  // namespace

Result<std::string> AssembleImage(StoreState& state, const AssembleRequest& request) {
  state.BeginPull();
  bool useless = false;
  ScopeExit end([&] { state.EndPull(useless); });
  auto id = Assembly(state, request).Run();
  // A transfer that broke is resumed by the next attempt; bytes that are wrong, or for which there is no room, are not.
  useless = !id && id.error().code != Code::kUnavailable && id.error().code != Code::kCancelled && id.error().code != Code::kDeadlineExceeded;
  return id;
}

}  // namespace caisson::image
