// SPDX-License-Identifier: Apache-2.0
#include "cri/seccomp_profile.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <set>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "seccomp_default_profile.h"

namespace caisson::cri {
namespace {

Json Default(const std::vector<std::string>& caps) {
  auto text = DefaultSeccomp(caps);
  EXPECT_TRUE(text) << text.error().message;
  return *ParseJson(*text);
}

// The actions of unconditional rules for `name`; rules with arguments count as "args".
std::set<std::string> ActionsOf(const Json& seccomp, const std::string& name) {
  std::set<std::string> out;
  for (const Json& rule : seccomp["syscalls"]) {
    for (const Json& one : rule["names"]) {
      if (one == name) out.insert(rule.contains("args") ? "args" : rule["action"].get<std::string>());
    }
  }
  return out;
}

using Actions = std::set<std::string>;

TEST(SeccompProfile, DefaultAllowsTheOrdinaryAndRefusesTheRest) {
  Json seccomp = Default({});
  EXPECT_EQ(seccomp["defaultAction"], "SCMP_ACT_ERRNO");
  EXPECT_EQ(seccomp["architectures"].size() > 0, true);
  for (const char* name : {"read", "openat", "execve", "futex", "epoll_wait", "statx", "rseq", "prctl", "seccomp", "ptrace"}) {
    EXPECT_EQ(ActionsOf(seccomp, name), Actions{"SCMP_ACT_ALLOW"}) << name;
  }
  for (const char* name : {"mount", "unshare", "setns", "sethostname", "bpf", "keyctl", "add_key", "init_module", "reboot",
                           "kexec_load", "userfaultfd", "open_by_handle_at", "perf_event_open", "swapon", "pivot_root", "acct",
                           "settimeofday", "chroot", "syslog", "clone3", "socketcall", "iopl", "move_mount", "fsopen"}) {
    EXPECT_EQ(ActionsOf(seccomp, name), Actions{"SCMP_ACT_ERRNO"}) << name;
  }
  for (const char* name : {"io_uring_setup", "io_uring_enter", "io_uring_register"}) {
    EXPECT_TRUE(ActionsOf(seccomp, name).empty()) << name;
  }
  for (const char* name : {"clone", "socket", "personality"}) EXPECT_EQ(ActionsOf(seccomp, name), Actions{"args"}) << name;
}

TEST(SeccompProfile, CapabilitiesOpenTheirGroups) {
  const std::map<std::string, std::vector<std::string>> opened = {
      {"CAP_SYS_ADMIN", {"mount", "umount2", "unshare", "setns", "clone", "clone3", "bpf", "perf_event_open", "syslog"}},
      {"CAP_BPF", {"bpf"}},
      {"CAP_PERFMON", {"perf_event_open"}},
      {"CAP_SYSLOG", {"syslog"}},
      {"CAP_SYS_CHROOT", {"chroot"}},
      {"CAP_SYS_TIME", {"clock_settime", "settimeofday"}},
      {"CAP_SYS_MODULE", {"init_module", "finit_module"}},
      {"CAP_SYS_BOOT", {"reboot"}},
      {"CAP_DAC_READ_SEARCH", {"open_by_handle_at"}},
      {"CAP_SYS_PTRACE", {"kcmp", "pidfd_getfd"}},
      {"CAP_SYS_NICE", {"mbind", "set_mempolicy"}},
  };
  for (const auto& [cap, names] : opened) {
    Json with = Default({"CAP_CHOWN", cap});
    for (const std::string& name : names) EXPECT_EQ(ActionsOf(with, name), Actions{"SCMP_ACT_ALLOW"}) << cap << " " << name;
    const bool admin = cap == "CAP_SYS_ADMIN";
    EXPECT_EQ(ActionsOf(with, "mount"), Actions{admin ? "SCMP_ACT_ALLOW" : "SCMP_ACT_ERRNO"}) << cap;
    EXPECT_EQ(ActionsOf(with, "keyctl"), Actions{"SCMP_ACT_ERRNO"}) << cap;
  }
  // Capabilities that no rule names change nothing.
  EXPECT_EQ(*DefaultSeccomp({"CAP_CHOWN", "CAP_KILL"}), *DefaultSeccomp({}));
}

TEST(SeccompProfile, NoRuleContradictsAnother) {
  for (const std::vector<std::string>& caps : {std::vector<std::string>{}, {"CAP_SYS_ADMIN"}, {"CAP_BPF", "CAP_SYS_TIME"}}) {
    Json seccomp = Default(caps);
    for (const Json& rule : seccomp["syscalls"]) {
      for (const Json& name : rule["names"]) EXPECT_EQ(ActionsOf(seccomp, name).size(), 1u) << name;
    }
  }
}

TEST(SeccompProfile, EveryGroupHasAReason) {
  Json profile = *ParseJson(kSeccompDefaultProfile);
  for (const Json& rule : profile["syscalls"]) {
    EXPECT_GE(rule.value("reason", std::string()).size(), 10u) << rule["names"].dump();
  }
}

// The list is complete: each call that libseccomp's header knows is in a group, or here.
TEST(SeccompProfile, EveryKnownCallIsJudged) {
  std::ifstream header("/usr/include/seccomp-syscalls.h");
  if (!header) GTEST_SKIP() << "needs libseccomp-dev's seccomp-syscalls.h";
  std::set<std::string> judged = {"io_uring_setup", "io_uring_enter", "io_uring_register", "pciconfig_iobase", "pciconfig_read",
                                  "pciconfig_write", "rtas", "spu_create", "spu_run", "syscall", "timerfd", "ulimit",
                                  "usr26", "usr32"};
  Json profile = *ParseJson(kSeccompDefaultProfile);
  for (const Json& rule : profile["syscalls"]) {
    for (const Json& name : rule["names"]) judged.insert(name.get<std::string>());
  }
  int known = 0;
  for (std::string word; header >> word;) {
    if (!word.starts_with("__SNR_") || word.size() == 6) continue;
    ++known;
    EXPECT_TRUE(judged.count(word.substr(6))) << word;
  }
  EXPECT_GT(known, 300);
}

SeccompTarget Target() {
  SeccompTarget target;
  target.caps = {"CAP_A"};
  target.machine = "x86_64";
  target.kernel_major = 5;
  target.kernel_minor = 10;
  return target;
}

TEST(SeccompProfile, Conditions) {
  auto text = ResolveSeccomp(R"({"defaultAction": "SCMP_ACT_ERRNO",
    "archMap": [{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
    "syscalls": [
      {"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_A"]}, "comment": "x"},
      {"names": ["b"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_A", "CAP_B"]}},
      {"names": ["c"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_B", "CAP_A"]}},
      {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
      {"names": ["e"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
      {"names": ["f"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
      {"names": ["g"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5.10"}},
      {"names": ["h"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5.11"}},
      {"name": "i", "action": "SCMP_ACT_ALLOW", "args": null}]})",
                             Target());
  ASSERT_TRUE(text) << text.error().message;
  Json seccomp = *ParseJson(*text);
  std::vector<std::string> names;
  for (const Json& rule : seccomp["syscalls"]) {
    names.push_back(rule["names"][0]);
    EXPECT_EQ(rule.size(), 2u) << "only members of the runtime-spec";
  }
  EXPECT_EQ(names, (std::vector<std::string>{"a", "d", "g", "i"}));
  EXPECT_EQ(seccomp["architectures"], (Json{"SCMP_ARCH_X86_64", "SCMP_ARCH_X86"}));
  EXPECT_FALSE(seccomp.contains("archMap"));
}

TEST(SeccompProfile, PlainSpecStaysAsItIs) {
  std::string plain = R"({"architectures":["SCMP_ARCH_X86_64"],"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"],)"
                      R"("syscalls":[{"action":"SCMP_ACT_ERRNO","args":[{"index":0,"op":"SCMP_CMP_EQ","value":1}],"errnoRet":3,"names":["x"]}]})";
  EXPECT_EQ(*ResolveSeccomp(plain, Target()), plain);
}

TEST(SeccompProfile, RefusesBadProfiles) {
  for (const char* text :
       {"", "[]", "{}", R"({"defaultAction": "A", "syscalls": 1})", R"({"defaultAction": "A", "syscalls": [1]})",
        R"({"defaultAction": "A", "syscalls": [{"action": "B"}]})", R"({"defaultAction": "A", "syscalls": [{"names": ["x"]}]})",
        R"({"defaultAction": "A", "syscalls": [{"names": ["x"], "action": "B", "includes": 1}]})",
        R"({"defaultAction": "A", "syscalls": [{"names": ["x"], "action": "B", "includes": {"caps": [1]}}]})",
        R"({"defaultAction": "A", "syscalls": [{"names": ["x"], "action": "B", "includes": {"minKernel": "new"}}]})",
        R"({"defaultAction": "A", "archMap": {}})", R"({"defaultAction": "A", "archMap": [], "architectures": []})"}) {
    auto result = ResolveSeccomp(text, Target());
    ASSERT_FALSE(result) << text;
    EXPECT_EQ(result.error().code, Code::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace caisson::cri
