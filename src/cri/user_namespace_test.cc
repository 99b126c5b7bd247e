// SPDX-License-Identifier: Apache-2.0
#include "cri/user_namespace.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "cri/sandbox_spec.h"

namespace caisson::cri {
namespace {

namespace v1 = runtime::v1;
namespace fs = std::filesystem;
using ::testing::HasSubstr;

v1::IDMapping Mapping(uint32_t container, uint32_t host, uint32_t length) {
  v1::IDMapping mapping;
  mapping.set_container_id(container);
  mapping.set_host_id(host);
  mapping.set_length(length);
  return mapping;
}

v1::PodSandboxConfig UserPod(uint32_t length = 65536) {
  v1::PodSandboxConfig pod;
  auto* space = pod.mutable_linux()->mutable_security_context()->mutable_namespace_options()->mutable_userns_options();
  *space->add_uids() = *space->add_gids() = Mapping(0, 200000, length);
  return pod;
}

v1::NamespaceOption* OptionsOf(v1::PodSandboxConfig* pod) { return pod->mutable_linux()->mutable_security_context()->mutable_namespace_options(); }

template <class Change>
std::string ErrorOf(Change change) {
  v1::PodSandboxConfig pod = UserPod();
  change(OptionsOf(&pod));
  auto checked = CheckUserNamespace(pod);
  EXPECT_TRUE(checked || checked.error().code == Code::kInvalidArgument);
  return checked ? "" : checked.error().message;
}

TEST(UserNamespace, WhatAPodMayHave) {
  EXPECT_TRUE(CheckUserNamespace(v1::PodSandboxConfig()));
  EXPECT_FALSE(HasUserNamespace(v1::PodSandboxConfig()));
  EXPECT_TRUE(HasUserNamespace(UserPod()));
  EXPECT_EQ(ErrorOf([](auto*) {}), "");
  EXPECT_EQ(ErrorOf([](auto* options) { options->set_network(v1::NODE); }), "");
  EXPECT_EQ(ErrorOf([](auto* options) {
              options->mutable_userns_options()->Clear();
              options->mutable_userns_options()->set_mode(v1::NODE);
            }),
            "");
  EXPECT_THAT(ErrorOf([](auto* options) { options->mutable_userns_options()->set_mode(v1::NODE); }), HasSubstr("mode is NODE"));
  EXPECT_THAT(ErrorOf([](auto* options) { options->mutable_userns_options()->set_mode(v1::TARGET); }), HasSubstr("not TARGET"));
  EXPECT_THAT(ErrorOf([](auto* options) { options->mutable_userns_options()->clear_gids(); }), HasSubstr("gids has 0 mappings"));
  EXPECT_THAT(ErrorOf([](auto* options) { options->mutable_userns_options()->mutable_gids(0)->set_host_id(5); }), HasSubstr("other mappings"));
  EXPECT_THAT(ErrorOf([](auto* options) { options->set_pid(v1::NODE); }), HasSubstr("host's PID"));
  EXPECT_THAT(ErrorOf([](auto* options) { options->set_ipc(v1::NODE); }), HasSubstr("host's IPC"));
}

TEST(UserNamespace, Bounds) {
  auto error = [](std::initializer_list<v1::IDMapping> list) {
    IdMappings mappings;
    for (const auto& one : list) *mappings.Add() = one;
    auto checked = CheckIdMappings(mappings, "m");
    return checked ? "" : checked.error().message;
  };
  EXPECT_EQ(error({Mapping(0, 0, 0xffffffff)}), "");
  EXPECT_EQ(error({Mapping(0, 10, 10), Mapping(10, 20, 10)}), "");
  EXPECT_THAT(error({Mapping(0, 1, 0xffffffff)}), HasSubstr("last id"));
  EXPECT_THAT(error({Mapping(0xffffffff, 0, 1)}), HasSubstr("last id"));
  EXPECT_THAT(error({Mapping(0, 0, 0)}), HasSubstr("length 0"));
  EXPECT_THAT(error({Mapping(0, 10, 10), Mapping(10, 19, 10)}), HasSubstr("overlap"));
  EXPECT_THAT(error({Mapping(0, 10, 10), Mapping(9, 20, 10)}), HasSubstr("overlap"));
}

TEST(UserNamespace, OfAContainerIsItsPods) {
  v1::ContainerConfig container;
  auto error = [&](const v1::PodSandboxConfig& pod) {
    auto checked = CheckSameUserNamespace(pod, container);
    return checked ? "" : checked.error().message;
  };
  EXPECT_EQ(error(v1::PodSandboxConfig()), "");
  EXPECT_THAT(error(UserPod()), HasSubstr("has one of its own"));
  auto* options = container.mutable_linux()->mutable_security_context()->mutable_namespace_options();
  *options->mutable_userns_options() = OptionsOf(std::make_unique<v1::PodSandboxConfig>(UserPod()).get())->userns_options();
  EXPECT_EQ(error(UserPod()), "");
  EXPECT_THAT(error(UserPod(100)), HasSubstr("another mapping"));
  EXPECT_THAT(error(v1::PodSandboxConfig()), HasSubstr("the host's"));
}

TEST(UserNamespace, UsersAndOwners) {
  v1::LinuxContainerUser user;
  user.set_uid(99);
  user.add_supplemental_groups(100);
  auto checked = CheckUserIsMapped(UserPod(100), user);
  ASSERT_FALSE(checked);
  EXPECT_THAT(checked.error().message, HasSubstr("supplemental group 100 is not"));
  EXPECT_TRUE(CheckUserIsMapped(UserPod(101), user));
  EXPECT_TRUE(CheckUserIsMapped(v1::PodSandboxConfig(), user));
  HostIds ids = HostIdsOf(UserPod(100), 5, 100);
  EXPECT_EQ(ids.uid, 200005u);
  EXPECT_EQ(ids.gid, 200000u) << "of what is not mapped, the root";
  ids = HostIdsOf(v1::PodSandboxConfig(), 0, 0);
  EXPECT_EQ(ids.uid, 0u);
}

TEST(UserNamespace, ToldToTheCompanion) {
  auto options = SandboxOptionsOf(Config(), UserPod(100), false);
  ASSERT_EQ(options.uid_maps_size(), 1);
  EXPECT_EQ(options.gid_maps(0).host_id(), 200000u);
  EXPECT_EQ(options.sysctls().at("net.ipv4.ping_group_range"), "0 99");
  EXPECT_EQ(SandboxOptionsOf(Config(), v1::PodSandboxConfig(), false).sysctls().at("net.ipv4.ping_group_range"), "0 2147483647");
}

// A companion that says no, then yes: the first answer lasts a while, the second for good.
TEST(UserNamespace, SupportIsAskedOnce) {
  std::string folder = ::testing::TempDir() + fmt::format("/userns-{}", getpid());
  fs::create_directories(folder);
  std::ofstream(folder + "/shim") << "#!/bin/sh\necho asked >> " << folder << "/calls\n[ -e " << folder
                                  << "/can ] || { echo 'time=x level=error msg=\"no such thing\"' >&2; exit 1; }\n";
  fs::permissions(folder + "/shim", fs::perms::owner_all);
  Config config;
  config.state = config.root = folder;
  config.shim_path = folder + "/shim";
  int64_t now = 0;
  UserNamespaceSupport support(config, [&] { return now; });
  auto calls = [&] {
    std::ifstream file(folder + "/calls");
    std::string word;
    int count = 0;
    while (file >> word) ++count;
    return count;
  };
  for (int i = 0; i < 2; ++i) {
    auto can = support.Check("");
    ASSERT_FALSE(can);
    EXPECT_EQ(can.error().code, Code::kFailedPrecondition);
    EXPECT_THAT(can.error().message, HasSubstr("no such thing"));
  }
  EXPECT_EQ(calls(), 1);
  std::ofstream(folder + "/can") << "";
  EXPECT_FALSE(support.Check("caisson"));
  now += UserNamespaceSupport::kAgainNanos;
  EXPECT_TRUE(support.Check("caisson"));
  now += 10 * UserNamespaceSupport::kAgainNanos;
  EXPECT_TRUE(support.Check(""));
  EXPECT_EQ(calls(), 2);
  fs::remove_all(folder);
}

}  // namespace
}  // namespace caisson::cri
