// SPDX-License-Identifier: Apache-2.0
#include "oci/cgroup_systemd.h"

#include <cstring>
#include <map>

#include <gtest/gtest.h>

namespace caisson::oci {
namespace {

TEST(SystemdPath, Parses) {
  auto path = ParseSystemdPath("kubepods-burstable-pod1.slice:caisson:ctr");
  ASSERT_TRUE(path) << path.error().message;
  EXPECT_EQ(path->slice, "kubepods-burstable-pod1.slice");
  EXPECT_EQ(path->scope, "caisson-ctr.scope");
  EXPECT_EQ(path->path,
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/caisson-ctr.scope");
  EXPECT_EQ(ParseSystemdPath("::x")->path, "system.slice/x.scope");
  EXPECT_EQ(ParseSystemdPath("-.slice:p:x")->path, "p-x.scope");
  for (const char* bad : {"", "a", "a:b", "a.slice:b:c:d", "../x.slice:b:c", "a.slice:b:..", "a.slice:../b:c", "a:b:c",
                          "a--b.slice:p:x", "-a.slice:p:x", "a.slice:b:", "a/b.slice:p:x"}) {
    EXPECT_FALSE(ParseSystemdPath(bad)) << bad;
    EXPECT_FALSE(IsSystemdPath(bad)) << bad;
  }
  EXPECT_TRUE(IsSystemdPath("kubepods-pod1.slice:cri-containerd:ctr"));
  EXPECT_FALSE(IsSystemdPath("/kubepods/pod1/ctr"));
}

TEST(SystemdProperties, Conversions) {
  Resources r;
  r.cpu.emplace();
  r.cpu->shares = 1024;
  r.cpu->quota = 12'345;
  r.cpu->period = 100'000;
  r.cpu->cpus = "0-1,9";
  r.memory.emplace();
  r.memory->limit = 100;
  r.memory->swap = 150;
  r.pids_limit = -1;
  std::map<std::string, SystemdProperty> by_name;
  for (const auto& property : SystemdProperties(r, true)) by_name[property.name] = property;
  auto number = [&](const char* name) { return std::get<uint64_t>(by_name.at(name).value); };
  EXPECT_EQ(number("CPUWeight"), 100u);
  EXPECT_EQ(number("CPUQuotaPerSecUSec"), 130'000u) << "123.45 ms, rounded up to 10 ms";
  EXPECT_EQ(number("MemoryMax"), 100u);
  EXPECT_EQ(number("MemorySwapMax"), 50u);
  EXPECT_EQ(number("TasksMax"), UINT64_MAX);
  EXPECT_EQ(number("CPUQuotaPeriodUSec"), 100'000u);
  EXPECT_EQ(std::get<std::vector<uint8_t>>(by_name.at("AllowedCPUs").value), (std::vector<uint8_t>{0x03, 0x02}));
  for (const char* bad : {"", "x", "3-1", "1-", "9999999"}) EXPECT_FALSE(CpuListBits(bad)) << bad;
}

TEST(Systemd, PropertiesOfUnifiedFiles) {
  Resources r;
  r.unified = {{"memory.high", "4096"}, {"memory.low", " 8192\n"},      {"memory.swap.max", "max"}, {"io.weight", "default 50"},
               {"cpu.weight", "7"},     {"memory.oom.group", "1"},      {"memory.min", "lots"},     {"pids.max", "12"},
               {"cpuset.mems", "0-1"},  {"io.max", "8:0 rbps=1048576"}, {"cpuset.cpus", "x"}};
  std::map<std::string, SystemdProperty> by_name;
  for (const auto& property : SystemdProperties(r, true)) by_name[property.name] = property;
  auto number = [&](const char* name) { return std::get<uint64_t>(by_name.at(name).value); };
  EXPECT_EQ(number("MemoryHigh"), 4096u);
  EXPECT_EQ(number("MemoryLow"), 8192u);
  EXPECT_EQ(number("MemorySwapMax"), UINT64_MAX);
  EXPECT_EQ(number("IOWeight"), 50u);
  EXPECT_EQ(number("CPUWeight"), 7u);
  EXPECT_EQ(number("TasksMax"), 12u);
  EXPECT_EQ(std::get<std::vector<uint8_t>>(by_name.at("AllowedMemoryNodes").value), std::vector<uint8_t>{0x03});
  EXPECT_EQ(by_name.size(), 7u) << "no property for the others";
}

// Written by hand from the D-Bus specification, "Message Protocol".
TEST(Dbus, StopUnitOnTheWire) {
  std::string message = StopUnitMessage(7, "x.scope");
  std::string expected("l\1\0\1" "\x1c\0\0\0" "\7\0\0\0", 12);
  expected += std::string("\x90\0\0\0", 4);
  expected += std::string("\1\1o\0" "\x19\0\0\0", 8) + "/org/freedesktop/systemd1" + std::string(7, '\0');
  expected += std::string("\2\1s\0" "\x20\0\0\0", 8) + "org.freedesktop.systemd1.Manager" + std::string(8, '\0');
  expected += std::string("\3\1s\0" "\x08\0\0\0", 8) + "StopUnit" + std::string(8, '\0');
  expected += std::string("\6\1s\0" "\x18\0\0\0", 8) + "org.freedesktop.systemd1" + std::string(8, '\0');
  expected += std::string("\10\1g\0" "\2ss\0", 8);
  expected += std::string("\7\0\0\0", 4) + "x.scope" + std::string(1, '\0');
  expected += std::string("\7\0\0\0", 4) + "replace" + std::string(1, '\0');
  // The lengths: body from its start, fields without the padding behind them.
  uint32_t body = 24, fields = static_cast<uint32_t>(expected.size() - 16 - body);
  memcpy(expected.data() + 4, &body, 4);
  memcpy(expected.data() + 12, &fields, 4);
  EXPECT_EQ(message, expected);
}

std::string ErrorReply(uint32_t serial, const std::string& name, const std::string& text) {
  std::string fields = std::string("\5\1u\0", 4) + std::string(4, '\0') + std::string("\4\1s\0", 4);
  memcpy(fields.data() + 4, &serial, 4);
  auto add = [](std::string* out, const std::string& value) {
    auto size = static_cast<uint32_t>(value.size());
    out->append(reinterpret_cast<const char*>(&size), 4);
    *out += value + '\0';
  };
  add(&fields, name);
  std::string body;
  add(&body, text);
  std::string out("l\3\0\1", 4);
  auto body_size = static_cast<uint32_t>(body.size()), fields_size = static_cast<uint32_t>(fields.size());
  uint32_t own = 1;
  out.append(reinterpret_cast<const char*>(&body_size), 4).append(reinterpret_cast<const char*>(&own), 4);
  out.append(reinterpret_cast<const char*>(&fields_size), 4).append(fields);
  out.resize((out.size() + 7) / 8 * 8);
  return out + body;
}

TEST(Dbus, RepliesWholeAndInPieces) {
  std::string bytes = ErrorReply(5, "org.freedesktop.systemd1.NoSuchUnit", "Unit x.scope not loaded.");
  for (size_t cut = 0; cut < bytes.size(); ++cut) {
    auto part = ParseDbusMessage(std::string_view(bytes).substr(0, cut));
    ASSERT_TRUE(part) << cut;
    EXPECT_EQ(part->size, 0u) << cut;
  }
  auto reply = ParseDbusMessage(bytes + "more");
  ASSERT_TRUE(reply) << reply.error().message;
  EXPECT_EQ(reply->size, bytes.size());
  EXPECT_EQ(reply->type, 3);
  EXPECT_EQ(reply->reply_serial, 5u);
  EXPECT_EQ(reply->error_name, "org.freedesktop.systemd1.NoSuchUnit");
  EXPECT_EQ(reply->text, "Unit x.scope not loaded.");
  // Any one byte damaged: an error or another message, never a read outside.
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (char value : {'\0', '\x7f', '\xff'}) {
      std::string damaged = bytes;
      damaged[i] = value;
      (void)ParseDbusMessage(damaged);
    }
  }
  EXPECT_FALSE(ParseDbusMessage(std::string(16, 'x')));
  EXPECT_EQ(ParseDbusMessage(std::string("l\3\0\1\xff\xff\xff\x7f\0\0\0\0\0\0\0\0", 16)).error().code, Code::kResourceExhausted);
}

}  // namespace
}  // namespace caisson::oci
