// SPDX-License-Identifier: Apache-2.0
#include "task/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "criu/seccomp.pb.h"
#include "task/criu.h"

namespace caisson::task {
namespace {

using ::testing::HasSubstr;

std::string Image(const criu::SeccompFilters& filters) {
  std::string body = filters.SerializeAsString(), head(12, '\0');
  uint32_t length = static_cast<uint32_t>(body.size());
  std::memcpy(head.data() + 8, &length, sizeof length);
  return head + body;
}

criu::SeccompFilter* Add(criu::SeccompFilters* filters, const std::string& bpf) {
  auto* filter = filters->add_filters();
  filter->set_filter(bpf);
  return filter;
}

std::string Refusal(const std::string& image) {
  auto checked = CheckFilters(image, {"ours", 0});
  return checked ? "" : checked.error().message;
}

TEST(CheckFilters, OursAlone) {
  criu::SeccompFilters filters;
  EXPECT_EQ(Refusal(Image(filters)), "");
  Add(&filters, "ours");
  Add(&filters, "ours");
  EXPECT_EQ(Refusal(Image(filters)), "");
  // One below ours only takes more away.
  Add(&filters, "other")->set_prev(0);
  EXPECT_EQ(Refusal(Image(filters)), "");
}

TEST(CheckFilters, AnotherInItsPlace) {
  criu::SeccompFilters filters;
  Add(&filters, "ours");
  Add(&filters, "allow all");
  EXPECT_THAT(Refusal(Image(filters)), HasSubstr("not the container's"));
  criu::SeccompFilters above;
  Add(&above, "allow all");
  Add(&above, "ours")->set_prev(0);
  EXPECT_THAT(Refusal(Image(above)), HasSubstr("not the container's"));
}

TEST(CheckFilters, ChainsWithoutAnEnd) {
  for (uint32_t prev : {0u, 1u, 7u}) {
    criu::SeccompFilters filters;
    Add(&filters, "allow all")->set_prev(prev);
    EXPECT_THAT(Refusal(Image(filters)), HasSubstr("no order"));
  }
}

TEST(CheckFilters, NoImage) {
  criu::SeccompFilters filters;
  Add(&filters, "ours");
  std::string image = Image(filters);
  for (const std::string& broken : {std::string(), image.substr(0, 11), image.substr(0, image.size() - 1), image + "x"}) {
    EXPECT_THAT(Refusal(broken), HasSubstr("is none")) << broken.size();
  }
}

TEST(CriuLog, LastWords) {
  EXPECT_EQ(LastWords(""), "");
  EXPECT_EQ(LastWords("(00.1) Dumping\n(00.2) Warn  (criu/x.c:1): hm\n(00.3) Error (criu/files.c:12): Can't dump file 7\n"
                      "(00.4) Error (criu/cr-dump.c:99): Dumping FAILED.\n"),
            "Can't dump file 7");
  std::string many;
  for (int i = 0; i < 100; ++i) many += fmt::format("(00.{}) Error (criu/a.c:1): word {}\n", i, i);
  EXPECT_EQ(LastWords(many), "word 97; word 98; word 99");
  EXPECT_LT(LastWords("Error (a): " + std::string(10'000, 'x')).size(), 300u);
}

}  // namespace
}  // namespace caisson::task
