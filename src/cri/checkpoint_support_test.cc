// SPDX-License-Identifier: Apache-2.0
#include "cri/checkpoint_support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caisson::cri {
namespace {

using ::testing::HasSubstr;

TEST(CriuReason, TheFirstErrors) {
  EXPECT_EQ(CriuReason("Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds\n"
                       "Error (criu/vdso.c:613): vdso: Failed to fill self vdso symtable\nWarn (x): y\n"),
            "criu check: vdso: Unexpected rt vDSO area bounds; vdso: Failed to fill self vdso symtable");
  EXPECT_EQ(CriuReason("time=2026 level=error msg=\"criu is not installed\"\n"), "\"criu is not installed\"");
  EXPECT_EQ(CriuReason(""), "");
  EXPECT_LT(CriuReason("Error (x): " + std::string(100'000, 'y')).size(), 600u);
}

TEST(CheckpointSupport, RestoringIsTheOperatorsChoice) {
  Config config;
  CheckpointSupport support(config);
  auto checked = support.CheckRestore();
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(checked.error().message, HasSubstr("checkpoint.restore"));
}

}  // namespace
}  // namespace caisson::cri
