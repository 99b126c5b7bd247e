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
constexpr Option kOptions[] = {{"ro", MS_RDONLY, false},
                               {"rw", MS_RDONLY, true},
                               {"nosuid", MS_NOSUID, false},
                               {"suid", MS_NOSUID, true},
                               {"nodev", MS_NODEV, false},
                               {"dev", MS_NODEV, true},
                               {"noexec", MS_NOEXEC, false},
                               {"exec", MS_NOEXEC, true},
                               {"sync", MS_SYNCHRONOUS, false},
                               {"async", MS_SYNCHRONOUS, true},
                               {"dirsync", MS_DIRSYNC, false},
                               {"mand", MS_MANDLOCK, false},
                               {"nomand", MS_MANDLOCK, true},
                               {"noatime", MS_NOATIME, false},
                               {"atime", MS_NOATIME, true},
                               {"nodiratime", MS_NODIRATIME, false},
                               {"diratime", MS_NODIRATIME, true},
                               {"relatime", MS_RELATIME, false},
                               {"norelatime", MS_RELATIME, true},
                               {"strictatime", MS_STRICTATIME, false},
                               {"nostrictatime", MS_STRICTATIME, true},
                               {"nosymfollow", 256 /* MS_NOSYMFOLLOW */, false},
                               {"symfollow", 256, true},
                               {"lazytime", MS_LAZYTIME, false}};

constexpr Option kPropagation[] = {
    {"private", MS_PRIVATE, false},       {"rprivate", MS_PRIVATE | MS_REC, false},
    {"slave", MS_SLAVE, false},           {"rslave", MS_SLAVE | MS_REC, false},
    {"shared", MS_SHARED, false},         {"rshared", MS_SHARED | MS_REC, false},
    {"unbindable", MS_UNBINDABLE, false}, {"runbindable", MS_UNBINDABLE | MS_REC, false}};

constexpr std::string_view kSubPath = "subpath=";

const Option* Find(const Option* begin, const Option* end, const std::string& word) {
  auto found = std::find_if(begin, end, [&](const Option& option) { return word == option.word; });
  return found == end ? nullptr : found;
}

MountKind KindOf(const std::string& type, bool bind) {
  if (bind) return MountKind::kBind;
  if (type == "proc") return MountKind::kProc;
  if (type == "sysfs") return MountKind::kSysfs;
  if (type == "caisson-shm") return MountKind::kShm;
  if (type == "caisson-image") return MountKind::kImage;
  if (type == "cgroup" || type == "cgroup2") return MountKind::kCgroup;
  return MountKind::kFileSystem;
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
  bool bind = type == "bind";
  for (const auto& word : options) {
    if (word == "bind" || word == "rbind") {
      bind = true;
      plan.recursive |= word == "rbind";
    } else if (const Option* option = Find(std::begin(kOptions), std::end(kOptions), word)) {
      (option->clear ? plan.clear_flags : plan.flags) |= option->flag;
      (option->clear ? plan.flags : plan.clear_flags) &= ~option->flag;  // the last word wins
    } else if (const Option* spread = Find(std::begin(kPropagation), std::end(kPropagation), word)) {
      plan.propagation = spread->flag;
    } else if (const Option* tree =
                   word.starts_with('r') ? Find(std::begin(kOptions), std::end(kOptions), word.substr(1)) : nullptr) {
      (tree->clear ? plan.recursive_clear : plan.recursive_set) |= tree->flag;
    } else if (word == "defaults" || word.empty()) {
      continue;
    } else if (type == "caisson-image" && word.starts_with(kSubPath)) {
      plan.sub_path = word.substr(kSubPath.size());
    } else if (word == "idmap" || word == "ridmap") {
      plan.map_ids = true;
      plan.map_ids_recursive = word == "ridmap";
    } else if (word.starts_with("uidmap=")) {
      plan.id_maps.uids = TRY(ParseIdMappings(word.substr(7)));
    } else if (word.starts_with("gidmap=")) {
      plan.id_maps.gids = TRY(ParseIdMappings(word.substr(7)));
    } else if (word == "tmpcopyup" && type == "tmpfs") {
      plan.copy_up = true;
    } else if (word == "copy-symlink") {
      return MakeError(Code::kUnimplemented, "mount '{}': option '{}' is not supported", destination, word);
    } else {
      plan.data += (plan.data.empty() ? "" : ",") + word;
    }
  }
  plan.kind = KindOf(type, bind);
  if (plan.kind == MountKind::kImage) {
    if (plan.data.empty()) return MakeError(Code::kInvalidArgument, "image mount on '{}' has no layers", destination);
    // Layers are shared by all who use the image.
    plan.flags |= MS_RDONLY;
    plan.clear_flags &= ~static_cast<unsigned long>(MS_RDONLY);
  }
  if (plan.kind != MountKind::kBind) return plan;
  if (source.empty()) return MakeError(Code::kInvalidArgument, "bind mount on '{}' has no source", destination);
  plan.data.clear();  // a bind mount has no file system to tell it to; mount(8) passes over it as well
  return plan;
}

std::string DescribeFlags(unsigned long flags) {
  std::string text;
  unsigned long told = 0;
  for (const Option* table : {std::begin(kOptions), std::begin(kPropagation)}) {
    const Option* end = table == std::begin(kOptions) ? std::end(kOptions) : std::end(kPropagation);
    // Of "slave" and "rslave" the longer one is meant.
    for (const Option* option = end; option-- != table;) {
      if (option->clear || (flags & option->flag) != option->flag || (told & option->flag) == option->flag) continue;
      told |= option->flag;
      text = option->word + std::string(text.empty() ? "" : ",") + text;
    }
  }
  return text;
}

}  // namespace caisson::oci
