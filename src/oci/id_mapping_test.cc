// SPDX-License-Identifier: Apache-2.0
#include "oci/id_mapping.h"

#include <gmock/gmock.h>

namespace caisson::oci {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(const std::vector<IdMapping>& mappings) {
  auto checked = CheckIdMappings(mappings, "ids");
  return checked ? "" : checked.error().message;
}

TEST(IdMappings, Checked) {
  EXPECT_EQ(ErrorOf({{0, 65536, 65536}}), "");
  EXPECT_EQ(ErrorOf({{0, 1000, 1}, {1, 100000, 65535}}), "");
  EXPECT_EQ(ErrorOf({{0, 0, 0xffffffff}}), "") << "all there are";
  EXPECT_THAT(ErrorOf({}), HasSubstr("ids is empty"));
  EXPECT_THAT(ErrorOf({{0, 1, 0}}), HasSubstr("cannot be"));
  EXPECT_THAT(ErrorOf({{0, 0xfffffffe, 2}}), HasSubstr("cannot be"));
  EXPECT_THAT(ErrorOf({{0xffffffff, 0, 1}}), HasSubstr("cannot be"));
  EXPECT_THAT(ErrorOf({{0, 1000, 10}, {9, 5000, 10}}), HasSubstr("overlap"));
  EXPECT_THAT(ErrorOf({{0, 1000, 10}, {100, 1009, 10}}), HasSubstr("overlap"));
  EXPECT_THAT(ErrorOf(std::vector<IdMapping>(341, {0, 0, 1})), HasSubstr("340"));
}

TEST(IdMappings, ToTheHost) {
  std::vector<IdMapping> mappings = {{0, 1000, 1}, {1, 100000, 65535}};
  EXPECT_EQ(ToHostId(mappings, 0), 1000u);
  EXPECT_EQ(ToHostId(mappings, 1), 100000u);
  EXPECT_EQ(ToHostId(mappings, 65535), 165534u);
  EXPECT_FALSE(ToHostId(mappings, 65536));
  EXPECT_FALSE(ToHostId({}, 0));
}

TEST(IdMappings, AsText) {
  std::vector<IdMapping> mappings = {{0, 1000, 1}, {1, 100000, 65535}};
  EXPECT_EQ(FormatIdMappings(mappings), "0 1000 1\n1 100000 65535\n");
  auto parsed = ParseIdMappings("0:1000:1,1:100000:65535");
  ASSERT_TRUE(parsed);
  EXPECT_EQ(*parsed, mappings);
  for (const char* bad : {"", "0:1", "0:1:2:3", "a:1:2", "0:1:4294967296", "-1:0:1", "0:1:2,"})
    EXPECT_FALSE(ParseIdMappings(bad)) << bad;
}

}  // namespace
}  // namespace caisson::oci
