// SPDX-License-Identifier: Apache-2.0
//
// Image manifests and indexes: OCI (image-spec v1.1) and Docker schema 2 (distribution image-v2-2). Parsing is strict
// where the two kinds could be confused (CVE-2021-41190): one document is never both. Everything is bounded. The
// caller verifies the digest of the bytes; what is parsed here says nothing about who made it. Pure, any thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "image/platform.h"

namespace caisson::image {

inline constexpr std::string_view kOciIndex = "application/vnd.oci.image.index.v1+json";
inline constexpr std::string_view kOciManifest = "application/vnd.oci.image.manifest.v1+json";
inline constexpr std::string_view kOciConfig = "application/vnd.oci.image.config.v1+json";
inline constexpr std::string_view kDockerIndex = "application/vnd.docker.distribution.manifest.list.v2+json";
inline constexpr std::string_view kDockerManifest = "application/vnd.docker.distribution.manifest.v2+json";
inline constexpr std::string_view kDockerConfig = "application/vnd.docker.container.image.v1+json";

struct Descriptor {
  std::string media_type;
  std::string digest;  // checked form
  int64_t size = 0;    // of the content, bytes; not negative
  std::vector<std::string> urls;
  std::map<std::string, std::string> annotations;
  std::optional<Platform> platform;
};

struct Manifest {
  std::string media_type;  // kOciManifest or kDockerManifest
  std::string artifact_type;
  Descriptor config;
  std::vector<Descriptor> layers;  // the lowest first
  std::map<std::string, std::string> annotations;
};

struct Index {
  std::string media_type;  // kOciIndex or kDockerIndex
  std::vector<Descriptor> manifests;
  std::map<std::string, std::string> annotations;
};

// Parses a manifest or an index. `content_type` is what the sender said it is (a Content-Type header, parameters and
// all, or a descriptor's media type); empty when nobody said. kInvalidArgument where it and the document disagree;
// kUnimplemented for schema 1, by name.
Result<std::variant<Manifest, Index>> ParseManifest(std::string_view bytes, std::string_view content_type);

// Whether `manifest` is no image but files that somebody keeps in a registry (image-spec manifest.md "Guidelines for
// Artifact Usage"): its config is of another type than an image's.
bool IsArtifact(const Manifest& manifest);
// What kind of artifact it says it is: its artifactType, else its config's media type.
std::string ArtifactTypeOf(const Manifest& manifest);

// The entry of `index` that suits `node` best (the first of equals); attestations and the like ("unknown/unknown") are
// never chosen. kNotFound lists what there is.
Result<Descriptor> ChoosePlatform(const Index& index, const Platform& node);

// How the bytes of a layer are packed, by its media type. Callers may still look at the magic number: tar+gzip layers
// labelled as plain tar exist.
enum class LayerFormat { kTar, kGzip, kZstd };
// kUnimplemented for foreign (non-distributable) layers with no bytes in the registry, encrypted layers and types that
// are no file system layer.
Result<LayerFormat> LayerFormatOf(const Descriptor& layer);

}  // namespace caisson::image
