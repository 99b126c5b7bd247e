// SPDX-License-Identifier: Apache-2.0
#include "shim/guest_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace caisson::shim {
namespace {

using ::testing::HasSubstr;
using json = nlohmann::json;

json HostSpec() {
  return json::parse(R"({
    "ociVersion": "1.1.0", "root": {"path": "/var/lib/caisson/x", "readonly": true},
    "process": {"args": ["sh"], "apparmorProfile": "x", "selinuxLabel": "y"},
    "mounts": [
      {"destination": "/proc", "type": "proc", "source": "proc"},
      {"destination": "/etc/hosts", "type": "bind", "source": "/pods/1/hosts", "options": ["rbind", "ro"]},
      {"destination": "/data", "source": "/pods/1/secret", "options": ["rbind"]}],
    "linux": {
      "namespaces": [{"type": "mount"}, {"type": "network", "path": "/proc/7/ns/net"}, {"type": "ipc", "path": "/proc/7/ns/ipc"},
                     {"type": "uts", "path": "/proc/7/ns/uts"}, {"type": "pid", "path": "/proc/82/ns/pid"}, {"type": "cgroup"}],
      "cgroupsPath": "kubepods.slice:caisson:1", "devices": [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}],
      "resources": {"memory": {"limit": 1000}, "cpu": {"shares": 5, "cpus": "0-3", "mems": "0"}}}})");
}

Result<GuestSpec> Make(const json& spec) {
  return MakeGuestSpec("c1", spec.dump(), [](const std::string& path, bool read_only) {
    if (!path.ends_with("secret")) return VolumeKind::kFile;
    return read_only ? VolumeKind::kCopied : VolumeKind::kShared;
  });
}

TEST(GuestSpecTest, TheFilterIsTheHostsToCompile) {
  json spec = HostSpec();
  spec["linux"]["seccomp"] = {{"defaultAction", "SCMP_ACT_ERRNO"}, {"syscalls", json::array({{{"names", {"read"}}, {"action", "SCMP_ACT_ALLOW"}}})}};
  auto made = Make(spec);
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_FALSE(json::parse(made->config_json)["linux"].contains("seccomp"));
  ASSERT_TRUE(made->seccomp);
  EXPECT_EQ(made->seccomp->default_action, "SCMP_ACT_ERRNO");
  EXPECT_EQ(made->seccomp->syscalls.size(), 1u);
  spec["linux"]["seccomp"]["defaultAction"] = "SCMP_ACT_NOTIFY";
  made = Make(spec);
  ASSERT_FALSE(made);
  EXPECT_THAT(made.error().message, HasSubstr("SCMP_ACT_NOTIFY"));
  spec["linux"].erase("seccomp");
  made = Make(spec);
  ASSERT_TRUE(made);
  EXPECT_FALSE(made->seccomp);
}

TEST(GuestSpecTest, NamesNothingOfTheHost) {
  auto made = Make(HostSpec());
  ASSERT_TRUE(made) << made.error().message;
  json spec = json::parse(made->config_json);
  EXPECT_EQ(spec["root"]["path"], "rootfs");
  EXPECT_EQ(spec["root"]["readonly"], true);
  EXPECT_EQ(spec["linux"]["cgroupsPath"], "/pod/c1");
  EXPECT_EQ(spec["linux"]["namespaces"], json::parse(R"([{"type": "mount"}, {"type": "pid", "path": "/proc/82/ns/pid"}, {"type": "cgroup"}])"));
  EXPECT_EQ(spec["linux"]["resources"], json::parse(R"({"memory": {"limit": 1000}, "cpu": {"shares": 5}})"));
  for (const char* gone : {"/pods/", "/proc/7", "kubepods", "apparmorProfile", "selinuxLabel", "/var/lib"}) {
    EXPECT_THAT(made->config_json, Not(HasSubstr(gone)));
  }
}

