// SPDX-License-Identifier: Apache-2.0
#include "sys/guest_image.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>

#include "base/sha256.h"
#include "base/strings.h"

namespace caisson::sys {
namespace {

using testing::HasSubstr;

class GuestImage : public testing::Test {
 protected:
  GuestImage() {
    char path[] = "/tmp/caisson-guest-image-XXXXXX";
    folder_ = mkdtemp(path);
    Write("kernel", "the kernel");
    Write("initramfs", "the initramfs");
    WriteManifest("1.2.3");
  }
  ~GuestImage() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) { std::ofstream(folder_ + "/" + name) << text; }
  void WriteManifest(const std::string& version) {
    Write("manifest.json", fmt::format(R"({{"version":"{}","kernel_version":"6.1","kernel_kind":"debian",
      "kernel":{{"file":"kernel","bytes":10,"sha256":"{}"}},"initramfs":{{"file":"initramfs","bytes":13,"sha256":"{}"}}}})",
                                       version, HexEncode(Sha256("the kernel")), HexEncode(Sha256("the initramfs"))));
  }
  Result<> Check() { return CheckGuestImage(folder_ + "/kernel", folder_ + "/initramfs", "1.2.3"); }
  Result<std::string> Verify() { return VerifyGuestImage(folder_ + "/kernel", folder_ + "/initramfs", "1.2.3"); }

  std::string folder_;
};

TEST_F(GuestImage, IsWhatItsManifestSays) {
  EXPECT_TRUE(Check()) << Check().error().message;
  auto verified = Verify();
  ASSERT_TRUE(verified) << verified.error().message;
  EXPECT_EQ(*verified, "version 1.2.3, kernel 6.1 (debian)");
}

TEST_F(GuestImage, OfAnotherVersionIsRefused) {
  WriteManifest("1.2.2");
  ASSERT_FALSE(Check());
  EXPECT_EQ(Check().error().code, Code::kFailedPrecondition);
  EXPECT_THAT(Check().error().message, HasSubstr("is of version 1.2.2, and this is 1.2.3: install"));
}

TEST_F(GuestImage, CutShortIsRefused) {
  Write("initramfs", "the init");
  ASSERT_FALSE(Check());
  EXPECT_THAT(Check().error().message, HasSubstr("initramfs' has 8 bytes, and its manifest says 13"));
}

TEST_F(GuestImage, ChangedIsFoundByReading) {
  Write("kernel", "the Kernel");
  EXPECT_TRUE(Check()) << "sizes are as they were";
  ASSERT_FALSE(Verify());
  EXPECT_THAT(Verify().error().message, HasSubstr("kernel' is not what was built"));
}

TEST_F(GuestImage, OfSomebodyElseIsTakenAsItIs) {
  Write("other", "x");
  EXPECT_TRUE(CheckGuestImage(folder_ + "/other", folder_ + "/initramfs", "1.2.3"));
  EXPECT_TRUE(CheckGuestImage("/elsewhere/kernel", folder_ + "/initramfs", "1.2.3"));
  std::filesystem::remove(folder_ + "/manifest.json");
  EXPECT_TRUE(Check());
  EXPECT_EQ(Verify().value_or("error"), "");
}

TEST_F(GuestImage, AManifestThatIsNoneIsRefused) {
  Write("manifest.json", "{");
  ASSERT_FALSE(Check());
  EXPECT_THAT(Check().error().message, HasSubstr("manifest.json' is no manifest"));
}

}  // namespace
}  // namespace caisson::sys
