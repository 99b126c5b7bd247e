// SPDX-License-Identifier: Apache-2.0
#include "shim/shim_command.h"

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "containerd/bootstrap.pb.h"
#include "containerd/runc_options.pb.h"
#include "containerd/runtime_options.pb.h"

namespace caisson::shim {
namespace {

using testing::HasSubstr;

Result<ShimCommand> Parse(std::vector<std::string> words) {
  words.insert(words.begin(), "/usr/bin/containerd-shim-caisson-v2");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  EXPECT_TRUE(IsShimCommand(static_cast<int>(argv.size()), argv.data()));
  return ParseShimCommand(static_cast<int>(argv.size()), argv.data());
}

TEST(ShimCommand, AsContainerdCallsIt) {
  auto command = Parse({"-namespace", "k8s.io", "-address", "/run/c.sock", "-publish-binary", "/usr/bin/containerd", "-id", "abc", "-debug", "start"});
  ASSERT_TRUE(command.has_value()) << command.error().message;
  EXPECT_EQ(command->action, "start");
  EXPECT_EQ(command->name_space, "k8s.io");
  EXPECT_EQ(command->id, "abc");
  EXPECT_EQ(command->address, "/run/c.sock");
  EXPECT_TRUE(command->debug);
  EXPECT_FALSE(command->vm());
}

TEST(ShimCommand, FlagsAsGoHasThem) {
  auto command = Parse({"--namespace=default", "-id=x", "-debug=false", "-bundle", "/b", "delete"});
  ASSERT_TRUE(command.has_value()) << command.error().message;
  EXPECT_FALSE(command->debug);
  EXPECT_EQ(command->bundle, "/b");
  EXPECT_EQ(command->action, "delete");
}

TEST(ShimCommand, WhatIsRefused) {
  for (const auto& [words, why] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"-nonsense", "x", "start"}, "-nonsense"},
           {{"-id"}, "no value"},
           {{"-id", "a/b", "-namespace", "n", "start"}, "no container's id"},
           {{"-id", "a", "start"}, "no namespace"},
           {{"-id", "a", "-namespace", "n"}, "no action"},
           {{"-id", "a", "-namespace", "n", "-debug=maybe", "start"}, "neither true nor false"}}) {
    auto command = Parse(words);
    ASSERT_FALSE(command.has_value()) << why;
    EXPECT_THAT(command.error().message, HasSubstr(why));
  }
}

TEST(ShimCommand, OurVerbsAreNone) {
  char program[] = "shim", verb[] = "serve", help[] = "--help";
  char* serve[] = {program, verb};
  char* usage[] = {program, help};
  EXPECT_FALSE(IsShimCommand(2, serve));
  EXPECT_FALSE(IsShimCommand(2, usage));
  EXPECT_FALSE(IsShimCommand(1, serve));
}

ShimCommand Command() {
  ShimCommand command;
  command.id = "abc";
  command.name_space = "default";
  command.address = "/run/c.sock";
  return command;
}

std::string RuncOptions() {
  containerd::runc::v1::Options runc;
  runc.set_shim_cgroup("/shims");
  wkt::Any any;
  any.set_type_url("containerd.runc.v1.Options");
  any.set_value(runc.SerializeAsString());
  return any.SerializeAsString();
}

TEST(ShimStart, RuntimeOptionsOnStdinAreAnsweredWithTheBareAddress) {
  auto input = ParseStartInput(RuncOptions(), Command());
  ASSERT_TRUE(input.has_value());
  EXPECT_FALSE(input->bootstrap);
  EXPECT_EQ(input->shim_cgroup, "/shims");
  EXPECT_EQ(StartAnswer(*input, "", "unix:///s"), "unix:///s");
  EXPECT_EQ(StartAnswer(*input, "nonsense", "unix:///s"), "unix:///s");
}

TEST(ShimStart, AClientThatNamesItsVersionGetsJsonOfIt) {
  auto input = ParseStartInput("", Command());
  ASSERT_TRUE(input.has_value());
  for (const auto& [max, version] : std::vector<std::pair<std::string, int>>{{"2", 2}, {"3", 3}, {"9", 3}}) {
    auto answer = ParseJson(StartAnswer(*input, max, "unix:///s"));
    ASSERT_TRUE(answer.has_value());
    EXPECT_EQ((*answer)["version"], version);
    EXPECT_EQ((*answer)["address"], "unix:///s");
    EXPECT_EQ((*answer)["protocol"], "ttrpc");
  }
}

