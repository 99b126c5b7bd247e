// SPDX-License-Identifier: Apache-2.0
#include "shim/foreign_stats.h"

#include <algorithm>

#include "containerd/cgroups_v1.pb.h"
#include "containerd/cgroups_v2.pb.h"

namespace caisson::shim {
namespace {

namespace cg1 = io::containerd::cgroups::v1;
namespace cg2 = io::containerd::cgroups::v2;
namespace v1 = pod::v1;

constexpr uint64_t kNanosPerMicro = 1000;
// Version 1 rounds "no limit" down to a page (memory.limit_in_bytes, PAGE_COUNTER_MAX).
constexpr uint64_t kForeignNoLimit = uint64_t{1} << 62;

uint64_t ForeignLimit(uint64_t bytes) { return bytes >= kForeignNoLimit ? 0 : bytes; }
uint64_t ForeignRest(uint64_t all, uint64_t part) { return all - std::min(all, part); }

void FillForeignIo(const cg1::BlkIOStat& io, v1::ContainerDetail* detail) {
  auto device = [detail](const cg1::BlkIOEntry& entry) {
    for (auto& known : *detail->mutable_devices()) {
      if (known.major() == entry.major() && known.minor() == entry.minor()) return &known;
    }
    auto* added = detail->add_devices();
    added->set_major(entry.major());
    added->set_minor(entry.minor());
    return added;
  };
  for (const auto& entry : io.io_service_bytes_recursive()) {
    if (entry.op() == "Read" || entry.op() == "read") device(entry)->set_read_bytes(entry.value());
    if (entry.op() == "Write" || entry.op() == "write") device(entry)->set_write_bytes(entry.value());
  }
  for (const auto& entry : io.io_serviced_recursive()) {
    if (entry.op() == "Read" || entry.op() == "read") device(entry)->set_reads(entry.value());
    if (entry.op() == "Write" || entry.op() == "write") device(entry)->set_writes(entry.value());
  }
}

void FillForeignDetail(const cg1::Metrics& metrics, v1::ContainerDetail* detail) {
  const auto& memory = metrics.memory();
  detail->set_cpu_user_nanos(metrics.cpu().usage().user());
  detail->set_cpu_system_nanos(metrics.cpu().usage().kernel());
  detail->set_cpu_periods(metrics.cpu().throttling().periods());
  detail->set_cpu_throttled_periods(metrics.cpu().throttling().throttled_periods());
  detail->set_cpu_throttled_nanos(metrics.cpu().throttling().throttled_time());
  detail->set_memory_cache_bytes(memory.total_cache());
  detail->set_memory_kernel_bytes(memory.kernel().usage());
  detail->set_memory_mapped_file_bytes(memory.total_mapped_file());
  detail->set_memory_active_file_bytes(memory.total_active_file());
  detail->set_memory_inactive_file_bytes(memory.total_inactive_file());
  detail->set_memory_max_usage_bytes(memory.usage().max());
  detail->set_memory_fail_count(memory.usage().failcnt());
  detail->set_oom_kills(metrics.memory_oom_control().oom_kill());
  detail->set_pids_limit(metrics.pids().limit());
  FillForeignIo(metrics.blkio(), detail);
  for (const auto& pages : metrics.hugetlb()) {
    auto* use = detail->add_hugetlb();
    use->set_page_size(pages.pagesize());
    use->set_usage_bytes(pages.usage());
    use->set_max_bytes(pages.max());
  }
}

v1::ContainerStats ForeignOfV1(const cg1::Metrics& metrics, bool detail) {
  v1::ContainerStats stats;
  const auto& memory = metrics.memory();
  stats.set_cpu_usage_nanos(metrics.cpu().usage().total());
  stats.set_memory_usage_bytes(memory.usage().usage());
  stats.set_memory_working_set_bytes(ForeignRest(memory.usage().usage(), memory.total_inactive_file()));
  stats.set_memory_rss_bytes(memory.total_rss());
  stats.set_memory_page_faults(memory.total_pg_fault());
  stats.set_memory_major_page_faults(memory.total_pg_maj_fault());
  stats.set_memory_limit_bytes(ForeignLimit(memory.usage().limit()));
  stats.set_pids(metrics.pids().current());
  // With memory, as the kernel counts it (memory.memsw.*).
  stats.set_swap_usage_bytes(ForeignRest(memory.swap().usage(), memory.usage().usage()));
  if (ForeignLimit(memory.swap().limit()) != 0) stats.set_swap_limit_bytes(ForeignRest(memory.swap().limit(), memory.usage().limit()));
  if (detail) FillForeignDetail(metrics, stats.mutable_detail());
  return stats;
}

void FillForeignDetail(const cg2::Metrics& metrics, v1::ContainerDetail* detail) {
  const auto& memory = metrics.memory();
  detail->set_cpu_user_nanos(metrics.cpu().user_usec() * kNanosPerMicro);
  detail->set_cpu_system_nanos(metrics.cpu().system_usec() * kNanosPerMicro);
  detail->set_cpu_periods(metrics.cpu().nr_periods());
  detail->set_cpu_throttled_periods(metrics.cpu().nr_throttled());
  detail->set_cpu_throttled_nanos(metrics.cpu().throttled_usec() * kNanosPerMicro);
  detail->set_memory_cache_bytes(memory.file());
  detail->set_memory_kernel_bytes(memory.kernel_stack() + memory.slab());
  detail->set_memory_mapped_file_bytes(memory.file_mapped());
  detail->set_memory_active_file_bytes(memory.active_file());
  detail->set_memory_inactive_file_bytes(memory.inactive_file());
  detail->set_memory_max_usage_bytes(memory.max_usage());
  detail->set_memory_fail_count(metrics.memory_events().max());
  detail->set_oom_kills(metrics.memory_events().oom_kill());
  detail->set_pids_limit(metrics.pids().limit());
  for (const auto& device : metrics.io().usage()) {
    auto* use = detail->add_devices();
    use->set_major(device.major());
    use->set_minor(device.minor());
    use->set_read_bytes(device.rbytes());
    use->set_write_bytes(device.wbytes());
    use->set_reads(device.rios());
    use->set_writes(device.wios());
  }
  for (const auto& pages : metrics.hugetlb()) {
    auto* use = detail->add_hugetlb();
    use->set_page_size(pages.pagesize());
    use->set_usage_bytes(pages.current());
    use->set_max_bytes(pages.max());
  }
}

v1::ContainerStats ForeignOfV2(const cg2::Metrics& metrics, bool detail) {
  v1::ContainerStats stats;
  const auto& memory = metrics.memory();
  stats.set_cpu_usage_nanos(metrics.cpu().usage_usec() * kNanosPerMicro);
  stats.set_memory_usage_bytes(memory.usage());
  stats.set_memory_working_set_bytes(ForeignRest(memory.usage(), memory.inactive_file()));
  stats.set_memory_rss_bytes(memory.anon());
  stats.set_memory_page_faults(memory.pgfault());
  stats.set_memory_major_page_faults(memory.pgmajfault());
  stats.set_memory_limit_bytes(ForeignLimit(memory.usage_limit()));
  stats.set_pids(metrics.pids().current());
  stats.set_swap_usage_bytes(memory.swap_usage());
  stats.set_swap_limit_bytes(ForeignLimit(memory.swap_limit()));
  if (detail) FillForeignDetail(metrics, stats.mutable_detail());
  return stats;
}

}  // namespace

Result<v1::ContainerStats> StatsOfMetrics(const wkt::Any& metrics, bool detail) {
  auto is = [&](std::string_view type) { return metrics.type_url().ends_with(type); };
  if (is("io.containerd.cgroups.v1.Metrics")) {
    cg1::Metrics parsed;
    if (!parsed.ParseFromString(metrics.value())) return MakeError(Code::kInternal, "the shim's figures do not parse");
    return ForeignOfV1(parsed, detail);
  }
  if (is("io.containerd.cgroups.v2.Metrics")) {
    cg2::Metrics parsed;
    if (!parsed.ParseFromString(metrics.value())) return MakeError(Code::kInternal, "the shim's figures do not parse");
    return ForeignOfV2(parsed, detail);
  }
  return MakeError(Code::kUnimplemented, "the shim's figures are of the type '{}'", metrics.type_url().substr(0, 128));
}

}  // namespace caisson::shim
