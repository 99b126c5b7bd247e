// SPDX-License-Identifier: Apache-2.0
#include "image/hosts.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caisson::image {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string Bases(const Result<std::vector<RegistryHost>>& hosts) {
  if (!hosts) return hosts.error().message;
  std::string out;
  for (const RegistryHost& host : *hosts) {
    out += (out.empty() ? "" : " ") + host.base.ToString() + (host.upstream ? "*" : "");
  }
  return out;
}
Result<std::vector<RegistryHost>> Parse(std::string_view text, const std::string& domain = "docker.io") {
  return ParseHostsToml(text, "/certs/hosts.toml", "/certs", domain);
}

TEST(Hosts, DefaultsWithoutAnyFile) {
  EXPECT_EQ(Bases(HostsFor("docker.io", "")), "https://registry-1.docker.io/v2*");
  EXPECT_EQ(Bases(HostsFor("quay.io", "/nonexistent")), "https://quay.io/v2*");
  EXPECT_EQ(Bases(HostsFor("localhost:5000", "")), "http://localhost:5000/v2*");
  EXPECT_EQ(Bases(HostsFor("127.0.0.1", "")), "http://127.0.0.1/v2*");
  EXPECT_EQ(Bases(HostsFor("localhost:443", "")), "https://localhost/v2*");
  EXPECT_EQ(Bases(HostsFor("[::1]:5000", "")), "http://[::1]:5000/v2*");
}

TEST(Hosts, MirrorsComeInTheOrderOfTheFile) {
  auto hosts = Parse(R"(
server = "https://registry-1.docker.io"
[host."https://z.example.com"]
  capabilities = ["pull"]
[host."http://a.example.com:5000/prefix"]
[host."https://m.example.com/v2/proxy"]
  override_path = true
  skip_verify = true
)");
  EXPECT_EQ(Bases(hosts),
            "https://z.example.com/v2 http://a.example.com:5000/prefix/v2 https://m.example.com/v2/proxy "
            "https://registry-1.docker.io/v2*");
  EXPECT_TRUE((*hosts)[0].can_pull);
  EXPECT_FALSE((*hosts)[0].can_resolve);
  EXPECT_TRUE((*hosts)[1].can_resolve);
  EXPECT_TRUE((*hosts)[2].tls.skip_verify);
  EXPECT_FALSE((*hosts)[3].tls.skip_verify);
}

TEST(Hosts, EverySetting) {
  auto hosts = Parse(R"(
server = "reg.example.com"
ca = "own.crt"
dial_timeout = "1m2.5s"
[host."reg2.example.com"]
  capabilities = ["pull", "resolve", "push"]
  ca = ["a.crt", "/abs/b.crt"]
  client = [["c.cert", "c.key"], ["d.pem", ""]]
  dial_timeout = "300ms"
  [host."reg2.example.com".header]
    x-one = "1"
    x-two = ["a", "b"]
)", "reg.example.com");
  ASSERT_TRUE(hosts) << hosts.error().message;
  ASSERT_EQ(hosts->size(), 2u);
  const RegistryHost& mirror = (*hosts)[0];
  EXPECT_EQ(mirror.base.ToString(), "https://reg2.example.com/v2");
  EXPECT_THAT(mirror.tls.ca_files, ElementsAre("/certs/a.crt", "/abs/b.crt"));
  ASSERT_EQ(mirror.tls.client_certs.size(), 2u);
  EXPECT_EQ(mirror.tls.client_certs[0].second, "/certs/c.key");
  EXPECT_EQ(mirror.tls.client_certs[1].second, "");
  EXPECT_EQ(mirror.dial_timeout_millis, 300);
  EXPECT_THAT(mirror.headers, ElementsAre("x-one: 1", "x-two: a", "x-two: b"));
  EXPECT_THAT((*hosts)[1].tls.ca_files, ElementsAre("/certs/own.crt"));
  EXPECT_EQ((*hosts)[1].dial_timeout_millis, 62500);
  EXPECT_TRUE((*hosts)[1].upstream);
}