TEST(GuestSpecTest, WhoMayAdministerTheNetworkWaitsForModules) {
  json spec = HostSpec();
  EXPECT_FALSE(Make(spec)->wants_modules);
  spec["process"]["capabilities"]["bounding"] = {"CAP_CHOWN"};
  EXPECT_FALSE(Make(spec)->wants_modules);
  spec["process"]["capabilities"]["bounding"] = {"CAP_CHOWN", "CAP_NET_ADMIN"};
  EXPECT_TRUE(Make(spec)->wants_modules);
}

TEST(GuestSpecTest, BindMountsBecomeVolumesOfTheGuest) {
  auto made = Make(HostSpec());
  ASSERT_EQ(made->volumes.size(), 2u);
  const GuestVolume &file = made->volumes[0], &folder = made->volumes[1];
  EXPECT_EQ(file.source, "/pods/1/hosts");
  EXPECT_TRUE(file.read_only);
  EXPECT_EQ(file.kind, VolumeKind::kFile);
  EXPECT_EQ(folder.kind, VolumeKind::kShared);
  EXPECT_FALSE(folder.read_only);
  json mounts = json::parse(made->config_json)["mounts"];
  EXPECT_EQ(mounts[0]["source"], "proc");
  EXPECT_EQ(mounts[1]["source"], "/run/caisson/volumes/" + file.name + "/file");
  EXPECT_EQ(mounts[2]["source"], "/run/caisson/shared/" + folder.name);
  EXPECT_NE(file.name, folder.name);
  EXPECT_EQ(Make(HostSpec())->volumes[0].name, file.name) << "the containers of a pod share a source";
}

TEST(GuestSpecTest, ReadOnlyIsSaidInTwoWays) {
  for (const char* word : {"ro", "rro"}) {
    json spec = HostSpec();
    spec["mounts"][2]["options"].push_back(word);
    auto made = Make(spec);
    EXPECT_TRUE(made->volumes[1].read_only) << word;
    EXPECT_EQ(made->volumes[1].kind, VolumeKind::kCopied) << word;
    EXPECT_EQ(json::parse(made->config_json)["mounts"][2]["source"], "/run/caisson/volumes/" + made->volumes[1].name);
  }
}

TEST(GuestSpecTest, AnImageVolumeIsOfDisks) {
  json spec = HostSpec();
  spec["mounts"].push_back(json::parse(R"({"destination": "/image", "type": "caisson-image", "source": "i",
                                           "options": ["ro", "nosuid", "erofs=/images/2", "erofs=/images/1", "subpath=a/b"]})"));
  auto made = Make(spec);
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(made->image_layers, (std::vector<std::string>{"/images/2", "/images/1"}));
  EXPECT_EQ(json::parse(made->config_json)["mounts"][3]["options"],
            json({"ro", "nosuid", "subpath=a/b", "lowerdir=/run/caisson/layers/" + LayerSerial("/images/2") + ":/run/caisson/layers/" + LayerSerial("/images/1")}));
  spec["mounts"][3]["options"] = {"erofs=/images/1"};
  EXPECT_EQ(json::parse(Make(spec)->config_json)["mounts"][3]["options"], json({"lowerdir=/run/caisson/layers/" + LayerSerial("/images/1") + ":/run/caisson/empty"}));
  spec["mounts"][3]["options"] = {"ro", "lowerdir=/host"};
  EXPECT_FALSE(Make(spec));
  spec["mounts"][3]["options"] = {"ro"};
  EXPECT_FALSE(Make(spec));
}

TEST(GuestSpecTest, WhatAVmCannotHaveIsRefusedByName) {
  json host_pid = HostSpec();
  host_pid["linux"]["namespaces"].erase(4);
  EXPECT_THAT(Make(host_pid).error().message, HasSubstr("the host's PID namespace"));
  json device = HostSpec();
  device["linux"]["devices"].push_back({{"path", "/dev/kvm"}});
  EXPECT_THAT(Make(device).error().message, HasSubstr("'/dev/kvm'"));
  json users = HostSpec();
  users["linux"]["namespaces"].push_back({{"type", "user"}});
  EXPECT_THAT(Make(users).error().message, HasSubstr("user namespace"));
  json hooks = HostSpec();
  hooks["hooks"]["prestart"] = json::array({{{"path", "/bin/x"}}});
  EXPECT_THAT(Make(hooks).error().message, HasSubstr("hooks"));
}

