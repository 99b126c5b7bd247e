// SPDX-License-Identifier: Apache-2.0
//
// For tests only: images that are made here and a store that has them. The registry is a function. As root: owners, overlay
// mounts, a small tmpfs, all in a mount namespace of the test program's.
#pragma once

#include <sched.h>
#include <sys/mount.h>
#include <sys/statfs.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/scope_exit.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "image/assemble.h"
#include "image/digest.h"
#include "image/tar_fixture.h"

namespace caisson::image {

inline std::string Noise(size_t size, unsigned seed) {
  std::string noise(size, '\0');
  for (char& c : noise) c = static_cast<char>((seed = seed * 1664525 + 1013904223) >> 24);
  return noise;
}

// An image and the "registry" that has it.
struct Fixture {
  std::string config, manifest_bytes;
  Manifest manifest;
  std::vector<std::string> tars, diff_ids;
  std::map<std::string, std::string> blobs;
  std::string id() const { return Sha256Digest(config); }
};

inline Fixture MakeImage(const std::vector<std::string>& tars, const std::string& salt = "") {
  Fixture image;
  image.tars = tars;
  std::string ids;
  for (const auto& tar : tars) {
    image.diff_ids.push_back(Sha256Digest(tar));
    ids += fmt::format("{}\"{}\"", ids.empty() ? "" : ",", image.diff_ids.back());
    std::string blob = Gzip(tar);
    Descriptor descriptor;
    descriptor.media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    descriptor.digest = Sha256Digest(blob);
    descriptor.size = static_cast<int64_t>(blob.size());
    image.blobs[descriptor.digest] = blob;
    image.manifest.layers.push_back(descriptor);
  }
  image.config = fmt::format(R"({{"os":"linux","architecture":"amd64","author":"{}","rootfs":{{"type":"layers","diff_ids":[{}]}}}})", salt, ids);
  image.manifest_bytes = "manifest of " + image.id();
  image.manifest.config.digest = image.id();
  return image;
}

class StoreTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    // Threads that are made later live in it too; it ends with this process, and every mount with it.
    if (geteuid() == 0 && unshare(CLONE_NEWNS) == 0) mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
  }
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root: owners, devices and mounts";
    Open(scratch_.Folder("store"));
  }
  void Open(const std::string& root) {
    root_ = root;
    state_.reset();
    auto opened = StoreState::Open(root, {}, mkfs_erofs_);
    ASSERT_TRUE(opened) << opened.error().message;
    state_ = std::move(*opened);
  }
  // Serves whole blobs and counts.
  BlobSource Source(const Fixture& image) {
    return [this, &image](const Descriptor& blob, uint64_t offset, const BlobSink& sink) -> Result<> {
      ++asked_;
      std::string_view rest = std::string_view(image.blobs.at(blob.digest)).substr(offset);
      for (; !rest.empty(); rest.remove_prefix(std::min<size_t>(rest.size(), 1000))) TRY(sink(rest.substr(0, 1000)));
      return {};
    };
  }
  AssembleRequest Request(const Fixture& image, const std::string& name) {
    AssembleRequest request;
    request.manifest = image.manifest;
    request.manifest_bytes = request.root_bytes = image.manifest_bytes;
    request.manifest_digest = request.root_digest = Sha256Digest(image.manifest_bytes);
    request.config_bytes = image.config;
    if (!name.empty()) request.names = {name};
    request.source = Source(image);
    return request;
  }
  Result<std::string> Pull(const Fixture& image, const std::string& name = "") { return AssembleImage(*state_, Request(image, name)); }
  std::vector<std::string> Files(const std::string& folder) const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(root_ + "/" + folder)) names.push_back(entry.path().filename());
    return names;
  }
  // Folders of layers, but for the one that is always there.
  size_t Layers() const { return Files("l").size() - 1; }
  bool WaitForEmptyTrash() const {
    for (int i = 0; i < 3000 && !Files("trash").empty(); ++i) usleep(10'000);
    return Files("trash").empty();
  }
  void ExpectNothingLeft() const {
    EXPECT_EQ(Layers(), 0u);
    EXPECT_THAT(Files("ingest"), testing::IsEmpty());
    EXPECT_THAT(Files("e"), testing::IsEmpty());
    EXPECT_THAT(Files("blobs/sha256"), testing::IsEmpty());
    EXPECT_TRUE(WaitForEmptyTrash());
    EXPECT_THAT(state_->List(), testing::IsEmpty());
  }
  // What a container of the image would see at `path`; "-" if nothing.
  std::string See(const Snapshot& snapshot, const std::string& path) const {
    std::string at = scratch_.Folder("mount-" + snapshot.key);
    std::string options = "lowerdir=";
    for (const auto& dir : snapshot.lower_dirs) options += (options.back() == '=' ? "" : ":") + dir;
    options += ",upperdir=" + snapshot.upper_dir + ",workdir=" + snapshot.work_dir;
    EXPECT_EQ(mount("overlay", at.c_str(), "overlay", 0, options.c_str()), 0) << strerror(errno) << " " << options;
    ScopeExit unmount([&] { umount2(at.c_str(), MNT_DETACH); });
    return access((at + path).c_str(), F_OK) == 0 ? ReadText(at + path) : "-";
  }

  Scratch scratch_;
  std::string root_, mkfs_erofs_;
  std::unique_ptr<StoreState> state_;
  std::atomic<int> asked_ = 0;
};

}  // namespace caisson::image
