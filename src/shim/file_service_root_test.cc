// SPDX-License-Identifier: Apache-2.0
// FileService with the real server, and this test in the place of the guest and of its agent.
#include "shim/file_service.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include "ttrpc/server.h"

namespace caisson::shim {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr char kProgram[] = CAISSON_BINARY_DIR "/bin/containerd-shim-caisson-v2";
constexpr int64_t kMillis = 30'000;

template <class T>
std::string Bytes(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

class FileServiceTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root: the server is confined by namespaces";
    char name[] = "/tmp/caisson-share-XXXXXX";
    top_ = mkdtemp(name);
    fs::create_directory(top_ + "/folder");
    std::ofstream(top_ + "/folder/file") << "content";
    loop_ = std::move(*sys::EventLoop::Create());
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    agent_ = ttrpc::Server::Create(loop_.get());
    agent_->Handle("caisson.guest.v1.Guest", "ShareFolders", [this](std::string_view, ttrpc::Reply reply) {
      ++shared_;
      if (fails_) return reply(MakeError(Code::kNotFound, "no /dev/fuse"));
      reply(std::string());
    });
    ASSERT_TRUE(agent_->Serve(UniqueFd(ends[0])));
    client_.Connect(*ttrpc::Client::Create(loop_.get(), UniqueFd(ends[1])));
    Make(kProgram, {});
  }
  void TearDown() override {
    service_.reset();
    if (!top_.empty()) fs::remove_all(top_);
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "a process is left";
  }

