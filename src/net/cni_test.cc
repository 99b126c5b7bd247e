// SPDX-License-Identifier: Apache-2.0
// Plugins here are shell scripts in a folder of the test's own: real processes, no root.
#include "net/cni.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/json.h"
#include "base/strings.h"
#include "base/unique_fd.h"

namespace caisson::net {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr char kResult[] = R"({"cniVersion":"1.0.0","ips":[{"address":"10.9.8.7/24"}]})";

class CniTest : public testing::Test {
 protected:
  CniTest() {
    char name[] = "/tmp/caisson-cni-XXXXXX";
    dir_ = mkdtemp(name);
    for (const char* sub : {"/conf", "/bin", "/seen"}) std::filesystem::create_directory(dir_ + sub);
    options_.conf_dir = dir_ + "/conf";
    options_.bin_dirs = {dir_ + "/none", dir_ + "/bin"};
    attachment_.container_id = "pod1";
    attachment_.netns_path = "/run/netns/x";
    attachment_.args = {{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "p"}};
  }
  ~CniTest() override { std::filesystem::remove_all(dir_); }

  void Write(const std::string& name, const std::string& text) { std::ofstream(dir_ + "/" + name) << text; }
  std::string Read(const std::string& name) {
    std::ifstream file(dir_ + "/" + name);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  // A plugin that notes its call in seen/calls, its stdin in seen/<type>.<command>, and then runs `body`.
  void Plugin(const std::string& type, const std::string& body) {
    std::string path = "bin/" + type;
    Write(path, fmt::format("#!/bin/sh\nseen={}/seen\necho {} $CNI_COMMAND >> $seen/calls\n"
                            "cat > $seen/{}.$CNI_COMMAND\n{}\n",
                            dir_, type, type, body));
    ASSERT_EQ(chmod((dir_ + "/" + path).c_str(), 0755), 0);
  }
  void List(const std::string& version, const std::string& plugins, const std::string& more = "") {
    Write("conf/10-x.conflist",
          fmt::format(R"({{"cniVersion": "{}", "name": "net", {} "plugins": {}}})", version, more, plugins));
  }
  void Start() {
    auto cni = Cni::Create(options_);
    ASSERT_TRUE(cni) << cni.error().message;
    cni_ = std::move(*cni);
  }
  Json Input(const std::string& name) {
    auto json = ParseJson(Read("seen/" + name));
    EXPECT_TRUE(json) << name << ": " << json.error().message;
    return json ? *json : Json();
  }
  std::vector<std::string> Calls() {
    std::vector<std::string> lines;
    std::string text = Read("seen/calls");
    for (std::string_view line : Split(text, '\n')) {
      if (!line.empty()) lines.emplace_back(line);
    }
    return lines;
  }
  std::string Answer(const std::string& text) { return "echo '" + text + "'"; }

  std::string dir_;
  Options options_;
  Attachment attachment_;
  std::unique_ptr<Cni> cni_;
};

TEST_F(CniTest, ChainPassesResultsOn) {
  Plugin("first", Answer(kResult));
  Plugin("second", Answer(R"({"cniVersion":"1.0.0","ips":[{"address":"10.9.8.7/24"},{"address":"fd00::7/64"}]})"));
  List("1.0.0", R"([{"type": "first", "mtu": 1400}, {"type": "second", "capabilities": {"portMappings": false}}])");
  Start();
  auto added = cni_->Add(attachment_);
  ASSERT_TRUE(added) << added.error().message;
  EXPECT_THAT(added->ips, ElementsAre("10.9.8.7", "fd00::7"));
  EXPECT_THAT(Calls(), ElementsAre("first ADD", "second ADD"));
  Json first = Input("first.ADD"), second = Input("second.ADD");
  EXPECT_EQ(first["name"], "net");
  EXPECT_EQ(first["cniVersion"], "1.0.0");
  EXPECT_EQ(first["mtu"], 1400);
  EXPECT_FALSE(first.contains("prevResult"));
  EXPECT_EQ(second["prevResult"]["ips"][0]["address"], "10.9.8.7/24");
  EXPECT_FALSE(second.contains("capabilities"));

  ASSERT_TRUE(cni_->Check(attachment_, *added));
  EXPECT_EQ(Input("first.CHECK")["prevResult"]["ips"].size(), 2u);
  ASSERT_TRUE(cni_->Del(attachment_, *added));
  EXPECT_EQ(Input("second.DEL")["prevResult"]["ips"].size(), 2u);
  EXPECT_THAT(Calls(),
              ElementsAre("first ADD", "second ADD", "first CHECK", "second CHECK", "second DEL", "first DEL"));
}

TEST_F(CniTest, TheEnvironmentIsTheSpecsAndNothingElse) {
  setenv("CAISSON_TEST_SECRET", "x", 1);
  UniqueFd leaked(open("/dev/null", O_RDONLY));  // without O_CLOEXEC
  Plugin("p", "env > $seen/env; ls -l /proc/$$/fd > $seen/fds; " + Answer(kResult));
  List("1.0.0", R"([{"type": "p"}])");
  Start();
  ASSERT_TRUE(cni_->Add(attachment_));
  std::string env = Read("seen/env"), fds = Read("seen/fds");
  EXPECT_THAT(env, HasSubstr("CNI_COMMAND=ADD\n"));
  EXPECT_THAT(env, HasSubstr("CNI_CONTAINERID=pod1\n"));
  EXPECT_THAT(env, HasSubstr("CNI_NETNS=/run/netns/x\n"));
  EXPECT_THAT(env, HasSubstr("CNI_IFNAME=eth0\n"));
  EXPECT_THAT(env, HasSubstr("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=p\n"));
  EXPECT_THAT(env, HasSubstr("CNI_PATH=" + dir_ + "/none:" + dir_ + "/bin\n"));
  EXPECT_THAT(env, HasSubstr("PATH="));
  EXPECT_THAT(env, Not(HasSubstr("CAISSON_TEST_SECRET")));
  EXPECT_THAT(fds, Not(HasSubstr("/dev/null"))) << fds;
}

TEST_F(CniTest, CapabilitiesGoOnlyWhereDeclared) {
  Plugin("plain", Answer(kResult));
  Plugin("able", Answer(kResult));
  List("1.0.0", R"([{"type": "plain"}, {"type": "able", "capabilities": {"portMappings": true, "bandwidth": true,
      "dns": true, "ipRanges": true, "ips": true, "mac": true, "aliases": true, "unheardOf": true}}])");
  attachment_.port_mappings = {{"tcp", 8080, 80, "127.0.0.1"}, {"udp", 53, 53, ""}};
  attachment_.bandwidth_json = R"({"ingressRate": 1000})";
  attachment_.dns_servers = {"10.0.0.10"};
  attachment_.ip_ranges = {"10.1.0.0/24", "fd00::/64"};
  attachment_.ips = {"10.1.0.9/24"};
  attachment_.mac = "02:00:00:00:00:01";
  attachment_.aliases = {"web"};
  Start();
  auto added = cni_->Add(attachment_);
  ASSERT_TRUE(added) << added.error().message;
  EXPECT_FALSE(Input("plain.ADD").contains("runtimeConfig"));
  auto expected = ParseJson(R"({"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"},
        {"hostPort": 53, "containerPort": 53, "protocol": "udp"}],
      "bandwidth": {"ingressRate": 1000}, "dns": {"servers": ["10.0.0.10"]},
      "ipRanges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]], "ips": ["10.1.0.9/24"],
      "mac": "02:00:00:00:00:01", "aliases": ["web"]})");
  EXPECT_EQ(Input("able.ADD")["runtimeConfig"], *expected);
  ASSERT_TRUE(cni_->Del(attachment_, *added));
  EXPECT_EQ(Input("able.DEL")["runtimeConfig"], *expected);
}

