// SPDX-License-Identifier: Apache-2.0
//
// Imports of archives and layouts: what `docker save`, `skopeo` and `ctr export` make, and what an attacker does.
#include "image/import.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "image/digest.h"
#include "image/image_store.h"
#include "image/manifest.h"
#include "image/platform.h"
#include "image/tar_fixture.h"

namespace caisson::image {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class Import : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root: owners and devices";
    Options options;
    options.root = scratch_.Folder("store");
    auto opened = ImageStore::Open(options);
    ASSERT_TRUE(opened) << opened.error().message;
    store_ = std::move(*opened);
  }
  static std::string Config(const std::string& layer, const std::string& architecture = HostPlatform().architecture) {
    return fmt::format(R"({{"os":"linux","architecture":"{}","config":{{"Cmd":["run"]}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}})", architecture, Sha256Digest(layer));
  }
  static std::string BlobName(const std::string& bytes) { return "blobs/sha256/" + std::string(DigestHex(Sha256Digest(bytes))); }
  static std::string Descriptor(const std::string& bytes, std::string_view type, const std::string& more = "") {
    return fmt::format(R"({{"mediaType":"{}","digest":"{}","size":{}{}}})", type, Sha256Digest(bytes), bytes.size(), more);
  }
  // The files of an OCI layout.
  std::map<std::string, std::string> Layout(const std::string& annotations) {
    std::string blob = Gzip(layer_), config = Config(layer_);
    std::string manifest = fmt::format(R"({{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}})", kOciManifest, Descriptor(config, kOciConfig),
                                       Descriptor(blob, "application/vnd.oci.image.layer.v1.tar+gzip"));
    std::string index = fmt::format(R"({{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}})", kOciIndex, Descriptor(manifest, kOciManifest, annotations));
    id_ = Sha256Digest(config);
    manifest_ = manifest;
    return {{"oci-layout", R"({"imageLayoutVersion":"1.0.0"})"}, {"index.json", index}, {BlobName(blob), blob}, {BlobName(config), config}, {BlobName(manifest), manifest}};
  }
  std::map<std::string, std::string> DockerArchive(const std::string& tags) {
    std::string config = Config(layer_);
    id_ = Sha256Digest(config);
    return {{"manifest.json", fmt::format(R"([{{"Config":"config.json","RepoTags":{},"Layers":["abc/layer.tar"]}}])", tags)}, {"config.json", config}, {"abc/layer.tar", layer_}};
  }
  static TarBuilder Tar(const std::map<std::string, std::string>& files) {
    TarBuilder tar;
    for (const auto& [name, text] : files) tar.File(name, text);
    return tar;
  }
  Result<std::vector<Image>> ImportBytes(const std::string& bytes, const std::string& name = "") { return store_->Import(scratch_.Write("archive", bytes), name); }
  std::string Seen(const Image& image) {
    auto snapshot = store_->Prepare("c" + std::to_string(++count_), image.id);
    EXPECT_TRUE(snapshot);
    return snapshot ? ReadText(snapshot->lower_dirs[0] + "/hello") : "";
  }
  void ExpectNothingLeft() {
    EXPECT_THAT(store_->List(), IsEmpty());
    EXPECT_TRUE(std::filesystem::is_empty(scratch_.path() + "/store/ingest"));
    EXPECT_TRUE(std::filesystem::is_empty(scratch_.path() + "/store/blobs/sha256"));
  }

  Scratch scratch_;
  std::unique_ptr<ImageStore> store_;
  std::string layer_ = TarBuilder().File("hello", "world").Bytes(), id_, manifest_;
  int count_ = 0;
};

TEST_F(Import, LayoutsAsFolderAndAsArchive) {
  auto files = Layout(R"(,"annotations":{"io.containerd.image.name":"docker.io/library/app:v1","org.opencontainers.image.ref.name":"v1"})");
  for (const auto& [name, text] : files) scratch_.Write("layout/" + name, text);
  for (int i = 0; i < 4; ++i) {
    std::string tar = Tar(files).Bytes();
    auto images = i == 0 ? store_->Import(scratch_.path() + "/layout", "") : ImportBytes(i == 1 ? tar : i == 2 ? Gzip(tar) : Zstd(tar));
    ASSERT_TRUE(images) << images.error().message;
    ASSERT_EQ(images->size(), 1u);
    EXPECT_EQ(images->front().id, id_);
    EXPECT_THAT(images->front().repo_tags, ElementsAre("docker.io/library/app:v1"));
    EXPECT_THAT(images->front().config.cmd, ElementsAre("run"));
    EXPECT_EQ(Seen(images->front()), "world");
  }
  EXPECT_EQ(store_->List().size(), 1u);
}

TEST_F(Import, DockerArchives) {
  auto images = ImportBytes(Tar(DockerArchive(R"(["app:v1","other.io/app:v2"])")).Bytes());
  ASSERT_TRUE(images) << images.error().message;
  EXPECT_EQ(images->front().id, id_);
  EXPECT_THAT(images->front().repo_tags, ElementsAre("docker.io/library/app:v1", "other.io/app:v2"));
  EXPECT_EQ(Seen(images->front()), "world");
  // Old docker links equal layers to one another; a name is given by the caller where there is none.
  auto files = DockerArchive("null");
  files.erase("abc/layer.tar");
  TarBuilder tar = Tar(files);
  tar.File("real/layer.tar", layer_).Symlink("abc/layer.tar", "../real/layer.tar");
  images = ImportBytes(tar.Bytes(), "named.io/x:1");
  ASSERT_TRUE(images) << images.error().message;
  EXPECT_THAT(images->front().repo_tags, testing::Contains("named.io/x:1"));
}

