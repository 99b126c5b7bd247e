// SPDX-License-Identifier: Apache-2.0
#include "oci/spec.h"

#include <gmock/gmock.h>
#include <sched.h>
#include <sys/resource.h>

#include <nlohmann/json.hpp>

namespace caisson::oci {
namespace {

using nlohmann::json;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json Smallest() {
  return {{"ociVersion", "1.2.0"}, {"process", {{"args", {"a"}}, {"cwd", "/"}}}, {"root", {{"path", "rootfs"}}}};
}

std::string ErrorOf(const json& document) {
  auto spec = ParseSpec(document.dump());
  return spec ? "" : spec.error().message;
}

TEST(Spec, Defaults) {
  auto spec = ParseSpec(Smallest().dump());
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_EQ(spec->root_path, "rootfs");
  EXPECT_FALSE(spec->process.capabilities);
  EXPECT_FALSE(spec->process.oom_score_adj);
  EXPECT_FALSE(spec->seccomp);
  EXPECT_TRUE(spec->namespaces.empty());
}

TEST(Spec, WholeProcess) {
  json document = Smallest();
  document["process"] = json::parse(R"({
    "terminal": true, "consoleSize": {"width": 80, "height": 25},
    "user": {"uid": 1, "gid": 2, "umask": 63, "additionalGids": [3, 4]},
    "args": ["sh", "-c", "x"], "env": ["A=b"], "cwd": "/tmp",
    "capabilities": {"bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"], "ambient": ["CAP_KILL"]},
    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 18446744073709551615}],
    "noNewPrivileges": true, "oomScoreAdj": -5, "apparmorProfile": "p", "selinuxLabel": "l",
    "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 3},
    "scheduler": {"policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}})");
  auto spec = ParseSpec(document.dump());
  ASSERT_TRUE(spec) << spec.error().message;
  const ProcessSpec& process = spec->process;
  EXPECT_TRUE(process.terminal);
  EXPECT_EQ(process.console_width, 80);
  EXPECT_EQ(process.uid, 1u);
  EXPECT_EQ(process.gid, 2u);
  EXPECT_EQ(*process.umask, 63u);
  EXPECT_THAT(process.additional_gids, ElementsAre(3, 4));
  EXPECT_EQ(process.capabilities->bounding, 1u | uint64_t{1} << 40);
  EXPECT_EQ(process.capabilities->ambient, 1u << 5);
  EXPECT_EQ(process.rlimits[0].resource, RLIMIT_NOFILE);
  EXPECT_EQ(process.rlimits[0].hard, RLIM_INFINITY);
  EXPECT_EQ(*process.oom_score_adj, -5);
  EXPECT_EQ(process.io_priority->io_class, 2);
  EXPECT_EQ(process.scheduler->policy, 3u);
  EXPECT_EQ(process.scheduler->flags, 1u);
}

TEST(Spec, WholeLinux) {
  json document = Smallest();
  document["linux"] = json::parse(R"({
    "namespaces": [{"type": "mount"}, {"type": "network", "path": "/n"}],
    "uidMappings": [{"containerID": 0, "hostID": 5, "size": 6}],
    "sysctl": {"net.a": "1"}, "cgroupsPath": "/x",
    "resources": {"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3}],
                  "memory": {"limit": 5, "swap": -1}, "cpu": {"shares": 2, "quota": -1, "cpus": "0"}, "pids": {"limit": 7},
                  "hugepageLimits": [{"pageSize": "2MB", "limit": 9}], "unified": {"memory.high": "1"},
                  "rdma": {"mlx5_0": {"hcaHandles": 3}}},
    "devices": [{"path": "/dev/x", "type": "b", "major": 8, "minor": 1, "fileMode": 432, "uid": 1, "gid": 2}],
    "rootfsPropagation": "rslave", "maskedPaths": ["/m"], "readonlyPaths": ["/r"], "mountLabel": "l",
    "personality": {"domain": "LINUX32"}})");
  auto spec = ParseSpec(document.dump());
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_EQ(spec->FindNamespace(CLONE_NEWNET)->path, "/n");
  EXPECT_EQ(spec->FindNamespace(CLONE_NEWPID), nullptr);
  EXPECT_EQ(spec->id_maps.uids[0].host_id, 5u);
  EXPECT_EQ(*spec->resources.memory->swap, -1);
  EXPECT_EQ(*spec->resources.pids_limit, 7);
  EXPECT_EQ(spec->resources.devices[0].type, 'a');
  EXPECT_EQ(*spec->resources.devices[1].minor, 3);
  EXPECT_EQ(*spec->resources.rdma.at("mlx5_0").hca_handles, 3u);
  EXPECT_EQ(spec->devices[0].mode, 0660u);
  EXPECT_EQ(*spec->personality, 8u);
}

