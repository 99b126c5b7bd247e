// SPDX-License-Identifier: Apache-2.0
#include "shim/foreign_start.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "containerd/runc_options.pb.h"
#include "containerd/runtime_options.pb.h"

namespace caisson::shim {
namespace {

using ::testing::HasSubstr;

TEST(ShimAnswer, IsAnAddressOrJson) {
  auto plain = ParseShimAnswer("unix:///run/containerd/s/abc\n");
  ASSERT_TRUE(plain) << plain.error().message;
  EXPECT_EQ(plain->version, 2);
  EXPECT_EQ(plain->socket, "/run/containerd/s/abc");
  EXPECT_EQ(ParseShimAnswer("/run/s")->socket, "/run/s");
  auto json = ParseShimAnswer(R"({"version":3,"address":"unix:///run/x","protocol":"ttrpc"})");
  ASSERT_TRUE(json) << json.error().message;
  EXPECT_EQ(json->version, 3);
  EXPECT_EQ(json->socket, "/run/x");
  EXPECT_EQ(ParseShimAnswer(R"({"version":2,"address":"/run/x"})")->version, 2);
}

TEST(ShimAnswer, IsRefusedWithTheReason) {
  struct {
    std::string answer;
    const char* why;
  } cases[] = {{"", "nothing"},
               {"  \n", "nothing"},
               {"vsock://3:1024", "no path of a unix socket"},
               {"unix://relative", "no path of a unix socket"},
               {std::string("\0/abstract", 10), "no path of a unix socket"},
               {"/run/a\nb", "control character"},
               {"/" + std::string(5000, 'a'), "longer than a path"},
               {"{", "JSON"},
               {R"({"version":3})", "no address"},
               {R"({"address":"/run/x"})", "no version"},
               {R"({"version":"3","address":"/run/x"})", "no version"},
               {R"({"version":4,"address":"/run/x"})", "version 4"},
               {R"({"version":-1,"address":"/run/x"})", "version -1"},
               {R"({"version":3,"address":7})", "no address"},
               {R"({"version":3,"address":"/run/x","protocol":"grpc"})", "grpc"}};
  for (const auto& one : cases) {
    auto parsed = ParseShimAnswer(one.answer);
    ASSERT_FALSE(parsed) << one.answer.substr(0, 100);
    EXPECT_THAT(parsed.error().message, HasSubstr(one.why)) << one.answer.substr(0, 100);
  }
}

pod::v1::ForeignRuntime Runtime(const char* type, std::initializer_list<std::pair<const char*, const char*>> options) {
  pod::v1::ForeignRuntime runtime;
  runtime.set_type(type);
  for (const auto& [key, value] : options) (*runtime.mutable_options())[key] = value;
  return runtime;
}

TEST(ShimOptions, AreThoseOfRunc) {
  auto any = ShimOptionsOf(Runtime("io.containerd.runc.v2", {{"BinaryName", "/usr/bin/crun"}, {"Root", "/run/r"}, {"NoPivotRoot", "true"}, {"IoUid", "7"}}), false);
  ASSERT_TRUE(any) << any.error().message;
  EXPECT_EQ(any->type_url(), "containerd.runc.v1.Options");
  containerd::runc::v1::Options options;
  ASSERT_TRUE(options.ParseFromString(any->value()));
  EXPECT_EQ(options.binary_name(), "/usr/bin/crun");
  EXPECT_EQ(options.root(), "/run/r");
  EXPECT_TRUE(options.no_pivot_root());
  EXPECT_FALSE(options.systemd_cgroup());
  EXPECT_EQ(options.io_uid(), 7u);
  // Said by the daemon's own driver.
  ASSERT_TRUE(options.ParseFromString(ShimOptionsOf(Runtime("io.containerd.runc.v2", {}), true)->value()));
  EXPECT_TRUE(options.systemd_cgroup());
  EXPECT_EQ(ShimOptionsOf(Runtime("io.containerd.runc.v2", {}), false)->type_url(), "");
}

TEST(ShimOptions, OfOthersAreAFile) {
  auto any = ShimOptionsOf(Runtime("io.containerd.kata.v2", {{"ConfigPath", "/etc/kata.toml"}}), true);
  ASSERT_TRUE(any) << any.error().message;
  EXPECT_EQ(any->type_url(), "runtimeoptions.v1.Options");
  runtimeoptions::v1::Options options;
  ASSERT_TRUE(options.ParseFromString(any->value()));
  EXPECT_EQ(options.config_path(), "/etc/kata.toml");
  EXPECT_EQ(ShimOptionsOf(Runtime("io.containerd.kata.v2", {}), true)->type_url(), "");
}

TEST(ShimOptions, AreRefusedByName) {
  EXPECT_THAT(ShimOptionsOf(Runtime("io.containerd.runc.v2", {{"Binary", "x"}}), false).error().message, HasSubstr("'Binary' is none of"));
  EXPECT_THAT(ShimOptionsOf(Runtime("io.containerd.runc.v2", {{"IoUid", "x"}}), false).error().message, HasSubstr("'IoUid' is a number"));
  EXPECT_THAT(ShimOptionsOf(Runtime("io.containerd.runc.v2", {{"NoPivotRoot", "1"}}), false).error().message, HasSubstr("true or false"));
  EXPECT_THAT(ShimOptionsOf(Runtime("io.containerd.runc.v2", {{"SystemdCgroup", "true"}}), false).error().message, HasSubstr("cgroup_driver is cgroupfs"));
  EXPECT_THAT(ShimOptionsOf(Runtime("io.containerd.kata.v2", {{"BinaryName", "x"}}), false).error().message, HasSubstr("'BinaryName' is none of"));
}

TEST(ShimCommands, SayWhyTheyFailed) {
  ForeignCommand command{"/bin/false", "pod", "/", "/run/none"};
  auto started = StartForeignShim(command, {}, 10'000);
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message, HasSubstr("'/bin/false start' ended with status 1"));
  command.program = "/bin/true";
  EXPECT_THAT(StartForeignShim(command, {}, 10'000).error().message, HasSubstr("answers nothing"));
  EXPECT_TRUE(DeleteForeignContainer(command, 10'000));
}

}  // namespace
}  // namespace caisson::shim
