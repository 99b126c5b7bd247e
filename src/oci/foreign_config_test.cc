// SPDX-License-Identifier: Apache-2.0
#include "oci/foreign_config.h"

#include <sys/resource.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace caisson::oci {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json Config() {
  return {{"process", {{"args", {"old"}}, {"user", {{"username", "somebody"}, {"strictGroups", true}}}}},
          {"root", {{"path", "rootfs"}, {"readonly", true}}},
          {"mounts", {{{"destination", "/dev/shm"}, {"type", "caisson-shm"}, {"source", "shm"}},
                      {{"destination", "/data"}, {"type", "caisson-image"}, {"source", "image"}, {"options", {"ro", "lowerdir=/l"}}},
                      {{"destination", "/proc"}, {"type", "proc"}, {"source", "proc"}}}}};
}

ForeignConfigInputs Inputs() {
  ForeignConfigInputs inputs;
  inputs.root_path = "/bundle/rootfs";
  inputs.shm_path = "/pod/shm";
  inputs.images = {"/bundle/runtime/image-0"};
  inputs.process.args = {"program", "a b"};
  inputs.process.uid = 5;
  inputs.process.additional_gids = {7};
  return inputs;
}

TEST(ForeignConfig, WhatOnlyOurLauncherKnowsIsReplaced) {
  json config = Config();
  ASSERT_TRUE(MakeForeign(Inputs(), &config));
  EXPECT_EQ(config["ociVersion"], "1.0.2");
  EXPECT_EQ(config["root"], (json{{"path", "/bundle/rootfs"}, {"readonly", true}}));
  EXPECT_EQ(config["process"]["args"], (json{"program", "a b"}));
  EXPECT_EQ(config["process"]["user"], (json{{"uid", 5}, {"gid", 0}, {"additionalGids", {7}}}));
  EXPECT_EQ(config["mounts"][0]["type"], "bind");
  EXPECT_EQ(config["mounts"][0]["source"], "/pod/shm");
  EXPECT_EQ(config["mounts"][1]["source"], "/bundle/runtime/image-0");
  EXPECT_THAT(config["mounts"][1]["options"], testing::Contains("ro"));
  EXPECT_EQ(config["mounts"][2], Config()["mounts"][2]);
}

TEST(ForeignConfig, WhatCannotBeIsRefused) {
  json config = Config();
  auto inputs = Inputs();
  inputs.shm_path.clear();
  EXPECT_THAT(MakeForeign(inputs, &config).error().message, HasSubstr("/dev/shm"));
  config = Config();
  inputs = Inputs();
  inputs.images.clear();
  EXPECT_THAT(MakeForeign(inputs, &config).error().message, HasSubstr("'/data'"));
  config = Config();
  config["mounts"][2]["uidMappings"] = json::array();
  auto mapped = MakeForeign(Inputs(), &config);
  EXPECT_EQ(mapped.error().code, Code::kUnimplemented);
  EXPECT_THAT(mapped.error().message, HasSubstr("'/proc'"));
}

// What is written is what our own parser reads.
TEST(ForeignConfig, AProcessIsReadBack) {
  ProcessSpec process;
  process.args = {"sh", "-c", "true"};
  process.env = {"A=b"};
  process.cwd = "/w";
  process.terminal = true;
  process.console_width = 80;
  process.console_height = 24;
  process.uid = 1;
  process.gid = 2;
  process.additional_gids = {3, 4};
  process.umask = 027;
  process.capabilities = CapabilitySets{1 << 5 | 1, 1, 0, 1 << 5, 1};
  process.rlimits = {{RLIMIT_CORE, 0, 0}, {RLIMIT_NOFILE, 16, 32}};
  process.no_new_privileges = true;
  process.apparmor_profile = "profile";
  process.oom_score_adj = 1000;
  auto read = ParseProcess(ForeignProcess(process).dump());
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->args, process.args);
  EXPECT_EQ(read->env, process.env);
  EXPECT_EQ(read->cwd, "/w");
  EXPECT_TRUE(read->terminal);
  EXPECT_EQ(read->console_height, 24);
  EXPECT_EQ(read->gid, 2u);
  EXPECT_EQ(read->additional_gids, process.additional_gids);
  EXPECT_EQ(read->umask, 027u);
  EXPECT_EQ(read->capabilities->bounding, uint64_t{1 << 5 | 1});
  EXPECT_EQ(read->capabilities->permitted, uint64_t{1 << 5});
  ASSERT_EQ(read->rlimits.size(), 2u);
  EXPECT_EQ(read->rlimits[1].resource, RLIMIT_NOFILE);
  EXPECT_EQ(read->rlimits[1].soft, 16u);
  EXPECT_TRUE(read->no_new_privileges);
  EXPECT_EQ(read->apparmor_profile, "profile");
  EXPECT_EQ(read->oom_score_adj, 1000);
}

}  // namespace
}  // namespace caisson::oci