TEST_F(CniTest, AFailureIsThePluginsAndUndoesAll) {
  Plugin("first", Answer(kResult));
  Plugin(
      "bad",
      R"([ $CNI_COMMAND = DEL ] && exit 0; echo '{"code": 11, "msg": "no lease", "details": "pool empty"}'; exit 1)");
  Plugin("never", "true");
  List("1.0.0", R"([{"type": "first"}, {"type": "bad"}, {"type": "never"}])");
  Start();
  auto added = cni_->Add(attachment_);
  ASSERT_FALSE(added);
  EXPECT_EQ(added.error().message, "CNI plugin 'bad' (ADD of network 'net'): no lease; pool empty (code 11)");
  EXPECT_EQ(added.error().code, Code::kUnavailable);
  EXPECT_THAT(Calls(), ElementsAre("first ADD", "bad ADD", "never DEL", "bad DEL", "first DEL"));
}

TEST_F(CniTest, AFailureWithoutAnErrorObject) {
  Plugin("p", "echo 'oh\nno' >&2; echo garbage; exit 3");
  List("1.0.0", R"([{"type": "p"}])");
  Start();
  auto added = cni_->Add(attachment_);
  ASSERT_FALSE(added);
  EXPECT_THAT(added.error().message, HasSubstr("exit code 3 without a CNI error: oh no"));
  Plugin("p", "kill -SEGV $$");
  EXPECT_THAT(cni_->Add(attachment_).error().message, HasSubstr("killed by signal 11"));
}