TEST(ShimStart, BootstrapParamsAreAnsweredWithTheirResult) {
  containerd::runtime::bootstrap::v1::BootstrapParams params;
  params.set_instance_id("abc");
  params.set_namespace_("default");
  params.set_containerd_ttrpc_address("/run/c.ttrpc");
  params.set_socket_dir("/run/s");
  params.set_log_level(containerd::runtime::bootstrap::v1::LOG_LEVEL_DEBUG);
  wkt::Any options;
  ASSERT_TRUE(options.ParseFromString(RuncOptions()));
  *params.add_extensions()->mutable_value() = options;
  auto input = ParseStartInput(params.SerializeAsString(), Command());
  ASSERT_TRUE(input.has_value());
  EXPECT_TRUE(input->bootstrap);
  EXPECT_TRUE(input->debug);
  EXPECT_EQ(input->ttrpc_address, "/run/c.ttrpc");
  EXPECT_EQ(input->socket_dir, "/run/s");
  EXPECT_EQ(input->shim_cgroup, "/shims");
  containerd::runtime::bootstrap::v1::BootstrapResult result;
  ASSERT_TRUE(result.ParseFromString(StartAnswer(*input, "2", "unix:///s")));
  EXPECT_EQ(result.version(), 3);
  EXPECT_EQ(result.address(), "unix:///s");
  EXPECT_EQ(result.protocol(), "ttrpc");
  // Another container's are not believed.
  params.set_instance_id("other");
  auto others = ParseStartInput(params.SerializeAsString(), Command());
  EXPECT_TRUE(!others.has_value() || !others->bootstrap);
}

TEST(ShimStart, NoiseOnStdinIsRefused) { EXPECT_FALSE(ParseStartInput("\xff\xff\xff", Command()).has_value()); }

TEST(ShimStart, TheCrisOptionsForARuntimeThatItDoesNotKnowNameAFile) {
  auto path_in = [](const std::string& path) {
    runtimeoptions::v1::Options file;
    file.set_config_path(path);
    wkt::Any any;
    any.set_type_url("types.containerd.io/runtimeoptions.v1.Options");
    any.set_value(file.SerializeAsString());
    return ParseStartInput(any.SerializeAsString(), Command());
  };
  EXPECT_EQ(path_in("/etc/shim.json")->settings_path, "/etc/shim.json");
  EXPECT_EQ(path_in("")->settings_path, "");
  EXPECT_FALSE(path_in("shim.json").has_value());
}

TEST(ShimSandbox, IsWhatTheAnnotationSays) {
  EXPECT_EQ(*SandboxOf(R"({"annotations":{"io.caisson.sandbox":"vm"}})"), "vm");
  EXPECT_EQ(*SandboxOf(R"({"annotations":{"io.caisson.sandbox":"native"}})"), "native");
  EXPECT_EQ(*SandboxOf(R"({"annotations":{"other":"vm"}})"), "");
  EXPECT_EQ(*SandboxOf("{}"), "");
  EXPECT_FALSE(SandboxOf(R"({"annotations":{"io.caisson.sandbox":"jail"}})").has_value());
}

TEST(ShimGroup, IsThePodsSandbox) {
  auto group = [](const char* annotations) { return GroupOf(std::string(R"({"annotations":)") + annotations + "}", "own"); };
  EXPECT_EQ(*group(R"({"io.kubernetes.cri.sandbox-id":"pod"})"), "pod");
  EXPECT_EQ(*group(R"({"io.kubernetes.cri-o.SandboxID":"pod2","x":"y"})"), "pod2");
  EXPECT_EQ(*group("{}"), "own");
  EXPECT_EQ(*group("null"), "own");
  EXPECT_EQ(*GroupOf("{}", "own"), "own");
  EXPECT_FALSE(group(R"({"io.kubernetes.cri.sandbox-id":"../pod"})").has_value());
  EXPECT_FALSE(GroupOf("[]", "own").has_value());
  EXPECT_FALSE(GroupOf("{", "own").has_value());
}

TEST(ShimGroup, SocketsAreApart) {
  ShimCommand command = Command(), other = Command();
  EXPECT_EQ(SocketPath("/s", command, "a"), SocketPath("/s", command, "a"));
  EXPECT_NE(SocketPath("/s", command, "a"), SocketPath("/s", command, "b"));
  other.name_space = "k8s.io";
  EXPECT_NE(SocketPath("/s", command, "a"), SocketPath("/s", other, "a"));
  other = command;
  other.address = "/run/d.sock";
  EXPECT_NE(SocketPath("/s", command, "a"), SocketPath("/s", other, "a"));
  EXPECT_LT(SocketPath("/run/containerd/s", command, "a").size(), 108u);  // unix(7), sun_path
}

}  // namespace
}  // namespace caisson::shim
