// SPDX-License-Identifier: Apache-2.0
#include "oci/cgroup_stats.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>

#include "base/strings.h"
#include "base/unique_fd.h"
#include "oci/cgroup_dir.h"

namespace caisson::oci {
namespace {

constexpr size_t kMaxDevices = 4096;

// Empty when the file is missing or its controller does not answer for this group.
Result<std::string> ReadIfThere(const std::string& dir, const char* file) {
  if (dir.empty()) return std::string();
  auto text = ReadCgroupFile(dir + file);
  if (text) return text;
  int err = text.error().sys_errno;
  if (err == ENOENT || err == EOPNOTSUPP || err == ENODEV) return std::string();
  return text;
}

// In one read: the files of one number are most of what the stats verbs of 50 pods cost.
Result<std::optional<uint64_t>> NumberIfThere(const std::string& dir, const char* file) {
  if (dir.empty()) return std::optional<uint64_t>();
  UniqueFd fd(open((dir + file).c_str(), O_RDONLY | O_CLOEXEC));
  char buffer[64];
  ssize_t n = fd ? read(fd.get(), buffer, sizeof buffer) : -1;
  if (n < 0) {
    if (errno == ENOENT || errno == EOPNOTSUPP || errno == ENODEV) return std::optional<uint64_t>();
    return ErrnoError("read '{}{}'", dir, file);
  }
  std::string_view text(buffer, static_cast<size_t>(n));
  while (text.ends_with('\n')) text.remove_suffix(1);
  if (text.empty()) return std::optional<uint64_t>();
  if (text == "max" || text == "-1") return std::optional<uint64_t>(UINT64_MAX);
  auto number = ParseUint64(text);
  if (!number) return MakeError(Code::kDataLoss, "'{}{}' holds no number", dir, file);
  return std::optional<uint64_t>(*number);
}

Result<std::optional<Psi>> PsiIfThere(const std::string& dir, const char* file) {
  return ParsePsi(TRY(ReadIfThere(dir, file)));
}

// All "key number" lines at once: looking keys up one by one would scan memory.stat twenty times.
std::map<std::string_view, uint64_t> Flat(std::string_view text) {
  std::map<std::string_view, uint64_t> out;
  for (std::string_view line : Split(text, '\n')) {
    size_t space = line.find(' ');
    if (space == std::string_view::npos) continue;
    if (auto number = ParseUint64(line.substr(space + 1))) out[line.substr(0, space)] = *number;
  }
  return out;
}

uint64_t At(const std::map<std::string_view, uint64_t>& flat, std::string_view key) {
  auto found = flat.find(key);
  return found == flat.end() ? 0 : found->second;
}

// "12.34" as 1234.
uint64_t Hundredths(std::string_view text) {
  size_t dot = text.find('.');
  if (dot == std::string_view::npos || text.size() != dot + 3) return 0;
  auto whole = ParseUint64(text.substr(0, dot)), part = ParseUint64(text.substr(dot + 1));
  return whole && part && *whole <= 100 ? *whole * 100 + *part : 0;
}

PsiLine ParsePsiLine(std::string_view line) {
  PsiLine out;
  for (std::string_view word : Split(line, ' ')) {
    size_t equals = word.find('=');
    if (equals == std::string_view::npos) continue;
    std::string_view key = word.substr(0, equals), value = word.substr(equals + 1);
    if (key == "avg10") out.avg10 = Hundredths(value);
    if (key == "avg60") out.avg60 = Hundredths(value);
    if (key == "avg300") out.avg300 = Hundredths(value);
    if (key == "total") out.total_usec = ParseUint64(value).value_or(0);
  }
  return out;
}

bool ParseDevice(std::string_view text, uint64_t* major, uint64_t* minor) {
  size_t colon = text.find(':');
  if (colon == std::string_view::npos) return false;
  auto a = ParseUint64(text.substr(0, colon)), b = ParseUint64(text.substr(colon + 1));
  if (!a || !b) return false;
  *major = *a;
  *minor = *b;
  return true;
}

uint64_t WorkingSet(uint64_t usage, uint64_t inactive_file) { return usage > inactive_file ? usage - inactive_file : 0; }

// v1 says "no limit" with the largest multiple of the page size.
uint64_t V1Limit(uint64_t value) { return value >= uint64_t{INT64_MAX} / 65536 * 65536 - 65536 ? UINT64_MAX : value; }

Result<> CpuV1(const V1Dirs& dirs, StatsPart part, CgroupStats::Cpu* cpu) {
  cpu->usage_nanos = TRY(NumberIfThere(dirs.cpuacct, "/cpuacct.usage")).value_or(0);
  cpu->psi = TRY(PsiIfThere(dirs.unified, "/cpu.pressure"));
  if (part == StatsPart::kUsage) return {};
  cpu->user_nanos = TRY(NumberIfThere(dirs.cpuacct, "/cpuacct.usage_user")).value_or(0);
  cpu->system_nanos = TRY(NumberIfThere(dirs.cpuacct, "/cpuacct.usage_sys")).value_or(0);
  std::string text = TRY(ReadIfThere(dirs.cpu, "/cpu.stat"));
  auto flat = Flat(text);
  cpu->periods = At(flat, "nr_periods");
  cpu->throttled_periods = At(flat, "nr_throttled");
  cpu->throttled_nanos = At(flat, "throttled_time");
  return {};
}

Result<> MemoryV1(const V1Dirs& dirs, StatsPart part, CgroupStats::Memory* memory) {
  if (dirs.memory.empty()) return {};
  memory->usage = TRY(NumberIfThere(dirs.memory, "/memory.usage_in_bytes")).value_or(0);
  memory->limit = V1Limit(TRY(NumberIfThere(dirs.memory, "/memory.limit_in_bytes")).value_or(UINT64_MAX));
  if (auto both = TRY(NumberIfThere(dirs.memory, "/memory.memsw.usage_in_bytes"))) {
    memory->swap_usage = *both > memory->usage ? *both - memory->usage : 0;
    uint64_t limit = V1Limit(TRY(NumberIfThere(dirs.memory, "/memory.memsw.limit_in_bytes")).value_or(UINT64_MAX));
    memory->swap_limit = limit == UINT64_MAX || memory->limit == UINT64_MAX ? UINT64_MAX
                         : limit > memory->limit                           ? limit - memory->limit
                                                                           : 0;
  }
  std::string text = TRY(ReadIfThere(dirs.memory, "/memory.stat"));
  auto flat = Flat(text);
  memory->rss = At(flat, "total_rss");
  memory->rss_huge = At(flat, "total_rss_huge");
  memory->cache = At(flat, "total_cache");
  memory->inactive_file = At(flat, "total_inactive_file");
  memory->active_file = At(flat, "total_active_file");
  memory->inactive_anon = At(flat, "total_inactive_anon");
  memory->active_anon = At(flat, "total_active_anon");
  memory->mapped_file = At(flat, "total_mapped_file");
  memory->dirty = At(flat, "total_dirty");
  memory->writeback = At(flat, "total_writeback");
  memory->unevictable = At(flat, "total_unevictable");
  memory->page_faults = At(flat, "total_pgfault");
  memory->major_page_faults = At(flat, "total_pgmajfault");
  memory->working_set = WorkingSet(memory->usage, memory->inactive_file);
  memory->psi = TRY(PsiIfThere(dirs.unified, "/memory.pressure"));
  if (part == StatsPart::kUsage) return {};
  memory->max_usage = TRY(NumberIfThere(dirs.memory, "/memory.max_usage_in_bytes")).value_or(0);
  memory->fail_count = TRY(NumberIfThere(dirs.memory, "/memory.failcnt")).value_or(0);
  memory->kernel = TRY(NumberIfThere(dirs.memory, "/memory.kmem.usage_in_bytes")).value_or(0);
  memory->oom_kills = FlatKey(TRY(ReadIfThere(dirs.memory, "/memory.oom_control")), "oom_kill").value_or(0);
  return {};
}

// "hugetlb.2MB.current" and the like: page sizes are those whose `suffix` file is there.
Result<> Hugetlb(const std::string& dir, bool v2, std::vector<CgroupStats::Hugetlb>* out) {
  if (dir.empty()) return {};
  DIR* opened = opendir(dir.c_str());
  if (opened == nullptr) return {};
  std::unique_ptr<DIR, int (*)(DIR*)> stream(opened, closedir);
  const std::string_view prefix = "hugetlb.", suffix = v2 ? ".current" : ".usage_in_bytes";
  while (dirent* entry = readdir(opened)) {
    std::string_view name = entry->d_name;
    if (!name.starts_with(prefix) || !name.ends_with(suffix) || name.find(".rsvd.") != std::string_view::npos) continue;
    std::string size(name.substr(prefix.size(), name.size() - prefix.size() - suffix.size()));
    std::string base = dir + "/hugetlb." + size;
    CgroupStats::Hugetlb one;
    one.page_size = size;
    one.usage = TRY(NumberIfThere(base, v2 ? ".current" : ".usage_in_bytes")).value_or(0);
    one.max = TRY(NumberIfThere(base, v2 ? ".max" : ".max_usage_in_bytes")).value_or(0);
    if (v2) one.fail_count = FlatKey(TRY(ReadIfThere(base, ".events")), "max").value_or(0);
    else one.fail_count = TRY(NumberIfThere(base, ".failcnt")).value_or(0);
    out->push_back(std::move(one));
  }
  return {};
}

Result<> PidsOf(const std::string& dir, StatsPart part, CgroupStats::Pids* pids) {
  pids->current = TRY(NumberIfThere(dir, "/pids.current")).value_or(0);
  if (part == StatsPart::kUsage) return {};
  uint64_t limit = TRY(NumberIfThere(dir, "/pids.max")).value_or(0);
  pids->limit = limit == UINT64_MAX ? 0 : limit;
  return {};
}

Result<> MemoryV2(const std::string& dir, StatsPart part, CgroupStats::Memory* memory) {
  auto usage = TRY(NumberIfThere(dir, "/memory.current"));
  if (!usage) return {};
  memory->usage = *usage;
  memory->limit = TRY(NumberIfThere(dir, "/memory.max")).value_or(UINT64_MAX);
  memory->swap_usage = TRY(NumberIfThere(dir, "/memory.swap.current"));
  memory->swap_limit = TRY(NumberIfThere(dir, "/memory.swap.max"));
  std::string text = TRY(ReadIfThere(dir, "/memory.stat"));
  auto flat = Flat(text);
  memory->rss = At(flat, "anon");
  memory->rss_huge = At(flat, "anon_thp");
  memory->cache = At(flat, "file");
  memory->kernel = At(flat, "kernel");
  memory->inactive_file = At(flat, "inactive_file");
  memory->active_file = At(flat, "active_file");
  memory->inactive_anon = At(flat, "inactive_anon");
  memory->active_anon = At(flat, "active_anon");
  memory->mapped_file = At(flat, "file_mapped");
  memory->dirty = At(flat, "file_dirty");
  memory->writeback = At(flat, "file_writeback");
  memory->unevictable = At(flat, "unevictable");
  memory->page_faults = At(flat, "pgfault");
  memory->major_page_faults = At(flat, "pgmajfault");
  memory->working_set = WorkingSet(memory->usage, memory->inactive_file);
  memory->psi = TRY(PsiIfThere(dir, "/memory.pressure"));
  if (part == StatsPart::kUsage) return {};
  memory->max_usage = TRY(NumberIfThere(dir, "/memory.peak")).value_or(0);
  std::string events = TRY(ReadIfThere(dir, "/memory.events"));
  memory->fail_count = FlatKey(events, "max").value_or(0);
  memory->oom_events = FlatKey(events, "oom").value_or(0);
  memory->oom_kills = FlatKey(events, "oom_kill").value_or(0);
  return {};
}

}  // namespace

std::optional<Psi> ParsePsi(std::string_view text) {
  if (!text.starts_with("some ")) return std::nullopt;
  Psi psi;
  for (std::string_view line : Split(text, '\n')) {
    if (line.starts_with("some ")) psi.some = ParsePsiLine(line);
    if (line.starts_with("full ")) psi.full = ParsePsiLine(line);
  }
  return psi;
}

std::vector<CgroupStats::IoDevice> ParseIoStat(std::string_view text) {
  std::vector<CgroupStats::IoDevice> devices;
  for (std::string_view line : Split(text, '\n')) {
    std::vector<std::string_view> words = Split(line, ' ');
    CgroupStats::IoDevice device;
    if (!ParseDevice(words[0], &device.major, &device.minor) || devices.size() >= kMaxDevices) continue;
    for (std::string_view word : words) {
      size_t equals = word.find('=');
      if (equals == std::string_view::npos) continue;
      std::string_view key = word.substr(0, equals);
      uint64_t value = ParseUint64(word.substr(equals + 1)).value_or(0);
      if (key == "rbytes") device.read_bytes = value;
      if (key == "wbytes") device.write_bytes = value;
      if (key == "rios") device.reads = value;
      if (key == "wios") device.writes = value;
    }
    devices.push_back(device);
  }
  return devices;
}

void ParseBlkio(std::string_view text, bool operations, std::vector<CgroupStats::IoDevice>* devices) {
  for (std::string_view line : Split(text, '\n')) {
    std::vector<std::string_view> words = Split(line, ' ');
    uint64_t major = 0, minor = 0;
    if (words.size() != 3 || !ParseDevice(words[0], &major, &minor)) continue;
    auto device = std::find_if(devices->begin(), devices->end(),
                               [&](const auto& one) { return one.major == major && one.minor == minor; });
    if (device == devices->end()) {
      if (devices->size() >= kMaxDevices) continue;
      CgroupStats::IoDevice fresh;
      fresh.major = major;
      fresh.minor = minor;
      device = devices->insert(devices->end(), fresh);
    }
    uint64_t value = ParseUint64(words[2]).value_or(0);
    if (words[1] == "Read") (operations ? device->reads : device->read_bytes) = value;
    if (words[1] == "Write") (operations ? device->writes : device->write_bytes) = value;
  }
}

Result<CgroupStats> ReadStatsV1(const V1Dirs& dirs, StatsPart part) {
  CgroupStats stats;
  stats.at_nanos = NowNanos();
  TRY(CpuV1(dirs, part, &stats.cpu));
  TRY(MemoryV1(dirs, part, &stats.memory));
  TRY(PidsOf(dirs.pids, part, &stats.pids));
  stats.io_psi = TRY(PsiIfThere(dirs.unified, "/io.pressure"));
  if (part == StatsPart::kUsage) return stats;
  ParseBlkio(TRY(ReadIfThere(dirs.blkio, "/blkio.throttle.io_service_bytes_recursive")), false, &stats.io);
  ParseBlkio(TRY(ReadIfThere(dirs.blkio, "/blkio.throttle.io_serviced_recursive")), true, &stats.io);
  TRY(Hugetlb(dirs.hugetlb, false, &stats.hugetlb));
  return stats;
}

Result<CgroupStats> ReadStatsV2(const std::string& dir, StatsPart part) {
  CgroupStats stats;
  stats.at_nanos = NowNanos();
  std::string text = TRY(ReadCgroupFile(dir + "/cpu.stat"));
  auto flat = Flat(text);
  stats.cpu.usage_nanos = At(flat, "usage_usec") * 1000;
  stats.cpu.user_nanos = At(flat, "user_usec") * 1000;
  stats.cpu.system_nanos = At(flat, "system_usec") * 1000;
  stats.cpu.periods = At(flat, "nr_periods");
  stats.cpu.throttled_periods = At(flat, "nr_throttled");
  stats.cpu.throttled_nanos = At(flat, "throttled_usec") * 1000;
  TRY(MemoryV2(dir, part, &stats.memory));
  TRY(PidsOf(dir, part, &stats.pids));
  stats.cpu.psi = TRY(PsiIfThere(dir, "/cpu.pressure"));
  stats.io_psi = TRY(PsiIfThere(dir, "/io.pressure"));
  if (part == StatsPart::kUsage) return stats;
  stats.io = ParseIoStat(TRY(ReadIfThere(dir, "/io.stat")));
  TRY(Hugetlb(dir, true, &stats.hugetlb));
  return stats;
}

}  // namespace caisson::oci