TEST_F(CniTest, GarbageAndTooMuch) {
  Plugin("p", "[ $CNI_COMMAND = DEL ] || echo '{\"ips\": [{\"address\": \"nonsense\"}]}'");
  List("1.0.0", R"([{"type": "p"}])");
  Start();
  EXPECT_THAT(cni_->Add(attachment_).error().message,
              HasSubstr("result of CNI plugin 'p' (ADD of network 'net'): ips[0].address"));
  Plugin("p", "[ $CNI_COMMAND = DEL ] || true");
  EXPECT_THAT(cni_->Add(attachment_).error().message, HasSubstr("bad JSON"));
  Plugin("p", "[ $CNI_COMMAND = DEL ] || exec cat /dev/zero");
  EXPECT_THAT(cni_->Add(attachment_).error().message, HasSubstr("wrote more than 1048576 bytes and was killed"));
  Plugin("p", "head -c 3000000 /dev/zero >&2; " + Answer(kResult));
  EXPECT_TRUE(cni_->Add(attachment_));
}

TEST_F(CniTest, AHangingPluginAndItsChildrenDieAtTheDeadline) {
  Plugin("p", "[ $CNI_COMMAND = DEL ] && exit 0; sleep 1000 & echo $$ $! > $seen/pids; wait");
  List("1.0.0", R"([{"type": "p"}])");
  options_.add_deadline_millis = 1000;
  Start();
  auto added = cni_->Add(attachment_);
  ASSERT_FALSE(added);
  EXPECT_EQ(added.error().code, Code::kDeadlineExceeded);
  EXPECT_THAT(added.error().message, HasSubstr("did not end in time and was killed"));
  std::istringstream pids(Read("seen/pids"));
  int leader = 0, child = 0;
  ASSERT_TRUE(pids >> leader >> child);
  EXPECT_NE(kill(leader, 0), 0);
  // Killed with its group; it may still be a zombie until someone reaps it.
  std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
  std::string field;
  if (stat >> field >> field >> field) {
    EXPECT_EQ(field, "Z");
  }
}

TEST_F(CniTest, AChildThatKeepsStdoutOpenIsNotWaitedFor) {
  Plugin("p", "sleep 30 & echo $! > $seen/pid; " + Answer(kResult));
  List("1.0.0", R"([{"type": "p"}])");
  options_.add_deadline_millis = 20'000;
  Start();
  EXPECT_TRUE(cni_->Add(attachment_));
  kill(std::stoi(Read("seen/pid")), SIGKILL);
}

TEST_F(CniTest, DelGoesOnAfterAFailureAndForgivesWhatIsGone) {
  Plugin("first", "true");
  Plugin("bad", R"(echo '{"code": 100, "msg": "busy"}'; exit 1)");
  Plugin("gone", R"(echo '{"code": 3, "msg": "unknown"}'; exit 1)");
  List("0.4.0", R"([{"type": "first"}, {"type": "bad"}, {"type": "gone"}])");
  Start();
  auto deleted = cni_->Del(attachment_, {});
  ASSERT_FALSE(deleted);
  EXPECT_EQ(deleted.error().message, "CNI plugin 'bad' (DEL of network 'net'): busy (code 100)");
  EXPECT_THAT(Calls(), ElementsAre("gone DEL", "bad DEL", "first DEL"));
}

