// SPDX-License-Identifier: Apache-2.0
#include "shim/shim_settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caisson::shim {
namespace {

using testing::HasSubstr;

TEST(ShimSettings, WhatIsNotSaidIsAsByDefault) {
  auto none = ParseShimSettings("{}");
  ASSERT_TRUE(none);
  EXPECT_EQ(none->sandbox, "native");
  EXPECT_EQ(none->kernel, kGuestKernel);
  EXPECT_EQ(none->memory_bytes, kVmMemoryBytes);
  auto some = ParseShimSettings(R"({"sandbox": "vm", "kernel": "/k", "vcpus": 3, "memory_bytes": 268435456, "accelerator": "tcg"})");
  ASSERT_TRUE(some) << some.error().message;
  EXPECT_EQ(some->sandbox, "vm");
  EXPECT_EQ(some->kernel, "/k");
  EXPECT_EQ(some->initrd, kGuestInitrd);
  EXPECT_EQ(some->vcpus, 3);
  EXPECT_EQ(some->memory_bytes, 256 << 20);
  EXPECT_EQ(some->accelerator, "tcg");
}

TEST(ShimSettings, WhatIsWrongIsNamed) {
  for (auto [text, word] : {std::pair(R"({"kernal": "/k"})", "unknown key 'kernal'"),
                            {R"({"kernel": "k"})", "'kernel' must be an absolute path"},
                            {R"({"kernel": 3})", "'kernel' must be an absolute path"},
                            {R"({"sandbox": "jail"})", "'sandbox' must be \"native\" or \"vm\""},
                            {R"({"vcpus": 0})", "'vcpus' must be a whole number from 1 to 256"},
                            {R"({"vcpus": -1})", "'vcpus'"},
                            {R"({"vcpus": 1.5})", "'vcpus'"},
                            {R"({"memory_bytes": 18446744073709551615})", "'memory_bytes'"},
                            {R"([])", "no JSON object"},
                            {"", ""}}) {
    auto settings = ParseShimSettings(text);
    ASSERT_FALSE(settings) << text;
    EXPECT_EQ(settings.error().code, Code::kInvalidArgument);
    EXPECT_THAT(settings.error().message, HasSubstr(word));
  }
}

TEST(ShimSettings, AFileThatIsNamedMustBeThere) {
  auto settings = LoadShimSettings("/no/such/settings");
  ASSERT_FALSE(settings);
  EXPECT_THAT(settings.error().message, HasSubstr("/no/such/settings"));
}

}  // namespace
}  // namespace caisson::shim
