// SPDX-License-Identifier: Apache-2.0
#include "oci/mounts.h"

#include <sys/mount.h>

#include <algorithm>

namespace caisson::oci {
namespace {

struct Option {
  const char* word;
  unsigned long flag;
  bool clear;
};

// mount(8) "Filesystem-independent mount options" and runtime-spec config.md "Linux mount options".
constexpr Option kOptions[] = {
    {"ro", MS_RDONLY, false}, {"rw", MS_RDONLY, true}, {"nosuid", MS_NOSUID, false}, {"suid", MS_NOSUID, true},
    {"nodev", MS_NODEV, false}, {"dev", MS_NODEV, true}, {"noexec", MS_NOEXEC, false}, {"exec", MS_NOEXEC, true},
    {"sync", MS_SYNCHRONOUS, false}, {"async", MS_SYNCHRONOUS, true}, {"dirsync", MS_DIRSYNC, false},
    {"mand", MS_MANDLOCK, false}, {"nomand", MS_MANDLOCK, true}, {"noatime", MS_NOATIME, false},
    {"atime", MS_NOATIME, true}, {"nodiratime", MS_NODIRATIME, false}, {"diratime", MS_NODIRATIME, true},
    {"relatime", MS_RELATIME, false}, {"norelatime", MS_RELATIME, true}, {"strictatime", MS_STRICTATIME, false},
    {"nostrictatime", MS_STRICTATIME, true}, {"nosymfollow", 256 /* MS_NOSYMFOLLOW */, false},
    {"symfollow", 256, true}, {"lazytime", MS_LAZYTIME, false}};

constexpr Option kPropagation[] = {
    {"private", MS_PRIVATE, false}, {"rprivate", MS_PRIVATE | MS_REC, false}, {"slave", MS_SLAVE, false},
    {"rslave", MS_SLAVE | MS_REC, false}, {"shared", MS_SHARED, false}, {"rshared", MS_SHARED | MS_REC, false},
    {"unbindable", MS_UNBINDABLE, false}, {"runbindable", MS_UNBINDABLE | MS_REC, false}};

const Option* Find(const Option* begin, const Option* end, const std::string& word) {
  auto found = std::find_if(begin, end, [&](const Option& option) { return word == option.word; });
  return found == end ? nullptr : found;
}

}  // namespace

Result<unsigned long> PropagationFlag(const std::string& word) {
  if (word.empty()) return 0ul;
  if (const Option* option = Find(std::begin(kPropagation), std::end(kPropagation), word)) return option->flag;
  return MakeError(Code::kInvalidArgument, "mount propagation '{}' is not known", word.substr(0, 64));
}

Result<MountPlan> PlanMount(const std::string& destination, const std::string& type, const std::string& source,
                            const std::vector<std::string>& options) {
  MountPlan plan;
  plan.destination = destination;
  plan.type = type;
  plan.source = source;
  for (const auto& word : options) {
    if (word == "bind" || word == "rbind") {
      plan.bind = true;
      plan.recursive |= word == "rbind";
    } else if (const Option* option = Find(std::begin(kOptions), std::end(kOptions), word)) {
      (option->clear ? plan.clear_flags : plan.flags) |= option->flag;
      (option->clear ? plan.flags : plan.clear_flags) &= ~option->flag;  // the last word wins
    } else if (const Option* spread = Find(std::begin(kPropagation), std::end(kPropagation), word)) {
      plan.propagation = spread->flag;
    } else if (const Option* tree = word.starts_with('r') ? Find(std::begin(kOptions), std::end(kOptions), word.substr(1)) : nullptr) {
      (tree->clear ? plan.recursive_clear : plan.recursive_set) |= tree->flag;
    } else if (word == "defaults" || word.empty()) {
      continue;
    } else if (word == "idmap" || word == "ridmap" || word == "copy-symlink") {
      return MakeError(Code::kUnimplemented, "mount '{}': option '{}' is not supported", destination, word);
    } else {
      plan.data += (plan.data.empty() ? "" : ",") + word;
    }
  }
  if (type == "bind" && !plan.bind) plan.bind = true;
  if (plan.bind && source.empty()) return MakeError(Code::kInvalidArgument, "bind mount on '{}' has no source", destination);
  return plan;
}

}  // namespace caisson::oci