TEST_F(CniTest, DelUsesTheRecordedConfigurationAndKillsWhatHangs) {
  Plugin("first", Answer(kResult));
  Plugin("hangs", "[ $CNI_COMMAND = ADD ] || sleep 1000; " + Answer(kResult));
  List("0.3.1", R"([{"type": "first", "x": "old"}, {"type": "hangs"}])");
  options_.del_deadline_millis = 2000;
  Start();
  auto added = cni_->Add(attachment_);
  ASSERT_TRUE(added) << added.error().message;
  std::filesystem::remove(dir_ + "/conf/10-x.conflist");
  attachment_.netns_path.clear();
  auto deleted = cni_->Del(attachment_, *added);
  ASSERT_FALSE(deleted);
  EXPECT_EQ(deleted.error().code, Code::kDeadlineExceeded);
  EXPECT_EQ(Input("first.DEL")["x"], "old");
  EXPECT_FALSE(Input("first.DEL").contains("prevResult"));  // not before 0.4.0

  auto unknown = cni_->Del(attachment_, {});
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, Code::kFailedPrecondition);
}

TEST_F(CniTest, AMissingPluginIsNamed) {
  List("1.0.0", R"([{"type": "absent"}])");
  Write("bin/absent", "not executable");
  Start();
  std::string expected = fmt::format("CNI plugin 'absent' is not in {0}/none, {0}/bin", dir_);
  EXPECT_EQ(cni_->Ready().error().message, expected);
  EXPECT_THAT(cni_->Add(attachment_).error().message, HasSubstr(expected));
}

TEST_F(CniTest, TheFolderIsReadAgainWhenItChanges) {
  Start();
  EXPECT_EQ(cni_->Ready().error().message, fmt::format("no network configuration in '{}/conf'", dir_));
  EXPECT_EQ(cni_->NetworkName(), "");
  Plugin("p", Answer(kResult));
  Write("conf/20-b.conf", R"({"cniVersion": "1.0.0", "name": "b", "type": "p"})");
  Write("conf/.hidden.conf", "{");
  Write("conf/00-notes.txt", "{");
  EXPECT_TRUE(cni_->Ready());
  EXPECT_EQ(cni_->NetworkName(), "b");
  List("1.0.0", R"([{"type": "p"}])");
  EXPECT_EQ(cni_->NetworkName(), "net");
  for (int i = 0; i < 50; ++i) {  // same size, within one tick of the kernel's clock
    std::string name = "n" + std::to_string(10 + i);
    Write("conf/10-x.conflist",
          fmt::format(R"({{"cniVersion": "1.0.0", "name": "{}", "plugins": [{{"type": "p"}}]}})", name));
    ASSERT_EQ(cni_->NetworkName(), name);
  }
  Write("conf/10-x.conflist", R"({"cniVersion": "1.0.0", "name": "n", "plugins": [{"typ": "p"}]})");
  EXPECT_EQ(cni_->Ready().error().message,
            fmt::format("network configuration '{}/conf/10-x.conflist': plugins[0].type: missing", dir_));
  std::filesystem::remove_all(dir_ + "/conf");
  EXPECT_THAT(cni_->Ready().error().message, HasSubstr("no network configuration"));
}

TEST_F(CniTest, AConfigurationThatIsNoRegularFileIsRefused) {
  Start();
  ASSERT_EQ(mkfifo((dir_ + "/conf/10-x.conflist").c_str(), 0600), 0);
  EXPECT_THAT(cni_->Ready().error().message, HasSubstr("not a regular file"));
  std::filesystem::remove(dir_ + "/conf/10-x.conflist");
  Write("conf/10-x.conflist", std::string((1 << 20) + 1, ' '));
  EXPECT_THAT(cni_->Ready().error().message, HasSubstr("larger than 1048576 bytes"));
}

TEST_F(CniTest, ArgumentsCannotSmuggleOthers) {
  Plugin("p", Answer(kResult));
  List("1.0.0", R"([{"type": "p"}])");
  Start();
  attachment_.args["K8S_POD_NAME"] = "x;IP=10.0.0.1";
  EXPECT_THAT(cni_->Add(attachment_).error().message, HasSubstr("CNI_ARGS"));
  attachment_.args.clear();
  attachment_.if_name = "../eth0";
  EXPECT_THAT(cni_->Add(attachment_).error().message, HasSubstr("CNI_IFNAME"));
  attachment_.if_name = "eth0";
  attachment_.container_id = "../pod";
  EXPECT_THAT(cni_->Add(attachment_).error().message, HasSubstr("CNI_CONTAINERID"));
}

