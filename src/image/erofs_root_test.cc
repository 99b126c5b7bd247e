// SPDX-License-Identifier: Apache-2.0
#include "image/erofs.h"

#include <sys/statvfs.h>
#include <sys/xattr.h>

#include <map>
#include <thread>

#include "image/remove_tree.h"
#include "image/store_fixture.h"
#include "sys/command.h"

namespace caisson::image {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

namespace fs = std::filesystem;

// All that a program could see of a tree, a line for each entry; hard links name the first of their names.
std::vector<std::string> Look(const std::string& root) {
  std::vector<std::string> paths = {root};
  for (const auto& entry : fs::recursive_directory_iterator(root)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::map<ino_t, std::string> first;
  std::vector<std::string> lines;
  for (const auto& path : paths) {
    struct stat info {};
    EXPECT_EQ(lstat(path.c_str(), &info), 0) << path;
    std::string name = path.substr(root.size());
    bool folder = S_ISDIR(info.st_mode);
    std::string line = fmt::format("{} {:o} {}:{} {}.{:09}", name, info.st_mode, info.st_uid, info.st_gid, info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    if (!folder) line += fmt::format(" links {} like {} size {}", info.st_nlink, first.try_emplace(info.st_ino, name).first->second, info.st_size);
    if (S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode)) line += fmt::format(" device {:x}", info.st_rdev);
    if (S_ISREG(info.st_mode)) line += " " + Sha256Digest(ReadText(path));
    if (S_ISLNK(info.st_mode)) line += " -> " + fs::read_symlink(path).string();
    char names[4096], value[4096];
    ssize_t size = llistxattr(path.c_str(), names, sizeof names);
    std::map<std::string, std::string> attributes;
    for (const char* at = names; size > 0 && at < names + size; at += strlen(at) + 1) {
      ssize_t got = lgetxattr(path.c_str(), at, value, sizeof value);
      attributes[at] = HexEncode({value, static_cast<size_t>(std::max<ssize_t>(got, 0))});
    }
    for (const auto& [key, hex] : attributes) line += " " + key + "=" + hex;
    lines.push_back(line);
  }
  return lines;
}

Fixture RichImage() {
  const std::string capability("\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
  TarBuilder base;
  base.Folder("./", 0711).Folder("bin/").File("bin/su", "suid", 04755).File("gone", "g").Folder("cleared/").File("cleared/old", "o");
  base.Hardlink("bin/su2", "bin/su").Symlink("link", "../../etc/passwd").Folder("sticky/", 01777);
  base.Add({.name = "owned", .data = "mine", .mode = 0640, .uid = 100'000, .gid = 4'000'000'000u});
  base.Add({.name = "fifo", .type = '6', .data = ""}).Add({.name = "null", .type = '3', .data = "", .mode = 0666, .major = 1, .minor = 3});
  base.Add({.name = "disk", .type = '4', .data = "", .mode = 0660, .gid = 6, .major = 259, .minor = 300'000});
  base.Add({.name = "capable", .data = "c", .mode = 0755, .pax = {{"SCHILY.xattr.security.capability", capability}}});
  base.Add({.name = "noted", .data = "n", .pax = {{"SCHILY.xattr.user.note", "a\nb"}, {"mtime", "1234567890.123456789"}}});
  base.Add({.name = "old", .data = "1901", .mtime = 1}).File("empty", "").File("noise", Noise(300'000, 7)).File("weird\nname \xff", "w");
  base.Folder("dir/").File("dir/in", "in").File("both", "base");
  TarBuilder one;
  one.File(".wh.gone", "").File(".wh.dir", "").File("cleared/.wh..wh..opq", "").File("cleared/new", "n").File("both", "one");
  return MakeImage({base.Bytes(), one.Bytes(), TarBuilder().File("top", "t").Bytes()});
}

class ErofsLayers : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    if (!IsSkipped() && access(DefaultMkfsErofs().c_str(), X_OK) != 0) GTEST_SKIP() << "mkfs.erofs is not installed";
  }
  void TearDown() override {
    for (auto at = mounts_.rbegin(); at != mounts_.rend(); ++at) EXPECT_EQ(umount2(at->c_str(), 0), 0) << *at;
  }
  std::string Mount(const char* type, const std::string& source, const std::string& options, unsigned long flags = 0) {
    std::string at = scratch_.Folder(fmt::format("m{}", mounts_.size()));
    EXPECT_EQ(mount(source.c_str(), at.c_str(), type, flags, options.c_str()), 0) << strerror(errno) << " " << source << " " << options;
    mounts_.push_back(at);
    return at;
  }
  Result<std::vector<std::string>> Layers(const std::string& key) { return state_->ErofsLayers(key, stop_.get_token()); }
  // A tool that is a shell script of this.
  void UseTool(const std::string& script) {
    mkfs_erofs_ = scratch_.Write("tool", "#!/bin/sh\n" + script + "\n");
    chmod(mkfs_erofs_.c_str(), 0755);
    Open(root_);
  }
  // Fails as told, leaving nothing, and works once the tool does.
  void ExpectFailure(Code code, const std::string& why) {
    auto failed = Layers("v");
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().code, code) << failed.error().message;
    EXPECT_THAT(failed.error().message, HasSubstr(why));
    EXPECT_TRUE(WaitForEmptyTrash());
    EXPECT_THAT(Files("e"), IsEmpty());
    mkfs_erofs_.clear();
    Open(root_);
    auto made = Layers("v");
    EXPECT_TRUE(made) << made.error().message;
  }

  std::vector<std::string> mounts_;
  std::stop_source stop_;
};

TEST_F(ErofsLayers, AreTheNativeLayersAsDisks) {
  Fixture image = RichImage();
  ASSERT_TRUE(Pull(image, "a.io/rich:1"));
  Snapshot native = state_->Prepare("n", image.id()).value();
  ASSERT_TRUE(state_->PrepareView("v", image.id()));
  uint64_t before = state_->LayersUsage()->bytes;
  auto files = Layers("v");
  ASSERT_TRUE(files) << files.error().message;
  ASSERT_EQ(files->size(), 3u);
  EXPECT_EQ(native.lower_dirs.size(), 3u);
  std::string lowers;
  uint64_t bytes = 0;
  for (size_t i = 0; i < files->size(); ++i) {
    std::string at = Mount("erofs", (*files)[i], "", MS_RDONLY);
    EXPECT_EQ(Look(at), Look(native.lower_dirs[i])) << "layer " << i << " from the top";
    lowers += (lowers.empty() ? "" : ":") + at;
    struct stat info {};
    ASSERT_EQ(stat((*files)[i].c_str(), &info), 0);
    EXPECT_EQ(info.st_mode, S_IFREG | 0400u);
    bytes += static_cast<uint64_t>(info.st_blocks) * 512;
  }
  std::string writable = Mount("tmpfs", "tmpfs", "");
  fs::create_directories(writable + "/u");
  fs::create_directories(writable + "/w");
  std::string guest = Mount("overlay", "overlay", fmt::format("lowerdir={},upperdir={}/u,workdir={}/w", lowers, writable, writable));
  std::string host = Mount("overlay", "overlay", fmt::format("lowerdir={},upperdir={},workdir={}", Join(native.lower_dirs, ":"), native.upper_dir, native.work_dir));
  auto seen = Look(guest), wanted = Look(host);
  ASSERT_GT(wanted.size(), 15u);
  seen.erase(seen.begin());  // the root's mode and times are its upper folder's, which are not the layers'
  wanted.erase(wanted.begin());
  EXPECT_EQ(seen, wanted);
  EXPECT_FALSE(fs::exists(guest + "/gone"));
  EXPECT_FALSE(fs::exists(guest + "/cleared/old"));
  EXPECT_EQ(state_->LayersUsage()->bytes, before + bytes);
}

TEST_F(ErofsLayers, TheSameTreeGivesTheSameBytesAndIsMadeOnce) {
  Fixture image = RichImage();
  ASSERT_TRUE(Pull(image));
  Snapshot view = state_->PrepareView("v", image.id()).value();
  auto files = Layers("v");
  ASSERT_TRUE(files) << files.error().message;
  struct stat info {}, again {};
  ASSERT_EQ(stat(files->front().c_str(), &info), 0);
  Open(root_);  // a daemon's next life
  ASSERT_EQ(Layers("v").value(), *files);
  ASSERT_EQ(stat(files->front().c_str(), &again), 0);
  EXPECT_EQ(again.st_ino, info.st_ino);
  // Another node, at another time.
  std::string copies = scratch_.Folder("copies");
  for (time_t now = time(nullptr); time(nullptr) == now;) usleep(20'000);  // that a superblock tells apart
  for (size_t i = 0; i < files->size(); ++i) {
    std::string tree = fmt::format("{}/{}", copies, i), made = tree + ".erofs";
    auto copied = sys::RunCommand({{"/bin/cp", "-a", view.lower_dirs[i], tree}, {}, {}, 1000, false, {}}, Deadline::After(60'000));
    ASSERT_TRUE(copied && copied->exit_code == 0);
    ASSERT_TRUE(MakeErofs(DefaultMkfsErofs(), tree, made, stop_.get_token()));
    EXPECT_TRUE(ReadText(made) == ReadText((*files)[i])) << i;
  }
}

TEST_F(ErofsLayers, OneMakerForManyWaiters) {
  Fixture image = MakeImage({TarBuilder().File("a", "a").Bytes()});
  ASSERT_TRUE(Pull(image));
  ASSERT_TRUE(state_->PrepareView("v", image.id()));
  UseTool("echo x >> " + scratch_.path() + "/count\nexec " + DefaultMkfsErofs() + " \"$@\"");
  std::vector<std::jthread> waiters;
  for (int i = 0; i < 8; ++i) {
    waiters.emplace_back([this] {
      auto made = Layers("v");
      EXPECT_TRUE(made) << made.error().message;
    });
  }
  waiters.clear();
  EXPECT_EQ(ReadText(scratch_.path() + "/count"), "x\n");
}

TEST_F(ErofsLayers, GoWithTheirLayer) {
  Fixture first = MakeImage({TarBuilder().File("base", "b").Bytes(), TarBuilder().File("one", "1").Bytes()});
  Fixture second = MakeImage({TarBuilder().File("base", "b").Bytes(), TarBuilder().File("two", "2").Bytes()});
  ASSERT_TRUE(Pull(first));
  ASSERT_TRUE(Pull(second));
  ASSERT_TRUE(state_->PrepareView("v1", first.id()));
  ASSERT_TRUE(state_->PrepareView("v2", second.id()));
  auto one = Layers("v1").value(), two = Layers("v2").value();
  EXPECT_EQ(one[1], two[1]) << "a layer is one disk for all";
  ASSERT_TRUE(state_->Remove(first.id()));
  EXPECT_TRUE(IsWholeErofs(one[0])) << "a VM still has it";
  ASSERT_TRUE(state_->RemoveSnapshot("v1"));
  EXPECT_FALSE(fs::exists(one[0]));
  EXPECT_TRUE(IsWholeErofs(one[1]));
  ASSERT_TRUE(state_->RemoveSnapshot("v2"));
  ASSERT_TRUE(state_->Remove(second.id()));
  ExpectNothingLeft();
}

TEST_F(ErofsLayers, WhatACrashLeftIsMadeAnew) {
  Fixture image = MakeImage({TarBuilder().File("noise", Noise(100'000, 3)).Bytes()});
  ASSERT_TRUE(Pull(image));
  ASSERT_TRUE(state_->PrepareView("v", image.id()));
  std::string file = Layers("v")->front(), whole = ReadText(file);
  for (const std::string& damaged : {whole.substr(0, 50'000), std::string(), std::string(whole.size(), '\0')}) {
    state_.reset();
    ASSERT_EQ(unlink(file.c_str()), 0);
    std::ofstream(file, std::ios::binary) << damaged;
    std::ofstream(file + ".abc") << "unfinished";
    std::ofstream(root_ + "/e/999.erofs") << whole;
    Open(root_);
    EXPECT_TRUE(WaitForEmptyTrash());
    EXPECT_THAT(Files("e"), IsEmpty());
    ASSERT_EQ(Layers("v").value(), std::vector<std::string>{file});
    EXPECT_TRUE(ReadText(file) == whole);
  }
  // Damaged under a running daemon.
  ASSERT_EQ(truncate(file.c_str(), 4096), 0);
  ASSERT_TRUE(Layers("v"));
  EXPECT_TRUE(ReadText(file) == whole);
}

TEST_F(ErofsLayers, AnImageWithoutLayersIsAnEmptyDisk) {
  Fixture image = MakeImage({});
  ASSERT_TRUE(Pull(image));
  ASSERT_TRUE(state_->PrepareView("v", image.id()));
  auto files = Layers("v");
  ASSERT_TRUE(files) << files.error().message;
  ASSERT_EQ(files->size(), 1u);
  EXPECT_EQ(Look(Mount("erofs", files->front(), "", MS_RDONLY)).size(), 1u);
}

TEST_F(ErofsLayers, AToolThatIsNotThere) {
  Fixture image = MakeImage({TarBuilder().File("a", "a").Bytes()});
  ASSERT_TRUE(Pull(image));
  ASSERT_TRUE(state_->PrepareView("v", image.id()));
  mkfs_erofs_ = scratch_.path() + "/nothing";
  Open(root_);
  ExpectFailure(Code::kUnimplemented, "erofs-utils");
}

TEST_F(ErofsLayers, AToolThatFailsOrIsKilledOrLies) {
  Fixture image = MakeImage({TarBuilder().File("a", "a").Bytes()});
  ASSERT_TRUE(Pull(image));
  ASSERT_TRUE(state_->PrepareView("v", image.id()));
  struct Case {
    const char* script;
    const char* why;
  };
  for (const Case& one : {Case{"echo partial > \"$5\"; echo 'it is tired' >&2; exit 4", "ended with 4: it is tired"},
                          Case{"echo partial > \"$5\"; kill -9 $$", "killed by signal 9"}, Case{"exit 0", "made no"},
                          Case{"echo partial > \"$5\"", "not whole"}, Case{"while :; do echo more; done", "wrote more than"}}) {
    for (const auto& name : Files("e")) unlink((root_ + "/e/" + name).c_str());
    UseTool(one.script);
    ExpectFailure(one.why == std::string("wrote more than") ? Code::kResourceExhausted : Code::kInternal, one.why);
  }
}

TEST_F(ErofsLayers, TheDaemonsEndEndsIt) {
  Fixture image = MakeImage({TarBuilder().File("a", "a").Bytes()});
  ASSERT_TRUE(Pull(image));
  ASSERT_TRUE(state_->PrepareView("v", image.id()));
  UseTool("echo partial > \"$5\"; sleep 600");
  std::jthread ender([this] { stop_.request_stop(); });
  auto ended = Layers("v");
  ASSERT_FALSE(ended);
  EXPECT_EQ(ended.error().code, Code::kCancelled) << ended.error().message;
  EXPECT_THAT(Files("e"), IsEmpty());
}

TEST_F(ErofsLayers, AFullDisk) {
  std::string small = Mount("tmpfs", "tmpfs", "size=4m,mode=0700");
  Open(small + "/store");
  Fixture image = MakeImage({TarBuilder().File("noise", Noise(1'000'000, 3)).Bytes()});
  ASSERT_TRUE(Pull(image));
  ASSERT_TRUE(state_->PrepareView("v", image.id()));
  std::string filler = small + "/filler";
  struct statvfs room {};
  ASSERT_EQ(statvfs(small.c_str(), &room), 0);
  ASSERT_GT(room.f_bavail * room.f_bsize, 300'000u);
  std::ofstream(filler) << std::string(room.f_bavail * room.f_bsize - 200'000, 'x');
  auto failed = Layers("v");
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Code::kResourceExhausted) << failed.error().message;
  EXPECT_THAT(Files("e"), IsEmpty());
  ASSERT_EQ(unlink(filler.c_str()), 0);
  auto made = Layers("v");
  EXPECT_TRUE(made) << made.error().message;
  state_.reset();
}

}  // namespace
}  // namespace caisson::image
