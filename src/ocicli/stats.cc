// SPDX-License-Identifier: Apache-2.0
#include "ocicli/stats.h"

#include <nlohmann/json.hpp>

namespace caisson::ocicli {
namespace {

Json LineJson(const oci::PsiLine& line) {
  return {{"avg10", static_cast<double>(line.avg10) / 100},
          {"avg60", static_cast<double>(line.avg60) / 100},
          {"avg300", static_cast<double>(line.avg300) / 100},
          {"total", line.total_usec}};
}

void AddPsi(const std::optional<oci::Psi>& psi, Json* object) {
  if (psi) (*object)["psi"] = {{"some", LineJson(psi->some)}, {"full", LineJson(psi->full)}};
}

Json CpuJson(const oci::CgroupStats::Cpu& cpu) {
  Json object = {{"usage", {{"total", cpu.usage_nanos}, {"kernel", cpu.system_nanos}, {"user", cpu.user_nanos}}},
                 {"throttling",
                  {{"periods", cpu.periods}, {"throttledPeriods", cpu.throttled_periods}, {"throttledTime", cpu.throttled_nanos}}}};
  AddPsi(cpu.psi, &object);
  return object;
}

Json MemoryJson(const oci::CgroupStats::Memory& memory) {
  Json object = {{"cache", memory.cache},
                 {"usage", {{"limit", memory.limit}, {"usage", memory.usage}, {"max", memory.max_usage}, {"failcnt", memory.fail_count}}},
                 {"kernel", {{"usage", memory.kernel}, {"failcnt", 0}}},
                 {"raw",
                  {{"rss", memory.rss},
                   {"rss_huge", memory.rss_huge},
                   {"mapped_file", memory.mapped_file},
                   {"dirty", memory.dirty},
                   {"writeback", memory.writeback},
                   {"pgfault", memory.page_faults},
                   {"pgmajfault", memory.major_page_faults},
                   {"inactive_anon", memory.inactive_anon},
                   {"active_anon", memory.active_anon},
                   {"inactive_file", memory.inactive_file},
                   {"active_file", memory.active_file},
                   {"unevictable", memory.unevictable}}}};
  if (memory.swap_usage) {
    object["swap"] = {{"usage", memory.usage + *memory.swap_usage}, {"failcnt", 0}};
    if (memory.swap_limit) object["swap"]["limit"] = *memory.swap_limit;
  }
  AddPsi(memory.psi, &object);
  return object;
}

Json BlockIoJson(const oci::CgroupStats& stats) {
  Json bytes = Json::array(), operations = Json::array();
  for (const auto& device : stats.io) {
    auto add = [&](Json* list, const char* op, uint64_t value) {
      list->push_back({{"major", device.major}, {"minor", device.minor}, {"op", op}, {"value", value}});
    };
    add(&bytes, "Read", device.read_bytes);
    add(&bytes, "Write", device.write_bytes);
    add(&operations, "Read", device.reads);
    add(&operations, "Write", device.writes);
  }
  Json object = {{"ioServiceBytesRecursive", std::move(bytes)}, {"ioServicedRecursive", std::move(operations)}};
  AddPsi(stats.io_psi, &object);
  return object;
}

}  // namespace

Json StatsJson(const oci::CgroupStats& stats) {
  Json object = {{"cpu", CpuJson(stats.cpu)},
                 {"memory", MemoryJson(stats.memory)},
                 {"pids", {{"current", stats.pids.current}}},
                 {"blkio", BlockIoJson(stats)}};
  if (stats.pids.limit > 0) object["pids"]["limit"] = stats.pids.limit;
  for (const auto& page : stats.hugetlb) object["hugetlb"][page.page_size] = {{"usage", page.usage}, {"max", page.max}, {"failcnt", page.fail_count}};
  return object;
}

}  // namespace caisson::ocicli
