// SPDX-License-Identifier: Apache-2.0
// FileServer by raw requests, as a guest's kernel sends them and as none does. Root: files are made as other users.
#include "files/file_server.h"

#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/strings.h"

namespace caisson::files {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::UnorderedElementsAre;

template <class T>
std::string Bytes(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

std::string Zero(std::string_view text) { return std::string(text) + '\0'; }

size_t OwnDescriptors() {
  fs::directory_iterator all("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

class FileServerTest : public testing::Test {
 protected:
  struct Reply {
    int error = 0;
    std::string body;
    template <class T>
    T As() const {
      T value{};
      EXPECT_GE(body.size(), sizeof value);
      std::memcpy(&value, body.data(), std::min(body.size(), sizeof value));
      return value;
    }
  };

  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root: it makes files of other users";
    umask(0022);
    char name[] = "/tmp/caisson-files-XXXXXX";
    top_ = mkdtemp(name);
    chmod(top_.c_str(), 0755);
    fs::create_directories(top_ + "/volume");
    std::ofstream(top_ + "/secret") << "secret";
    Restart({});
  }
  void TearDown() override {
    server_.reset();
    if (!top_.empty()) fs::remove_all(top_);
    umask(0022);
  }

  void Restart(FileServerBounds bounds) {
    server_ = std::make_unique<FileServer>(UniqueFd(open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC)), bounds);
    ASSERT_TRUE(server_->AddVolume("v", OpenFolder("/volume"), true));
    fuse_init_in init{FUSE_KERNEL_VERSION, 36, 128 << 10, ~0U, 0, {}};
    ASSERT_EQ(Send(FUSE_INIT, 0, Bytes(init)).error, 0);
    root_ = Lookup(kRootNode, "v").nodeid;
  }
  UniqueFd OpenFolder(const std::string& below) { return UniqueFd(open((top_ + below).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)); }
  std::string In(const std::string& below) { return top_ + "/volume/" + below; }

  Reply Send(uint32_t opcode, uint64_t node, const std::string& body, uint32_t uid = 0, uint32_t gid = 0) {
    FuseRequest request;
    // By name: what follows the pid differs between versions of the header.
    request.header.len = static_cast<uint32_t>(sizeof request.header + body.size());
    request.header.opcode = opcode;
    request.header.unique = 42;
    request.header.nodeid = node;
    request.header.uid = uid;
    request.header.gid = gid;
    request.header.pid = 1;
    request.body = body;
    std::string_view answer = server_->Handle(request);
    Reply reply;
    if (answer.empty()) return {-1, ""};
    fuse_out_header header{};
    EXPECT_GE(answer.size(), sizeof header);
    std::memcpy(&header, answer.data(), sizeof header);
    EXPECT_EQ(header.len, answer.size());
    EXPECT_EQ(header.unique, 42u);
    EXPECT_LE(header.error, 0);
    EXPECT_GT(header.error, -1000);
    reply.error = -header.error;
    reply.body = answer.substr(sizeof header);
    EXPECT_TRUE(reply.error == 0 || reply.body.empty());
    return reply;
  }
  fuse_entry_out Lookup(uint64_t parent, const std::string& name) {
    Reply reply = Send(FUSE_LOOKUP, parent, Zero(name));
    EXPECT_EQ(reply.error, 0) << name << ": " << strerror(reply.error);
    return reply.error == 0 ? reply.As<fuse_entry_out>() : fuse_entry_out{};
  }
  int LookupError(uint64_t parent, const std::string& name) { return Send(FUSE_LOOKUP, parent, Zero(name)).error; }
  Reply Open(uint64_t node, uint32_t flags, uint32_t opcode = FUSE_OPEN) { return Send(opcode, node, Bytes(fuse_open_in{flags, 0})); }
  uint64_t Opened(uint64_t node, uint32_t flags, uint32_t opcode = FUSE_OPEN) {
    Reply reply = Open(node, flags, opcode);
    EXPECT_EQ(reply.error, 0) << strerror(reply.error);
    return reply.error == 0 ? reply.As<fuse_open_out>().fh : 0;
  }
  Reply Create(const std::string& name, uint32_t mode, uint32_t uid = 0, uint32_t gid = 0, uint32_t flags = O_RDWR | O_CREAT, uint32_t mask = 0) {
    return Send(FUSE_CREATE, root_, Bytes(fuse_create_in{flags, mode, mask, 0}) + Zero(name), uid, gid);
  }
  Reply Write(uint64_t handle, uint64_t at, const std::string& data, uint32_t flags = 0) {
    fuse_write_in in{};
    in.fh = handle;
    in.offset = at;
    in.size = static_cast<uint32_t>(data.size());
    in.write_flags = flags;
    return Send(FUSE_WRITE, root_, Bytes(in) + data);
  }
  Reply Read(uint64_t handle, uint64_t at, uint32_t size, uint32_t opcode = FUSE_READ) {
    fuse_read_in in{};
    in.fh = handle;
    in.offset = at;
    in.size = size;
    return Send(opcode, root_, Bytes(in));
  }
  int Release(uint64_t handle) {
    fuse_release_in in{};
    in.fh = handle;
    return Send(FUSE_RELEASE, root_, Bytes(in)).error;
  }
  struct stat Stat(const std::string& below) {
    struct stat info {};
    EXPECT_EQ(lstat(In(below).c_str(), &info), 0) << below;
    return info;
  }
  std::string Content(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  std::string top_;
  std::unique_ptr<FileServer> server_;
  uint64_t root_ = 0;
};

TEST_F(FileServerTest, WritesAreTheHostsAtOnceAndTheOtherWayRound) {
  Reply made = Create("file", 0640, 1000, 1001);
  ASSERT_EQ(made.error, 0);
  auto entry = made.As<fuse_entry_out>();
  uint64_t handle = Bytes(entry).size() + sizeof(fuse_open_out) == made.body.size() ? *reinterpret_cast<const uint64_t*>(made.body.data() + sizeof entry) : 0;
  EXPECT_EQ(Write(handle, 0, "hello").As<fuse_write_out>().size, 5u);
  EXPECT_EQ(Content(In("file")), "hello");
  struct stat info = Stat("file");
  EXPECT_EQ(info.st_uid, 1000u);
  EXPECT_EQ(info.st_gid, 1001u);
  EXPECT_EQ(info.st_mode & 07777, 0640u);
  std::ofstream(In("file"), std::ios::app) << " world";
  EXPECT_EQ(Read(handle, 0, 100).body, "hello world");
  auto attributes = Send(FUSE_GETATTR, entry.nodeid, Bytes(fuse_getattr_in{})).As<fuse_attr_out>();
  EXPECT_EQ(attributes.attr.size, 11u);
  EXPECT_EQ(attributes.attr_valid, 0u);
  EXPECT_EQ(attributes.attr_valid_nsec, kAttributeNanos);
  EXPECT_EQ(entry.entry_valid + entry.entry_valid_nsec, 0u) << "a name is not kept";
  EXPECT_EQ(Send(FUSE_FSYNC, entry.nodeid, Bytes(fuse_fsync_in{handle, 1, 0})).error, 0);
  EXPECT_EQ(Release(handle), 0);
  EXPECT_EQ(Release(handle), EBADF);
  EXPECT_EQ(Read(handle, 0, 1).error, EBADF);
}

TEST_F(FileServerTest, TheRulesOfTheFolderCountForWhatIsMade) {
  ASSERT_EQ(chmod(In("").c_str(), 02775), 0);
  ASSERT_EQ(chown(In("").c_str(), 0, 5000), 0);
  ASSERT_EQ(chmod(In("").c_str(), 02775), 0);
  ASSERT_EQ(Create("a", 0666, 7, 8, O_RDWR, 0027).error, 0);
  EXPECT_EQ(Stat("a").st_gid, 5000u) << "set-group-id";
  EXPECT_EQ(Stat("a").st_uid, 7u);
  EXPECT_EQ(Stat("a").st_mode & 07777, 0640u) << "the caller's umask";
  ASSERT_EQ(Send(FUSE_MKDIR, root_, Bytes(fuse_mkdir_in{0777, 0022}) + Zero("d"), 7, 8).error, 0);
  EXPECT_EQ(Stat("d").st_mode & 07777, 02755u);
  ASSERT_EQ(Send(FUSE_SYMLINK, root_, Zero("link") + Zero("/etc/passwd"), 7, 8).error, 0);
  EXPECT_EQ(Stat("link").st_uid, 7u);
  ASSERT_EQ(Send(FUSE_MKNOD, root_, Bytes(fuse_mknod_in{S_IFIFO | 0600, 0, 0, 0}) + Zero("fifo"), 7, 8).error, 0);
  EXPECT_TRUE(S_ISFIFO(Stat("fifo").st_mode));
  // As ourselves again afterwards.
  ASSERT_EQ(Create("root", 0600).error, 0);
  EXPECT_EQ(Stat("root").st_uid, 0u);
  EXPECT_EQ(Create("nobody", 0600, static_cast<uint32_t>(-1), 1).error, EINVAL);
  EXPECT_FALSE(fs::exists(In("nobody")));
  EXPECT_EQ(setfsuid(static_cast<uid_t>(-1)), 0);
}

// GHSA-2gv2-cffp-j227: names of a hostile guest.
TEST_F(FileServerTest, NoNameLeadsOut) {
  fs::create_directory(In("d"));
  uint64_t folder = Lookup(root_, "d").nodeid;
  for (const char* name : {"", ".", "..", "/", "d/../../secret", "../secret", "/etc/passwd", "d/"}) {
    EXPECT_EQ(LookupError(root_, name), EINVAL) << name;
    EXPECT_EQ(LookupError(kRootNode, name), EINVAL) << name;
    EXPECT_EQ(Create(name, 0600).error, EINVAL) << name;
    EXPECT_EQ(Send(FUSE_UNLINK, root_, Zero(name)).error, EINVAL) << name;
    EXPECT_EQ(Send(FUSE_MKDIR, root_, Bytes(fuse_mkdir_in{0700, 0}) + Zero(name)).error, EINVAL) << name;
    EXPECT_EQ(Send(FUSE_RENAME, root_, Bytes(fuse_rename_in{folder}) + Zero("d") + Zero(name)).error, EINVAL) << name;
    EXPECT_EQ(Send(FUSE_LINK, root_, Bytes(fuse_link_in{folder}) + Zero(name)).error, EINVAL) << name;
    EXPECT_EQ(Send(FUSE_SYMLINK, root_, Zero(name) + Zero("x")).error, EINVAL) << name;
  }
  EXPECT_EQ(LookupError(root_, std::string(256, 'a')), ENAMETOOLONG);
  EXPECT_EQ(LookupError(kRootNode, "w"), ENOENT);
  EXPECT_EQ(Send(FUSE_LOOKUP, root_, "d").error, EINVAL) << "a name without an end";
}

TEST_F(FileServerTest, LinksThatLeadOutAreJustText) {
  for (const char* target : {"/etc", "../secret", "/proc/self/root", ".."}) {
    ASSERT_EQ(Send(FUSE_SYMLINK, root_, Zero("l") + Zero(target)).error, 0);
    auto link = Lookup(root_, "l");
    EXPECT_TRUE(S_ISLNK(link.attr.mode));
    EXPECT_EQ(Send(FUSE_READLINK, link.nodeid, "").body, target);
    EXPECT_NE(Open(link.nodeid, O_RDONLY).error, 0);
    EXPECT_NE(Open(link.nodeid, 0, FUSE_OPENDIR).error, 0);
    EXPECT_NE(LookupError(link.nodeid, "passwd"), 0);
    EXPECT_NE(Send(FUSE_CREATE, link.nodeid, Bytes(fuse_create_in{O_RDWR, 0600, 0, 0}) + Zero("x")).error, 0);
    EXPECT_NE(Send(FUSE_UNLINK, link.nodeid, Zero("secret")).error, 0);
    // Neither the mode nor the size of what it leads to changes; its own times and owner may.
    fuse_setattr_in in{};
    in.valid = FATTR_MODE;
    in.mode = 0777;
    EXPECT_EQ(Send(FUSE_SETATTR, link.nodeid, Bytes(in)).error, EOPNOTSUPP);
    in.valid = FATTR_SIZE;
    EXPECT_NE(Send(FUSE_SETATTR, link.nodeid, Bytes(in)).error, 0);
    in.valid = FATTR_UID | FATTR_MTIME;
    in.uid = 77;
    EXPECT_EQ(Send(FUSE_SETATTR, link.nodeid, Bytes(in)).error, 0);
    EXPECT_EQ(Stat("l").st_uid, 77u);
    EXPECT_EQ(Send(FUSE_LINK, root_, Bytes(fuse_link_in{link.nodeid}) + Zero("hard")).error, 0);
    EXPECT_TRUE(S_ISLNK(Stat("hard").st_mode)) << "a link to the link";
    for (const char* gone : {"l", "hard"}) EXPECT_EQ(Send(FUSE_UNLINK, root_, Zero(gone)).error, 0);
    Send(FUSE_FORGET, link.nodeid, Bytes(fuse_forget_in{100}));
  }
  struct stat secret {};
  ASSERT_EQ(stat((top_ + "/secret").c_str(), &secret), 0);
  EXPECT_EQ(secret.st_uid, 0u);
  EXPECT_EQ(secret.st_size, 6);
}

// What the host does to names after the guest has looked them up.
TEST_F(FileServerTest, AFolderThatIsReplacedByALinkIsStillTheFolder) {
  Restart({{1, 1000}, 100});  // one descriptor: everything has to be opened again
  fs::create_directories(In("a/b"));
  std::ofstream(In("a/b/file")) << "mine";
  uint64_t a = Lookup(root_, "a").nodeid, b = Lookup(a, "b").nodeid, file = Lookup(b, "file").nodeid;
  std::ofstream(top_ + "/file") << "the host's";
  fs::rename(In("a/b"), In("a/was"));
  fs::create_symlink(top_, In("a/b"));
  Reply reply = Open(file, O_RDONLY);
  if (reply.error == 0) {
    EXPECT_EQ(Read(reply.As<fuse_open_out>().fh, 0, 100).body, "mine");
  } else {
    EXPECT_EQ(reply.error, ESTALE);
  }
  EXPECT_EQ(LookupError(b, "file"), ESTALE);
  EXPECT_TRUE(S_ISLNK(Lookup(a, "b").attr.mode));
  uint64_t was = Lookup(a, "was").nodeid;
  EXPECT_EQ(was, b) << "the same folder under its new name";
  EXPECT_EQ(Lookup(was, "file").nodeid, file);
}

TEST_F(FileServerTest, RacesOfRenameAndLookupStayInside) {
  fs::create_directories(In("x/y"));
  fs::create_directories(In("z"));
  std::ofstream(In("x/y/inside")) << "1";
  uint64_t x = Lookup(root_, "x").nodeid, y = Lookup(x, "y").nodeid;
  for (int i = 0; i < 50; ++i) {
    // Out of the volume and back, on the host, as another tenant of the same disk might.
    fs::rename(In("x/y"), top_ + "/outside");
    EXPECT_EQ(LookupError(y, ".."), EINVAL);
    EXPECT_EQ(LookupError(x, "y"), ENOENT);
    fs::rename(top_ + "/outside", In("x/y"));
    EXPECT_EQ(Lookup(y, "inside").attr.size, 1u);
  }
}

// CVE-2020-35517: a device of the host, opened through the shared folder.
TEST_F(FileServerTest, DevicesFifosAndSocketsAreNotOpened) {
  ASSERT_EQ(mknod(In("null").c_str(), S_IFCHR | 0666, makedev(1, 3)), 0);
  ASSERT_EQ(mkfifo(In("fifo").c_str(), 0666), 0);
  for (const char* name : {"null", "fifo"}) {
    auto entry = Lookup(root_, name);
    EXPECT_EQ(Open(entry.nodeid, O_RDWR).error, ENXIO) << name;
    EXPECT_EQ(Create(name, 0600).error, ESTALE) << name;
    EXPECT_EQ(Create(name, 0600, 0, 0, O_RDWR | O_CREAT | O_EXCL).error, EEXIST) << name;
    fuse_setattr_in in{};
    in.valid = FATTR_SIZE;
    EXPECT_EQ(Send(FUSE_SETATTR, entry.nodeid, Bytes(in)).error, EOPNOTSUPP) << name;
    EXPECT_EQ(Send(FUSE_GETXATTR, entry.nodeid, Bytes(fuse_getxattr_in{0, 0}) + Zero("user.x")).error, EOPNOTSUPP) << name;
  }
  for (mode_t type : {mode_t{S_IFCHR}, mode_t{S_IFBLK}, mode_t{S_IFDIR}, mode_t{S_IFLNK}, mode_t{0}}) {
    EXPECT_EQ(Send(FUSE_MKNOD, root_, Bytes(fuse_mknod_in{type | 0600, 0, 0, 0}) + Zero("new")).error, EPERM) << type;
  }
  EXPECT_EQ(Send(FUSE_RENAME2, root_, Bytes(fuse_rename2_in{root_, RENAME_WHITEOUT, 0}) + Zero("fifo") + Zero("moved")).error, EINVAL);
}

TEST_F(FileServerTest, AReadOnlyVolumeStaysSo) {
  std::ofstream(In("file")) << "x";
  fs::create_directory(In("d"));
  server_.reset();
  server_ = std::make_unique<FileServer>(UniqueFd(open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC)), FileServerBounds());
  ASSERT_TRUE(server_->AddVolume("v", OpenFolder("/volume"), false));
  ASSERT_TRUE(server_->AddVolume("part", OpenFolder("/volume/d"), true));
  root_ = Lookup(kRootNode, "v").nodeid;
  uint64_t file = Lookup(root_, "file").nodeid;
  struct stat before = Stat("file");
  for (int flags : {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC}) EXPECT_EQ(Open(file, static_cast<uint32_t>(flags)).error, EROFS);
  uint64_t handle = Opened(file, O_RDONLY);
  EXPECT_EQ(Read(handle, 0, 9).body, "x");
  EXPECT_EQ(Write(handle, 0, "y").error, EBADF);
  EXPECT_EQ(Create("new", 0600).error, EROFS);
  for (uint32_t opcode : {FUSE_SETATTR, FUSE_SYMLINK, FUSE_MKNOD, FUSE_MKDIR, FUSE_UNLINK, FUSE_RMDIR, FUSE_RENAME, FUSE_RENAME2, FUSE_LINK, FUSE_SETXATTR,
                          FUSE_REMOVEXATTR}) {
    EXPECT_EQ(Send(opcode, root_, std::string(200, 'a') + '\0').error, EROFS) << opcode;
  }
  // From a folder that may be written into one that may not, and out of it.
  uint64_t part = Lookup(kRootNode, "part").nodeid;
  std::ofstream(In("d/mine")) << "m";
  EXPECT_EQ(Send(FUSE_RENAME, part, Bytes(fuse_rename_in{root_}) + Zero("mine") + Zero("mine")).error, EROFS);
  EXPECT_EQ(Send(FUSE_LINK, part, Bytes(fuse_link_in{file}) + Zero("hard")).error, EROFS);
  // The same file by both: as the better one allows.
  uint64_t d = Lookup(root_, "d").nodeid, mine = Lookup(d, "mine").nodeid;
  EXPECT_EQ(Open(mine, O_RDWR).error, EROFS);
  EXPECT_EQ(Lookup(part, "mine").nodeid, mine);
  EXPECT_EQ(Open(mine, O_RDWR).error, 0);
  EXPECT_EQ(Open(file, O_RDWR).error, EROFS);
  struct stat after = Stat("file");
  EXPECT_EQ(before.st_atim.tv_nsec, after.st_atim.tv_nsec);
  // Once a container may write it, it may.
  ASSERT_TRUE(server_->AddVolume("v", UniqueFd(), true));
  EXPECT_EQ(Create("new", 0600).error, 0);
}

TEST_F(FileServerTest, AConstantVolumeMayBeKeptAndIsGoneWhenItIsRemoved) {
  fs::create_directory(top_ + "/image");
  std::ofstream(top_ + "/image/file") << "x";
  const unsigned char capability[] = {1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};  // struct vfs_cap_data: CAP_NET_RAW
  ASSERT_EQ(setxattr((top_ + "/image/file").c_str(), "security.capability", capability, sizeof capability, 0), 0);
  ASSERT_TRUE(server_->AddVolume("image", OpenFolder("/image"), true, true));
  uint64_t image = Lookup(kRootNode, "image").nodeid;
  fuse_entry_out entry = Lookup(image, "file"), none = Lookup(image, "none");
  EXPECT_EQ(entry.entry_valid, kConstantSeconds);
  EXPECT_EQ(entry.attr_valid, kConstantSeconds);
  EXPECT_EQ(none.nodeid, 0u);
  EXPECT_EQ(none.entry_valid, kConstantSeconds);
  Reply opened = Open(entry.nodeid, O_RDONLY);
  EXPECT_NE(opened.As<fuse_open_out>().open_flags & FOPEN_KEEP_CACHE, 0u);
  EXPECT_EQ(Open(entry.nodeid, O_RDWR).error, EROFS);
  Reply xattr = Send(FUSE_GETXATTR, entry.nodeid, Bytes(fuse_getxattr_in{64, 0}) + Zero("security.capability"));
  EXPECT_EQ(xattr.body, std::string(reinterpret_cast<const char*>(capability), sizeof capability));
  // Of others nothing of that is true.
  std::ofstream(In("other")) << "y";
  uint64_t other = Opened(Lookup(root_, "other").nodeid, O_RDONLY);
  EXPECT_EQ(Lookup(root_, "other").entry_valid, 0u);
  EXPECT_EQ(LookupError(root_, "none"), ENOENT);
  size_t inodes = server_->inodes();
  server_->RemoveVolume("image");
  EXPECT_EQ(LookupError(kRootNode, "image"), ENOENT);
  EXPECT_EQ(LookupError(image, "file"), ESTALE);
  EXPECT_EQ(Read(opened.As<fuse_open_out>().fh, 0, 9).error, EBADF);
  EXPECT_EQ(Read(other, 0, 9).body, "y");
  EXPECT_EQ(server_->inodes(), inodes - 2);
  EXPECT_EQ(server_->open_files(), 1u);
  server_->RemoveVolume("image");  // once more: nothing
}

TEST_F(FileServerTest, AttributesThatAreNoneOfTheGuestsAreRefused) {
  std::ofstream(In("file")) << "x";
  uint64_t file = Lookup(root_, "file").nodeid;
  auto set = [&](const std::string& name, const std::string& value) {
    return Send(FUSE_SETXATTR, file, Bytes(uint64_t{value.size()}) + Zero(name) + value).error;
  };
  for (const char* name : {"security.capability", "security.selinux", "trusted.overlay.opaque", "system.x", "", "user"}) {
    EXPECT_EQ(set(name, "x"), EOPNOTSUPP) << name;
    EXPECT_EQ(Send(FUSE_GETXATTR, file, Bytes(fuse_getxattr_in{100, 0}) + Zero(name)).error, EOPNOTSUPP) << name;
    EXPECT_EQ(Send(FUSE_REMOVEXATTR, file, Zero(name)).error, EOPNOTSUPP) << name;
  }
  int works = set("user.colour", "blue");
  if (works == EOPNOTSUPP) GTEST_SKIP() << "the file system of /tmp has no user attributes";
  ASSERT_EQ(works, 0);
  char value[16] = {};
  EXPECT_EQ(getxattr(In("file").c_str(), "user.colour", value, sizeof value), 4);
  ASSERT_EQ(setxattr(In("file").c_str(), "trusted.x", "1", 1, 0), 0);
  EXPECT_EQ(Send(FUSE_LISTXATTR, file, Bytes(fuse_getxattr_in{1000, 0})).body, Zero("user.colour"));
  EXPECT_EQ(Send(FUSE_LISTXATTR, file, Bytes(fuse_getxattr_in{3, 0})).error, ERANGE);
  EXPECT_EQ(Send(FUSE_GETXATTR, file, Bytes(fuse_getxattr_in{0, 0}) + Zero("user.colour")).As<fuse_getxattr_out>().size, 4u);
  EXPECT_EQ(Send(FUSE_GETXATTR, file, Bytes(fuse_getxattr_in{3, 0}) + Zero("user.colour")).error, ERANGE);
  EXPECT_EQ(Send(FUSE_GETXATTR, file, Bytes(fuse_getxattr_in{4, 0}) + Zero("user.colour")).body, "blue");
  EXPECT_EQ(Send(FUSE_SETXATTR, file, Bytes(uint64_t{5}) + Zero("user.a") + "four").error, EINVAL);
}

TEST_F(FileServerTest, SetUserIdGoesWithAWriteOfSomebodyElse) {
  std::ofstream(In("file")) << "x";
  ASSERT_EQ(chmod(In("file").c_str(), 06755), 0);
  uint64_t file = Lookup(root_, "file").nodeid, handle = Opened(file, O_RDWR);
  Write(handle, 0, "y");
  EXPECT_EQ(Stat("file").st_mode & 07777, 06755u) << "the guest's root may";
  Write(handle, 0, "y", FUSE_WRITE_KILL_SUIDGID);
  EXPECT_EQ(Stat("file").st_mode & 07777, 0755u);
  fuse_setattr_in in{};
  in.valid = FATTR_UID | FATTR_MODE;
  in.uid = 5;
  in.mode = 04700;
  EXPECT_EQ(Send(FUSE_SETATTR, file, Bytes(in)).error, 0);
  EXPECT_EQ(Stat("file").st_mode & 07777, 04700u);
  EXPECT_EQ(Stat("file").st_uid, 5u);
}

TEST_F(FileServerTest, AFolderIsReadInParts) {
  std::vector<std::string> names, told = {};
  for (int i = 0; i < 500; ++i) {
    names.push_back(fmt::format("{:0>{}}", i, 3 + i % 40));
    std::ofstream(In(names.back())) << "";
  }
  uint64_t handle = Opened(root_, 0, FUSE_OPENDIR);
  uint64_t offset = 0;
  for (int round = 0; round < 10'000; ++round) {
    Reply reply = Read(handle, offset, 333, FUSE_READDIR);
    ASSERT_EQ(reply.error, 0);
    ASSERT_LE(reply.body.size(), 333u);
    if (reply.body.empty()) break;
    for (size_t at = 0; at < reply.body.size();) {
      fuse_dirent entry{};
      std::memcpy(&entry, reply.body.data() + at, FUSE_NAME_OFFSET);
      std::string name = reply.body.substr(at + FUSE_NAME_OFFSET, entry.namelen);
      if (name[0] != '.') told.push_back(name);
      offset = entry.off;
      at += FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + entry.namelen);
    }
  }
  EXPECT_THAT(told, testing::UnorderedElementsAreArray(names));
  EXPECT_EQ(Read(handle, 0, 1, FUSE_READDIR).body, "");
  EXPECT_EQ(Read(handle, 0, 100).error, EBADF) << "a folder is not read as a file";
}

TEST_F(FileServerTest, WhatItHoldsIsBounded) {
  Restart({{4, 20}, 3});
  size_t before = OwnDescriptors();
  for (int i = 0; i < 40; ++i) std::ofstream(In(std::to_string(i))) << i;
  std::vector<uint64_t> nodes;
  for (int i = 0; i < 19; ++i) nodes.push_back(Lookup(root_, std::to_string(i)).nodeid);
  EXPECT_EQ(LookupError(root_, "30"), ENFILE);
  EXPECT_LE(OwnDescriptors(), before + 5);
  // Those whose descriptors were closed are the same files still.
  for (size_t i = 0; i < nodes.size(); ++i) {
    uint64_t handle = Opened(nodes[i], O_RDONLY);
    EXPECT_EQ(Read(handle, 0, 9).body, std::to_string(i));
    EXPECT_EQ(Release(handle), 0);
  }
  std::vector<uint64_t> handles;
  for (int i = 0; i < 3; ++i) handles.push_back(Opened(nodes[0], O_RDONLY));
  EXPECT_EQ(Open(nodes[0], O_RDONLY).error, ENFILE);
  EXPECT_EQ(Create("new", 0600).error, ENFILE);
  EXPECT_FALSE(fs::exists(In("new")));
  // Another file of that name is not the one that was told of.
  fs::remove(In("1"));
  std::ofstream(In("1")) << "another";
  for (int i = 0; i < 2; ++i) EXPECT_EQ(Release(handles[static_cast<size_t>(i)]), 0);
  EXPECT_EQ(Open(nodes[1], O_RDONLY).error, ESTALE);
  for (uint64_t node : nodes) Send(FUSE_FORGET, node, Bytes(fuse_forget_in{~uint64_t{0}}));
  EXPECT_EQ(server_->inodes(), 2u) << "the volume, and the file that is open";
  Send(FUSE_FORGET, root_, Bytes(fuse_forget_in{~uint64_t{0}}));
  EXPECT_EQ(LookupError(root_, "30"), 0);
}

TEST_F(FileServerTest, ForgettingWhatIsNotThereDoesNothing) {
  std::string batch = Bytes(fuse_batch_forget_in{1000, 0});
  for (uint64_t i = 0; i < 100; ++i) batch += Bytes(fuse_forget_one{i, ~uint64_t{0}});
  EXPECT_EQ(Send(FUSE_BATCH_FORGET, 0, batch).error, -1) << "no answer, and a count that is not true";
  EXPECT_EQ(Send(FUSE_FORGET, 12345, Bytes(fuse_forget_in{1})).error, -1);
  EXPECT_EQ(Send(FUSE_FORGET, 12345, "").error, -1);
  EXPECT_EQ(Send(FUSE_INTERRUPT, 0, "").error, -1);
  EXPECT_EQ(Lookup(kRootNode, "v").nodeid, root_);
}

TEST_F(FileServerTest, AnotherFolderInAVolumesPlace) {
  std::ofstream(In("old")) << "1";
  uint64_t handle = Opened(Lookup(root_, "old").nodeid, O_RDONLY);
  fs::rename(top_ + "/volume", top_ + "/was");
  fs::create_directory(top_ + "/volume");
  std::ofstream(In("new")) << "22";
  ASSERT_TRUE(server_->AddVolume("v", OpenFolder("/volume"), true));
  uint64_t now = Lookup(kRootNode, "v").nodeid;
  EXPECT_NE(now, root_);
  EXPECT_EQ(Lookup(now, "new").attr.size, 2u);
  EXPECT_EQ(Read(handle, 0, 9).body, "1");
  EXPECT_EQ(Lookup(root_, "old").attr.size, 1u) << "who has the old one keeps it";
}

TEST_F(FileServerTest, OtherOperations) {
  ASSERT_EQ(Create("a", 0600).error, 0);
  uint64_t a = Lookup(root_, "a").nodeid, handle = Opened(a, O_RDWR);
  fuse_fallocate_in allocate{};
  allocate.fh = handle;
  allocate.length = 1 << 20;
  EXPECT_EQ(Send(FUSE_FALLOCATE, a, Bytes(allocate)).error, 0);
  EXPECT_EQ(Stat("a").st_size, 1 << 20);
  fuse_lseek_in seek{};
  seek.fh = handle;
  seek.whence = SEEK_DATA;
  int found = Send(FUSE_LSEEK, a, Bytes(seek)).error;
  EXPECT_TRUE(found == 0 || found == ENXIO) << found;
  seek.whence = SEEK_SET;
  EXPECT_EQ(Send(FUSE_LSEEK, a, Bytes(seek)).error, EINVAL);
  EXPECT_EQ(Send(FUSE_FLUSH, a, Bytes(fuse_flush_in{handle, 0, 0, 0})).error, 0);
  EXPECT_GT(Send(FUSE_STATFS, root_, "").As<fuse_statfs_out>().st.blocks, 0u);
  EXPECT_EQ(Send(FUSE_RENAME, root_, Bytes(fuse_rename_in{root_}) + Zero("a") + Zero("b")).error, 0);
  EXPECT_EQ(Lookup(root_, "b").nodeid, a);
  EXPECT_EQ(Create("a", 0600).error, 0);
  EXPECT_EQ(Send(FUSE_RENAME2, root_, Bytes(fuse_rename2_in{root_, RENAME_NOREPLACE, 0}) + Zero("a") + Zero("b")).error, EEXIST);
  EXPECT_EQ(Send(FUSE_RENAME2, root_, Bytes(fuse_rename2_in{root_, RENAME_EXCHANGE, 0}) + Zero("a") + Zero("b")).error, 0);
  EXPECT_EQ(Lookup(root_, "a").nodeid, a);
  EXPECT_EQ(Send(FUSE_LINK, root_, Bytes(fuse_link_in{a}) + Zero("hard")).As<fuse_entry_out>().attr.nlink, 2u);
  for (const char* name : {"a", "b", "hard"}) EXPECT_EQ(Send(FUSE_UNLINK, root_, Zero(name)).error, 0) << name;
  EXPECT_EQ(Read(handle, 0, 1).body.size(), 1u) << "open, though without a name";
  fuse_getattr_in by_handle{FUSE_GETATTR_FH, 0, handle};
  EXPECT_EQ(Send(FUSE_GETATTR, a, Bytes(by_handle)).As<fuse_attr_out>().attr.nlink, 0u);
  for (uint32_t opcode : {uint32_t{FUSE_IOCTL}, uint32_t{FUSE_POLL}, uint32_t{FUSE_SETLK}, uint32_t{FUSE_TMPFILE}, uint32_t{FUSE_READDIRPLUS},
                          uint32_t{FUSE_COPY_FILE_RANGE}, 9999u}) {
    EXPECT_EQ(Send(opcode, a, std::string(100, '\0')).error, ENOSYS) << opcode;
  }
}

// Any bytes in any operation: an answer that has the right form, and nothing outside the volume touched.
TEST_F(FileServerTest, NonsenseIsAnswered) {
  std::mt19937 random(1);
  for (int i = 0; i < 20'000; ++i) {
    std::string body(random() % 120, '\0');
    for (char& c : body) c = random() % 3 == 0 ? '\0' : static_cast<char>(random() % 4 == 0 ? random() : '.' + random() % 2);
    uint64_t node = random() % 4 == 0 ? random() : random() % 8;
    Send(random() % 60, node, body, random() % 3, random() % 3);
  }
  EXPECT_EQ(Content(top_ + "/secret"), "secret");
  for (const auto& entry : fs::directory_iterator(top_)) EXPECT_THAT((std::vector<std::string>{"volume", "secret"}), Contains(entry.path().filename().string()));
  EXPECT_LE(server_->open_files(), 4096u);
  EXPECT_EQ(Lookup(kRootNode, "v").nodeid, root_);
}

}  // namespace
}  // namespace caisson::files
