// SPDX-License-Identifier: Apache-2.0
// Real namespaces, real plugins (bridge, host-local, portmap) on a bridge and a lease folder of the test's own.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <thread>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "net/cni.h"
#include "net/netns.h"
#include "net/plugin.h"
#include "sys/netlink.h"

namespace caisson::net {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Output of a shell script. It is the script's stdin, so nothing is quoted.
std::string CaptureOf(const std::string& script) {
  const char* path = getenv("PATH");
  auto output = RunPlugin("/bin/sh", {fmt::format("PATH={}", path ? path : "/usr/sbin:/usr/bin:/sbin:/bin")}, script,
                          Deadline::After(30'000));
  EXPECT_TRUE(output) << output.error().message;
  return output ? output->out : std::string();
}

// Runs `work` on a thread inside the namespace.
void In(const std::string& netns, const std::function<void()>& work) {
  std::thread([&] {
    UniqueFd fd(open(netns.c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(fd);
    ASSERT_EQ(setns(fd.get(), CLONE_NEWNET), 0);
    work();
  }).join();
}

class NetRootTest : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "network namespaces need root";
    char name[] = "/tmp/caisson-net-XXXXXX";
    dir_ = mkdtemp(name);
  }
  void TearDown() override {
    if (dir_.empty()) return;
    for (const char* pod : {"a", "b"}) EXPECT_TRUE(RemoveNetns(Netns(pod)));
    if (!bridge_.empty()) CaptureOf("ip link del " + bridge_ + " 2>&1");
    std::filesystem::remove_all(dir_);
  }
  std::string Netns(const std::string& pod) { return dir_ + "/netns/" + pod; }

  std::string dir_, bridge_;
};

TEST_F(NetRootTest, ANamespaceHasLoopbackUpAndNothingElse) {
  struct stat before, after;
  ASSERT_EQ(stat("/proc/thread-self/ns/net", &before), 0);
  ASSERT_TRUE(CreateNetns(Netns("a")));
  EXPECT_TRUE(IsNetns(Netns("a")));
  EXPECT_FALSE(IsNetns("/proc/self/ns/mnt"));
  EXPECT_FALSE(IsNetns("/etc/passwd"));
  ASSERT_EQ(stat("/proc/thread-self/ns/net", &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
  In(Netns("a"), [] {
    auto socket = sys::RouteSocket::Open();
    ASSERT_TRUE(socket);
    auto links = socket->Links(10);
    ASSERT_TRUE(links);
    ASSERT_EQ(links->size(), 1u);
    EXPECT_TRUE(links->front().flags & IFF_UP);
  });
  EXPECT_TRUE(ReadInterfaceStats({Netns("a")}).front()->empty());
  auto again = CreateNetns(Netns("a"));
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, Code::kAlreadyExists);
  EXPECT_TRUE(IsNetns(Netns("a")));
  ASSERT_TRUE(RemoveNetns(Netns("a")));
  EXPECT_FALSE(std::filesystem::exists(Netns("a")));
  EXPECT_TRUE(RemoveNetns(Netns("a")));
  EXPECT_FALSE(ReadInterfaceStats({Netns("a")}).front());
}

TEST_F(NetRootTest, ALeftoverFileIsTakenOver) {
  std::filesystem::create_directories(dir_ + "/netns");
  std::ofstream(Netns("a")).flush();
  EXPECT_TRUE(CreateNetns(Netns("a")));
  EXPECT_TRUE(IsNetns(Netns("a")));
}

TEST_F(NetRootTest, AFailureLeavesNothing) {
  std::filesystem::create_directories(dir_ + "/netns");
  std::ofstream(dir_ + "/netns/file").flush();
  auto made = CreateNetns(dir_ + "/netns/file/a");
  EXPECT_FALSE(made);
  std::filesystem::create_directories(Netns("a"));
  EXPECT_FALSE(CreateNetns(Netns("a")));
  EXPECT_TRUE(std::filesystem::is_directory(Netns("a")));
  std::filesystem::remove(Netns("a"));
}

TEST_F(NetRootTest, ParallelNamespacesAreDistinct) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] { EXPECT_TRUE(CreateNetns(Netns("p" + std::to_string(i)))); });
  }
  for (auto& thread : threads) thread.join();
  std::set<ino_t> inodes;
  for (int i = 0; i < 8; ++i) {
    struct stat status;
    EXPECT_EQ(stat(Netns("p" + std::to_string(i)).c_str(), &status), 0);
    inodes.insert(status.st_ino);
    EXPECT_TRUE(RemoveNetns(Netns("p" + std::to_string(i))));
  }
  EXPECT_EQ(inodes.size(), 8u);
}

