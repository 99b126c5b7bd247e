// SPDX-License-Identifier: Apache-2.0
//
// Layers as folders: what is kept of a tar stream, and that a hostile one gets nowhere. As root: owners and devices.
#include "image/unpack.h"

#include <sys/inotify.h>
#include <sys/sysmacros.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/limits.h"
#include "base/unique_fd.h"
#include "image/below.h"
#include "image/tar_fixture.h"

namespace caisson::image {
namespace {

using testing::HasSubstr;

class Unpack : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root: owners and devices";
    outside_ = scratch_.Write("outside", "untouched");
  }

  // Into a folder of that name, in pieces of a size that falls into the middle of everything.
  Result<Unpacked> Into(const std::string& name, const std::string& tar, size_t piece = 1000) {
    UniqueFd root(open(scratch_.Folder(name).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    size_t at = 0;
    return UnpackTar(root.get(), [&]() -> Result<std::string_view> {
      std::string_view next = std::string_view(tar).substr(at, piece);
      at += next.size();
      return next;
    });
  }
  Result<Unpacked> Into(const std::string& name, const TarBuilder& tar) { return Into(name, tar.Bytes()); }
  // The same with the layers below, the topmost first.
  Result<> Over(const std::string& name, const TarBuilder& tar, const std::vector<std::string>& below) {
    auto unpacked = Into(name, tar);
    if (!unpacked) return std::move(unpacked.error());
    UniqueFd root(open(At(name).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    std::vector<std::string> dirs;
    for (const auto& layer : below) dirs.push_back(At(layer));
    return CompleteFromBelow(root.get(), &*unpacked, dirs);
  }
  std::string At(const std::string& name) const { return scratch_.path() + "/" + name; }
  struct stat Stat(const std::string& name) const {
    struct stat info {};
    EXPECT_EQ(lstat(At(name).c_str(), &info), 0) << name;
    return info;
  }
  bool Exists(const std::string& name) const {
    struct stat info {};
    return lstat(At(name).c_str(), &info) == 0;
  }
  bool IsWhiteout(const std::string& name) const {
    struct stat info = Stat(name);
    return S_ISCHR(info.st_mode) && info.st_rdev == 0;
  }
  std::string Xattr(const std::string& name, const char* key) const {
    char value[256];
    ssize_t size = lgetxattr(At(name).c_str(), key, value, sizeof value);
    return size < 0 ? "-" : std::string(value, static_cast<size_t>(size));
  }
  std::string Opaque(const std::string& name) const { return Xattr(name, "trusted.overlay.opaque"); }
  // Nothing but the layer's folder and `outside` may be there.
  void ExpectNothingOutside(const std::string& layer) const {
    EXPECT_EQ(ReadText(outside_), "untouched");
    EXPECT_EQ(Stat("outside").st_nlink, 1u);
    for (const auto& entry : std::filesystem::directory_iterator(scratch_.path())) {
      std::string name = entry.path().filename();
      EXPECT_TRUE(name == layer || name == "outside") << name;
    }
  }

  Scratch scratch_;
  std::string outside_;
};

const std::string kCapability("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 20);  // cap_net_bind_service=ep

TEST_F(Unpack, KeepsWhatALayerHas) {
  TarBuilder tar;
  tar.Folder("./", 0751).Folder("bin/", 0755).Add({"bin/su", '0', "binary", "", 04755, 0, 42}).Symlink("sh", "bin/su");
  tar.Hardlink("bin/sudo", "./bin/su").Add({"null", '3', "", "", 0666, 0, 0, 1, 3}).Add({"pipe", '6', "", "", 0620, 7, 8});
  tar.Add({"ping", '0', "p", "", 0755, 0, 0, 0, 0, 1'600'000'000, {}, {{"SCHILY.xattr.security.capability", kCapability}, {"SCHILY.xattr.user.note", "kept"}}});
  tar.Folder("sticky/", 01777).Add({"big-owner", '0', "", "", 0600, 0, 0, 0, 0, 1, {}, {{"uid", "4000000000"}, {"gid", "4000000001"}}});
  auto unpacked = Into("layer", tar);
  ASSERT_TRUE(unpacked) << unpacked.error().message;
  EXPECT_EQ(unpacked->inodes, 10u);
  EXPECT_EQ(unpacked->bytes, 7u);
  EXPECT_TRUE(unpacked->links_below.empty());
  EXPECT_TRUE(unpacked->folders_below.empty());
  EXPECT_EQ(Stat("layer").st_mode & 07777, 0751u);
  EXPECT_EQ(Stat("layer/bin/su").st_mode & 07777, 04755u);
  EXPECT_EQ(Stat("layer/bin/su").st_gid, 42u);
  EXPECT_EQ(Stat("layer/bin/su").st_nlink, 2u);
  EXPECT_EQ(Stat("layer/bin/su").st_ino, Stat("layer/bin/sudo").st_ino);
  EXPECT_EQ(std::filesystem::read_symlink(At("layer/sh")), "bin/su");
  EXPECT_TRUE(S_ISCHR(Stat("layer/null").st_mode));
  EXPECT_EQ(Stat("layer/null").st_rdev, makedev(1, 3));
  EXPECT_EQ(Stat("layer/null").st_mode & 07777, 0666u);
  EXPECT_TRUE(S_ISFIFO(Stat("layer/pipe").st_mode));
  EXPECT_EQ(Stat("layer/pipe").st_uid, 7u);
  EXPECT_EQ(Xattr("layer/ping", "security.capability"), kCapability);
  EXPECT_EQ(Stat("layer/ping").st_mtim.tv_sec, 1'600'000'000);
  EXPECT_EQ(Stat("layer/sticky").st_mode & 07777, 01777u);
  EXPECT_EQ(Stat("layer/sticky").st_mtim.tv_sec, 1'700'000'000) << "a folder's time is set after its entries";
  EXPECT_EQ(Stat("layer/bin").st_mtim.tv_sec, 1'700'000'000);
  EXPECT_EQ(Stat("layer/big-owner").st_uid, 4'000'000'000u);
  EXPECT_EQ(Stat("layer/big-owner").st_gid, 4'000'000'001u);
}

TEST_F(Unpack, NamesAreBytes) {
  TarBuilder tar;
  std::string long_name = "F\xc5\x91tan\xc3\xbas\xc3\xadtv\xc3\xa1ny.crt";
  tar.File(long_name, "utf-8 in ustar").Add({"x", '0', "utf-8 in pax", "", 0644, 0, 0, 0, 0, 1, {}, {{"path", "pax-" + long_name}}});
  tar.File("latin-\xe9", "no utf-8").Add({"y", '2', "", "z", 0777, 0, 0, 0, 0, 1, {}, {{"path", "link-" + long_name}, {"linkpath", "to-" + long_name}}});
  tar.Add({"q", '1', "", "q", 0644, 0, 0, 0, 0, 1, {}, {{"path", "hard-" + long_name}, {"linkpath", "pax-" + long_name}}});
  std::string deep = "d";
  for (int i = 0; i < 300; ++i) deep += "/dir" + std::to_string(i);
  tar.File(deep + "/leaf", "deep");
  auto unpacked = Into("layer", tar);
  ASSERT_TRUE(unpacked) << unpacked.error().message;
  EXPECT_EQ(ReadText(At("layer/" + long_name)), "utf-8 in ustar");
  EXPECT_EQ(ReadText(At("layer/pax-" + long_name)), "utf-8 in pax");
  EXPECT_EQ(ReadText(At("layer/hard-" + long_name)), "utf-8 in pax");
  EXPECT_EQ(ReadText(At("layer/latin-\xe9")), "no utf-8");
  EXPECT_EQ(std::filesystem::read_symlink(At("layer/link-" + long_name)), "to-" + long_name);
  EXPECT_EQ(ReadText(At("layer/" + deep + "/leaf")), "deep");
}

TEST_F(Unpack, WhatLeadsOutStaysInside) {
  struct Case {
    const char* name;
    TarBuilder tar;
    const char* inside;  // where it ends up; null: it is refused
  };
  std::string here = scratch_.path();
  const Case cases[] = {
      {"absolute", TarBuilder().File("/evil", "x"), "evil"},
      {"dotdot", TarBuilder().File("../evil", "x"), nullptr},
      {"dotdot in the middle", TarBuilder().File("a/../../evil", "x"), nullptr},
      {"write through a link", TarBuilder().Symlink("a", here).File("a/evil", "x"), "a"},
      {"write through a relative link", TarBuilder().Symlink("a", "../../../../..").File("a/evil", "x"), "evil"},
      {"overwrite a link", TarBuilder().Symlink("a", here + "/outside").File("a", "x"), "a"},
      {"folder over a link", TarBuilder().Symlink("a", here).Folder("a/").File("a/evil", "x"), "a/evil"},
      {"hard link to a link", TarBuilder().Symlink("a", here + "/outside").Hardlink("b", "a").File("b", "x"), "b"},
      {"hard link out", TarBuilder().Hardlink("h", "../outside"), nullptr},
      {"hard link through a link", TarBuilder().Symlink("a", here).Hardlink("h", "a/outside"), nullptr},
      {"whiteout through a link", TarBuilder().Symlink("a", "..").File("a/.wh.outside", ""), "outside"},
      {"whiteout of ..", TarBuilder().File("d/.wh...", ""), nullptr},
      {"whiteout of .", TarBuilder().File(".wh..", ""), nullptr},
      {"whiteout of nothing", TarBuilder().File(".wh.", ""), nullptr},
      {"device that is a whiteout", TarBuilder().Add({"w", '3', ""}), nullptr},
      {"hard link to a whiteout", TarBuilder().File(".wh.w", "").Hardlink("h", "w"), nullptr},
      {"link to nothing", TarBuilder().Symlink("l", ""), nullptr},
      {"root that is no folder", TarBuilder().File("./", "x").File(".", "x"), nullptr},
      {"long name", TarBuilder().File(std::string(300, 'n'), "x"), nullptr},
      {"long path", TarBuilder().File([] { std::string p; for (int i = 0; i < 3000; ++i) p += "p/"; return p + "x"; }(), "x"), nullptr},
      {"hard link to itself", TarBuilder().Hardlink("h", "h"), nullptr},
      {"hard link to a folder", TarBuilder().Folder("d/").Hardlink("h", "d"), nullptr},
      {"unknown kind", TarBuilder().Add({"s", 'Z', "x"}), "s"},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    std::filesystem::remove_all(At("layer"));
    auto done = Over("layer", test.tar, {});
    EXPECT_EQ(done.has_value(), test.inside != nullptr) << (done ? "" : done.error().message);
    if (!done) {
      EXPECT_EQ(done.error().code, Code::kInvalidArgument) << done.error().message;
    } else if (test.inside != nullptr) {
      EXPECT_TRUE(Exists(std::string("layer/") + test.inside));
    }
    ExpectNothingOutside("layer");
  }
}

TEST_F(Unpack, AttributesOfOverlayAndSecurityAreDropped) {
  TarBuilder tar;
  std::map<std::string, std::string> pax;
  for (const char* key : {"trusted.overlay.opaque", "trusted.overlay.redirect", "user.overlay.opaque", "security.selinux", "system.posix_acl_access", "trusted.x"}) {
    pax[std::string("SCHILY.xattr.") + key] = "y";
  }
  tar.Add({"d/", '5', "", "", 0755, 0, 0, 0, 0, 1, {}, pax});
  ASSERT_TRUE(Into("layer", tar));
  char names[4096];
  EXPECT_EQ(llistxattr(At("layer/d").c_str(), names, sizeof names), 0);
}

TEST_F(Unpack, WhiteoutsHideWhatIsBelowOnly) {
  TarBuilder tar;
  tar.File(".wh.gone", "").Folder("emptied/").File("emptied/.wh..wh..opq", "").File("emptied/new", "1");
  tar.File("own", "own").File(".wh.own", "").Folder("folder/").File("folder/a", "a").File(".wh.folder", "");
  tar.File(".wh.later", "").Folder("later/").File("later/b", "b").File("kind", "").Folder("kind/");
  tar.File(".wh.twice", "").File(".wh.twice", "").File(".wh..wh.plnk", "").File("x/.wh.y", "");
  auto unpacked = Into("layer", tar);
  ASSERT_TRUE(unpacked) << unpacked.error().message;
  EXPECT_TRUE(IsWhiteout("layer/gone"));
  EXPECT_TRUE(IsWhiteout("layer/twice"));
  EXPECT_TRUE(IsWhiteout("layer/x/y"));
  EXPECT_EQ(Opaque("layer/emptied"), "y");
  EXPECT_EQ(ReadText(At("layer/emptied/new")), "1");
  EXPECT_EQ(ReadText(At("layer/own")), "own") << "a whiteout does not take what its own layer has";
  EXPECT_EQ(ReadText(At("layer/folder/a")), "a");
  EXPECT_EQ(Opaque("layer/folder"), "y");
  EXPECT_EQ(ReadText(At("layer/later/b")), "b");
  EXPECT_EQ(Opaque("layer/later"), "y") << "what was below is gone before the folder is made";
  EXPECT_EQ(Opaque("layer/kind"), "y");
  EXPECT_FALSE(Exists("layer/.wh..wh.plnk"));
  EXPECT_EQ(Opaque("layer/x"), "-");
}

TEST_F(Unpack, LaterEntriesWin) {
  TarBuilder tar;
  tar.File("a", "1").File("a", "2").Folder("d/").File("d/x", "").File("d", "file now").Symlink("s", "a").File("s", "file now");
  tar.Folder("e/").File("e/f/g", "").Symlink("e/f", "nowhere").Folder("kept/", 0700).File("kept/k", "k").Folder("kept/", 0711);
  auto unpacked = Into("layer", tar);
  ASSERT_TRUE(unpacked) << unpacked.error().message;
  EXPECT_EQ(ReadText(At("layer/a")), "2");
  EXPECT_EQ(ReadText(At("layer/d")), "file now");
  EXPECT_EQ(ReadText(At("layer/s")), "file now");
  EXPECT_EQ(std::filesystem::read_symlink(At("layer/e/f")), "nowhere");
  EXPECT_EQ(ReadText(At("layer/kept/k")), "k");
  EXPECT_EQ(Stat("layer/kept").st_mode & 07777, 0711u);
}

TEST_F(Unpack, FoldersWithoutAnEntryLookAsBelow) {
  mode_t old = umask(077);  // what the daemon has must not show
  TarBuilder base, top;
  base.Folder("./", 0750).Folder("tmp/", 01777).Add({"home/", '5', "", "", 0711, 5, 6, 0, 0, 1, {}, {{"SCHILY.xattr.user.k", "v"}}}).Folder("home/sub/", 0700).File("file", "");
  top.File("tmp/x", "").File("home/sub/y", "").File("new/z", "").File("file/in", "").Folder("cut/", 0700).File(".wh.cut", "");
  ASSERT_TRUE(Over("base", base, {}));
  auto done = Over("top", top, {"base"});
  umask(old);
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ(Stat("top").st_mode & 07777, 0750u);
  EXPECT_EQ(Stat("top/tmp").st_mode & 07777, 01777u);
  EXPECT_EQ(Stat("top/home").st_mode & 07777, 0711u);
  EXPECT_EQ(Stat("top/home").st_uid, 5u);
  EXPECT_EQ(Stat("top/home").st_gid, 6u);
  EXPECT_EQ(Stat("top/home").st_mtim.tv_sec, 1);
  EXPECT_EQ(Xattr("top/home", "user.k"), Xattr("base/home", "user.k"));
  EXPECT_EQ(Stat("top/home/sub").st_mode & 07777, 0700u);
  EXPECT_EQ(Stat("top/new").st_mode & 07777, 0755u);
  EXPECT_EQ(Stat("top/file").st_mode & 07777, 0755u);
}

TEST_F(Unpack, LinksIntoLowerLayersAreCopies) {
  TarBuilder base, middle, top;
  base.Add({"bin/tool", '0', "tool", "", 04755, 1, 2, 0, 0, 77, {}, {{"SCHILY.xattr.security.capability", kCapability}}});
  base.File("hidden/f", "f").File("white", "w").File("d/gone", "g").Symlink("sym", "bin/tool").File("old", "below");
  middle.File(".wh.white", "").File("hidden/.wh..wh..opq", "").File(".wh.d", "").File("old", "above");
  top.Hardlink("one", "bin/tool").Hardlink("two", "bin/tool").Hardlink("three", "one").Hardlink("sym2", "sym").Hardlink("new", "old");
  ASSERT_TRUE(Over("base", base, {}));
  ASSERT_TRUE(Over("middle", middle, {"base"}));
  auto done = Over("top", top, {"middle", "base"});
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_EQ(ReadText(At("top/one")), "tool");
  EXPECT_EQ(Stat("top/one").st_mode & 07777, 04755u);
  EXPECT_EQ(Stat("top/one").st_gid, 2u);
  EXPECT_EQ(Stat("top/one").st_mtim.tv_sec, 77);
  EXPECT_EQ(Xattr("top/one", "security.capability"), kCapability);
  EXPECT_EQ(Stat("top/one").st_ino, Stat("top/two").st_ino) << "links to one file stay one file";
  EXPECT_EQ(Stat("top/one").st_ino, Stat("top/three").st_ino);
  EXPECT_EQ(std::filesystem::read_symlink(At("top/sym2")), "bin/tool");
  EXPECT_EQ(ReadText(At("top/new")), "above");
  for (const char* hidden : {"white", "hidden/f", "d/gone", "nowhere"}) {
    auto refused = Over(std::string("refused-") + std::string(hidden).substr(0, 3), TarBuilder().Hardlink("h", hidden), {"middle", "base"});
    ASSERT_FALSE(refused) << hidden;
    EXPECT_EQ(refused.error().code, Code::kInvalidArgument);
    EXPECT_THAT(refused.error().message, HasSubstr(std::string(hidden) + "': its target is in no layer"));
  }
  // Taken away, or replaced, by the layer that links.
  EXPECT_FALSE(Over("own", TarBuilder().Hardlink("h", "bin/tool").File(".wh.bin", ""), {"base"}));
  ASSERT_TRUE(Over("late", TarBuilder().Hardlink("h", "bin/tool").File("h", "later"), {"base"}));
  EXPECT_EQ(ReadText(At("late/h")), "later");
}

TEST_F(Unpack, ALinkToADeviceBelowIsNotEvenOpened) {
  // Some devices of the host act on being opened (a watchdog starts to count). A FIFO stands for them; inotify(7) tells.
  ASSERT_TRUE(Over("base", TarBuilder().Add({"pipe", '6', ""}), {}));
  UniqueFd events(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  ASSERT_GE(inotify_add_watch(events.get(), At("base/pipe").c_str(), IN_OPEN), 0);
  auto refused = Over("top", TarBuilder().Hardlink("h", "pipe"), {"base"});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("no regular file"));
  char buffer[1024];
  EXPECT_EQ(read(events.get(), buffer, sizeof buffer), -1) << "it was opened";
  UniqueFd opened(open(At("base/pipe").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  EXPECT_GT(read(events.get(), buffer, sizeof buffer), 0) << "this test sees no opening";
}

TEST_F(Unpack, SizesAndCountsAreBounded) {
  struct Case {
    const char* name;
    TarBuilder tar;
  };
  const Case cases[] = {
      {"100 TB", TarBuilder().Add({"bomb", '0', "x", "", 0644, 0, 0, 0, 0, 1, uint64_t{100} << 40})},
      {"sum over the limit", TarBuilder().Add({"bomb", '0', "", "", 0644, 0, 0, 0, 0, 1, static_cast<uint64_t>(limits::kLayerBytes) + 1})},
      {"large attribute", TarBuilder().Add({"f", '0', "", "", 0644, 0, 0, 0, 0, 1, {}, {{"SCHILY.xattr.user.big", std::string(limits::kXattrBytes + 1, 'x')}}})},
      {"sparse of 8 EB", TarBuilder().Add({"s", '0', "", "", 0644, 0, 0, 0, 0, 1, {}, {{"GNU.sparse.major", "0"}, {"GNU.sparse.minor", "1"}, {"GNU.sparse.size", "9223372036854775807"}, {"GNU.sparse.map", "0,0"}}})},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    std::filesystem::remove_all(At("layer"));
    auto refused = Into("layer", test.tar);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::kResourceExhausted) << refused.error().message;
  }
  // Owners that are no owners.
  for (const char* id : {"4294967295", "4294967296", "99999999999999"}) {
    std::filesystem::remove_all(At("layer"));
    auto refused = Into("layer", TarBuilder().Add({"f", '0', "", "", 0644, 0, 0, 0, 0, 1, {}, {{"uid", id}}}));
    ASSERT_FALSE(refused) << id;
    EXPECT_EQ(refused.error().code, Code::kInvalidArgument);
  }
}

TEST_F(Unpack, NamesKeptInMemoryAreBounded) {
  // Folders with long names, made as they are asked for: in memory they would be some GB.
  std::string prefix = "d/" + std::string(250, 'x') + "/" + std::string(250, 'y') + "/" + std::string(250, 'z') + "/";
  std::string piece;
  int made = 0;
  UniqueFd root(open(scratch_.Folder("layer").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  auto refused = UnpackTar(root.get(), [&]() -> Result<std::string_view> {
    TarBuilder next;
    // The same folder again and again: as cheap for who sends it as can be.
    for (int i = 0; i < 100; ++i) next.Folder(prefix);
    made += 100;
    piece = made > 1'000'000 ? "" : next.Unended();
    return piece;
  });
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  EXPECT_LT(made, 200'000);
}

TEST_F(Unpack, SparseFilesStaySparse) {
  TarBuilder tar;
  tar.Add({"s", '0', std::string(512, 'd'), "", 0644, 0, 0, 0, 0, 1, {}, {{"GNU.sparse.major", "0"}, {"GNU.sparse.minor", "1"}, {"GNU.sparse.size", "1073741824"}, {"GNU.sparse.numblocks", "1"}, {"GNU.sparse.map", "536870912,512"}}});
  auto unpacked = Into("layer", tar);
  ASSERT_TRUE(unpacked) << unpacked.error().message;
  EXPECT_EQ(Stat("layer/s").st_size, 1 << 30);
  EXPECT_LT(Stat("layer/s").st_blocks * 512, 1 << 20);
  ASSERT_TRUE(Over("top", TarBuilder().Hardlink("h", "s"), {"layer"}));
  EXPECT_EQ(Stat("top/h").st_size, 1 << 30);
  EXPECT_LT(Stat("top/h").st_blocks * 512, 1 << 20);
  std::ifstream copy(At("top/h"), std::ios::binary);
  copy.seekg(536870912);
  EXPECT_EQ(copy.get(), 'd');
}

TEST_F(Unpack, BrokenStreamsAreErrors) {
  std::string tar = TarBuilder().File("a", std::string(5000, 'a')).File("b", "b").Bytes();
  for (size_t cut : {size_t{100}, size_t{600}, size_t{3000}}) {
    std::filesystem::remove_all(At("layer"));
    auto refused = Into("layer", tar.substr(0, cut));
    ASSERT_FALSE(refused) << cut;
    EXPECT_EQ(refused.error().code, Code::kInvalidArgument);
  }
  std::string damaged = tar;
  damaged[3] ^= 1;
  EXPECT_FALSE(Into("damaged", damaged));
  // An empty layer and one without an end mark are real.
  EXPECT_TRUE(Into("empty", std::string()));
  EXPECT_TRUE(Into("unended", TarBuilder().File("a", "a").Unended()));
  EXPECT_EQ(ReadText(At("unended/a")), "a");
  EXPECT_TRUE(Into("padded", tar + std::string(100'000, '\0')));
}

TEST_F(Unpack, TheSourcesErrorIsPassedOn) {
  std::string tar = TarBuilder().File("a", std::string(5000, 'a')).Bytes();
  UniqueFd root(open(scratch_.Folder("layer").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (size_t pieces : {size_t{0}, size_t{1}, size_t{12}}) {
    size_t given = 0;
    auto failed = UnpackTar(root.get(), [&]() -> Result<std::string_view> {
      if (given == pieces) return MakeError(Code::kUnavailable, "the line is dead");
      return std::string_view(tar).substr(512 * given++, 512);
    });
    ASSERT_FALSE(failed) << pieces;
    EXPECT_EQ(failed.error().code, Code::kUnavailable);
    EXPECT_THAT(failed.error().message, HasSubstr("the line is dead"));
  }
}

}  // namespace
}  // namespace caisson::image
