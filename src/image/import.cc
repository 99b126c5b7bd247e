// SPDX-License-Identifier: Apache-2.0
#include "image/import.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "image/assemble.h"
#include "image/decompress.h"
#include "image/digest.h"
#include "image/file.h"
#include "image/manifest.h"
#include "image/reference.h"
#include "sys/path.h"

namespace caisson::image {
namespace {

// A folder with a layout or a docker archive in it.
class ImportFolder {
 public:
  ImportFolder(StoreState& state, UniqueFd root, std::string name_if_untagged) : state_(state), root_(std::move(root)), name_(std::move(name_if_untagged)) {}

  Result<std::vector<std::string>> Import() {
    if (sys::OpenInRoot(root_.get(), "/index.json", O_PATH)) return ImportLayout();
    if (sys::OpenInRoot(root_.get(), "/manifest.json", O_PATH)) return ImportDocker();
    return MakeError(Code::kInvalidArgument, "neither an OCI layout (index.json) nor a docker archive (manifest.json)");
  }

 private:
  Result<std::string> ReadFile(const std::string& path, size_t max_bytes) {
    auto file = TRY(OpenRegularInRoot(root_.get(), "/" + path));
    return sys::ReadAll(file.get(), max_bytes);
  }
  static std::string BlobName(const std::string& digest) { return fmt::format("blobs/{}/{}", DigestAlgorithm(digest), DigestHex(digest)); }

  Result<std::string> ReadBlob(const Descriptor& blob, size_t max_bytes) {
    std::string bytes = TRY(ReadFile(BlobName(blob.digest), max_bytes));
    TRY(VerifyDigest(bytes, blob.digest, "blob of the archive"));
    return bytes;
  }

  // Feeds a file from an offset.
  Result<> Feed(const std::string& path, uint64_t offset, const BlobSink& sink) {
    auto file = TRY(OpenRegularInRoot(root_.get(), "/" + path));
    if (lseek(file.get(), static_cast<off_t>(offset), SEEK_SET) < 0) return ErrnoError("read '{}'", path);
    std::string buffer(256 << 10, '\0');
    for (;;) {
      ssize_t got = read(file.get(), buffer.data(), buffer.size());
      if (got < 0) return ErrnoError("read '{}'", path);
      if (got == 0) return {};
      TRY(sink({buffer.data(), static_cast<size_t>(got)}));
    }
  }

  // Tags that an entry of index.json gives: containerd's annotation has the whole name, the OCI one often the tag only.
  Result<std::vector<std::string>> NamesOf(const Descriptor& entry) {
    std::vector<std::string> names;
    for (const char* key : {"io.containerd.image.name", "org.opencontainers.image.ref.name"}) {
      auto found = entry.annotations.find(key);
      if (found == entry.annotations.end() || !names.empty()) continue;
      std::string name = found->second;
      // "latest" alone is a tag of an image without a name.
      if (name.find('/') == std::string::npos && name.find(':') == std::string::npos && !name_.empty()) name = name_;
      names.push_back(TRY(ParseReference(name)).Tagged());
    }
    if (names.empty() && !name_.empty()) names.push_back(TRY(ParseReference(name_)).Tagged());
    return names;
  }

  Result<std::vector<std::string>> ImportLayout() {
    std::string bytes = TRY(ReadFile("index.json", limits::kManifestBytes));
    auto document = TRY(ParseManifest(bytes, std::string(kOciIndex)));
    std::vector<std::string> ids;
    for (const auto& entry : std::get<Index>(document).manifests) {
      AssembleRequest request;
      request.names = TRY(NamesOf(entry));
      request.root_digest = request.manifest_digest = entry.digest;
      request.root_bytes = request.manifest_bytes = TRY(ReadBlob(entry, limits::kManifestBytes));
      auto parsed = TRY(ParseManifest(request.root_bytes, entry.media_type));
      if (auto* index = std::get_if<Index>(&parsed)) {
        Descriptor chosen = TRY(ChoosePlatform(*index, HostPlatform()));
        request.manifest_digest = chosen.digest;
        request.manifest_bytes = TRY(ReadBlob(chosen, limits::kManifestBytes));
        parsed = TRY(ParseManifest(request.manifest_bytes, chosen.media_type));
      }
      if (!std::holds_alternative<Manifest>(parsed)) return MakeError(Code::kInvalidArgument, "an index in an index");
      request.manifest = std::get<Manifest>(parsed);
      if (!IsArtifact(request.manifest)) request.config_bytes = TRY(ReadBlob(request.manifest.config, limits::kImageConfigBytes));
      request.source = [this](const Descriptor& blob, uint64_t offset, const BlobSink& sink) { return Feed(BlobName(blob.digest), offset, sink); };
      ids.push_back(TRY(AssembleImage(state_, request)));
    }
    return ids;
  }