class BridgeTest : public NetRootTest {
 protected:
  void SetUp() override {
    NetRootTest::SetUp();
    if (IsSkipped()) return;
    for (const char* plugin : {"bridge", "host-local", "portmap"}) {
      if (access((std::string("/usr/lib/cni/") + plugin).c_str(), X_OK) != 0) {
        GTEST_SKIP() << "/usr/lib/cni has no plugin '" << plugin << "' (containernetworking-plugins)";
      }
    }
    // A bridge and subnets that no other test run on this host uses at the same time.
    int slot = getpid() % 250 + 1;
    bridge_ = "csnF" + std::to_string(getpid() % 100000);
    subnet_ = fmt::format("10.213.{}.", slot);
    subnet6_ = fmt::format("fd5c:{:x}::", slot);
    host_port_ = 20000 + getpid() % 10000;
    std::filesystem::create_directory(dir_ + "/conf");
    Configure(true);
    Options options;
    options.conf_dir = dir_ + "/conf";
    options.bin_dirs = {"/usr/lib/cni"};
    auto cni = Cni::Create(options);
    ASSERT_TRUE(cni) << cni.error().message;
    cni_ = std::move(*cni);
    for (const char* pod : {"a", "b"}) ASSERT_TRUE(CreateNetns(Netns(pod)));
  }

  void Configure(bool masquerade) {
    std::ofstream(dir_ + "/conf/10.conflist") << fmt::format(
        R"({{"cniVersion": "1.0.0", "name": "{0}", "plugins": [
          {{"type": "bridge", "bridge": "{0}", "isGateway": true, "ipMasq": {4}, "hairpinMode": true,
            "ipam": {{"type": "host-local", "dataDir": "{1}/leases", "routes": [{{"dst": "0.0.0.0/0"}}],
                      "ranges": [[{{"subnet": "{2}0/24"}}], [{{"subnet": "{3}/64"}}]]}}}},
          {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}})",
        bridge_, dir_, subnet_, subnet6_, masquerade);
  }

  Attachment For(const std::string& pod) {
    Attachment attachment;
    attachment.container_id = fmt::format("csnF-{}-{}", getpid(), pod);
    attachment.netns_path = Netns(pod);
    return attachment;
  }
  size_t Leases() {
    size_t leases = 0;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(dir_ + "/leases/" + bridge_, error)) {
      leases +=
          entry.path().filename().string().starts_with(subnet_) || entry.path().filename().string().starts_with("fd5c");
    }
    return leases;
  }
  // Anything on the host that names the pod or an address of ours.
  std::string Traces(const std::string& pod) {
    return CaptureOf(
        fmt::format("(iptables-save; ip6tables-save) 2>/dev/null | grep -e {} -e {}; "
                    "ip -o link show master {} 2>/dev/null",
                    For(pod).container_id, subnet_, bridge_));
  }

  std::string subnet_, subnet6_;
  int host_port_ = 0;
  std::unique_ptr<Cni> cni_;
};

// A listener in one namespace answers one connection from another.
void ExpectTcp(const std::string& server, const std::string& client, const std::string& ip, int port, int server_port) {
  UniqueFd listener;
  In(server, [&] {
    listener.Reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in any = {};
    any.sin_family = AF_INET;
    any.sin_port = htons(static_cast<uint16_t>(server_port));
    ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&any), sizeof any), 0) << strerror(errno);
    ASSERT_EQ(listen(listener.get(), 1), 0);
  });
  In(client, [&] {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    timeval patience = {10, 0};
    setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    inet_pton(AF_INET, ip.c_str(), &to.sin_addr);
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), 0) << ip << ": " << strerror(errno);
  });
}

