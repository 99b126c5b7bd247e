// SPDX-License-Identifier: Apache-2.0
#include "cri/signal_name.h"

#include "cri/v1/api.pb.h"

// After the CRI's enum of signals, which <signal.h> would turn into numbers.
#include <gtest/gtest.h>

namespace caisson::cri {
namespace {

TEST(SignalNumber, ReadsWhatImagesSay) {
  EXPECT_EQ(*SignalNumber("SIGTERM"), 15);
  EXPECT_EQ(*SignalNumber("quit"), 3);
  EXPECT_EQ(*SignalNumber("9"), 9);
  EXPECT_EQ(*SignalNumber("SIGRTMIN+3"), 37);
  EXPECT_EQ(*SignalNumber("RTMAX-1"), 63);
  for (const char* bad : {"", "SIG", "0", "65", "-1", "SIGNOPE", "SIGRTMIN+31", "SIGRTMIN-1", "15x", "99999999999"}) {
    EXPECT_FALSE(SignalNumber(bad)) << bad;
  }
}

// Every signal of the CRI has a number, and the number's name is again a signal of the CRI.
TEST(SignalNumber, KnowsTheCri) {
  for (int value = 1; value <= 65; ++value) {
    ASSERT_TRUE(runtime::v1::Signal_IsValid(value));
    std::string name = runtime::v1::Signal_Name(static_cast<runtime::v1::Signal>(value));
    auto number = SignalNumber(name);
    ASSERT_TRUE(number) << name;
    runtime::v1::Signal back;
    ASSERT_TRUE(runtime::v1::Signal_Parse(SignalName(*number), &back)) << name;
    EXPECT_EQ(*SignalNumber(runtime::v1::Signal_Name(back)), *number);
  }
  EXPECT_EQ(SignalName(0), "");
  EXPECT_EQ(SignalName(99), "");
}

}  // namespace
}  // namespace caisson::cri
