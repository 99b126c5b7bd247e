// SPDX-License-Identifier: Apache-2.0
#include "net/conflist.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/limits.h"

namespace caisson::net {
namespace {

std::string ConflistError(std::string_view text, ConfForm form = ConfForm::kList) {
  auto list = ParseConflist(text, form);
  return list ? "" : list.error().message;
}

TEST(ParseConflist, AList) {
  auto list = ParseConflist(R"({"cniVersion": "0.4.0", "name": "net-1", "disableCheck": true, "plugins": [
      {"type": "bridge", "bridge": "b0", "ipam": {"type": "host-local"}},
      {"type": "portmap", "capabilities": {"portMappings": true, "snat": false}}]})",
                            ConfForm::kList);
  ASSERT_TRUE(list) << list.error().message;
  EXPECT_EQ(list->name, "net-1");
  EXPECT_EQ(list->version, "0.4.0");
  EXPECT_TRUE(list->disable_check);
  EXPECT_FALSE(list->disable_gc);
  ASSERT_EQ(list->plugins.size(), 2u);
  EXPECT_EQ(list->plugins[0].type, "bridge");
  EXPECT_THAT(list->plugins[0].json, testing::HasSubstr(R"("bridge":"b0")"));
  EXPECT_THAT(list->plugins[1].capabilities, testing::ElementsAre("portMappings"));
}

TEST(ParseConflist, ASinglePluginBecomesAList) {
  auto list =
      ParseConflist(R"({"cniVersion": "1.0.0", "name": "one", "type": "ptp", "mtu": 1400})", ConfForm::kSinglePlugin);
  ASSERT_TRUE(list) << list.error().message;
  ASSERT_EQ(list->plugins.size(), 1u);
  EXPECT_EQ(list->plugins[0].type, "ptp");
  auto again = ParseConflist(list->json, ConfForm::kList);
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_EQ(again->name, "one");
  EXPECT_EQ(again->version, "1.0.0");
  EXPECT_THAT(again->plugins[0].json, testing::HasSubstr("1400"));
}

TEST(ParseConflist, TheNewestVersionThatIsSpoken) {
  auto version = [](std::string_view fields) {
    auto list =
        ParseConflist(fmt::format(R"({{{}, "name": "n", "plugins": [{{"type": "t"}}]}})", fields), ConfForm::kList);
    return list ? list->version : list.error().message;
  };
  EXPECT_EQ(version(R"("cniVersion": "0.3.1", "cniVersions": ["0.4.0", "1.1.0", "9.0.0", "1.0.0"])"), "1.1.0");
  EXPECT_EQ(version(R"("cniVersions": ["0.3.0"])"), "0.3.0");
  EXPECT_EQ(version(R"("cniVersion": "0.2.0")"), "cniVersion: '0.2.0' is not one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0");
  EXPECT_EQ(version(R"("x": 1)"), "cniVersion: missing");
}

TEST(ParseConflist, ErrorsNameTheField) {
  auto with = [](std::string_view plugins) {
    return fmt::format(R"({{"cniVersion": "1.0.0", "name": "n", "plugins": {}}})", plugins);
  };
  EXPECT_EQ(ConflistError("[]"), "not a JSON object");
  EXPECT_EQ(ConflistError(R"({"cniVersion": "1.0.0", "plugins": []})"), "name: missing");
  EXPECT_THAT(ConflistError(R"({"cniVersion": "1.0.0", "name": "../x", "plugins": []})"), testing::StartsWith("name: not"));
  EXPECT_EQ(ConflistError(R"({"cniVersion": "1.0.0", "name": "n"})"), "plugins: missing");
  EXPECT_EQ(ConflistError(with("[]")), "plugins: not a list of at least one plugin");
  EXPECT_EQ(ConflistError(with(R"([{"type": "a"}, 3])")), "plugins[1]: not an object");
  EXPECT_EQ(ConflistError(with(R"([{"typ": "a"}])")), "plugins[0].type: missing");
  EXPECT_EQ(ConflistError(with(R"([{"type": 7}])")), "plugins[0].type: not a string");
  EXPECT_EQ(ConflistError(with(R"([{"type": "a", "capabilities": []}])")), "plugins[0].capabilities: not an object");
  EXPECT_EQ(ConflistError(with(R"([{"type": "a", "capabilities": {"x": 1}}])")),
            "plugins[0].capabilities: a value is neither true nor false");
  EXPECT_EQ(ConflistError(R"({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "a"}], "disableCheck": 1})"),
            "disableCheck: neither true nor false");
  EXPECT_EQ(ConflistError(R"({"name": "n", "name": "m"})"), "bad JSON: an object has the same key twice");
  EXPECT_EQ(ConflistError(R"({"cniVersion": "1.0.0", "name": "n", "plugins": []})", ConfForm::kSinglePlugin),
            "plugins: a list of plugins belongs into a file named *.conflist");
  std::string many = "[";
  for (int i = 0; i <= limits::kCniPlugins; ++i) many += std::string(i ? "," : "") + R"({"type": "a"})";
  EXPECT_EQ(ConflistError(with(many + "]")), "plugins: more than 64");
}

TEST(ParseConflist, ATypeIsAFileName) {
  for (const char* type : {"", ".", "..", "a/b", "/bin/sh", "../../x", "a b", "a\\nb", "a\\u0000b", "\\u00e4"}) {
    EXPECT_EQ(ConflistError(fmt::format(R"({{"cniVersion": "1.0.0", "name": "n", "plugins": [{{"type": "{}"}}]}})", type)),
              "plugins[0].type: not the file name of a plugin")
        << type;
  }
  EXPECT_NE(ConflistError(fmt::format(R"({{"cniVersion": "1.0.0", "name": "n", "plugins": [{{"type": "{}"}}]}})",
                                std::string(256, 'x'))),
            "");
}

TEST(VersionAtLeast, OrdersTheKnown) {
  EXPECT_TRUE(VersionAtLeast("1.1.0", "0.4.0"));
  EXPECT_TRUE(VersionAtLeast("0.4.0", "0.4.0"));
  EXPECT_FALSE(VersionAtLeast("0.3.1", "0.4.0"));
  EXPECT_FALSE(IsKnownVersion("1.2.0"));
}

}  // namespace
}  // namespace caisson::net
