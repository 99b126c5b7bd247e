// SPDX-License-Identifier: Apache-2.0
#include "image/digest.h"

#include <gtest/gtest.h>

namespace caisson::image {
namespace {

// FIPS 180-2's own examples.
constexpr char kAbc256[] = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr char kAbc512[] =
    "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
    "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";

TEST(Digest, HashesInPieces) {
  Hasher hasher;
  hasher.Update("a");
  hasher.Update("");
  hasher.Update("bc");
  EXPECT_EQ(hasher.Finish(), kAbc256);
  hasher.Update("abc");  // begins anew
  EXPECT_EQ(hasher.Finish(), kAbc256);
  Hasher long_one(kAbc512);
  long_one.Update("abc");
  EXPECT_EQ(long_one.Finish(), kAbc512);
}

TEST(Digest, OnlyTheTwoFormsPass) {
  EXPECT_TRUE(CheckDigest(kAbc256));
  EXPECT_TRUE(CheckDigest(kAbc512));
  std::string upper(kAbc256);
  upper.back() = 'D';
  for (const std::string& bad : {upper, std::string(), std::string("sha256:"), std::string("sha256"),
                                 std::string(kAbc256) + "0", "md5:" + std::string(32, 'a'),
                                 "sha256:../" + std::string(61, 'a'), std::string(kAbc256).substr(7)}) {
    EXPECT_FALSE(CheckDigest(bad)) << bad;
  }
}

TEST(Digest, TheLastByteCounts) {
  EXPECT_TRUE(VerifyDigest("abc", kAbc256, "blob"));
  auto wrong = VerifyDigest("abd", kAbc256, "blob");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().code, Code::kDataLoss);
  EXPECT_TRUE(VerifyDigest("abc", kAbc512, "blob"));
}

}  // namespace
}  // namespace caisson::image
