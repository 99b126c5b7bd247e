// SPDX-License-Identifier: Apache-2.0
#include "cri/vm_pod.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "cri/container_spec.h"
#include "cri/user_namespace.h"

namespace caisson::cri {
namespace {

using testing::HasSubstr;
using testing::Not;
namespace v1 = runtime::v1;

constexpr int64_t kMiB = 1 << 20;

TEST(ResolveHandler, TheRequestsThenTheUntrustedThenTheDefault) {
  Config config;
  v1::RunPodSandboxRequest request;
  (*request.mutable_config()->mutable_annotations())["io.kubernetes.cri-o.TrustedSandbox"] = "false";
  EXPECT_EQ(ResolveHandler(config, request), "caisson") << "an annotation decides nothing unless configured";
  config.untrusted_handler = "caisson-vm";
  EXPECT_EQ(ResolveHandler(config, request), "caisson-vm");
  request.set_runtime_handler("caisson");
  EXPECT_EQ(ResolveHandler(config, request), "caisson");
  request.clear_runtime_handler();
  for (const char* word : {"true", "", "False", "no"}) {
    (*request.mutable_config()->mutable_annotations())["io.kubernetes.cri-o.TrustedSandbox"] = word;
    EXPECT_EQ(ResolveHandler(config, request), "caisson") << word;
  }
}

TEST(CheckVmHandler, NamesWhatIsMissing) {
  HandlerConfig handler = DefaultHandler("caisson-vm");
  handler.kernel = "/proc/self/status";  // a regular file that is there
  handler.initrd = "/nonexistent/initramfs";
  auto missing = CheckVmHandler("caisson-vm", handler);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(missing.error().message, HasSubstr("/nonexistent/initramfs"));
  handler.initrd = "/proc/self/status";
  EXPECT_TRUE(CheckVmHandler("caisson-vm", handler));
  handler.initrd = "/proc/self";
  EXPECT_FALSE(CheckVmHandler("caisson-vm", handler)) << "a folder";
  handler.initrd = handler.kernel;
  handler.vmm_path = "/nonexistent/qemu";
  EXPECT_THAT(CheckVmHandler("caisson-vm", handler).error().message, HasSubstr("/nonexistent/qemu"));
}

TEST(CheckVmPod, TheHostsNamespacesAreRefusedWithTheHandlerToUse) {
  Config config;
  config.handlers["plain"] = {};
  config.default_handler = "plain";
  auto with = [&](auto set) {
    v1::PodSandboxConfig pod;
    set(pod.mutable_linux()->mutable_security_context()->mutable_namespace_options());
    auto checked = CheckVmPod(config, "caisson-vm", "kvm", pod);
    EXPECT_FALSE(checked);
    return checked ? "" : checked.error().message;
  };
  EXPECT_THAT(with([](auto* options) { options->set_network(v1::NODE); }), HasSubstr("the host's network namespace; use handler 'plain'"));
  EXPECT_THAT(with([](auto* options) { options->set_pid(v1::NODE); }), HasSubstr("PID"));
  EXPECT_THAT(with([](auto* options) { options->set_ipc(v1::NODE); }), HasSubstr("IPC"));
  config.default_handler = "caisson-vm";  // then some other that is native
  EXPECT_THAT(with([](auto* options) { options->set_ipc(v1::NODE); }), HasSubstr("use handler 'caisson'"));
  EXPECT_TRUE(CheckVmPod(config, "caisson-vm", "kvm", v1::PodSandboxConfig()));
}

TEST(CheckVmPod, APodThatIsTooSmallIsToldTheMinimum) {
  Config config;
  auto check = [&](int64_t limit, int64_t overhead) {
    v1::PodSandboxConfig pod;
    pod.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(limit);
    pod.mutable_linux()->mutable_overhead()->set_memory_limit_in_bytes(overhead);
    return CheckVmPod(config, "caisson-vm", "kvm", pod);
  };
  EXPECT_TRUE(check(0, 0)) << "no limit";
  EXPECT_TRUE(check(128 * kMiB, 0));
  EXPECT_TRUE(check(16 * kMiB, 112 * kMiB));
  EXPECT_TRUE(check(INT64_MAX, INT64_MAX));
  auto small = check(16 * kMiB, 64 * kMiB);
  ASSERT_FALSE(small);
  EXPECT_EQ(small.error().code, Code::kInvalidArgument);
  EXPECT_THAT(small.error().message, HasSubstr("80 MiB of memory (16 of its limits, 64 of its RuntimeClass's overhead)"));
  EXPECT_THAT(small.error().message, HasSubstr("(kvm) needs 128 MiB to boot"));
  // Emulation takes memory too.
  v1::PodSandboxConfig pod;
  pod.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(200 * kMiB);
  EXPECT_TRUE(CheckVmPod(config, "caisson-vm", "kvm", pod));
  auto emulated = CheckVmPod(config, "caisson-vm", "tcg", pod);
  ASSERT_FALSE(emulated);
  EXPECT_THAT(emulated.error().message, HasSubstr("(tcg) needs 224 MiB to boot"));
  pod.mutable_linux()->mutable_overhead()->set_memory_limit_in_bytes(24 * kMiB);
  EXPECT_TRUE(CheckVmPod(config, "caisson-vm", "tcg", pod));
}

TEST(VmSizeOf, LimitsAndWhatTheGuestNeeds) {
  HandlerConfig handler = DefaultHandler("caisson-vm");
  handler.vcpus = 2;
  auto size = [&](int64_t quota, int64_t period, int64_t memory, uint32_t processors = 8) {
    v1::PodSandboxConfig pod;
    auto& resources = *pod.mutable_linux()->mutable_resources();
    resources.set_cpu_quota(quota);
    resources.set_cpu_period(period);
    resources.set_memory_limit_in_bytes(memory);
    return VmSizeOf(handler, pod, {processors, uint64_t{2048 * kMiB}});
  };
  EXPECT_EQ(size(0, 0, 0).vcpus, 2u);
  EXPECT_EQ(size(0, 0, 0).memory_bytes, uint64_t{512 * kMiB});
  EXPECT_EQ(size(-1, 100'000, -1).vcpus, 2u) << "no limit";
  EXPECT_EQ(size(50'000, 100'000, 0).vcpus, 1u);
  EXPECT_EQ(size(100'000, 100'000, 0).vcpus, 1u);
  EXPECT_EQ(size(100'001, 100'000, 0).vcpus, 2u);
  EXPECT_EQ(size(300'000, 0, 0).vcpus, 3u) << "the period that the kernel has";
  EXPECT_EQ(size(900'000, 100'000, 0, 4).vcpus, 4u) << "no more than there are";
  EXPECT_EQ(size(INT64_MAX, 1, 0, 4).vcpus, 4u);
  EXPECT_EQ(size(0, 0, 256 * kMiB).memory_bytes, uint64_t{352 * kMiB});
  EXPECT_EQ(size(0, 0, 4096 * kMiB).memory_bytes, uint64_t{4288 * kMiB});
  EXPECT_EQ(size(0, 0, 1).memory_bytes, kLeastGuestBytes);
  EXPECT_EQ(size(0, 0, 200 * kMiB).memory_bytes % (32 * kMiB), 0u);
  EXPECT_EQ(size(0, 0, 0, 4).max_vcpus, 4u) << "all that the host has";
  EXPECT_EQ(size(0, 0, 0, 64).max_vcpus, kPluggableVcpus);
  EXPECT_EQ(size(1'200'000, 100'000, 0, 64).max_vcpus, 12u);
  EXPECT_EQ(size(0, 0, 256 * kMiB).max_memory_bytes, 0u) << "microvm takes no more";
  handler.machine = "q35";
  EXPECT_EQ(size(0, 0, 0).max_memory_bytes, uint64_t{2048 * kMiB}) << "all that the host has";
  EXPECT_EQ(size(0, 0, 256 * kMiB).max_memory_bytes, uint64_t{(352 + 13 * 128) * kMiB}) << "in whole blocks";
  EXPECT_EQ(size(0, 0, 4096 * kMiB).max_memory_bytes, uint64_t{4288 * kMiB});
}

TEST(VmCpuLimitOf, IsThePodsAndItsOverheads) {
  v1::PodSandboxConfig pod;
  auto& resources = *pod.mutable_linux()->mutable_resources();
  EXPECT_EQ(VmCpuLimitOf(pod).quota(), 0);
  resources.set_cpu_quota(50'000);
  EXPECT_EQ(VmCpuLimitOf(pod).quota(), 50'000);
  EXPECT_EQ(VmCpuLimitOf(pod).period(), 100'000u);
  resources.set_cpu_period(50'000);
  pod.mutable_linux()->mutable_overhead()->set_cpu_quota(20'000);
  pod.mutable_linux()->mutable_overhead()->set_cpu_period(100'000);
  EXPECT_EQ(VmCpuLimitOf(pod).quota(), 60'000);
  EXPECT_EQ(VmCpuLimitOf(pod).period(), 50'000u);
  resources.set_cpu_quota(-1);
  EXPECT_EQ(VmCpuLimitOf(pod).quota(), 0) << "no limit";
  resources.set_cpu_quota(INT64_MAX);
  EXPECT_GT(VmCpuLimitOf(pod).quota(), 0);
}

TEST(VmResizeOf, IsWhatANewPodWouldBe) {
  Config config;
  config.handlers["caisson-vm"] = DefaultHandler("caisson-vm");
  PodRecord record;
  record.set_resolved_handler("caisson-vm");
  record.mutable_vm()->set_max_vcpus(4);
  auto request = VmResizeOf(config, record, {8, 0});
  ASSERT_TRUE(request) << request.error().message;
  EXPECT_EQ(request->vcpus(), 1u);
  EXPECT_EQ(request->memory_bytes(), 0u) << "all that it was started with";
  EXPECT_EQ(request->memory_limit_bytes(), 0);
  auto& resources = *record.mutable_config()->mutable_linux()->mutable_resources();
  resources.set_cpu_quota(250'000);
  resources.set_memory_limit_in_bytes(256 * kMiB);
  request = VmResizeOf(config, record, {8, 0});
  EXPECT_EQ(request->vcpus(), 3u);
  EXPECT_EQ(request->cpu_limit().quota(), 250'000);
  EXPECT_EQ(request->memory_bytes(), uint64_t{352 * kMiB});
  EXPECT_EQ(request->memory_limit_bytes(), int64_t{256 * kMiB});
  // Whether the machine has them is the companion's to say.
  resources.set_cpu_quota(700'000);
  EXPECT_EQ(VmResizeOf(config, record, {8, 0})->vcpus(), 7u);
  resources.set_memory_limit_in_bytes(1);
  EXPECT_EQ(VmResizeOf(config, record, {8, 0}).error().code, Code::kInvalidArgument);
  resources.Clear();
  config.handlers["caisson-vm"].vcpus = 8;  // since the pod was made
  EXPECT_EQ(VmResizeOf(config, record, {8, 0})->vcpus(), 4u);
}

TEST(VmmIdOf, IsAPodsOwnAndStaysInItsRange) {
  HandlerConfig handler = DefaultHandler("caisson-vm");
  std::set<uint32_t> ids;
  for (int i = 0; i < 200; ++i) ids.insert(VmmIdOf(handler, fmt::format("pod-{}", i)));
  EXPECT_GT(ids.size(), 195u);
  EXPECT_GE(*ids.begin(), 1'900'000'000u);
  EXPECT_LT(*ids.rbegin(), 1'900'000'000u + kVmmIds);
  EXPECT_EQ(VmmIdOf(handler, "pod-1"), VmmIdOf(handler, "pod-1"));
  handler.first_vmm_id = int64_t{UINT32_MAX} - kVmmIds;
  EXPECT_LT(VmmIdOf(handler, "pod-1"), UINT32_MAX);
}

TEST(VmOptionsOf, AreTheHandlersAndTheRecords) {
  Config config;
  PodRecord record;
  record.set_id("p1");
  record.set_resolved_handler("caisson-vm");
  record.mutable_config()->mutable_linux()->set_cgroup_parent("/kubepods/pod7");
  auto& vm = *record.mutable_vm();
  vm.set_accelerator("tcg");
  vm.set_vcpus(3);
  vm.set_memory_bytes(1 << 30);
  vm.set_vmm_id(1'900'000'007);
  auto options = VmOptionsOf(config, record);
  EXPECT_EQ(options.vmm(), "qemu");
  EXPECT_EQ(options.kernel(), "/usr/lib/caisson/guest/kernel");
  EXPECT_EQ(options.accelerator(), "tcg");
  EXPECT_EQ(options.vcpus(), 3u);
  EXPECT_EQ(options.memory_bytes(), 1u << 30);
  EXPECT_EQ(options.cgroup_path(), "/kubepods/pod7/p1");
  EXPECT_EQ(options.uid(), 1'900'000'007u);
  EXPECT_EQ(options.gid(), 1'900'000'007u);
  record.set_systemd_cgroup(true);
  record.mutable_config()->mutable_linux()->set_cgroup_parent("/kubepods.slice/kubepods-pod7.slice");
  options = VmOptionsOf(config, record);
  EXPECT_EQ(options.cgroup_path(), "kubepods-pod7.slice:caisson:p1");
}

TEST(VmAccelerators, WhatIsConfiguredIsNotProbed) {
  Config config;
  config.handlers["caisson-vm"].accelerator = "kvm";
  config.shim_path = "/nonexistent";
  VmAccelerators accelerators(config);
  EXPECT_EQ(accelerators.Of("caisson-vm"), "kvm");
}

TEST(VmAccelerators, TheProbeDecidesOnce) {
  std::string folder = testing::TempDir() + "/vm-pod-probe";
  std::filesystem::create_directories(folder);
  std::string tool = folder + "/tool";
  Config config;
  config.state = folder;
  config.shim_path = tool;
  for (int exit_code : {0, 1}) {
    std::ofstream(tool) << fmt::format("#!/bin/sh\necho \"$*\" >> {}/calls\nexit {}\n", folder, exit_code);
    std::filesystem::permissions(tool, std::filesystem::perms::owner_all);
    VmAccelerators accelerators(config);
    for (int round = 0; round < 2; ++round) EXPECT_EQ(accelerators.Of("caisson-vm"), exit_code == 0 ? "kvm" : "tcg");
  }
  std::ifstream calls(folder + "/calls");
  std::string all((std::istreambuf_iterator<char>(calls)), {});
  EXPECT_EQ(all, "probe --accelerator kvm\nprobe --accelerator kvm\n");
  std::filesystem::remove_all(folder);
}

TEST(UserNamespacesOfVms, AreNotSupportedYet) {
  Config config;
  UserNamespaceSupport support(config);
  auto checked = support.Check("caisson-vm");
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code, Code::kUnimplemented);
}

class VmSpec : public testing::Test {
 protected:
  VmSpec() {
    pod_.set_id("p");
    pod_.set_shim_pid(7);
    pod_.mutable_vm()->set_vmm("qemu");
    container_.set_id("c");
    config().mutable_metadata()->set_name("web");
    config().add_command("true");
  }
  v1::ContainerConfig& config() { return *container_.mutable_config(); }
  Result<nlohmann::json> Build(std::vector<std::vector<std::string>> volumes = {}) {
    ContainerSpecInputs inputs{config_, pod_, container_, image_, layers_, "/run/caisson/pods/p", 0, false, true, std::move(volumes)};
    return ParseJson(TRY(BuildContainerSpec(inputs)).json);
  }
  std::string Refusal() {
    auto built = Build();
    EXPECT_FALSE(built);
    return built ? "" : built.error().message;
  }

  Config config_;
  PodRecord pod_;
  ContainerRecord container_;
  image::Image image_;
  std::vector<std::string> layers_ = {"/nonexistent"};
};

TEST_F(VmSpec, TheHostsProcessorsAreNoneOfTheGuests) {
  auto& resources = *config().mutable_linux()->mutable_resources();
  resources.set_cpuset_cpus("0-1");
  resources.set_cpuset_mems("0");
  resources.set_cpu_shares(512);
  resources.set_memory_limit_in_bytes(64 * kMiB);
  auto spec = Build();
  ASSERT_TRUE(spec) << spec.error().message;
  const auto& limits = (*spec)["linux"]["resources"];
  EXPECT_FALSE(limits["cpu"].contains("cpus"));
  EXPECT_FALSE(limits["cpu"].contains("mems"));
  EXPECT_EQ(limits["cpu"]["shares"], 512);
  EXPECT_EQ(limits["memory"]["limit"], 64 * kMiB);
  EXPECT_THAT((*spec)["linux"]["namespaces"].dump(), HasSubstr("cgroup"));
  pod_.clear_vm();
  EXPECT_TRUE((*Build())["linux"]["resources"]["cpu"].contains("cpus"));
}

TEST_F(VmSpec, APrivilegedContainerHasNoDeviceOfTheHosts) {
  config().mutable_linux()->mutable_security_context()->set_privileged(true);
  pod_.mutable_config()->mutable_linux()->mutable_security_context()->set_privileged(true);
  auto spec = Build();
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_TRUE((*spec)["linux"]["devices"].empty());
  ASSERT_EQ((*spec)["linux"]["resources"]["devices"].size(), 1u) << "and may use all that the guest has";
  EXPECT_EQ((*spec)["linux"]["resources"]["devices"][0]["allow"], true);
}

TEST_F(VmSpec, ImageVolumesAreDisks) {
  auto& mount = *config().add_mounts();
  mount.set_container_path("/vol");
  mount.mutable_image()->set_image("data");
  mount.set_image_sub_path("part");
  auto spec = Build({{"/i/2.erofs", "/i/1.erofs"}});
  ASSERT_TRUE(spec) << spec.error().message;
  for (const auto& planned : (*spec)["mounts"]) {
    if (planned["destination"] != "/vol") continue;
    EXPECT_THAT(planned["options"].get<std::vector<std::string>>(),
                testing::IsSupersetOf({"erofs=/i/2.erofs", "erofs=/i/1.erofs", "subpath=part", "ro"}));
    EXPECT_THAT(planned["options"].dump(), Not(HasSubstr("lowerdir")));
    return;
  }
  ADD_FAILURE() << "no mount";
}

TEST_F(VmSpec, WhatNeedsTheHostIsRefused) {
  config().add_devices()->set_host_path("/dev/null");
  EXPECT_THAT(Refusal(), HasSubstr("the host's device '/dev/null'"));
  config().clear_devices();
  config().add_cdi_devices()->set_name("vendor.com/gpu=0");
  EXPECT_THAT(Refusal(), HasSubstr("vendor.com/gpu=0"));
  config().clear_cdi_devices();
  auto& mount = *config().add_mounts();
  mount.set_container_path("/m");
  mount.set_host_path("/tmp");
  mount.set_propagation(v1::PROPAGATION_BIDIRECTIONAL);
  EXPECT_THAT(Refusal(), HasSubstr("cannot propagate to the host"));
  mount.set_propagation(v1::PROPAGATION_PRIVATE);
  mount.add_uidmappings()->set_length(1);
  EXPECT_THAT(Refusal(), HasSubstr("id-mapped"));
  config().clear_mounts();
  auto& apparmor = *config().mutable_linux()->mutable_security_context()->mutable_apparmor();
  apparmor.set_profile_type(v1::SecurityProfile::Localhost);
  apparmor.set_localhost_ref("localhost/mine");
  EXPECT_THAT(Refusal(), HasSubstr("the kernel of a VM has no AppArmor"));
  config().mutable_linux()->mutable_security_context()->clear_apparmor();
  EXPECT_TRUE(Build());
}

}  // namespace
}  // namespace caisson::cri
