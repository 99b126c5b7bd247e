// SPDX-License-Identifier: Apache-2.0
#include "agent/process_message.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

namespace caisson::agent {
namespace {

TEST(ProcessMessage, EachMemberComesBack) {
  oci::ProcessSpec process;
  process.terminal = true;
  process.console_width = 80;
  process.console_height = 24;
  process.uid = 1;
  process.gid = 2;
  process.additional_gids = {3, 4};
  process.username = "user:group";
  process.gid_given = process.strict_groups = true;
  process.umask = 027;
  process.args = {"sh", "-c", "\xff is no UTF-8"};
  process.env = {"A=b", "C="};
  process.cwd = "/w";
  process.capabilities = oci::CapabilitySets{uint64_t{1} << 40 | 1, 2, 3, 4, 5};
  process.rlimits = {{RLIMIT_CORE, 0, RLIM_INFINITY}, {RLIMIT_NOFILE, 16, 32}};
  process.no_new_privileges = true;
  process.oom_score_adj = -1000;
  process.io_priority = oci::IoPriority{2, 7};
  process.scheduler = oci::Scheduler{3, 1, -5, 6, 7, 8, 9};
  guest::v1::Process message;
  ASSERT_TRUE(message.ParseFromString(MessageOf(process).SerializeAsString()));
  const oci::ProcessSpec back = ProcessOf(message);
  EXPECT_TRUE(back.terminal && back.gid_given && back.strict_groups && back.no_new_privileges);
  EXPECT_EQ(back.console_width, 80);
  EXPECT_EQ(back.console_height, 24);
  EXPECT_EQ(back.uid, 1u);
  EXPECT_EQ(back.gid, 2u);
  EXPECT_EQ(back.additional_gids, process.additional_gids);
  EXPECT_EQ(back.username, "user:group");
  EXPECT_EQ(back.umask, 027u);
  EXPECT_EQ(back.args, process.args);
  EXPECT_EQ(back.env, process.env);
  EXPECT_EQ(back.cwd, "/w");
  ASSERT_TRUE(back.capabilities);
  EXPECT_EQ(back.capabilities->bounding, uint64_t{1} << 40 | 1);
  EXPECT_EQ(back.capabilities->effective, 2u);
  EXPECT_EQ(back.capabilities->inheritable, 3u);
  EXPECT_EQ(back.capabilities->permitted, 4u);
  EXPECT_EQ(back.capabilities->ambient, 5u);
  ASSERT_EQ(back.rlimits.size(), 2u);
  EXPECT_EQ(back.rlimits[0].hard, RLIM_INFINITY);
  EXPECT_EQ(back.rlimits[1].resource, RLIMIT_NOFILE);
  EXPECT_EQ(back.rlimits[1].soft, 16u);
  EXPECT_EQ(back.oom_score_adj, -1000);
  ASSERT_TRUE(back.io_priority && back.scheduler);
  EXPECT_EQ(back.io_priority->io_class, 2);
  EXPECT_EQ(back.io_priority->priority, 7);
  EXPECT_EQ(back.scheduler->policy, 3u);
  EXPECT_EQ(back.scheduler->nice, -5);
  EXPECT_EQ(back.scheduler->period, 9u);
}

TEST(ProcessMessage, WhatIsNotSaidStaysSo) {
  const oci::ProcessSpec back = ProcessOf(MessageOf({}));
  EXPECT_FALSE(back.umask || back.capabilities || back.oom_score_adj || back.io_priority || back.scheduler || back.terminal);
  EXPECT_EQ(back.cwd, "/");
}

}  // namespace
}  // namespace caisson::agent