TEST(Hosts, TheRegistryItselfIsListedOnce) {
  EXPECT_EQ(Bases(Parse("[host.\"https://quay.io\"]\nca = \"x\"\n[host.\"https://m.io\"]\n", "quay.io")),
            "https://quay.io/v2* https://m.io/v2");
  EXPECT_EQ(Bases(Parse("")), "https://registry-1.docker.io/v2*");
  EXPECT_EQ(Bases(Parse("server = \"https://docker.io\"")), "https://registry-1.docker.io/v2*");
  EXPECT_EQ(Bases(Parse("server = \"http://127.0.0.1:5000\"")), "http://127.0.0.1:5000/v2*");
}

TEST(Hosts, ErrorsNameFileAndLine) {
  const std::pair<std::string, std::string> cases[] = {
      {"server = \"a\"\n= 7\n", "/certs/hosts.toml:2"},
      {"\nserver = 7\n", "/certs/hosts.toml:2: 'server' must be a string"},
      {"\n\n[host.\"https://a\"]\nskip_verify = \"yes\"\n", "/certs/hosts.toml:4: 'skip_verify'"},
      {"[host.\"https://a\"]\ncapabilities = [\"fly\"]\n", "hosts.toml:2: unknown capability 'fly'"},
      {"[host.\"https://a\"]\ncapabilities = [7]\n", "hosts.toml:2: 'capabilities' must hold strings"},
      {"[host.\"file:///etc/passwd\"]\n", "hosts.toml:1"},
      {"[host.\"https://user:pw@a\"]\n", "user name or password"},
      {"host = 7\n", "hosts.toml:1: 'host' must be a table"},
      {"host.a = 7\n", "must be a table"},
      {"dial_timeout = \"soon\"\n", "hosts.toml:1: 'dial_timeout'"},
      {"dial_timeout = \"-1s\"\n", "hosts.toml:1: 'dial_timeout'"},
      {"dial_timeout = \"9999h\"\n", "hosts.toml:1: 'dial_timeout'"},
      {"[header]\n\"a b\" = \"x\"\n", "header's name"},
      {"[header]\na = \"x\\ny: z\"\n", "control character"},
      {"client = [[\"a\", \"b\", \"c\"]]\n", "'client'"},
      {"ca = {}\n", "'ca' must be a string or a list"},
  };
  for (const auto& [text, why] : cases) EXPECT_THAT(Bases(Parse(text)), HasSubstr(why)) << text;
}

class HostsFolder : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/caisson-hosts-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void Write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(folder_ + "/" + name).parent_path());
    std::ofstream(folder_ + "/" + name) << text;
  }
  std::string folder_;
};

TEST_F(HostsFolder, SearchesAsContainerdDoes) {
  Write("_default/hosts.toml", "[host.\"https://default.mirror\"]\n");
  Write("reg.io:5000/hosts.toml", "server = \"https://colon.io\"\n");
  EXPECT_EQ(Bases(HostsFor("reg.io:5000", folder_)), "https://colon.io/v2*");
  Write("reg.io_5000_/hosts.toml", "server = \"https://under.io\"\n");
  EXPECT_EQ(Bases(HostsFor("reg.io:5000", folder_)), "https://under.io/v2*");
  EXPECT_EQ(Bases(HostsFor("quay.io", folder_)), "https://default.mirror/v2 https://quay.io/v2*");
}

TEST_F(HostsFolder, CertificatesAloneAreDockersWay) {
  Write("127.0.0.1:5000/ca.crt", "x");
  Write("127.0.0.1:5000/client.cert", "x");
  EXPECT_THAT(Bases(HostsFor("127.0.0.1:5000", folder_)), HasSubstr("has no key beside it"));
  Write("127.0.0.1:5000/client.key", "x");
  auto hosts = HostsFor("127.0.0.1:5000", folder_);
  EXPECT_EQ(Bases(hosts), "https://127.0.0.1:5000/v2*");
  EXPECT_THAT((*hosts)[0].tls.ca_files, ElementsAre(folder_ + "/127.0.0.1:5000/ca.crt"));
  EXPECT_EQ((*hosts)[0].tls.client_certs.at(0).second, folder_ + "/127.0.0.1:5000/client.key");
}

TEST_F(HostsFolder, AFileThatIsNoFileIsAnError) {
  std::filesystem::create_directories(folder_ + "/quay.io/hosts.toml");
  EXPECT_FALSE(HostsFor("quay.io", folder_));
}

}  // namespace
}  // namespace caisson::image
