// SPDX-License-Identifier: Apache-2.0
#include "shim/vm_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace caisson::shim {
namespace {

using testing::HasSubstr;
using nlohmann::json;

constexpr uint64_t kMebibyte = 1 << 20;

// As containerd's CRI has it for the container that holds a pod.
json SandboxSpec() {
  return json::parse(R"({
    "ociVersion": "1.0.2", "hostname": "web", "root": {"path": "rootfs"}, "process": {"args": ["/pause"], "cwd": "/"},
    "annotations": {"io.kubernetes.cri.container-type": "sandbox", "io.kubernetes.cri.sandbox-id": "pod1",
                    "io.kubernetes.cri.sandbox-memory": "268435456", "io.kubernetes.cri.sandbox-cpu-quota": "150000",
                    "io.kubernetes.cri.sandbox-cpu-period": "100000"},
    "linux": {"cgroupsPath": "/kubepods/pod1", "sysctl": {"net.core.somaxconn": "77"},
              "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network", "path": "/run/netns/n"}]}})");
}

Result<VmRequest> Ask(const json& spec, const ShimSettings& settings = {}) { return MakeVmRequest(spec.dump(), "pod1", false, settings, {"node", 4, false, true}); }

TEST(VmRequest, APodsContainerAsksForTheMachine) {
  auto vm = Ask(SandboxSpec());
  ASSERT_TRUE(vm) << vm.error().message;
  EXPECT_TRUE(vm->sandbox);
  EXPECT_EQ(vm->netns_path, "/run/netns/n");
  EXPECT_EQ(vm->options.hostname(), "web");
  EXPECT_TRUE(vm->options.share_pid());
  EXPECT_EQ(vm->options.sysctls().at("net.core.somaxconn"), "77");
  EXPECT_FALSE(vm->options.systemd_cgroup());
  EXPECT_EQ(vm->options.vm().cgroup_path(), "/kubepods/pod1");
  EXPECT_EQ(vm->options.vm().memory_bytes(), 352 * kMebibyte);
  EXPECT_EQ(vm->options.vm().vcpus(), 2u);
  EXPECT_EQ(vm->options.vm().accelerator(), "tcg");
  EXPECT_EQ(vm->options.vm().kernel(), kGuestKernel);
  EXPECT_EQ(vm->options.vm().uid(), VmmIdOf(kFirstVmmId, "pod1"));
}

TEST(VmRequest, ALoneContainerIsTheMachinesOwn) {
  json spec = SandboxSpec();
  spec.erase("annotations");
  spec.erase("hostname");
  spec["linux"]["namespaces"][4].erase("path");
  spec["linux"]["cgroupsPath"] = "system.slice:ctr:one";
  ShimSettings settings;
  settings.accelerator = "kvm";
  settings.vcpus = 2;
  auto vm = Ask(spec, settings);
  ASSERT_TRUE(vm) << vm.error().message;
  EXPECT_FALSE(vm->sandbox);
  EXPECT_FALSE(vm->options.share_pid());
  EXPECT_EQ(vm->netns_path, "");
  EXPECT_EQ(vm->options.hostname(), "node");
  EXPECT_TRUE(vm->options.systemd_cgroup());
  EXPECT_EQ(vm->options.vm().memory_bytes(), static_cast<uint64_t>(kVmMemoryBytes));
  EXPECT_EQ(vm->options.vm().vcpus(), 2u);
  EXPECT_EQ(vm->options.vm().accelerator(), "kvm");
  EXPECT_FALSE(MakeVmRequest(spec.dump(), "pod1", false, settings, {"node", 4, false, false})->options.systemd_cgroup());
  spec["linux"]["resources"] = json::parse(R"({"memory": {"limit": 134217728}, "cpu": {"quota": 300000, "period": 100000}})");
  vm = Ask(spec, settings);
  EXPECT_EQ(vm->options.vm().memory_bytes(), 224 * kMebibyte);
  EXPECT_EQ(vm->options.vm().vcpus(), 3u);
}

