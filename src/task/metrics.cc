// SPDX-License-Identifier: Apache-2.0
#include "task/metrics.h"

#include <optional>

#include "containerd/cgroups_v1.pb.h"
#include "containerd/cgroups_v2.pb.h"

namespace caisson::task {
namespace {

namespace cg1 = io::containerd::cgroups::v1;
namespace cg2 = io::containerd::cgroups::v2;

// The kernel's words in blkio.throttle.io_service_bytes and io_serviced.
void AddIo(const oci::CgroupStats::IoDevice& device, cg1::BlkIOStat* io) {
  auto add = [&](cg1::BlkIOEntry* entry, const char* op, uint64_t value) {
    entry->set_op(op);
    entry->set_major(device.major);
    entry->set_minor(device.minor);
    entry->set_value(value);
  };
  add(io->add_io_service_bytes_recursive(), "Read", device.read_bytes);
  add(io->add_io_service_bytes_recursive(), "Write", device.write_bytes);
  add(io->add_io_serviced_recursive(), "Read", device.reads);
  add(io->add_io_serviced_recursive(), "Write", device.writes);
}

// Of the group and all below it, as all that is read of it.
void FillMemory(const oci::CgroupStats::Memory& stats, cg1::MemoryStat* memory) {
  memory->set_cache(stats.cache);
  memory->set_rss(stats.rss);
  memory->set_rss_huge(stats.rss_huge);
  memory->set_mapped_file(stats.mapped_file);
  memory->set_dirty(stats.dirty);
  memory->set_writeback(stats.writeback);
  memory->set_pg_fault(stats.page_faults);
  memory->set_pg_maj_fault(stats.major_page_faults);
  memory->set_inactive_anon(stats.inactive_anon);
  memory->set_active_anon(stats.active_anon);
  memory->set_inactive_file(stats.inactive_file);
  memory->set_active_file(stats.active_file);
  memory->set_unevictable(stats.unevictable);
  memory->set_total_cache(stats.cache);
  memory->set_total_rss(stats.rss);
  memory->set_total_rss_huge(stats.rss_huge);
  memory->set_total_mapped_file(stats.mapped_file);
  memory->set_total_dirty(stats.dirty);
  memory->set_total_writeback(stats.writeback);
  memory->set_total_pg_fault(stats.page_faults);
  memory->set_total_pg_maj_fault(stats.major_page_faults);
  memory->set_total_inactive_anon(stats.inactive_anon);
  memory->set_total_active_anon(stats.active_anon);
  memory->set_total_inactive_file(stats.inactive_file);
  memory->set_total_active_file(stats.active_file);
  memory->set_total_unevictable(stats.unevictable);
  memory->set_hierarchical_memory_limit(stats.limit);
  memory->mutable_usage()->set_usage(stats.usage);
  memory->mutable_usage()->set_limit(stats.limit);
  memory->mutable_usage()->set_max(stats.max_usage);
  memory->mutable_usage()->set_failcnt(stats.fail_count);
  memory->mutable_kernel()->set_usage(stats.kernel);
  // There even where this kernel counts neither: CRI-O ends with a fault where one is missing.
  memory->mutable_kernel_tcp();
  memory->mutable_swap();
  // With swap, as the kernel counts it on v1 (memory.memsw.*).
  if (stats.swap_usage) memory->mutable_swap()->set_usage(stats.usage + *stats.swap_usage);
  if (stats.swap_limit) {
    bool unlimited = *stats.swap_limit == UINT64_MAX || stats.limit == UINT64_MAX;
    memory->mutable_swap()->set_limit(unlimited ? UINT64_MAX : stats.limit + *stats.swap_limit);
  }
}

cg1::Metrics V1(const oci::CgroupStats& stats) {
  cg1::Metrics metrics;
  auto* usage = metrics.mutable_cpu()->mutable_usage();
  usage->set_total(stats.cpu.usage_nanos);
  usage->set_user(stats.cpu.user_nanos);
  usage->set_kernel(stats.cpu.system_nanos);
  auto* throttling = metrics.mutable_cpu()->mutable_throttling();
  throttling->set_periods(stats.cpu.periods);
  throttling->set_throttled_periods(stats.cpu.throttled_periods);
  throttling->set_throttled_time(stats.cpu.throttled_nanos);
  FillMemory(stats.memory, metrics.mutable_memory());
  metrics.mutable_pids()->set_current(stats.pids.current);
  metrics.mutable_pids()->set_limit(stats.pids.limit);
  metrics.mutable_memory_oom_control()->set_oom_kill(stats.memory.oom_kills);
  for (const auto& device : stats.io) AddIo(device, metrics.mutable_blkio());
  for (const auto& pages : stats.hugetlb) {
    auto* added = metrics.add_hugetlb();
    added->set_pagesize(pages.page_size);
    added->set_usage(pages.usage);
    added->set_max(pages.max);
    added->set_failcnt(pages.fail_count);
  }
  return metrics;
}

void FillPsi(const std::optional<oci::Psi>& psi, cg2::PSIStats* out) {
  auto fill = [](const oci::PsiLine& line, cg2::PSIData* to) {
    to->set_avg10(static_cast<double>(line.avg10) / 100);
    to->set_avg60(static_cast<double>(line.avg60) / 100);
    to->set_avg300(static_cast<double>(line.avg300) / 100);
    to->set_total(line.total_usec);
  };
  fill(psi->some, out->mutable_some());
  fill(psi->full, out->mutable_full());
}

void FillMemory(const oci::CgroupStats::Memory& stats, cg2::MemoryStat* memory) {
  memory->set_anon(stats.rss);
  memory->set_file(stats.cache);
  memory->set_file_mapped(stats.mapped_file);
  memory->set_file_dirty(stats.dirty);
  memory->set_file_writeback(stats.writeback);
  memory->set_anon_thp(stats.rss_huge);
  memory->set_inactive_anon(stats.inactive_anon);
  memory->set_active_anon(stats.active_anon);
  memory->set_inactive_file(stats.inactive_file);
  memory->set_active_file(stats.active_file);
  memory->set_unevictable(stats.unevictable);
  memory->set_pgfault(stats.page_faults);
  memory->set_pgmajfault(stats.major_page_faults);
  memory->set_usage(stats.usage);
  memory->set_usage_limit(stats.limit);
  memory->set_max_usage(stats.max_usage);
  memory->set_swap_usage(stats.swap_usage.value_or(0));
  memory->set_swap_limit(stats.swap_limit.value_or(0));
  if (stats.psi) FillPsi(stats.psi, memory->mutable_psi());
}

cg2::Metrics V2(const oci::CgroupStats& stats) {
  cg2::Metrics metrics;
  auto* cpu = metrics.mutable_cpu();
  cpu->set_usage_usec(stats.cpu.usage_nanos / 1000);
  cpu->set_user_usec(stats.cpu.user_nanos / 1000);
  cpu->set_system_usec(stats.cpu.system_nanos / 1000);
  cpu->set_nr_periods(stats.cpu.periods);
  cpu->set_nr_throttled(stats.cpu.throttled_periods);
  cpu->set_throttled_usec(stats.cpu.throttled_nanos / 1000);
  if (stats.cpu.psi) FillPsi(stats.cpu.psi, cpu->mutable_psi());
  FillMemory(stats.memory, metrics.mutable_memory());
  metrics.mutable_pids()->set_current(stats.pids.current);
  metrics.mutable_pids()->set_limit(stats.pids.limit);
  metrics.mutable_memory_events()->set_oom(stats.memory.oom_events);
  metrics.mutable_memory_events()->set_oom_kill(stats.memory.oom_kills);
  for (const auto& device : stats.io) {
    auto* added = metrics.mutable_io()->add_usage();
    added->set_major(device.major);
    added->set_minor(device.minor);
    added->set_rbytes(device.read_bytes);
    added->set_wbytes(device.write_bytes);
    added->set_rios(device.reads);
    added->set_wios(device.writes);
  }
  if (stats.io_psi) FillPsi(stats.io_psi, metrics.mutable_io()->mutable_psi());
  for (const auto& pages : stats.hugetlb) {
    auto* added = metrics.add_hugetlb();
    added->set_pagesize(pages.page_size);
    added->set_current(pages.usage);
    added->set_max(pages.max);
    added->set_failcnt(pages.fail_count);
  }
  return metrics;
}

}  // namespace

void FillMetrics(const oci::CgroupStats& stats, bool v2, wkt::Any* any) {
  any->set_type_url(v2 ? "io.containerd.cgroups.v2.Metrics" : "io.containerd.cgroups.v1.Metrics");
  any->set_value(v2 ? V2(stats).SerializeAsString() : V1(stats).SerializeAsString());
}

}  // namespace caisson::task