TEST(Spec, UnknownMembersAreIgnored) {
  json document = Smallest();
  document["future"] = 1;
  document["process"]["future"] = {1, 2};
  EXPECT_EQ(ErrorOf(document), "");
}

TEST(Spec, ErrorsNameTheMember) {
  struct Case {
    const char* pointer;
    json value;
    const char* says;
  };
  for (const Case& each : std::initializer_list<Case>{
           {"/ociVersion", "2.0.0", "ociVersion"},
           {"/process/args", json::array(), "process.args"},
           {"/process/args", {1}, "process.args[0]"},
           {"/process/args", {std::string("a\0b", 3)}, "process.args[0]"},
           {"/process/cwd", "tmp", "process.cwd"},
           {"/process/user", {{"uid", -1}}, "process.user.uid"},
           {"/process/user", {{"uid", 4294967296}}, "process.user.uid"},
           {"/process/user", {{"uid", "0"}}, "process.user.uid"},
           {"/process/user", {{"additionalGids", {-1}}}, "process.user.additionalGids[0]"},
           {"/process/capabilities", {{"bounding", {"CAP_NOTHING"}}}, "CAP_NOTHING"},
           {"/process/rlimits", {{{"type", "RLIMIT_X"}}}, "process.rlimits[0].type"},
           {"/process/oomScoreAdj", 1.5, "process.oomScoreAdj"},
           {"/process/scheduler", {{"policy", "SCHED_X"}}, "process.scheduler.policy"},
           {"/process/ioPriority", {{"class", "IOPRIO_CLASS_RT"}, {"priority", 8}}, "process.ioPriority.priority"},
           {"/root", "rootfs", "root"},
           {"/mounts", {{{"type", "tmpfs"}}}, "mounts[0].destination"},
           {"/mounts", {{{"destination", "/x"}, {"uidMappings", {{{"size", -1}}}}}}, "mounts[0].uidMappings[0].size"},
           {"/linux", {{"namespaces", {{{"type", "mount"}}, {{"type", "mount"}}}}}, "linux.namespaces[1].type"},
           {"/linux", {{"namespaces", {{{"type", "x"}}}}}, "linux.namespaces[0].type"},
           {"/linux", {{"devices", {{{"path", "x"}, {"type", "c"}}}}}, "linux.devices[0].path"},
           {"/linux", {{"devices", {{{"path", "/x"}, {"type", "char"}}}}}, "linux.devices[0].type"},
           {"/linux", {{"resources", {{"memory", {{"limit", "1"}}}}}}, "linux.resources.memory.limit"},
           {"/linux", {{"sysctl", {{"a", 1}}}}, "linux.sysctl"},
           {"/linux", {{"intelRdt", {{"closID", "x"}}}}, "linux.intelRdt"},
           {"/hooks", {{"prestart", {{{"path", "x"}}}}}, "hooks.prestart[0].path"}}) {
    json document = Smallest();
    document[json::json_pointer(each.pointer)] = each.value;
    EXPECT_THAT(ErrorOf(document), HasSubstr(each.says));
  }
}

TEST(Spec, HostileDocuments) {
  EXPECT_FALSE(ParseSpec(""));
  EXPECT_FALSE(ParseSpec("[]"));
  EXPECT_FALSE(ParseSpec(std::string(100'000, '[')));
  EXPECT_FALSE(ParseSpec(R"({"ociVersion":"1.0.0","ociVersion":"1.0.1"})"));
  EXPECT_FALSE(ParseSpec(R"({"ociVersion":"1.2.0","linux":{"seccomp":7}})"));
}

}  // namespace
}  // namespace caisson::oci