  void Make(const std::string& program, const std::vector<std::string>& cgroup_procs) {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    guest_ = UniqueFd(ends[0]);
    service_ = std::make_unique<FileService>(loop_.get(), &client_, program);
    service_->SetGuest(UniqueFd(ends[1]), cgroup_procs, [this](const std::string& reason) {
      reason_ = reason;
      loop_->Stop();
    });
  }
  Result<> Put(const std::string& below, bool read_only = false, const std::string& name = "v") {
    std::optional<Result<>> put;
    bool waits = false;  // a loop that is stopped before it runs does not run
    service_->Put({top_ + below, name, VolumeKind::kShared, read_only}, [&](Result<> result) {
      put = std::move(result);
      if (waits) loop_->Stop();
    });
    waits = !put;
    EXPECT_TRUE(!waits || loop_->Run());
    return put ? std::move(*put) : Result<>(MakeError(Code::kInternal, "no answer"));
  }
  Result<> PutConstant(const std::string& below, const std::string& name) {
    UniqueFd tree(static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, (top_ + below).c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
    std::optional<Result<>> put;
    bool waits = false;
    service_->PutConstant(name, std::move(tree), [&](Result<> result) {
      put = std::move(result);
      if (waits) loop_->Stop();
    });
    waits = !put;
    EXPECT_TRUE(!waits || loop_->Run());
    return put ? std::move(*put) : Result<>(MakeError(Code::kInternal, "no answer"));
  }
  // A request and its answer: the error, and what is behind the answer's header.
  std::pair<int, std::string> Ask(uint32_t opcode, uint64_t node, const std::string& body) {
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(sizeof header + body.size());
    header.opcode = opcode;
    header.nodeid = node;
    header.unique = 7;
    std::string request = Bytes(header) + body;
    EXPECT_EQ(write(guest_.get(), request.data(), request.size()), static_cast<ssize_t>(request.size()));
    fuse_out_header out{};
    if (!Receive(&out, sizeof out)) return {-1, ""};
    std::string answer(out.len - sizeof out, '\0');
    if (!answer.empty() && !Receive(answer.data(), answer.size())) return {-1, ""};
    return {-out.error, answer};
  }
  bool Receive(void* to, size_t size) {
    pollfd wait{guest_.get(), POLLIN, 0};
    return poll(&wait, 1, kMillis) == 1 && recv(guest_.get(), to, size, MSG_WAITALL) == static_cast<ssize_t>(size);
  }
  uint64_t Node(uint64_t parent, const std::string& name) {
    auto [error, answer] = Ask(FUSE_LOOKUP, parent, name + '\0');
    EXPECT_EQ(error, 0) << name;
    fuse_entry_out entry{};
    if (answer.size() >= sizeof entry) std::memcpy(&entry, answer.data(), sizeof entry);
    return entry.nodeid;
  }
  int CreateError(uint64_t folder, const std::string& name) { return Ask(FUSE_CREATE, folder, Bytes(fuse_create_in{O_RDWR, 0600, 0, 0}) + name + '\0').first; }
  std::string ReadAll(uint64_t node) {
    auto [error, answer] = Ask(FUSE_OPEN, node, Bytes(fuse_open_in{O_RDONLY, 0}));
    EXPECT_EQ(error, 0);
    fuse_open_out open{};
    std::memcpy(&open, answer.data(), std::min(answer.size(), sizeof open));
    fuse_read_in in{};
    in.fh = open.fh;
    in.size = 4096;
    return Ask(FUSE_READ, node, Bytes(in)).second;
  }

  std::string top_, reason_;
  std::unique_ptr<sys::EventLoop> loop_;
  GuestClient client_;
  std::unique_ptr<ttrpc::Server> agent_;
  int shared_ = 0;
  bool fails_ = false;
  UniqueFd guest_;
  std::unique_ptr<FileService> service_;
};

TEST_F(FileServiceTest, ARootIsServedReadOnlyUntilItIsRemoved) {
  ASSERT_TRUE(PutConstant("/folder", "root1"));
  ASSERT_TRUE(Put("/folder"));
  uint64_t root = Node(FUSE_ROOT_ID, "root1"), file = Node(root, "file");
  EXPECT_EQ(ReadAll(file), "content");
  EXPECT_EQ(CreateError(root, "new"), EROFS);
  int pid = service_->pid();
  service_->Remove("root1");
  // The server looks for messages when it has answered.
  EXPECT_EQ(ReadAll(Node(Node(FUSE_ROOT_ID, "v"), "file")), "content");
  EXPECT_EQ(Ask(FUSE_LOOKUP, FUSE_ROOT_ID, std::string("root1") + '\0').first, ENOENT);
  EXPECT_EQ(Ask(FUSE_OPEN, file, Bytes(fuse_open_in{O_RDONLY, 0})).first, ESTALE);
  service_->Remove("root1");
  EXPECT_EQ(service_->pid(), pid);
}

TEST_F(FileServiceTest, ServesTheFolderAndNothingElse) {
  EXPECT_EQ(service_->pid(), 0) << "no volume, no process";
  ASSERT_TRUE(Put("/folder", true));
  EXPECT_EQ(shared_, 1);
  fs::directory_iterator root("/proc/" + std::to_string(service_->pid()) + "/root");
  EXPECT_EQ(begin(root), end(root));
  uint64_t folder = Node(FUSE_ROOT_ID, "v");
  EXPECT_EQ(ReadAll(Node(folder, "file")), "content");
  EXPECT_EQ(CreateError(folder, "new"), EROFS);
  // A second container may write it; the process is the same.
  int pid = service_->pid();
  ASSERT_TRUE(Put("/folder", false));
  EXPECT_EQ(CreateError(folder, "new"), 0);
  EXPECT_TRUE(fs::exists(top_ + "/folder/new"));
  ASSERT_TRUE(Put("/folder", true));
  EXPECT_EQ(CreateError(folder, "more"), 0) << "as long as one may";
  EXPECT_EQ(service_->pid(), pid);
  service_->End();
  EXPECT_EQ(kill(pid, 0), -1);
  EXPECT_EQ(reason_, "");
  EXPECT_FALSE(Put("/folder")) << "after the end";
}

TEST_F(FileServiceTest, WhatIsMountedBelowIsThereAndDevicesAreNot) {
  fs::create_directory(top_ + "/folder/below");
  ASSERT_EQ(mount("none", (top_ + "/folder/below").c_str(), "tmpfs", 0, ""), 0);
  std::ofstream(top_ + "/folder/below/deep") << "deep";
  EXPECT_TRUE(Put("/folder"));
  // The host lets go of it; the guest has it still.
  ASSERT_EQ(umount2((top_ + "/folder/below").c_str(), 0), 0);
  uint64_t folder = Node(FUSE_ROOT_ID, "v");
  EXPECT_EQ(ReadAll(Node(Node(folder, "below"), "deep")), "deep");
}

TEST_F(FileServiceTest, AFolderThatHasTakenThePlaceOfAnother) {
  ASSERT_TRUE(Put("/folder"));
  uint64_t before = Node(FUSE_ROOT_ID, "v");
  fs::rename(top_ + "/folder", top_ + "/was");
  fs::create_directory(top_ + "/folder");
  ASSERT_TRUE(Put("/folder"));
  EXPECT_NE(Node(FUSE_ROOT_ID, "v"), before);
  EXPECT_EQ(ReadAll(Node(before, "file")), "content");
}

TEST_F(FileServiceTest, ItsDeathIsTold) {
  ASSERT_TRUE(Put("/folder"));
  ASSERT_EQ(kill(service_->pid(), SIGKILL), 0);
  ASSERT_TRUE(loop_->Run());
  EXPECT_THAT(reason_, HasSubstr("shared folders ended: killed by signal 9"));
  EXPECT_EQ(service_->pid(), 0);
  EXPECT_FALSE(Put("/folder"));
}

TEST_F(FileServiceTest, AGuestThatTalksNonsenseEndsItWithAReason) {
  ASSERT_TRUE(Put("/folder"));
  std::string nonsense(100, '\xff');
  ASSERT_EQ(write(guest_.get(), nonsense.data(), nonsense.size()), 100);
  ASSERT_TRUE(loop_->Run());
  EXPECT_THAT(reason_, HasSubstr("a request of 4294967295 bytes"));
}

TEST_F(FileServiceTest, TheVmmsEndIsNotItsOwn) {
  ASSERT_TRUE(Put("/folder"));
  int pid = service_->pid();
  guest_.Reset();
  ASSERT_TRUE(Put("/folder", false, "w"));  // it lives, and listens to us
  EXPECT_EQ(service_->pid(), pid);
  EXPECT_EQ(reason_, "");
}

TEST_F(FileServiceTest, WhatCannotBeSharedIsNamed) {
  EXPECT_THAT(Put("/nowhere").error().message, HasSubstr("/nowhere"));
  EXPECT_THAT(Put("/folder/file").error().message, HasSubstr("is no folder"));
  fails_ = true;
  EXPECT_THAT(Put("/folder").error().message, HasSubstr("no /dev/fuse"));
  fails_ = false;
  EXPECT_TRUE(Put("/folder"));
}

TEST_F(FileServiceTest, AStartThatFailsLeavesNothing) {
  Make("/nonexistent", {});
  EXPECT_THAT(Put("/folder").error().message, HasSubstr("start the server of shared folders"));
  EXPECT_EQ(service_->pid(), 0);
  Make("/bin/true", {});
  EXPECT_FALSE(Put("/folder"));
  Make(kProgram, {"/nonexistent/cgroup.procs"});
  EXPECT_FALSE(Put("/folder"));
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  Make(kProgram, {});
  EXPECT_TRUE(Put("/folder"));
}

}  // namespace
}  // namespace caisson::shim