TEST_F(Import, PathsStayInTheArchive) {
  // What lies outside would do as what it stands for.
  scratch_.Write("outside", Config(layer_));
  scratch_.Write("layer", layer_);
  std::string way_out = "../../../../../../../../" + scratch_.path() + "/outside";
  struct Case {
    const char* name;
    TarBuilder tar;
  };
  auto with = [&](const char* key, const std::string& value) {
    auto files = DockerArchive("null");
    files[key] = value;
    return Tar(files);
  };
  auto without = [&](const char* key) {
    auto files = DockerArchive("null");
    files.erase(key);
    return Tar(files);
  };
  const Case cases[] = {
      {"config by path", with("manifest.json", fmt::format(R"([{{"Config":"{}","RepoTags":null,"Layers":["abc/layer.tar"]}}])", way_out))},
      {"config by absolute path", with("manifest.json", fmt::format(R"([{{"Config":"{}/outside","RepoTags":null,"Layers":["abc/layer.tar"]}}])", scratch_.path()))},
      {"config by link", without("config.json").Symlink("config.json", scratch_.path() + "/outside")},
      {"config by relative link", without("config.json").Symlink("config.json", way_out)},
      {"layer by path", with("manifest.json", fmt::format(R"([{{"Config":"config.json","RepoTags":null,"Layers":["{}"]}}])", way_out.substr(0, way_out.size() - 7) + "layer"))},
      {"layer by link", without("abc/layer.tar").Symlink("abc/layer.tar", scratch_.path() + "/layer")},
      {"layer is a folder", with("manifest.json", R"([{"Config":"config.json","RepoTags":null,"Layers":["abc"]}])")},
      {"layer is /proc", without("abc/layer.tar").Symlink("abc/layer.tar", "/proc/self/mem")},
      {"manifest is a device", without("manifest.json").Add({"manifest.json", '3', "", "", 0666, 0, 0, 1, 5})},
      {"config is a FIFO", without("config.json").Add({"config.json", '6', ""})},
      {"archive writes outside", Tar(DockerArchive("null")).File("../evil", "x")},
      {"no list", with("manifest.json", "{}")},
      {"no config", with("manifest.json", R"([{"Layers":[]}])")},
      {"bad tag", Tar(DockerArchive(R"(["UPPER/../x:y z"])"))},
      {"neither", TarBuilder().File("readme", "x")},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    auto refused = ImportBytes(test.tar.Bytes());
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().message, HasSubstr(scratch_.path() + "/archive"));
    ExpectNothingLeft();
  }
  EXPECT_FALSE(std::filesystem::exists(scratch_.path() + "/evil"));
}

TEST_F(Import, WrongBytesAreRefused) {
  auto good = Layout("");
  for (const auto& [name, text] : good) {
    if (!name.starts_with("blobs/") || text.empty()) continue;
    SCOPED_TRACE(name);
    auto files = good;
    files[name].back() ^= 1;
    EXPECT_FALSE(ImportBytes(Tar(files).Bytes()));
    files.erase(name);
    EXPECT_FALSE(ImportBytes(Tar(files).Bytes()));
    ExpectNothingLeft();
  }
  EXPECT_FALSE(ImportBytes(Gzip(Tar(good).Bytes()).substr(0, 300)));
  EXPECT_FALSE(ImportBytes("no archive at all, just text that is long enough to look at"));
  EXPECT_FALSE(ImportBytes(""));
  EXPECT_FALSE(store_->Import(scratch_.path() + "/none", ""));
  ExpectNothingLeft();
  EXPECT_TRUE(ImportBytes(Tar(good).Bytes()));
}

TEST_F(Import, AnIndexInALayoutIsFollowedOnce) {
  auto files = Layout("");
  std::string platform = fmt::format(R"(,"platform":{{"os":"linux","architecture":"{}"}})", HostPlatform().architecture);
  auto index_of = [](const std::string& entries) { return fmt::format(R"({{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}})", kOciIndex, entries); };
  std::string inner = index_of(Descriptor("other", kOciManifest, R"(,"platform":{"os":"plan9","architecture":"mips"})") + "," + Descriptor(manifest_, kOciManifest, platform));
  files[BlobName(inner)] = inner;
  files["index.json"] = index_of(Descriptor(inner, kOciIndex));
  auto images = ImportBytes(Tar(files).Bytes(), "x.io/indexed:1");
  ASSERT_TRUE(images) << images.error().message;
  EXPECT_EQ(images->front().id, id_);
  std::string deeper = index_of(Descriptor(inner, kOciIndex, platform));
  files[BlobName(deeper)] = deeper;
  files["index.json"] = index_of(Descriptor(deeper, kOciIndex));
  EXPECT_FALSE(ImportBytes(Tar(files).Bytes()));
}

}  // namespace
}  // namespace caisson::image
