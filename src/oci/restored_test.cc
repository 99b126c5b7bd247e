// SPDX-License-Identifier: Apache-2.0
#include "oci/restored.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace caisson::oci {
namespace {

using ::testing::HasSubstr;

constexpr const char* kWanted =
    "10 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
    "20 10 0:30 / /run/c/rootfs rw - overlay overlay rw\n"
    "21 20 0:31 / /run/c/rootfs/proc rw,nosuid,nodev,noexec - proc proc rw\n"
    "22 21 0:31 /sys /run/c/rootfs/proc/sys ro,nosuid - proc proc rw\n"
    "23 20 8:1 /vol /run/c/rootfs/data ro,relatime - ext4 /dev/sda1 rw\n"
    "24 10 8:1 / /run/c/rootfs2 rw - ext4 /dev/sda1 rw\n";

// What criu made of it: a procfs of another PID namespace, everything at the root.
std::string Restored() {
  return "30 1 0:30 / / rw - overlay overlay rw\n"
         "31 30 0:77 / /proc rw,nosuid,nodev,noexec - proc proc rw\n"
         "32 31 0:77 /sys /proc/sys ro,nosuid - proc proc rw\n"
         "33 30 8:1 /vol /data ro,relatime - ext4 /dev/sda1 rw\n";
}

std::string Compared(std::string restored) {
  auto wanted = sys::ParseMountInfo(kWanted), found = sys::ParseMountInfo(restored);
  if (!wanted || !found) return "does not parse";
  auto compared = CompareMounts(*wanted, "/run/c/rootfs", *found);
  if (compared) return "";
  EXPECT_EQ(compared.error().code, Code::kPermissionDenied);
  return compared.error().message;
}

std::string Changed(const std::string& from, const std::string& to) {
  std::string text = Restored();
  text.replace(text.find(from), from.size(), to);
  return Compared(text);
}

TEST(RestoredMounts, ThoseOfTheContainer) { EXPECT_EQ(Compared(Restored()), ""); }

TEST(RestoredMounts, OneMoreOrOneLess) {
  EXPECT_THAT(Compared(Restored() + "40 30 8:1 / /host rw - ext4 /dev/sda1 rw\n"), HasSubstr("no mount on '/host'"));
  EXPECT_THAT(Changed("32 31 0:77 /sys /proc/sys ro,nosuid - proc proc rw\n", ""), HasSubstr("lacks the container's mount on '/proc/sys'"));
}

TEST(RestoredMounts, AnotherFileSystemOrPartOfOne) {
  EXPECT_THAT(Changed("8:1 /vol /data", "8:1 / /data"), HasSubstr("'/data'"));
  EXPECT_THAT(Changed("8:1 /vol /data", "8:2 /vol /data"), HasSubstr("'/data'"));
  EXPECT_THAT(Changed("- overlay overlay", "- ext4 /dev/sda1"), HasSubstr("on '/'"));
}

TEST(RestoredMounts, LessRestricted) {
  EXPECT_THAT(Changed("/data ro,relatime", "/data rw,relatime"), HasSubstr("'/data' is not ro"));
  EXPECT_THAT(Changed("/proc rw,nosuid,nodev", "/proc rw,nodev"), HasSubstr("is not nosuid"));
  EXPECT_EQ(Changed("/data ro,relatime", "/data ro,nosuid,noatime"), "");
}

TEST(RestoredMounts, WhatCoversAnotherCounts) {
  EXPECT_THAT(Compared(Restored() + "40 33 0:90 / /data rw - tmpfs tmpfs rw\n"), HasSubstr("'/data'"));
}

ProcessSpec Process(uint32_t uid) {
  ProcessSpec process;
  process.uid = uid;
  process.gid = 5;
  process.additional_gids = {5, 6};
  process.capabilities.emplace();
  process.capabilities->bounding = 0xff;
  if (uid == 0) process.capabilities->permitted = process.capabilities->effective = 0xff;
  return process;
}

struct Status {
  uint32_t uid = 0;
  uint64_t bounding = 0xff, permitted = 0, ambient = 0;
  int no_new_privs = 0, seccomp = 0;
  std::string groups = "5 6";

  std::string Text() const {
    return fmt::format("Name:\tx\nUid:\t{0}\t{0}\t{0}\t{0}\nGid:\t5\t5\t5\t5\nGroups:\t{1} \nCapInh:\t0\nCapPrm:\t{2:016x}\nCapEff:\t{2:016x}\n"
                       "CapBnd:\t{3:016x}\nCapAmb:\t{4:x}\nNoNewPrivs:\t{5}\nSeccomp:\t{6}\nSeccomp_filters:\t0\n",
                       uid, groups, permitted, bounding, ambient, no_new_privs, seccomp);
  }
};

std::string Refusal(const ProcessSpec& process, bool filtered, const Status& status) {
  auto checked = CheckCredentials(process, filtered, status.Text());
  return checked ? "" : checked.error().message;
}

TEST(RestoredCredentials, WithinTheContainers) {
  EXPECT_EQ(Refusal(Process(0), false, {.permitted = 0xff}), "");
  // Root of a container may have become another user.
  EXPECT_EQ(Refusal(Process(0), false, {.uid = 33, .groups = "33 44"}), "");
  EXPECT_EQ(Refusal(Process(1000), false, {.uid = 1000}), "");
}

TEST(RestoredCredentials, Capabilities) {
  EXPECT_THAT(Refusal(Process(0), false, {.bounding = 0x1ff}), HasSubstr("CapBnd"));
  EXPECT_THAT(Refusal(Process(0), false, {.permitted = 0x100}), HasSubstr("CapPrm"));
  EXPECT_THAT(Refusal(Process(0), false, {.ambient = 0x100}), HasSubstr("CapAmb"));
  ProcessSpec none = Process(0);
  none.capabilities.reset();
  EXPECT_THAT(Refusal(none, false, {}), HasSubstr("CapBnd"));
  // By a program's capabilities, unless it may gain none.
  EXPECT_EQ(Refusal(Process(1000), false, {.uid = 1000, .permitted = 1}), "");
  ProcessSpec bound = Process(1000);
  bound.no_new_privileges = true;
  EXPECT_THAT(Refusal(bound, false, {.uid = 1000, .permitted = 1, .no_new_privs = 1}), HasSubstr("CapPrm"));
}

TEST(RestoredCredentials, UserAndGroups) {
  EXPECT_THAT(Refusal(Process(1000), false, {.uid = 0}), HasSubstr("user 0"));
  EXPECT_THAT(Refusal(Process(1000), false, {.uid = 1000, .groups = "5 7"}), HasSubstr("group 7"));
}

TEST(RestoredCredentials, FiltersAndNewPrivileges) {
  EXPECT_THAT(Refusal(Process(0), true, {}), HasSubstr("no seccomp filter"));
  EXPECT_THAT(Refusal(Process(0), true, {.seccomp = 1}), HasSubstr("no seccomp filter"));
  EXPECT_EQ(Refusal(Process(0), true, {.seccomp = 2}), "");
  ProcessSpec bound = Process(0);
  bound.no_new_privileges = true;
  EXPECT_THAT(Refusal(bound, false, {}), HasSubstr("may gain privileges"));
}

TEST(RestoredCredentials, AStatusThatSaysNothingIsNotBelieved) {
  EXPECT_FALSE(CheckCredentials(Process(0), true, ""));
  EXPECT_FALSE(CheckCredentials(Process(0), true, "CapBnd:\tzz\n"));
}

}  // namespace
}  // namespace caisson::oci
