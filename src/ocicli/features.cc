// SPDX-License-Identifier: Apache-2.0

#include <algorithm>
#include <nlohmann/json.hpp>

#include "ocicli/command.h"

namespace caisson::ocicli {
namespace {

// config.md "Linux mount options", as oci/mounts.cc knows them, sorted.
Json MountOptions() {
  std::vector<std::string> words = {"bind", "rbind", "defaults", "idmap", "ridmap"};
  for (const char* word : {"async", "atime", "dev", "diratime", "dirsync", "exec", "lazytime", "mand", "noatime", "nodev", "nodiratime",
                           "noexec", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "relatime", "ro", "rw",
                           "strictatime", "suid", "symfollow", "sync"}) {
    words.emplace_back(word);
    words.push_back(std::string("r") + word);
  }
  for (const char* word : {"private", "shared", "slave", "unbindable"}) {
    words.emplace_back(word);
    words.push_back(std::string("r") + word);
  }
  std::sort(words.begin(), words.end());
  return words;
}

// All that this runtime has a name for.
Json Capabilities() {
  std::vector<std::string> names;
  for (int number = 0; number < 64; ++number) {
    std::string name = oci::CapabilityName(number);
    if (!name.empty()) names.push_back(name);
  }
  return names;
}

Json Seccomp() {
  return {{"enabled", true},
          {"actions",
           {"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG",
            "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"}},
          {"operators", {"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"}},
          {"supportedFlags", {"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"}}};
}

}  // namespace

// runtime-spec features.md and features-linux.md.
Result<int> Features(const Context&, const Flags&) {
  Json features = {{"ociVersionMin", "1.0.0"},
                   {"ociVersionMax", "1.2.0"},
                   {"hooks", {"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}},
                   {"mountOptions", MountOptions()},
                   {"linux",
                    {{"namespaces", {"cgroup", "ipc", "mount", "network", "pid", "user", "uts"}},
                     {"capabilities", Capabilities()},
                     {"cgroup", {{"v1", true}, {"v2", true}, {"systemd", true}, {"systemdUser", false}, {"rdma", true}}},
                     {"seccomp", Seccomp()},
                     {"apparmor", {{"enabled", true}}},
                     {"selinux", {{"enabled", true}}},
                     {"intelRdt", {{"enabled", false}}},
                     {"mountExtensions", {{"idmap", {{"enabled", true}}}}}}},
                   {"annotations", {{"org.caisson.version", CAISSON_VERSION}}}};
  TRY(Print(Indented(features)));
  return 0;
}

}  // namespace caisson::ocicli