TEST(GuestSpecTest, ABlockDeviceIsADisk) {
  json spec = HostSpec();
  auto& linux = spec["linux"];
  linux["devices"].push_back(json::parse(R"({"path": "/dev/a", "type": "b", "major": 8, "minor": 0, "hostPath": "/dev/sda", "fileMode": 432})"));
  linux["devices"].push_back(json::parse(R"({"path": "/dev/b", "type": "b", "major": 8, "minor": 16, "hostPath": "/dev/sdb"})"));
  linux["resources"]["devices"] = json::parse(R"([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 8, "minor": 0, "access": "rw"},
    {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "r"}, {"allow": true, "type": "b", "major": 8, "minor": 16, "access": "rwm"}])");
  auto made = Make(spec);
  ASSERT_TRUE(made) << made.error().message;
  ASSERT_EQ(made->disks.size(), 2u);
  EXPECT_EQ(made->disks[0].path, "/dev/sda");
  EXPECT_TRUE(made->disks[0].read_only);
  EXPECT_FALSE(made->disks[1].read_only);
  EXPECT_EQ(DiskSerial(made->disks[1], 3), "b8x16n3");
  EXPECT_LE(DiskSerial({"", 4095, (1 << 20) - 1, true}, UINT32_MAX).size(), 20u) << "no disk has a longer one";
  EXPECT_THAT(made->config_json, Not(HasSubstr("hostPath")));
  // The guest has them the other way round.
  auto numbered = NumberDisks(made->config_json, made->disks, {{8, 16}, {8, 0}});
  ASSERT_TRUE(numbered) << numbered.error().message;
  json guests = json::parse(*numbered)["linux"];
  EXPECT_EQ(guests["devices"][1], json::parse(R"({"path": "/dev/a", "type": "b", "major": 8, "minor": 16, "fileMode": 432})"));
  EXPECT_EQ(guests["devices"][2]["minor"], 0);
  EXPECT_EQ(guests["devices"][0], linux["devices"][0]);
  EXPECT_EQ(guests["resources"]["devices"][2]["minor"], 16);
  EXPECT_EQ(guests["resources"]["devices"][3]["minor"], 0);
  EXPECT_EQ(guests["resources"]["devices"][1]["minor"], 0) << "not a block device's";
  EXPECT_FALSE(NumberDisks(made->config_json, made->disks, {{8, 16}}));
  // One that names no path of the host, and one that is no block device.
  linux["devices"][1].erase("hostPath");
  EXPECT_THAT(Make(spec).error().message, HasSubstr("'/dev/a'"));
  linux["devices"][1]["hostPath"] = "/dev/kvm";
  linux["devices"][1]["type"] = "c";
  EXPECT_THAT(Make(spec).error().message, HasSubstr("'/dev/a'"));
  linux["devices"][1] = json::parse(R"({"path": "/dev/null", "type": "b", "hostPath": "/dev/sda"})");
  EXPECT_FALSE(Make(spec));
}

TEST(GuestSpecTest, MalformedOnesAreErrors) {
  for (const char* text : {"", "[]", "{}", R"({"linux": 3})", R"({"linux": {"namespaces": 3}})", R"({"linux": {"namespaces": [3]}})",
                           R"({"linux": {"namespaces": [{"type": "pid"}]}, "mounts": [3]})", R"({"linux": {"namespaces": [{"type": "pid"}]}, "root": 3})"}) {
    EXPECT_FALSE(MakeGuestSpec("c1", text, [](const std::string&, bool) { return VolumeKind::kFile; })) << text;
  }
  EXPECT_FALSE(MakeGuestResources("[]"));
}

TEST(GuestSpecTest, AnUpdateNamesNoCpusOfTheHost) {
  EXPECT_EQ(*MakeGuestResources(R"({"cpu": {"quota": 5, "cpus": "1"}})"), R"({"cpu":{"quota":5}})");
}

}  // namespace
}  // namespace caisson::shim
