// SPDX-License-Identifier: Apache-2.0
#include "net/conf_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "sys/path.h"

namespace caisson::net {
namespace {

using testing::HasSubstr;

constexpr char kTemplate[] = R"({"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","note":"@POD_CIDR@",
    "ipam":{"type":"host-local","ranges":"@POD_CIDR_RANGES@","routes":"@DEFAULT_ROUTES@"}}]})";

std::string FillError(std::string_view text, std::string_view cidrs) {
  auto rendered = RenderConfTemplate(text, cidrs);
  return rendered ? "" : rendered.error().message;
}

TEST(RenderConfTemplate, BothFamilies) {
  auto rendered = RenderConfTemplate(kTemplate, "10.1.2.0/24, fd00:1::/64");
  ASSERT_TRUE(rendered) << rendered.error().message;
  EXPECT_THAT(*rendered, HasSubstr(R"("ranges":[[{"subnet":"10.1.2.0/24"}],[{"subnet":"fd00:1::/64"}]])"));
  EXPECT_THAT(*rendered, HasSubstr(R"("routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}])"));
  EXPECT_THAT(*rendered, HasSubstr(R"("note":"10.1.2.0/24")"));
}

TEST(RenderConfTemplate, OneFamilyHasItsRouteOnly) {
  auto rendered = RenderConfTemplate(kTemplate, "fd00:1::/64");
  ASSERT_TRUE(rendered) << rendered.error().message;
  EXPECT_THAT(*rendered, HasSubstr(R"("routes":[{"dst":"::/0"}])"));
}

TEST(RenderConfTemplate, WhatIsNoCidr) {
  for (const char* cidrs : {"", "10.1.2.0", "10.1.2.0/33", "10.1.2/24", "fd00::/129", "10.1.2.0/24,", "x/24", "10.0.0.0/8\"}", "10.0.0.0/-1"}) {
    EXPECT_THAT(FillError(kTemplate, cidrs), HasSubstr("is not an address with a prefix length")) << cidrs;
  }
  EXPECT_THAT(FillError(kTemplate, "10.0.0.0/8,10.1.0.0/16"), HasSubstr("more than one of a family"));
}

TEST(RenderConfTemplate, WhatIsNoTemplate) {
  EXPECT_NE(FillError("{", "10.0.0.0/8"), "");
  EXPECT_THAT(FillError(R"({"cniVersion":"1.0.0","name":"pods"})", "10.0.0.0/8"), HasSubstr("plugins"));
}

class WriteConfTemplateTest : public testing::Test {
 protected:
  WriteConfTemplateTest() {
    std::string name = testing::TempDir() + "caisson-conf-XXXXXX";
    folder_ = mkdtemp(name.data());
    std::ofstream(folder_ + "/template") << kTemplate;
  }
  ~WriteConfTemplateTest() override { std::filesystem::remove_all(folder_); }

  std::string File() { return sys::ReadFile(Conf() + "/" + kTemplateFile, 1 << 20).value_or(""); }
  std::string Conf() { return folder_ + "/net.d"; }

  std::string folder_;
};

TEST_F(WriteConfTemplateTest, AppearsAndChanges) {
  ASSERT_TRUE(WriteConfTemplate(folder_ + "/template", Conf(), "10.1.0.0/24"));
  EXPECT_THAT(File(), HasSubstr("10.1.0.0/24"));
  auto made = std::filesystem::last_write_time(Conf());
  ASSERT_TRUE(WriteConfTemplate(folder_ + "/template", Conf(), "10.1.0.0/24"));
  EXPECT_EQ(std::filesystem::last_write_time(Conf()), made) << "the same is not written again";
  ASSERT_TRUE(WriteConfTemplate(folder_ + "/template", Conf(), "10.2.0.0/24"));
  EXPECT_THAT(File(), HasSubstr("10.2.0.0/24"));
}

TEST_F(WriteConfTemplateTest, AFailureChangesNothing) {
  ASSERT_TRUE(WriteConfTemplate(folder_ + "/template", Conf(), "10.1.0.0/24"));
  const std::string before = File();
  EXPECT_FALSE(WriteConfTemplate(folder_ + "/absent", Conf(), "10.2.0.0/24"));
  EXPECT_FALSE(WriteConfTemplate(folder_ + "/template", Conf(), "10.2.0.0"));
  EXPECT_EQ(File(), before);
}

TEST_F(WriteConfTemplateTest, NothingIsLeftWhereItCannotBe) {
  std::filesystem::create_directories(Conf() + "/" + kTemplateFile);
  auto written = WriteConfTemplate(folder_ + "/template", Conf(), "10.1.0.0/24");
  ASSERT_FALSE(written);
  EXPECT_THAT(written.error().message, HasSubstr(Conf()));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(Conf()), {}), 1);
}

}  // namespace
}  // namespace caisson::net
