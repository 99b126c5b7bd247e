// SPDX-License-Identifier: Apache-2.0
#include "image/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/limits.h"

namespace caisson::image {
namespace {

using testing::HasSubstr;

const std::string kHex(64, 'a');

std::string DescriptorJson(std::string_view type, std::string_view more = "") {
  return fmt::format(R"({{"mediaType":"{}","digest":"sha256:{}","size":7{}}})", type, kHex, more);
}
std::string ManifestJson(std::string_view fields = "", int layers = 1) {
  std::string list;
  for (int i = 0; i < layers; ++i) {
    list += (i > 0 ? "," : "") + DescriptorJson("application/vnd.oci.image.layer.v1.tar+gzip");
  }
  return fmt::format(R"({{"schemaVersion":2,{}"config":{},"layers":[{}]}})", fields, DescriptorJson(kOciConfig), list);
}
std::string IndexJson(std::string_view fields, std::string_view entries) {
  return fmt::format(R"({{"schemaVersion":2,{}"manifests":[{}]}})", fields, entries);
}
std::string Entry(std::string_view os, std::string_view arch, std::string_view variant = "") {
  return DescriptorJson(kOciManifest, fmt::format(R"(,"platform":{{"os":"{}","architecture":"{}","variant":"{}"}})", os,
                                                  arch, variant));
}
std::string ManifestError(std::string_view bytes, std::string_view type = "") {
  auto parsed = ParseManifest(bytes, type);
  return parsed ? "no error" : parsed.error().message;
}

TEST(Manifest, ReadsBothFamilies) {
  auto oci = ParseManifest(ManifestJson(R"("mediaType":"application/vnd.oci.image.manifest.v1+json",)"), kOciManifest);
  ASSERT_TRUE(oci) << oci.error().message;
  const auto& manifest = std::get<Manifest>(*oci);
  EXPECT_EQ(manifest.media_type, kOciManifest);
  EXPECT_EQ(manifest.config.digest, "sha256:" + kHex);
  ASSERT_EQ(manifest.layers.size(), 1u);
  EXPECT_EQ(manifest.layers[0].size, 7);
  auto docker = ParseManifest(fmt::format(R"({{"schemaVersion":2,"config":{},"layers":[]}})",
                                          DescriptorJson(kDockerConfig)), "");
  ASSERT_TRUE(docker);
  EXPECT_EQ(std::get<Manifest>(*docker).media_type, kDockerManifest);
  auto index = ParseManifest(IndexJson("", Entry("linux", "amd64")), "application/json; charset=utf-8");
  ASSERT_TRUE(index);
  EXPECT_EQ(std::get<Index>(*index).media_type, kOciIndex);
}

TEST(Manifest, OneDocumentIsNeverTwoThings) {
  std::string both = fmt::format(R"({{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}})",
                                 DescriptorJson(kOciConfig));
  EXPECT_THAT(ManifestError(both), HasSubstr("CVE-2021-41190"));
  EXPECT_THAT(ManifestError(R"({"schemaVersion":2,"layers":[],"manifests":[]})"), HasSubstr("CVE-2021-41190"));
  EXPECT_THAT(ManifestError(ManifestJson(), kOciIndex), HasSubstr("CVE-2021-41190"));
  EXPECT_THAT(ManifestError(IndexJson("", ""), kDockerManifest), HasSubstr("CVE-2021-41190"));
  EXPECT_THAT(ManifestError(ManifestJson(R"("mediaType":"application/vnd.oci.image.index.v1+json",)")),
              HasSubstr("CVE-2021-41190"));
  EXPECT_THAT(ManifestError(ManifestJson(R"("mediaType":"application/vnd.oci.image.manifest.v1+json",)"), kDockerManifest),
              HasSubstr("the sender says"));
  EXPECT_THAT(ManifestError(ManifestJson(), "text/html"), HasSubstr("text/html"));
  // The same key twice is two readings as well.
  EXPECT_THAT(ManifestError(R"({"schemaVersion":2,"layers":[],"layers":[]})"), HasSubstr("same key twice"));
}

TEST(Manifest, Schema1IsRefusedByName) {
  EXPECT_THAT(ManifestError(R"({"schemaVersion":1,"fsLayers":[]})"), HasSubstr("schema 1"));
  EXPECT_THAT(ManifestError("{}", "application/vnd.docker.distribution.manifest.v1+prettyjws"), HasSubstr("schema 1"));
}

TEST(Manifest, RefusesWrongTypesAndNamesTheField) {
  EXPECT_THAT(ManifestError("[]"), HasSubstr("document"));
  EXPECT_THAT(ManifestError("not json"), HasSubstr("bad JSON"));
  EXPECT_THAT(ManifestError(R"({"schemaVersion":2})"), HasSubstr("neither"));
  EXPECT_THAT(ManifestError(R"({"schemaVersion":"2","layers":[]})"), HasSubstr("schemaVersion"));
  EXPECT_THAT(ManifestError(R"({"schemaVersion":2,"config":7,"layers":[]})"), HasSubstr("config: is not an object"));
  auto layer = [](std::string_view json) {
    return ManifestError(fmt::format(R"({{"schemaVersion":2,"config":{},"layers":[{}]}})", DescriptorJson(kOciConfig), json));
  };
  EXPECT_THAT(layer("7"), HasSubstr("layers[0]"));
  EXPECT_THAT(layer(R"({"mediaType":5})"), HasSubstr("layers[0].mediaType"));
  EXPECT_THAT(layer(R"({"digest":"sha256:xyz","size":1})"), HasSubstr("layers[0].digest"));
  for (const char* size : {"-1", "1.5", "\"7\"", "18446744073709551616", "9223372036854775808", "null"}) {
    EXPECT_THAT(layer(fmt::format(R"({{"digest":"sha256:{}","size":{}}})", kHex, size)), HasSubstr("layers[0].size"));
  }
}

TEST(Manifest, IsBounded) {
  EXPECT_EQ(ManifestError(ManifestJson("", limits::kImageLayers)), "no error");
  EXPECT_THAT(ManifestError(ManifestJson("", limits::kImageLayers + 1)), HasSubstr("limit"));
  std::string huge(limits::kManifestBytes + 1, ' ');
  EXPECT_THAT(ManifestError(huge), HasSubstr("larger than the limit"));
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "[";
  EXPECT_THAT(ManifestError(deep), HasSubstr("nested deeper"));
}

std::string Chosen(const std::string& entries, const Platform& node) {
  auto parsed = ParseManifest(IndexJson("", entries), "");
  EXPECT_TRUE(parsed);
  auto chosen = ChoosePlatform(std::get<Index>(*parsed), node);
  return chosen ? (chosen->platform ? chosen->platform->ToString() : "unnamed") : "error: " + chosen.error().message;
}

TEST(Manifest, ChoosesThePlatform) {
  Platform amd64{"linux", "amd64", "", "", {}}, arm64{"linux", "arm64", "", "", {}};
  Platform armv7{"linux", "arm", "v7", "", {}};
  std::string all = Entry("linux", "386") + "," + Entry("linux", "arm", "v6") + "," + Entry("linux", "arm", "v7") +
                    "," + Entry("linux", "arm64", "v8") + "," + Entry("windows", "amd64") + "," +
                    Entry("linux", "amd64") + "," + Entry("unknown", "unknown");
  EXPECT_EQ(Chosen(all, amd64), "linux/amd64");
  EXPECT_EQ(Chosen(all, arm64), "linux/arm64/v8");
  EXPECT_EQ(Chosen(all, armv7), "linux/arm/v7");
  EXPECT_EQ(Chosen(Entry("linux", "arm", "v5") + "," + Entry("linux", "arm", "v6"), armv7), "linux/arm/v6");
  EXPECT_EQ(Chosen(Entry("linux", "arm", "v6"), arm64), "linux/arm/v6");
  EXPECT_EQ(Chosen(Entry("linux", "x86_64"), amd64), "linux/x86_64");
  EXPECT_THAT(Chosen(Entry("linux", "amd64", "v3"), amd64), HasSubstr("it has: linux/amd64/v3"));
  EXPECT_THAT(Chosen(Entry("linux", "arm64") + "," + Entry("unknown", "unknown"), amd64),
              HasSubstr("no variant for linux/amd64; it has: linux/arm64"));
  EXPECT_EQ(Chosen(DescriptorJson(kOciManifest), amd64), "unnamed");
  EXPECT_THAT(Chosen("", amd64), HasSubstr("it has: none"));
}

TEST(Manifest, LayerFormats) {
  Descriptor layer;
  layer.digest = "sha256:" + kHex;
  layer.media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
  EXPECT_EQ(LayerFormatOf(layer).value(), LayerFormat::kZstd);
  layer.media_type = "application/vnd.docker.image.rootfs.diff.tar.gzip";
  EXPECT_EQ(LayerFormatOf(layer).value(), LayerFormat::kGzip);
  layer.urls = {"https://example.com/layer"};
  EXPECT_THAT(LayerFormatOf(layer).error().message, HasSubstr("foreign"));
  layer.urls.clear();
  for (const char* type : {"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "application/octet-stream", "",
                           "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
                           "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"}) {
    layer.media_type = type;
    EXPECT_FALSE(LayerFormatOf(layer)) << type;
  }
}

TEST(IsArtifact, ByTheTypeOfItsConfig) {
  Manifest manifest;
  manifest.media_type = kOciManifest;
  for (std::string_view image : {kOciConfig, kDockerConfig, std::string_view(""), std::string_view("application/octet-stream")}) {
    manifest.config.media_type = image;
    EXPECT_FALSE(IsArtifact(manifest)) << image;
  }
  manifest.config.media_type = "application/vnd.oci.empty.v1+json";
  EXPECT_TRUE(IsArtifact(manifest));
  EXPECT_EQ(ArtifactTypeOf(manifest), manifest.config.media_type);
  manifest.artifact_type = "application/vnd.example";
  EXPECT_EQ(ArtifactTypeOf(manifest), "application/vnd.example");
  manifest.media_type = kDockerManifest;
  EXPECT_FALSE(IsArtifact(manifest));
}

}  // namespace
}  // namespace caisson::image
