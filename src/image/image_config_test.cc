// SPDX-License-Identifier: Apache-2.0
#include "image/image_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caisson::image {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string Config(std::string_view config, std::string_view rootfs = R"({"type":"layers","diff_ids":[]})") {
  return fmt::format(R"({{"os":"linux","architecture":"amd64","config":{},"rootfs":{}}})", config, rootfs);
}
std::string ErrorOf(std::string_view bytes) {
  auto parsed = ParseImageConfig(bytes);
  return parsed ? "no error" : parsed.error().message;
}

TEST(ImageConfig, ReadsWhatTheRuntimeUses) {
  std::string diff = "sha256:" + std::string(64, 'b');
  auto parsed = ParseImageConfig(Config(
      R"({"User":"1000:1000","Env":["PATH=/bin","KEY=line\nline"],"Entrypoint":["/init"],"Cmd":null,)"
      R"("Volumes":{"/data":{}},"WorkingDir":"/w","Labels":{"a":"b"},"StopSignal":"SIGINT","Other":[1,2]})",
      fmt::format(R"({{"type":"layers","diff_ids":["{}"]}})", diff)));
  ASSERT_TRUE(parsed) << parsed.error().message;
  const ImageConfig& config = parsed->config;
  EXPECT_EQ(config.user, "1000:1000");
  EXPECT_THAT(config.env, ElementsAre("PATH=/bin", "KEY=line\nline"));
  EXPECT_THAT(config.entrypoint, ElementsAre("/init"));
  EXPECT_TRUE(config.cmd.empty());
  EXPECT_THAT(config.volumes, ElementsAre("/data"));
  EXPECT_EQ(config.labels.at("a"), "b");
  EXPECT_EQ(config.stop_signal, "SIGINT");
  EXPECT_EQ(config.architecture, "amd64");
  EXPECT_THAT(parsed->diff_ids, ElementsAre(diff));
}

TEST(ImageConfig, WrongTypesNameTheField) {
  EXPECT_THAT(ErrorOf(Config(R"({"Env":"A=b"})")), HasSubstr("config.Env: is not a list"));
  EXPECT_THAT(ErrorOf(Config(R"({"Env":["A=b",7]})")), HasSubstr("config.Env[1]: is not a string"));
  EXPECT_THAT(ErrorOf(Config(R"({"Cmd":"sh"})")), HasSubstr("config.Cmd"));
  EXPECT_THAT(ErrorOf(Config(R"({"User":1000})")), HasSubstr("config.User"));
  EXPECT_THAT(ErrorOf(Config(R"({"Volumes":["/data"]})")), HasSubstr("config.Volumes"));
  EXPECT_THAT(ErrorOf(Config(R"({"Labels":{"a":1}})")), HasSubstr("the value of 'a'"));
  EXPECT_THAT(ErrorOf(Config("[]")), HasSubstr("config: is not an object"));
  EXPECT_THAT(ErrorOf(Config("null", "7")), HasSubstr("rootfs"));
  EXPECT_THAT(ErrorOf(Config("null", R"({"type":"layers","diff_ids":["sha256:../../x"]})")),
              HasSubstr("rootfs.diff_ids[0]"));
  EXPECT_THAT(ErrorOf("{}"), HasSubstr("rootfs: is missing"));
  EXPECT_THAT(ErrorOf("7"), HasSubstr("document"));
  EXPECT_EQ(ErrorOf(Config("null")), "no error");
}

TEST(ImageConfig, HostileStringsAreRefused) {
  EXPECT_THAT(ErrorOf(Config(R"({"Env":["A=x\u0000y"]})")), HasSubstr("NUL"));
  EXPECT_THAT(ErrorOf(Config(R"({"Cmd":["a\u0000b"]})")), HasSubstr("NUL"));
  EXPECT_THAT(ErrorOf(Config(R"({"Env":["HOME=/root\nevil:x:0:0::/:/bin/sh"]})")), HasSubstr("HOME"));
  EXPECT_THAT(ErrorOf(Config(R"({"Env":["A\nB=x"]})")), HasSubstr("config.Env[0]"));
  EXPECT_THAT(ErrorOf(Config(R"({"Env":["=x"]})")), HasSubstr("NAME=VALUE"));
  EXPECT_THAT(ErrorOf(Config(R"({"Env":["novalue"]})")), HasSubstr("NAME=VALUE"));
  EXPECT_THAT(ErrorOf(Config(R"({"User":"a\nb"})")), HasSubstr("config.User"));
  EXPECT_THAT(ErrorOf(Config(fmt::format(R"({{"User":"{}"}})", std::string(300, '1')))), HasSubstr("longer than"));
  EXPECT_THAT(ErrorOf(Config(R"({"Volumes":{"/a\u0000b":{}}})")), HasSubstr("config.Volumes"));
  EXPECT_THAT(ErrorOf(Config(R"({"StopSignal":"SIGTERM\n"})")), HasSubstr("config.StopSignal"));
}

TEST(ImageConfig, LabelsAreOnlyLabels) {
  // CVE-2026-53488: names the runtime gives a meaning to elsewhere stay plain data.
  auto parsed = ParseImageConfig(Config(R"({"Labels":{"io.kubernetes.cri.container-type":"sandbox"}})"));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->config.labels.size(), 1u);
}

}  // namespace
}  // namespace caisson::image