TEST_F(BridgeTest, TwoPodsTalkAndNothingStays) {
  auto a = cni_->Add(For("a"));
  ASSERT_TRUE(a) << a.error().message;
  Attachment with_port = For("b");
  with_port.port_mappings = {{"tcp", host_port_, 8080, ""}};
  auto b = cni_->Add(with_port);
  ASSERT_TRUE(b) << b.error().message;
  ASSERT_EQ(a->ips.size(), 2u);
  EXPECT_THAT(a->ips[0], testing::StartsWith(subnet_));
  EXPECT_THAT(a->ips[1], testing::StartsWith("fd5c:"));
  EXPECT_EQ(a->mac.size(), 17u);
  EXPECT_EQ(Leases(), 4u);
  ExpectTcp(Netns("b"), Netns("a"), b->ips[0], 8080, 8080);
  // Through the host port: from the other pod to the bridge's own address.
  ExpectTcp(Netns("b"), Netns("a"), subnet_ + "1", host_port_, 8080);
  auto stats = ReadInterfaceStats({Netns("a")}).front();
  ASSERT_TRUE(stats) << stats.error().message;
  ASSERT_EQ(stats->size(), 1u);
  EXPECT_EQ(stats->front().name, "eth0");
  EXPECT_GT(stats->front().tx_bytes, 0u);
  EXPECT_TRUE(cni_->Check(For("a"), *a)) << cni_->Check(For("a"), *a).error().message;
  EXPECT_NE(Traces("b"), "");

  EXPECT_TRUE(cni_->Del(with_port, *b));
  EXPECT_TRUE(cni_->Del(with_port, *b));  // already gone
  EXPECT_TRUE(cni_->Del(For("a"), *a));
  EXPECT_EQ(Leases(), 0u);
  EXPECT_EQ(Traces("a"), "");
  EXPECT_EQ(Traces("b"), "");
  EXPECT_FALSE(cni_->Check(For("a"), *a));
}

// Without masquerade: bridge 1.1.1 finds the addresses whose rules it removes in the namespace, not in prevResult, so
// that no runtime can make it remove them when the namespace is gone. (After a reboot there are none.)
TEST_F(BridgeTest, DelAfterTheNamespaceIsGone) {
  Configure(false);
  auto a = cni_->Add(For("a"));
  Attachment rebooted = For("b");
  rebooted.port_mappings = {{"tcp", host_port_, 8080, ""}};
  auto b = cni_->Add(rebooted);
  ASSERT_TRUE(a && b);
  ASSERT_TRUE(RemoveNetns(Netns("a")));
  ASSERT_TRUE(RemoveNetns(Netns("b")));
  EXPECT_TRUE(cni_->Del(For("a"), *a));  // deleted underneath: the path is stale
  rebooted.netns_path.clear();
  EXPECT_TRUE(cni_->Del(rebooted, *b));
  EXPECT_EQ(Leases(), 0u);
  // The kernel takes a namespace apart, and its veths with it, in the background.
  Deadline patience = Deadline::After(20'000);
  while (Traces("a") != "" && !patience.Passed()) std::this_thread::yield();
  EXPECT_EQ(Traces("a"), "");
  EXPECT_EQ(Traces("b"), "");
}

TEST_F(BridgeTest, AFailureOfTheLastPluginReleasesTheAddress) {
  std::filesystem::create_directory(dir_ + "/bin");
  std::ofstream(dir_ + "/bin/broken") << "#!/bin/sh\n[ $CNI_COMMAND = DEL ] && exit 0\n"
                                         "echo '{\"code\": 999, \"msg\": \"broken on purpose\"}'\nexit 1\n";
  chmod((dir_ + "/bin/broken").c_str(), 0755);
  std::ofstream(dir_ + "/conf/00.conflist") << fmt::format(
      R"({{"cniVersion": "0.4.0", "name": "{0}", "plugins": [{{"type": "bridge", "bridge": "{0}", "ipMasq": true,
          "isGateway": true,
          "ipam": {{"type": "host-local", "dataDir": "{1}/leases", "subnet": "{2}0/24"}}}}, {{"type": "broken"}}]}})",
      bridge_, dir_, subnet_);
  Options options;
  options.conf_dir = dir_ + "/conf";
  options.bin_dirs = {"/usr/lib/cni", dir_ + "/bin"};
  auto cni = Cni::Create(options);
  ASSERT_TRUE(cni);
  auto added = (*cni)->Add(For("a"));
  ASSERT_FALSE(added);
  EXPECT_THAT(added.error().message, HasSubstr("broken on purpose (code 999)"));
  EXPECT_EQ(Leases(), 0u);
  EXPECT_EQ(Traces("a"), "");
  EXPECT_TRUE(ReadInterfaceStats({Netns("a")}).front()->empty());
}

TEST_F(BridgeTest, AnAddIntoNoNamespaceFailsAndLeavesNothing) {
  ASSERT_TRUE(RemoveNetns(Netns("a")));
  auto added = cni_->Add(For("a"));
  ASSERT_FALSE(added);
  EXPECT_THAT(added.error().message, HasSubstr("CNI plugin 'bridge' (ADD of network"));
  EXPECT_EQ(Leases(), 0u);
  EXPECT_EQ(Traces("a"), "");
}

}  // namespace
}  // namespace caisson::net