// As containerd 2.x has it for a shim that makes sandboxes.
TEST(VmRequest, ASandboxWithoutAContainer) {
  pod::v1::PodConfig config;
  config.mutable_linux()->set_cgroup_parent("/kubepods/pod1");
  config.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(256 * kMebibyte);
  config.mutable_linux()->mutable_resources()->set_cpu_quota(150'000);
  config.mutable_linux()->mutable_resources()->set_cpu_period(100'000);
  pod::v1::SandboxOptions options;
  options.set_share_pid(true);
  ASSERT_TRUE(CompleteOptions(config, "pod1", {}, {"node", 4, false, true}, &options));
  EXPECT_EQ(options.vm().memory_bytes(), 352 * kMebibyte);
  EXPECT_EQ(options.vm().vcpus(), 2u);
  EXPECT_EQ(options.vm().cgroup_path(), "/kubepods/pod1/pod1");
  EXPECT_FALSE(options.systemd_cgroup());
  EXPECT_EQ(options.vm().uid(), VmmIdOf(kFirstVmmId, "pod1"));
  // The kubelet's path with the systemd driver; limits that are none.
  config.mutable_linux()->set_cgroup_parent("/kubepods.slice/kubepods-podx.slice");
  config.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(-1);
  ASSERT_TRUE(CompleteOptions(config, "pod1", {}, {"node", 4, false, true}, &options));
  EXPECT_EQ(options.vm().cgroup_path(), "kubepods-podx.slice:cri-containerd:pod1");
  EXPECT_TRUE(options.systemd_cgroup());
  EXPECT_EQ(options.vm().memory_bytes(), static_cast<uint64_t>(ShimSettings().memory_bytes));
  for (auto [what, set] : {std::pair("network", &pod::v1::SandboxOptions::set_host_network), {"IPC namespace", &pod::v1::SandboxOptions::set_host_ipc}}) {
    pod::v1::SandboxOptions theirs;
    theirs.set_share_pid(true);
    (theirs.*set)(true);
    auto refused = CompleteOptions(config, "pod1", {}, {"node", 4, false, true}, &theirs);
    ASSERT_FALSE(refused) << what;
    EXPECT_THAT(refused.error().message, HasSubstr(std::string("the host's ") + what));
  }
  pod::v1::SandboxOptions theirs;
  EXPECT_FALSE(CompleteOptions(config, "pod1", {}, {"node", 4, false, true}, &theirs)) << "the host's PID namespace";
}

TEST(VmRequest, NamespacesOfTheHostAreRefused) {
  for (auto [type, word] : {std::pair("network", "the host's network"), {"pid", "the host's PID namespace"}, {"ipc", "the host's IPC namespace"}}) {
    json spec = SandboxSpec();
    auto& spaces = spec["linux"]["namespaces"];
    spaces.erase(std::find_if(spaces.begin(), spaces.end(), [gone = std::string(type)](const json& one) { return one["type"] == gone; }));
    auto vm = Ask(spec);
    ASSERT_FALSE(vm) << type;
    EXPECT_EQ(vm.error().code, Code::kFailedPrecondition);
    EXPECT_THAT(vm.error().message, HasSubstr(word));
  }
  json spec = SandboxSpec();
  spec["linux"]["namespaces"].push_back({{"type", "user"}});
  spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = json::parse(R"([{"containerID": 0, "hostID": 1000, "size": 10}])");
  auto vm = Ask(spec);
  ASSERT_FALSE(vm);
  EXPECT_THAT(vm.error().message, HasSubstr("user namespace"));
  EXPECT_FALSE(MakeVmRequest("{", "pod1", false, {}, {}));
}

TEST(VmRequest, WhatAContainerNamesOfItsPodBecomesTheGuests) {
  json spec = json::parse(R"({
    "mounts": [{"destination": "/dev/shm", "type": "bind", "source": "/run/containerd/sandboxes/pod1/shm", "options": ["rbind", "ro"]},
               {"destination": "/data", "type": "bind", "source": "/volumes/shm", "options": ["rbind", "rprivate"]}],
    "linux": {"sysctl": {"a": "b"}, "namespaces": [{"type": "pid", "path": "/proc/4711/ns/pid"}, {"type": "mount"}]}})");
  auto adapted = AdaptConfig(spec.dump(), {"pod1", 4711, 9, true});
  ASSERT_TRUE(adapted) << adapted.error().message;
  json made = json::parse(*adapted);
  EXPECT_EQ(made["mounts"][0], json::parse(R"({"destination": "/dev/shm", "type": "caisson-shm", "source": "shm", "options": ["nosuid", "noexec", "nodev"]})"));
  EXPECT_EQ(made["mounts"][1], spec["mounts"][1]);
  EXPECT_EQ(made["linux"]["namespaces"][0]["path"], "/proc/9/ns/pid");
  EXPECT_TRUE(made["linux"].contains("sysctl"));
  // Another process's is the guest's already: a container's that was told.
  spec["linux"]["namespaces"][0]["path"] = "/proc/31/ns/pid";
  adapted = AdaptConfig(spec.dump(), {"pod1", 4711, 9, false});
  made = json::parse(*adapted);
  EXPECT_EQ(made["linux"]["namespaces"][0]["path"], "/proc/31/ns/pid");
  EXPECT_FALSE(made["linux"].contains("sysctl"));
}

TEST(VmRequest, AMountThatIsToBeSharedWithTheHostIsRefused) {
  auto adapted = AdaptConfig(R"({"mounts": [{"destination": "/data", "type": "bind", "source": "/v", "options": ["rbind", "rshared"]}], "linux": {}})", {});
  ASSERT_FALSE(adapted);
  EXPECT_EQ(adapted.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(adapted.error().message, HasSubstr("mount '/data'"));
  for (const char* wrong : {"{}", "[]", "{", R"({"linux": 3})", R"({"linux": {}, "mounts": [3]})", R"({"linux": {"namespaces": 7}})"}) {
    EXPECT_FALSE(AdaptConfig(wrong, {}).has_value()) << wrong;
  }
}

}  // namespace
}  // namespace caisson::shim