TEST_F(CniTest, SeveralNetworks) {
  Plugin("a", Answer(kResult));
  Plugin("b", "echo $CNI_IFNAME > $seen/ifname; " + Answer(R"({"ips":[{"address":"10.1.1.1/24"}]})"));
  Write("conf/1.conf", R"({"cniVersion": "1.0.0", "name": "a", "type": "a"})");
  Write("conf/2.conf", R"({"cniVersion": "1.0.0", "name": "b", "type": "b"})");
  Write("conf/3.conf", "{");
  options_.max_conf_files = 2;
  Start();
  auto added = cni_->Add(attachment_);
  ASSERT_TRUE(added) << added.error().message;
  EXPECT_THAT(added->ips, ElementsAre("10.9.8.7"));
  EXPECT_EQ(Read("seen/ifname"), "eth1\n");
  ASSERT_TRUE(cni_->Del(attachment_, *added));
  EXPECT_EQ(Input("b.DEL")["prevResult"]["ips"][0]["address"], "10.1.1.1/24");
  EXPECT_THAT(Calls(), ElementsAre("a ADD", "b ADD", "b DEL", "a DEL"));

  Plugin("b", "exit 1");
  EXPECT_FALSE(cni_->Add(attachment_));
  EXPECT_THAT(Calls(), testing::Contains("a DEL").Times(2));
}

TEST_F(CniTest, CheckObeysVersionAndFlag) {
  Plugin("p", Answer(kResult));
  List("0.3.1", R"([{"type": "p"}])");
  Start();
  auto added = cni_->Add(attachment_);
  ASSERT_TRUE(added);
  EXPECT_EQ(cni_->Check(attachment_, *added).error().code, Code::kUnimplemented);
  List("1.0.0", R"([{"type": "p"}])", R"("disableCheck": true,)");
  added = cni_->Add(attachment_);
  ASSERT_TRUE(added);
  EXPECT_TRUE(cni_->Check(attachment_, *added));
  EXPECT_THAT(Calls(), ElementsAre("p ADD", "p ADD"));
  added->config_json.clear();
  List("1.0.0", R"([{"type": "p"}])");
  added->raw_json.clear();
  EXPECT_EQ(cni_->Check(attachment_, *added).error().code, Code::kFailedPrecondition);
}

TEST_F(CniTest, StatusAndGcOfNewConfigurationsOnly) {
  Plugin("p", R"([ $CNI_COMMAND = STATUS ] && { echo '{"code": 50, "msg": "no upstream"}'; exit 1; }; true)");
  List("1.0.0", R"([{"type": "p"}])");
  Start();
  EXPECT_TRUE(cni_->Status());
  EXPECT_TRUE(cni_->Gc({attachment_}));
  EXPECT_THAT(Calls(), ElementsAre());
  List("1.1.0", R"([{"type": "p"}])");
  auto status = cni_->Status();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message, "CNI plugin 'p' (STATUS of network 'net'): no upstream (code 50)");
  EXPECT_EQ(status.error().code, Code::kUnavailable);
  EXPECT_TRUE(cni_->Gc({attachment_}));
  Json input = Input("p.GC");
  EXPECT_EQ(input["cni.dev/valid-attachments"].dump(), R"([{"containerID":"pod1","ifname":"eth0"}])");
  List("1.1.0", R"([{"type": "p"}])", R"("disableGC": true,)");
  EXPECT_TRUE(cni_->Gc({}));
  EXPECT_THAT(Calls(), ElementsAre("p STATUS", "p GC"));
}

TEST_F(CniTest, RecordedGarbageIsAnError) {
  Start();
  NetworkResult added;
  added.config_json = "garbage";
  EXPECT_THAT(cni_->Del(attachment_, added).error().message, HasSubstr("recorded network configuration"));
  added.config_json = "[1";
  EXPECT_FALSE(cni_->Del(attachment_, added));
}

}  // namespace
}  // namespace caisson::net
