// SPDX-License-Identifier: Apache-2.0
#include "net/cni_result.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/limits.h"

namespace caisson::net {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr char kBridge[] = R"({"cniVersion": "1.0.0", "interfaces": [
    {"name": "cni0", "mac": "aa:aa:aa:aa:aa:aa"},
    {"name": "veth1", "mac": "bb:bb:bb:bb:bb:bb"},
    {"name": "eth0", "mac": "cc:cc:cc:cc:cc:cc", "sandbox": "/run/netns/x"}],
  "ips": [{"interface": 2, "address": "10.1.2.3/24", "gateway": "10.1.2.1"},
          {"interface": 2, "address": "FD00:0::2/64"},
          {"interface": 0, "address": "10.1.2.1/24"}],
  "routes": [{"dst": "0.0.0.0/0"}], "dns": {}})";

std::string ErrorOf(std::string_view text) {
  auto result = ParseCniResult(text, "1.0.0", "eth0");
  return result ? "" : result.error().message;
}

TEST(ParseCniResult, DualStackOfThePodOnly) {
  auto result = ParseCniResult(kBridge, "1.0.0", "eth0");
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_THAT(result->ips, ElementsAre("10.1.2.3", "fd00::2"));
  EXPECT_EQ(result->mac, "cc:cc:cc:cc:cc:cc");
}

TEST(ParseCniResult, IsConvertedToTheConfigurationsVersion) {
  auto old = ParseCniResult(kBridge, "0.4.0", "eth0");
  ASSERT_TRUE(old);
  EXPECT_THAT(old->json, HasSubstr(R"("cniVersion":"0.4.0")"));
  EXPECT_THAT(old->json, HasSubstr(R"("version":"6")"));
  auto young = ParseCniResult(old->json, "1.1.0", "eth0");
  ASSERT_TRUE(young);
  EXPECT_THAT(young->json, Not(HasSubstr(R"("version")")));
  EXPECT_EQ(young->ips, old->ips);
}

TEST(ParseCniResult, AddressesWithoutInterfaces) {
  auto result =
      ParseCniResult(R"({"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.0.0.2/8"}]})", "0.3.1", "eth0");
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_THAT(result->ips, ElementsAre("10.0.0.2"));
  EXPECT_EQ(result->mac, "");
}

TEST(ParseCniResult, NoAddressAtAll) {
  auto result = ParseCniResult(R"({"ips": null, "interfaces": null})", "1.0.0", "eth0");
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_TRUE(result->ips.empty());
}

TEST(ParseCniResult, RefusesWhatIsNoResult) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("bad JSON"));
  EXPECT_THAT(ErrorOf("hello"), HasSubstr("bad JSON"));
  EXPECT_EQ(ErrorOf("[]"), "not a JSON object");
  EXPECT_THAT(ErrorOf(R"({"cniVersion": "0.2.0"})"), HasSubstr("cniVersion: not one of"));
  EXPECT_EQ(ErrorOf(R"({"ips": {}})"), "ips: not a list");
  EXPECT_EQ(ErrorOf(R"({"ips": [1]})"), "ips[0]: not an object");
  EXPECT_EQ(ErrorOf(R"({"ips": [{}]})"), "ips[0].address: not a string");
  EXPECT_EQ(ErrorOf(R"({"routes": {}})"), "routes: not a list");
  EXPECT_EQ(ErrorOf(R"({"dns": []})"), "dns: not an object");
  EXPECT_EQ(ErrorOf(R"({"interfaces": [{"name": ""}]})"), "interfaces[0].name: empty or too long");
  EXPECT_EQ(ErrorOf(R"({"interfaces": [{"name": 1}]})"), "interfaces[0].name: not a string");
  for (const char* address : {"10.0.0.1", "10.0.0.1/33", "10.0.0/8", "::1/129", "fd00::1/", "x/8", "/8", "10.0.0.1/-1",
                              "10.0.0.1\\u0000/8", "1.2.3.4; rm -rf/8"}) {
    EXPECT_THAT(ErrorOf(fmt::format(R"({{"ips": [{{"address": "{}"}}]}})", address)), HasSubstr("ips[0].address"))
        << address;
  }
  for (const char* index : {"-1", "1", "18446744073709551615", "0.5", "\"0\""}) {
    EXPECT_EQ(
        ErrorOf(fmt::format(
            R"({{"interfaces": [{{"name": "a"}}], "ips": [{{"address": "10.0.0.1/8", "interface": {}}}]}})", index)),
        "ips[0].interface: not an index of interfaces")
        << index;
  }
}

TEST(ParseCniResult, IsBounded) {
  std::string ips;
  for (int i = 0; i <= limits::kCniAddresses; ++i) ips += fmt::format(R"({}{{"address": "10.0.0.{}/8"}})", i ? "," : "", i);
  EXPECT_EQ(ErrorOf(fmt::format(R"({{"ips": [{}]}})", ips)), "ips: more than 64");
  EXPECT_THAT(ErrorOf(std::string(limits::kCniOutputBytes + 1, ' ')), HasSubstr("larger than the limit"));
  EXPECT_THAT(ErrorOf(R"({"x": )" + std::string(1000, '[')), HasSubstr("nested deeper"));
}

TEST(ParseCniError, MessageAndDetailsOnOneLine) {
  CniError error;
  ASSERT_TRUE(ParseCniError(R"({"cniVersion": "1.0.0", "code": 11, "msg": "try\nlater", "details": "no\u0007 lease"})",
                            &error));
  EXPECT_EQ(error.code, 11);
  EXPECT_EQ(error.message, "try later; no  lease");
}

TEST(ParseCniError, OnlyAnErrorObjectIsOne) {
  CniError error;
  for (const char* text : {"", "x", "[]", "{}", R"({"code": "1", "msg": "x"})", R"({"code": 1})", R"({"msg": "x"})"}) {
    EXPECT_FALSE(ParseCniError(text, &error)) << text;
  }
  ASSERT_TRUE(ParseCniError(R"({"code": -5, "msg": ")" + std::string(5000, 'a') + R"("})", &error));
  EXPECT_LT(error.message.size(), 1100u);
}

TEST(Printable, DoesNotCutACharacterInTwo) {
  EXPECT_EQ(Printable("aä", 2), "a…");
  EXPECT_EQ(Printable(" a\tb\n", 10), "a b");
}

}  // namespace
}  // namespace caisson::net
