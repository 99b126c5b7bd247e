// SPDX-License-Identifier: Apache-2.0
#include "shim/foreign_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace caisson::shim {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

json SpecOfCaissond() {
  return json::parse(R"({"ociVersion": "1.2.0", "root": {"path": "rootfs"},
    "process": {"args": ["sh"], "cwd": "/", "env": ["A=b"], "user": {"uid": 1, "gid": 2}},
    "mounts": [{"destination": "/dev/shm", "type": "caisson-shm", "source": "shm", "options": ["nosuid"]},
               {"destination": "/one", "type": "caisson-image", "source": "i", "options": ["ro", "lowerdir=/l/1"]},
               {"destination": "/two", "type": "caisson-image", "source": "i", "options": ["ro", "lowerdir=/l/1:/l/2"]}],
    "linux": {"cgroupsPath": "/pods/c", "namespaces": [{"type": "mount"}]}})");
}

TEST(ForeignSpec, HasNothingOfOurOwn) {
  auto made = MakeForeignSpec(SpecOfCaissond().dump(), "/pod/shm");
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(made->cgroup_path, "/pods/c");
  json spec = json::parse(made->json);
  EXPECT_EQ(spec["mounts"][0]["type"], "bind");
  EXPECT_EQ(spec["ociVersion"], "1.0.2");
  EXPECT_EQ(spec["mounts"][0]["source"], "/pod/shm");
  EXPECT_EQ(spec["mounts"][0]["options"], json({"nosuid", "rbind"}));
  EXPECT_EQ(spec["mounts"][1]["type"], "bind");
  EXPECT_EQ(spec["mounts"][1]["source"], "/l/1");
  EXPECT_EQ(spec["mounts"][1]["options"], json({"ro", "rbind"}));
  EXPECT_EQ(spec["mounts"][2]["type"], "overlay");
  EXPECT_EQ(spec["mounts"][2]["options"], json({"ro", "lowerdir=/l/1:/l/2"}));
  EXPECT_EQ(json::parse(made->process)["user"]["uid"], 1);
  // Again it is as it is.
  EXPECT_EQ(MakeForeignSpec(made->json, "/pod/shm")->json, made->json);
}

TEST(ForeignSpec, RefusesWhatNoOtherCanMake) {
  json spec = SpecOfCaissond();
  spec["mounts"][1]["options"].push_back("subpath=etc");
  EXPECT_THAT(MakeForeignSpec(spec.dump(), "").error().message, HasSubstr("'/one'"));
  spec = SpecOfCaissond();
  spec["mounts"][0]["uidMappings"] = json::parse(R"([{"containerID": 0, "hostID": 1, "size": 1}])");
  EXPECT_THAT(MakeForeignSpec(spec.dump(), "").error().message, HasSubstr("id-mapped"));
  spec = SpecOfCaissond();
  spec["linux"].erase("cgroupsPath");
  EXPECT_FALSE(MakeForeignSpec(spec.dump(), ""));
  for (const char* text : {"", "[]", "{", "{\"process\": 1}"}) EXPECT_FALSE(MakeForeignSpec(text, "")) << text;
}

TEST(ForeignSpec, OfTheSandboxHasThePodsNamespaces) {
  pod::v1::SandboxOptions options;
  options.set_hostname("pod");
  options.set_cgroup_parent("/pods/p");
  (*options.mutable_runtime()->mutable_annotations())["io.kubernetes.cri.sandbox-uid"] = "u";
  json spec = json::parse(SandboxContainerSpec({"id", "/bin/us", CgroupBesideContainers(options, "sandbox-id"), 77, "/p/shm"}, options));
  EXPECT_EQ(spec["annotations"]["io.kubernetes.cri.container-type"], "sandbox");
  EXPECT_EQ(spec["annotations"]["io.kubernetes.cri.sandbox-id"], "id");
  EXPECT_EQ(spec["annotations"]["io.kubernetes.cri.sandbox-uid"], "u");
  EXPECT_EQ(spec["linux"]["cgroupsPath"], "/pods/p/sandbox-id");
  EXPECT_THAT(spec["linux"]["namespaces"].dump(), HasSubstr("/proc/77/ns/net"));
  EXPECT_THAT(spec["linux"]["namespaces"].dump(), HasSubstr("/proc/77/ns/ipc"));
  EXPECT_THAT(spec["mounts"].dump(), HasSubstr("/bin/us"));
  EXPECT_THAT(spec["mounts"].dump(), HasSubstr("\"source\":\"/p/shm\""));
  EXPECT_EQ(spec["hostname"], "pod");
  options.set_host_network(true);
  options.set_host_ipc(true);
  options.clear_hostname();
  spec = json::parse(SandboxContainerSpec({"id", "/bin/us", "/c", 77, "/p/shm"}, options));
  EXPECT_THAT(spec["linux"]["namespaces"].dump(), testing::Not(HasSubstr("/proc/77")));
  EXPECT_THAT(spec["mounts"].dump(), testing::Not(HasSubstr("/dev/shm")));
  EXPECT_FALSE(spec.contains("hostname"));
  options.set_systemd_cgroup(true);
  options.set_cgroup_parent("/kubepods.slice/kubepods-p.slice");
  EXPECT_EQ(CgroupBesideContainers(options, "shim-id"), "kubepods-p.slice:caisson:shim-id");
}

TEST(ForeignSpec, RunsOtherArguments) {
  auto made = MakeForeignSpec(SpecOfCaissond().dump(), "/pod/shm");
  json process = json::parse(*ProcessWithArgs(made->process, {"ls", "-l"}));
  EXPECT_EQ(process["args"], json({"ls", "-l"}));
  EXPECT_EQ(process["env"], json({"A=b"}));
  EXPECT_EQ(process["terminal"], false);
}

}  // namespace
}  // namespace caisson::shim