  Result<Descriptor> DescribeFile(const std::string& path) {
    Hasher hasher;
    Descriptor blob;
    blob.media_type = "application/vnd.oci.image.layer.v1.tar";  // the packing is told by the bytes
    TRY(Feed(path, 0, [&](std::string_view bytes) -> Result<> {
      hasher.Update(bytes);
      blob.size += static_cast<int64_t>(bytes.size());
      return {};
    }));
    blob.digest = hasher.Finish();
    return blob;
  }

  static Result<std::vector<std::string>> Strings(const Json& entry, const char* key) {
    std::vector<std::string> values;
    auto found = entry.find(key);
    if (found == entry.end() || found->is_null()) return values;
    if (!found->is_array() || found->size() > 10'000) return MakeError(Code::kInvalidArgument, "manifest.json: {} is no list", key);
    for (const auto& item : *found) {
      if (!item.is_string()) return MakeError(Code::kInvalidArgument, "manifest.json: {} has something that is no string", key);
      values.push_back(item.get<std::string>());
    }
    return values;
  }

  // `docker save`: manifest.json lists images by file names; there is no manifest with digests, so one is made.
  Result<std::vector<std::string>> ImportDocker() {
    Json document = TRY(ParseJson(TRY(ReadFile("manifest.json", limits::kManifestBytes))));
    if (!document.is_array()) return MakeError(Code::kInvalidArgument, "manifest.json is no list");
    std::vector<std::string> ids;
    for (const auto& entry : document) {
      if (!entry.is_object() || !entry.contains("Config") || !entry["Config"].is_string()) return MakeError(Code::kInvalidArgument, "manifest.json: an entry has no Config");
      ids.push_back(TRY(ImportDockerEntry(entry)));
    }
    return ids;
  }

  Result<std::string> ImportDockerEntry(const Json& entry) {
    AssembleRequest request;
    request.config_bytes = TRY(ReadFile(entry["Config"].get<std::string>(), limits::kImageConfigBytes));
    for (const auto& tag : TRY(Strings(entry, "RepoTags"))) request.names.push_back(TRY(ParseReference(tag)).Tagged());
    if (request.names.empty() && !name_.empty()) request.names.push_back(TRY(ParseReference(name_)).Tagged());
    auto paths = std::make_shared<std::map<std::string, std::string>>();
    Json layers = Json::array();
    for (const auto& path : TRY(Strings(entry, "Layers"))) {
      Descriptor blob = TRY(DescribeFile(path));
      (*paths)[blob.digest] = path;
      layers.push_back({{"mediaType", blob.media_type}, {"digest", blob.digest}, {"size", blob.size}});
    }
    Json manifest = {{"schemaVersion", 2}, {"mediaType", kOciManifest}, {"layers", layers},
                     {"config", {{"mediaType", kOciConfig}, {"digest", Sha256Digest(request.config_bytes)}, {"size", request.config_bytes.size()}}}};
    request.manifest_bytes = request.root_bytes = DumpJson(manifest);
    request.manifest_digest = request.root_digest = Sha256Digest(request.manifest_bytes);
    auto parsed = TRY(ParseManifest(request.manifest_bytes, kOciManifest));
    request.manifest = std::get<Manifest>(parsed);
    request.source = [this, paths](const Descriptor& blob, uint64_t offset, const BlobSink& sink) { return Feed(paths->at(blob.digest), offset, sink); };
    return AssembleImage(state_, request);
  }

  StoreState& state_;
  UniqueFd root_;
  const std::string name_;
};

Result<UniqueFd> UnpackArchive(const std::string& path, const std::string& scratch) {
  UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) return ErrnoError("open '{}'", path);
  UniqueFd root(open(scratch.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root) return ErrnoError("open '{}'", scratch);
  Decompressor decompressor([&]() -> Result<std::string> {
    std::string block(256 << 10, '\0');
    ssize_t got = read(file.get(), block.data(), block.size());
    if (got < 0) return ErrnoError("read '{}'", path);
    block.resize(static_cast<size_t>(got));
    return block;
  });
  TRY(UnpackTar(root.get(), [&] { return decompressor.Next(); }));
  return root;
}

}  // namespace

Result<std::vector<std::string>> ImportImages(StoreState& state, const std::string& path, const std::string& name_if_untagged, const std::string& scratch) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return ErrnoError("import '{}'", path);
  UniqueFd root;
  if (S_ISDIR(info.st_mode)) {
    root = UniqueFd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!root) return ErrnoError("open '{}'", path);
  } else {
    auto unpacked = UnpackArchive(path, scratch);
    if (!unpacked) return std::move(unpacked.error()).Within("import '" + path + "'");
    root = std::move(*unpacked);
  }
  auto ids = ImportFolder(state, std::move(root), name_if_untagged).Import();
  if (!ids) return std::move(ids.error()).Within("import '" + path + "'");
  return ids;
}

}  // namespace caisson::image
