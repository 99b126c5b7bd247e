// SPDX-License-Identifier: Apache-2.0
//
// The store from blobs to a container's root filesystem: what broke, was cut off, was asked for twice or found no room.
// The registry is a function here. As root: owners, overlay mounts, a small tmpfs (in a mount namespace of the test's).
#include "image/assemble.h"

#include <condition_variable>
#include <latch>
#include <mutex>
#include <thread>

#include <nlohmann/json.hpp>

#include "image/store_fixture.h"

namespace caisson::image {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

class Assemble : public StoreTest {};

TEST_F(Assemble, ImagesShareLayersAndStackThem) {
  std::string base = TarBuilder().Folder("./", 0711).File("base", "base").File("both", "base").File("gone", "g").File("dir/in", "in").Folder("cleared/").File("cleared/old", "o").Bytes();
  std::string one = TarBuilder().File("both", "one").File(".wh.gone", "").File(".wh.dir", "").File("cleared/.wh..wh..opq", "").File("cleared/new", "n").Bytes();
  std::string two = TarBuilder().File("both", "two").Hardlink("linked", "base").Bytes();
  Fixture first = MakeImage({base, one}), second = MakeImage({base, two});
  ASSERT_EQ(Pull(first, "a.io/first:1").value(), first.id());
  ASSERT_EQ(Pull(second, "a.io/second:1").value(), second.id());
  EXPECT_EQ(asked_, 3) << "the shared layer is fetched once";
  EXPECT_EQ(Layers(), 3u);
  Snapshot top = state_->Prepare("c1", first.id()).value(), other = state_->Prepare("c2", second.id()).value();
  EXPECT_EQ(top.lower_dirs.back(), other.lower_dirs.back());
  EXPECT_EQ(See(top, "/base"), "base");
  EXPECT_EQ(See(top, "/both"), "one");
  EXPECT_EQ(See(top, "/gone"), "-");
  EXPECT_EQ(See(top, "/dir"), "-");
  EXPECT_EQ(See(top, "/cleared/old"), "-");
  EXPECT_EQ(See(top, "/cleared/new"), "n");
  EXPECT_EQ(See(other, "/both"), "two");
  EXPECT_EQ(See(other, "/gone"), "g");
  EXPECT_EQ(See(other, "/linked"), "base");
  struct stat info {};
  ASSERT_EQ(stat(top.upper_dir.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0711u) << "the root's mode is the lowest layer's, whom no other contradicts";
  // Collection keeps what the other image and a container need.
  ASSERT_TRUE(state_->Remove("a.io/first:1"));
  EXPECT_EQ(Layers(), 3u) << "a container still has the first image's layers";
  EXPECT_EQ(See(top, "/both"), "one");
  ASSERT_TRUE(state_->RemoveSnapshot("c1"));
  EXPECT_EQ(Layers(), 2u);
  EXPECT_EQ(See(other, "/base"), "base");
  ASSERT_TRUE(state_->RemoveSnapshot("c2"));
  ASSERT_TRUE(state_->Remove(second.id()));
  ExpectNothingLeft();
}

TEST_F(Assemble, AnOpaqueRootHidesAllBelow) {
  Fixture image = MakeImage({TarBuilder().File("secret", "s").Bytes(), TarBuilder().File(".wh..wh..opq", "").File("new", "n").Bytes(), TarBuilder().File("top", "t").Bytes()});
  ASSERT_TRUE(Pull(image));
  Snapshot snapshot = state_->Prepare("c", image.id()).value();
  EXPECT_EQ(See(snapshot, "/secret"), "-");
  EXPECT_EQ(See(snapshot, "/new"), "n");
  EXPECT_EQ(See(snapshot, "/top"), "t");
}

TEST_F(Assemble, ABrokenTransferIsResumed) {
  Fixture image = MakeImage({TarBuilder().File("noise", Noise(1 << 20, 1)).Bytes()});
  const std::string& blob = image.blobs.begin()->second;
  AssembleRequest request = Request(image, "");
  std::vector<uint64_t> offsets;
  request.source = [&](const Descriptor&, uint64_t offset, const BlobSink& sink) -> Result<> {
    offsets.push_back(offset);
    std::string_view rest = std::string_view(blob).substr(offset, 400'000);
    TRY(sink(rest));
    if (offset + rest.size() == blob.size()) return {};
    return MakeError(Code::kUnavailable, "the line is dead");
  };
  auto broken = AssembleImage(*state_, request);
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().code, Code::kUnavailable);
  EXPECT_EQ(Layers(), 0u);
  Open(root_);  // also when the daemon was restarted in between
  ASSERT_FALSE(AssembleImage(*state_, request));
  auto whole = AssembleImage(*state_, request);
  ASSERT_TRUE(whole) << whole.error().message;
  EXPECT_EQ(offsets, (std::vector<uint64_t>{0, 400'000, 800'000}));
  EXPECT_TRUE(See(state_->Prepare("c", image.id()).value(), "/noise") == Noise(1 << 20, 1));
  EXPECT_THAT(Files("ingest"), IsEmpty());
}

TEST_F(Assemble, ADamagedRemainderIsNotUsed) {
  Fixture image = MakeImage({TarBuilder().File("noise", Noise(100'000, 1)).Bytes()});
  std::string hex = std::string(DigestHex(image.manifest.layers[0].digest));
  for (const std::string& remainder : {Noise(50'000, 2), Noise(200'000, 3)}) {
    scratch_.Write("store/ingest/" + hex, remainder);
    auto refused = Pull(image);
    ASSERT_FALSE(refused);
    ExpectNothingLeft();
    auto again = Pull(image, "a.io/b:1");
    ASSERT_TRUE(again) << again.error().message;
    ASSERT_TRUE(state_->Remove("a.io/b:1"));
    ExpectNothingLeft();
  }
  // A blob that lost its content when the power went.
  scratch_.Write("store/blobs/sha256/" + hex, "");
  auto lost = Pull(image);
  ASSERT_FALSE(lost);
  EXPECT_THAT(lost.error().message, HasSubstr("on disk is damaged"));
  ASSERT_TRUE(Pull(image));
}

TEST_F(Assemble, WrongBytesAreRefused) {
  Fixture image = MakeImage({TarBuilder().File("noise", Noise(100'000, 1)).Bytes()});
  std::string& blob = image.blobs.begin()->second;
  blob.back() ^= 1;
  auto refused = Pull(image);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kDataLoss);
  ExpectNothingLeft();
  blob.back() ^= 1;
  // The config promises another content.
  Fixture lying = MakeImage({TarBuilder().File("other", "").Bytes()});
  lying.manifest.layers = image.manifest.layers;
  lying.blobs = image.blobs;
  refused = Pull(lying);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kDataLoss);
  EXPECT_THAT(refused.error().message, HasSubstr("diff_id " + lying.diff_ids[0]));
  ExpectNothingLeft();
  // Numbers of layers that differ.
  lying.manifest.layers.clear();
  refused = Pull(lying);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kInvalidArgument);
  EXPECT_TRUE(Pull(image));
}

TEST_F(Assemble, OneBadLayerTakesTheOthersAlong) {
  std::vector<std::string> tars;
  for (unsigned i = 0; i < 6; ++i) tars.push_back(TarBuilder().File("f" + std::to_string(i), Noise(50'000, i)).Bytes());
  tars[3] = TarBuilder().File("../evil", "x").Bytes();
  auto refused = Pull(MakeImage(tars));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kInvalidArgument);
  EXPECT_THAT(refused.error().message, HasSubstr("../evil"));
  ExpectNothingLeft();
  // A link that leads nowhere is seen only when the layers below are there.
  tars[3] = TarBuilder().Hardlink("h", "nowhere").Bytes();
  refused = Pull(MakeImage(tars));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("nowhere"));
  ExpectNothingLeft();
}

TEST_F(Assemble, ManyWhoWantALayerFetchItOnce) {
  std::string shared = TarBuilder().File("shared", Noise(300'000, 1)).Bytes();
  std::vector<Fixture> images;
  for (int i = 0; i < 8; ++i) images.push_back(MakeImage({shared}, std::to_string(i)));
  std::latch start(8);
  std::vector<std::thread> threads;
  std::atomic<int> pulled = 0;
  for (const Fixture& image : images) {
    threads.emplace_back([&] {
      start.arrive_and_wait();
      if (auto id = Pull(image); id && *id == image.id()) ++pulled;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(pulled, 8);
  EXPECT_EQ(asked_, 1);
  EXPECT_EQ(Layers(), 1u);
}

TEST_F(Assemble, ABlobThatIsSeveralLayersIsFetchedOnce) {
  // As empty layers are: the same blob at three places of one image, and elsewhere in another, at the same time.
  std::string same = TarBuilder().File("same", Noise(300'000, 1)).Bytes(), base = TarBuilder().File("base", "b").Bytes();
  Fixture one = MakeImage({same, same, same}), two = MakeImage({base, same});
  std::string digest = one.manifest.layers[0].digest;
  std::mutex mutex;
  std::condition_variable entered;
  int fetching = 0;
  auto slow = [&](const Fixture& image) {
    AssembleRequest request = Request(image, "");
    request.source = [&, source = request.source](const Descriptor& blob, uint64_t offset, const BlobSink& sink) -> Result<> {
      std::unique_lock lock(mutex);
      // Whoever comes second is given the time to come.
      if (blob.digest == digest && ++fetching == 1) entered.wait_for(lock, std::chrono::milliseconds(300), [&] { return fetching > 1; });
      entered.notify_all();
      lock.unlock();
      return source(blob, offset, sink);
    };
    return AssembleImage(*state_, request);
  };
  std::thread other([&] { EXPECT_TRUE(slow(two)); });
  auto id = slow(one);
  other.join();
  ASSERT_TRUE(id) << id.error().message;
  EXPECT_EQ(asked_, 2);
  EXPECT_EQ(Layers(), 5u);
}

TEST_F(Assemble, WaitingForAnothersLayerCanBeCancelled) {
  Fixture image = MakeImage({TarBuilder().File("f", "f").Bytes()});
  std::latch fetching(1), finish(1);
  AssembleRequest slow = Request(image, "");
  slow.source = [&](const Descriptor&, uint64_t, const BlobSink&) -> Result<> {
    fetching.count_down();
    finish.wait();
    return MakeError(Code::kUnavailable, "gave up");
  };
  std::thread first([&] { EXPECT_FALSE(AssembleImage(*state_, slow)); });
  fetching.wait();
  std::stop_source stop;
  AssembleRequest waiting = Request(image, "");
  waiting.cancel = stop.get_token();
  std::thread second([&] {
    auto cancelled = AssembleImage(*state_, waiting);
    ASSERT_FALSE(cancelled);
    EXPECT_EQ(cancelled.error().code, Code::kCancelled);
  });
  stop.request_stop();
  second.join();
  // One who waits when the first gives up does the work.
  std::thread third([&] { EXPECT_TRUE(Pull(image)); });
  finish.count_down();
  first.join();
  third.join();
}

TEST_F(Assemble, ADeathInTheMiddleLeavesNothingThatIsUsed) {
  Fixture image = MakeImage({TarBuilder().File("a", "a").Bytes(), TarBuilder().File("b", "b").Bytes()});
  // What SIGKILL leaves: folders without a record, half a blob, a small blob not yet in place, an import's scratch.
  scratch_.Write("store/l/7/half", "wrong");
  scratch_.Write("store/l/1/a", "wrong");
  scratch_.Write("store/s/c9/fs/x", "x");
  scratch_.Write("store/ingest/" + std::string(64, 'a') + ".small", "x");
  scratch_.Write("store/ingest/import-1/blobs/x", "x");
  std::string orphan = scratch_.Write("store/blobs/sha256/" + std::string(64, 'b'), "of a pull that nobody repeated");
  timespec times[2] = {{time(nullptr) - 2 * 24 * 3600, 0}, {time(nullptr) - 2 * 24 * 3600, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, orphan.c_str(), times, 0), 0);
  Open(root_);
  EXPECT_THAT(Files("blobs/sha256"), IsEmpty());
  EXPECT_EQ(Layers(), 0u);
  EXPECT_THAT(Files("ingest"), IsEmpty());
  EXPECT_THAT(Files("s"), IsEmpty());
  EXPECT_TRUE(WaitForEmptyTrash());
  ASSERT_TRUE(Pull(image, "a.io/b:1"));
  state_->Prepare("c1", image.id()).value();
  // The image and its snapshot are there after a restart; a layer whose folder is gone takes the image with it.
  Open(root_);
  EXPECT_EQ(state_->Find("a.io/b:1").value().id, image.id());
  EXPECT_EQ(See(state_->FindSnapshot("c1").value(), "/b"), "b");
  std::string lowest = state_->FindSnapshot("c1").value().lower_dirs.back();
  std::filesystem::remove_all(lowest);
  Open(root_);
  EXPECT_FALSE(state_->Find("a.io/b:1"));
  auto snapshot = state_->FindSnapshot("c1");
  ASSERT_FALSE(snapshot);
  EXPECT_EQ(snapshot.error().code, Code::kDataLoss);
  auto again = Pull(image, "a.io/b:1");
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(See(state_->FindSnapshot("c1").value(), "/a"), "a");
}

TEST_F(Assemble, LayersOfAnotherBootAreBelievedOnlyWhenSynced) {
  Fixture synced = MakeImage({TarBuilder().File("s", "s").Bytes()}), fresh = MakeImage({TarBuilder().File("f", "f").Bytes()});
  ASSERT_TRUE(Pull(synced, "a.io/synced:1"));
  ASSERT_TRUE(state_->SyncLayers());
  ASSERT_TRUE(Pull(fresh, "a.io/fresh:1"));
  state_.reset();
  {
    auto metadata = Metadata::Open(root_ + "/images.db").value();
    std::vector<LayerRecord> layers;
    ASSERT_TRUE(metadata->ForEach("layer", [&](const std::string& id, const Json& json) -> Result<> {
      layers.push_back(TRY(LayerFromJson(id, json)));
      return {};
    }));
    for (auto& layer : layers) {
      layer.boot_id = "another";
      ASSERT_TRUE(metadata->Put("layer", layer.chain_id, ToJson(layer)));
    }
  }
  Open(root_);
  EXPECT_TRUE(state_->Find("a.io/synced:1"));
  EXPECT_FALSE(state_->Find("a.io/fresh:1"));
  EXPECT_TRUE(Pull(fresh, "a.io/fresh:1"));
}

TEST_F(Assemble, AFullDiskFailsThePullAndLeavesNothing) {
  std::string small = scratch_.Folder("small");
  ASSERT_EQ(mount("tmpfs", small.c_str(), "tmpfs", 0, "size=4m"), 0) << strerror(errno);
  ScopeExit unmount([&] {
    state_.reset();
    umount2(small.c_str(), MNT_DETACH);
  });
  Open(small);
  auto used = [&] {
    struct statfs info {};
    statfs(small.c_str(), &info);
    return (info.f_blocks - info.f_bfree) * static_cast<uint64_t>(info.f_bsize);
  };
  uint64_t before = used();
  // Too much when unpacked; too much as a blob; in the second layer only.
  std::string fits = TarBuilder().File("fits", Noise(200'000, 1)).Bytes();
  const std::vector<std::string> cases[] = {{TarBuilder().File("zeros", std::string(8 << 20, 'z')).Bytes()},
                                            {TarBuilder().File("noise", Noise(8 << 20, 1)).Bytes()},
                                            {fits, TarBuilder().File("zeros", std::string(8 << 20, 'z')).Bytes()}};
  for (const auto& tars : cases) {
    auto full = Pull(MakeImage(tars));
    ASSERT_FALSE(full);
    EXPECT_EQ(full.error().code, Code::kResourceExhausted) << full.error().message;
    EXPECT_THAT(full.error().message, HasSubstr("No space left on device"));
    ExpectNothingLeft();
    EXPECT_LE(used(), before + (512 << 10)) << "only the index may have grown";
    Fixture image = MakeImage({fits});
    auto next = Pull(image, "a.io/b:1");
    ASSERT_TRUE(next) << next.error().message;
    ASSERT_TRUE(state_->Remove("a.io/b:1"));
    ExpectNothingLeft();
  }
}

TEST_F(Assemble, GarbageIsCollectedButNotUnderAPull) {
  Fixture image = MakeImage({TarBuilder().File("a", "a").Bytes()});
  ASSERT_TRUE(Pull(image));
  scratch_.Write("store/blobs/sha256/" + std::string(64, 'b'), "orphan");
  scratch_.Write("store/ingest/" + std::string(64, 'c'), "partial");
  state_->BeginPull();
  EXPECT_EQ(state_->CollectGarbage().value(), 0u);
  EXPECT_EQ(Files("ingest").size(), 1u);
  state_->EndPull(false);  // and now what was asked for before
  EXPECT_THAT(Files("ingest"), IsEmpty());
  EXPECT_EQ(Files("blobs/sha256").size(), 3u);
  EXPECT_EQ(Layers(), 1u);
  // What a pull may resume is kept for a day.
  std::string recent = scratch_.Write("store/ingest/" + std::string(64, 'd'), "partial");
  std::string old = scratch_.Write("store/ingest/" + std::string(64, 'e'), "partial");
  timespec times[2] = {{time(nullptr) - 2 * 24 * 3600, 0}, {time(nullptr) - 2 * 24 * 3600, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, old.c_str(), times, 0), 0);
  ASSERT_TRUE(Pull(image));
  EXPECT_TRUE(std::filesystem::exists(recent));
  EXPECT_FALSE(std::filesystem::exists(old));
  EXPECT_EQ(state_->CollectGarbage().value(), 7u);
}

TEST_F(Assemble, OneProcessAtATime) {
  auto second = StoreState::Open(root_, {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::kFailedPrecondition);
}

TEST_F(Assemble, KeysOfSnapshotsStayInTheirFolder) {
  Fixture image = MakeImage({});
  ASSERT_TRUE(Pull(image));
  for (const char* key : {"../x", "", ".", "..", "a/b", "/etc"}) {
    EXPECT_FALSE(state_->Prepare(key, image.id())) << key;
    EXPECT_FALSE(state_->RemoveSnapshot(key)) << key;
  }
  ASSERT_TRUE(state_->Prepare("c", image.id()));
  EXPECT_EQ(state_->Prepare("c", image.id()).error().code, Code::kAlreadyExists);
  EXPECT_EQ(state_->Prepare("d", "sha256:" + std::string(64, '0')).error().code, Code::kNotFound);
  EXPECT_EQ(state_->ListSnapshots(), std::vector<std::string>{"c"});
  EXPECT_EQ(See(state_->FindSnapshot("c").value(), "/none"), "-") << "an image without layers is an empty root";
}

}  // namespace
}  // namespace caisson::image
