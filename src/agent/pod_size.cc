// SPDX-License-Identifier: Apache-2.0
#include "agent/pod_size.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/log.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "oci/cgroup.h"
#include "sys/path.h"

namespace caisson::agent {
namespace {

Result<> Switch(uint32_t number, bool on) {
  std::string path = fmt::format("/sys/devices/system/cpu/cpu{}/online", number);
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return ErrnoError("open '{}'", path);
  if (write(fd.get(), on ? "1" : "0", 1) != 1) return ErrnoError("{} processor {}", on ? "start" : "stop", number);
  return {};
}

// What is over `bytes` and only cached goes, as far as it does (cgroup-v2.rst, memory.reclaim).
void Reclaim(oci::Cgroup* cgroup, uint64_t bytes) {
  auto stats = cgroup->Stats(oci::StatsPart::kUsage);
  if (!stats || stats->memory.usage <= bytes || cgroup->Hierarchies().empty()) return;
  std::string over = fmt::format("{}", stats->memory.usage - bytes);
  UniqueFd fd(open((cgroup->Hierarchies().front().path + "/memory.reclaim").c_str(), O_WRONLY | O_CLOEXEC));
  if (fd) (void)!write(fd.get(), over.data(), over.size());
}

}  // namespace

Result<uint32_t> SetProcessors(uint32_t count) {
  auto all = static_cast<uint32_t>(std::max(1L, sysconf(_SC_NPROCESSORS_CONF)));
  if (count > all) return MakeError(Code::kFailedPrecondition, "{} processors are wanted; the machine has {}", count, all);
  // The first one has no switch: it runs always.
  for (uint32_t number = 1; count > 0 && number < all; ++number) {
    auto done = Switch(number, number < count);
    if (!done) log::Warn("{}", done.error().message);
  }
  return static_cast<uint32_t>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
}

uint64_t UsedMemoryBlocks() {
  const std::string folder = "/sys/devices/system/memory";
  auto size = sys::ReadFile(folder + "/block_size_bytes", 64);
  if (!size) return 0;
  uint64_t bytes = std::strtoull(size->c_str(), nullptr, 16), used = 0;
  std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(folder.c_str()), closedir);
  while (dirent* entry = dir ? readdir(dir.get()) : nullptr) {
    std::string_view name = entry->d_name;
    if (!name.starts_with("memory") || name.size() == strlen("memory")) continue;
    auto state = sys::ReadFile(fmt::format("{}/{}/state", folder, name), 64);
    if (state && Trim(*state) == "online") used += bytes;
  }
  return used;
}

Result<> LimitPodMemory(int64_t bytes) {
  oci::CgroupOptions options{kPodCgroup, false, {}, false};
  auto cgroup = oci::Cgroup::Open(options);
  // A pod without a container yet.
  if (!cgroup && cgroup.error().code == Code::kNotFound && bytes <= 0) return {};
  if (!cgroup && cgroup.error().code == Code::kNotFound) cgroup = oci::Cgroup::Create(options);
  if (!cgroup) return std::move(cgroup.error());
  oci::Resources resources;
  resources.memory.emplace();
  resources.memory->limit = bytes > 0 ? bytes : -1;
  resources.memory->check_before_update = true;
  if (bytes > 0) Reclaim(cgroup->get(), static_cast<uint64_t>(bytes));
  return (*cgroup)->Apply(resources);
}

}  // namespace caisson::agent
