// SPDX-License-Identifier: Apache-2.0
#include "image/manifest.h"

#include <algorithm>
#include <cctype>
#include <set>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/limits.h"
#include "base/strings.h"
#include "image/digest.h"

namespace caisson::image {
namespace {

constexpr std::string_view kSchema1 = "application/vnd.docker.distribution.manifest.v1+json";
constexpr std::string_view kSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
constexpr size_t kMaxMediaType = 255;
constexpr size_t kMaxUrls = 16;

Error Bad(std::string_view field, std::string_view why) {
  return MakeError(Code::kInvalidArgument, "image manifest: {}: {}", field, why);
}

const Json* Find(const Json& object, const char* key) {
  auto at = object.find(key);
  return at == object.end() || at->is_null() ? nullptr : &*at;
}

// The string at `key`; "" when it is absent.
Result<std::string> GetString(const Json& object, const char* key, const std::string& path) {
  const Json* value = Find(object, key);
  if (value == nullptr) return std::string();
  const auto* text = value->get_ptr<const std::string*>();
  if (text == nullptr) return Bad(path + key, "is not a string");
  return *text;
}

Result<std::vector<std::string>> GetStrings(const Json& object, const char* key, const std::string& path, size_t most) {
  std::vector<std::string> out;
  const Json* value = Find(object, key);
  if (value == nullptr) return out;
  if (!value->is_array()) return Bad(path + key, "is not a list");
  if (value->size() > most) return Bad(path + key, fmt::format("has more than {} entries", most));
  for (const Json& item : *value) {
    const auto* text = item.get_ptr<const std::string*>();
    if (text == nullptr) return Bad(path + key, "holds something else than strings");
    out.push_back(*text);
  }
  return out;
}

Result<std::map<std::string, std::string>> GetAnnotations(const Json& object, const std::string& path) {
  std::map<std::string, std::string> out;
  const Json* value = Find(object, "annotations");
  if (value == nullptr) return out;
  if (!value->is_object()) return Bad(path + "annotations", "is not an object");
  for (const auto& [key, item] : value->items()) {
    const auto* text = item.get_ptr<const std::string*>();
    if (text == nullptr) return Bad(path + "annotations", "holds a value that is not a string");
    out.emplace(key, *text);
  }
  return out;
}

Result<Platform> ParsePlatform(const Json& json, const std::string& path) {
  if (!json.is_object()) return Bad(path, "is not an object");
  Platform platform;
  platform.os = TRY(GetString(json, "os", path + "."));
  platform.architecture = TRY(GetString(json, "architecture", path + "."));
  platform.variant = TRY(GetString(json, "variant", path + "."));
  platform.os_version = TRY(GetString(json, "os.version", path + "."));
  if (platform.ToString().size() > kMaxMediaType) return Bad(path, "is too long");
  platform.os_features = TRY(GetStrings(json, "os.features", path + ".", 100));
  return platform;
}

Result<int64_t> ParseSize(const Json& object, const std::string& path) {
  const Json* size = Find(object, "size");
  if (size == nullptr) return Bad(path + "size", "is missing");
  // A count beyond int64 is number_unsigned as well.
  if (!size->is_number_unsigned()) return Bad(path + "size", "is not a whole number of 0 or more");
  auto value = size->get<uint64_t>();
  if (value > static_cast<uint64_t>(limits::kLayerBytes)) {
    return Bad(path + "size", fmt::format("is larger than the limit of {} bytes", limits::kLayerBytes));
  }
  return static_cast<int64_t>(value);
}

Result<Descriptor> ParseDescriptor(const Json& json, const std::string& name) {
  if (!json.is_object()) return Bad(name, "is not an object");
  std::string path = name + ".";
  Descriptor descriptor;
  descriptor.media_type = TRY(GetString(json, "mediaType", path));
  if (descriptor.media_type.size() > kMaxMediaType) return Bad(path + "mediaType", "is too long");
  descriptor.digest = TRY(GetString(json, "digest", path));
  if (auto good = CheckDigest(descriptor.digest); !good) return Bad(path + "digest", good.error().message);
  descriptor.size = TRY(ParseSize(json, path));
  descriptor.urls = TRY(GetStrings(json, "urls", path, kMaxUrls));
  descriptor.annotations = TRY(GetAnnotations(json, path));
  if (const Json* platform = Find(json, "platform")) {
    descriptor.platform = TRY(ParsePlatform(*platform, path + "platform"));
  }
  return descriptor;
}

Result<std::vector<Descriptor>> ParseDescriptors(const Json& json, const char* name, size_t most) {
  const Json* list = Find(json, name);
  std::vector<Descriptor> out;
  if (list == nullptr || !list->is_array()) return Bad(name, "is missing or no list");
  if (list->size() > most) return Bad(name, fmt::format("has {} entries, the limit is {}", list->size(), most));
  out.reserve(list->size());
  for (const Json& item : *list) out.push_back(TRY(ParseDescriptor(item, fmt::format("{}[{}]", name, out.size()))));
  return out;
}

// "Application/JSON; charset=utf-8" is "application/json".
std::string BareMediaType(std::string_view content_type) {
  std::string bare(Trim(content_type.substr(0, content_type.find(';'))));
  std::transform(bare.begin(), bare.end(), bare.begin(), [](unsigned char c) { return std::tolower(c); });
  return bare;
}

bool IsIndexType(std::string_view type) { return type == kOciIndex || type == kDockerIndex; }
bool IsManifestType(std::string_view type) { return type == kOciManifest || type == kDockerManifest; }
// What a file server says that knows nothing of images.
bool SaysNothing(std::string_view type) {
  return type.empty() || type == "application/json" || type == "application/octet-stream" || type == "text/plain" ||
         type == "binary/octet-stream";
}

Error Schema1() {
  return MakeError(Code::kUnimplemented,
                   "image manifest: Docker schema 1 is not supported (it is obsolete since 2017): push the image again "
                   "with a current tool");
}

// Which of the four types the document is; the mediaType field, the sender's word and the fields must agree.
Result<std::string> TypeOf(const Json& json, std::string_view content_type) {
  std::string said = BareMediaType(content_type);
  if (said == kSchema1 || said == kSchema1Signed || json.contains("fsLayers")) return Schema1();
  const Json* version = Find(json, "schemaVersion");
  if (version == nullptr || !version->is_number_unsigned()) return Bad("schemaVersion", "is missing or no number");
  if (*version == 1) return Schema1();
  if (*version != 2) return Bad("schemaVersion", "is not 2");

  bool has_index = json.contains("manifests");
  bool has_manifest = json.contains("layers") || json.contains("config");
  if (has_index && has_manifest) {
    return MakeError(Code::kInvalidArgument,
                     "image manifest: has both 'manifests' and 'layers' or 'config': it could be read in two ways, "
                     "which is refused (CVE-2021-41190)");
  }
  if (!has_index && !has_manifest) return Bad("document", "has neither 'manifests' nor 'layers'");

  std::string own = TRY(GetString(json, "mediaType", ""));
  if (!own.empty() && !IsIndexType(own) && !IsManifestType(own)) {
    return Bad("mediaType", fmt::format("'{}' is no image manifest or index", own.substr(0, kMaxMediaType)));
  }
  if (!SaysNothing(said)) {
    if (!IsIndexType(said) && !IsManifestType(said)) {
      return Bad("Content-Type", fmt::format("'{}' is no image manifest or index", said.substr(0, kMaxMediaType)));
    }
    if (!own.empty() && own != said) {
      return MakeError(Code::kInvalidArgument,
                       "image manifest: the sender says it is '{}', the document '{}': refused (CVE-2021-41190)", said,
                       own);
    }
    own = said;
  }
  if (own.empty()) {
    if (has_index) return std::string(kOciIndex);
    const Json* config = Find(json, "config");
    bool docker = config != nullptr && config->is_object() &&
                  TRY(GetString(*config, "mediaType", "config.")) == kDockerConfig;
    return std::string(docker ? kDockerManifest : kOciManifest);
  }
  if (IsIndexType(own) != has_index) {
    return MakeError(Code::kInvalidArgument, "image manifest: says it is '{}' but has '{}': refused (CVE-2021-41190)",
                     own, has_index ? "manifests" : "layers");
  }
  return own;
}

}  // namespace

Result<std::variant<Manifest, Index>> ParseManifest(std::string_view bytes, std::string_view content_type) {
  auto parsed = ParseJson(bytes, limits::kManifestBytes);
  if (!parsed) return std::move(parsed.error()).Within("image manifest");
  const Json& json = *parsed;
  if (!json.is_object()) return Bad("document", "is not an object");
  std::string type = TRY(TypeOf(json, content_type));
  if (IsIndexType(type)) {
    Index index;
    index.media_type = type;
    index.manifests = TRY(ParseDescriptors(json, "manifests", limits::kIndexEntries));
    index.annotations = TRY(GetAnnotations(json, ""));
    return std::variant<Manifest, Index>(std::move(index));
  }
  Manifest manifest;
  manifest.media_type = type;
  const Json* config = Find(json, "config");
  if (config == nullptr) return Bad("config", "is missing");
  manifest.config = TRY(ParseDescriptor(*config, "config"));
  manifest.layers = TRY(ParseDescriptors(json, "layers", limits::kImageLayers));
  manifest.annotations = TRY(GetAnnotations(json, ""));
  manifest.artifact_type = TRY(GetString(json, "artifactType", ""));
  return std::variant<Manifest, Index>(std::move(manifest));
}

bool IsArtifact(const Manifest& manifest) {
  const std::string& config = manifest.config.media_type;
  return manifest.media_type == kOciManifest && !SaysNothing(config) && config != kOciConfig && config != kDockerConfig;
}

std::string ArtifactTypeOf(const Manifest& manifest) {
  return (manifest.artifact_type.empty() ? manifest.config.media_type : manifest.artifact_type).substr(0, kMaxMediaType);
}

Result<Descriptor> ChoosePlatform(const Index& index, const Platform& node) {
  const Descriptor* best = nullptr;
  int best_rank = 0;
  std::set<std::string> offered;
  for (const Descriptor& entry : index.manifests) {
    // An entry without a platform says nothing about itself; it is the image only if there is no other.
    if (!entry.platform) {
      if (index.manifests.size() == 1) return entry;
      continue;
    }
    int rank = PlatformRank(node, *entry.platform);
    if (entry.platform->os != "unknown" && offered.size() < 20) offered.insert(entry.platform->ToString());
    if (rank < 0 || (best != nullptr && rank >= best_rank)) continue;
    best = &entry;
    best_rank = rank;
  }
  if (best != nullptr) return *best;
  return MakeError(Code::kNotFound, "the image has no variant for {}; it has: {}", node.ToString(),
                   offered.empty() ? "none" : fmt::format("{}", fmt::join(offered, ", ")));
}

Result<LayerFormat> LayerFormatOf(const Descriptor& layer) {
  const std::string& type = layer.media_type;
  bool foreign = type.find("nondistributable") != std::string::npos || type.find(".foreign.") != std::string::npos;
  if (foreign || !layer.urls.empty()) {
    return MakeError(Code::kUnimplemented,
                     "layer {}: foreign layers (type '{}', fetched from URLs in the manifest) are not supported: push "
                     "the image with its layers in the registry",
                     layer.digest, type);
  }
  if (type.ends_with("+encrypted")) {
    return MakeError(Code::kUnimplemented, "layer {}: encrypted layers are not supported", layer.digest);
  }
  if (type == "application/vnd.oci.image.layer.v1.tar" || type == "application/vnd.docker.image.rootfs.diff.tar") {
    return LayerFormat::kTar;
  }
  if (type == "application/vnd.oci.image.layer.v1.tar+gzip" ||
      type == "application/vnd.docker.image.rootfs.diff.tar.gzip") {
    return LayerFormat::kGzip;
  }
  if (type == "application/vnd.oci.image.layer.v1.tar+zstd" ||
      type == "application/vnd.docker.image.rootfs.diff.tar.zstd") {
    return LayerFormat::kZstd;
  }
  return MakeError(Code::kUnimplemented, "layer {}: media type '{}' is no file system layer", layer.digest,
                   type.substr(0, kMaxMediaType));
}

}  // namespace caisson::image
