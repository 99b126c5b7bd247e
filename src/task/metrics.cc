// SPDX-License-Identifier: Apache-2.0
#include "task/metrics.h"

#include "containerd/cgroups_v1.pb.h"
#include "containerd/cgroups_v2.pb.h"

namespace caisson::task {
namespace {

namespace cg1 = io::containerd::cgroups::v1;
namespace cg2 = io::containerd::cgroups::v2;

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
  auto* memory = metrics.mutable_memory();
  memory->set_cache(stats.memory.cache);
  memory->set_rss(stats.memory.rss);
  memory->set_total_rss(stats.memory.rss);
  memory->set_total_inactive_file(stats.memory.inactive_file);
  memory->set_total_active_file(stats.memory.active_file);
  memory->set_pg_fault(stats.memory.page_faults);
  memory->set_pg_maj_fault(stats.memory.major_page_faults);
  memory->mutable_usage()->set_usage(stats.memory.usage);
  memory->mutable_usage()->set_limit(stats.memory.limit);
  memory->mutable_usage()->set_max(stats.memory.max_usage);
  memory->mutable_usage()->set_failcnt(stats.memory.fail_count);
  metrics.mutable_pids()->set_current(stats.pids.current);
  metrics.mutable_pids()->set_limit(stats.pids.limit);
  return metrics;
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
  auto* memory = metrics.mutable_memory();
  memory->set_anon(stats.memory.rss);
  memory->set_file(stats.memory.cache);
  memory->set_inactive_file(stats.memory.inactive_file);
  memory->set_active_file(stats.memory.active_file);
  memory->set_pgfault(stats.memory.page_faults);
  memory->set_pgmajfault(stats.memory.major_page_faults);
  memory->set_usage(stats.memory.usage);
  memory->set_usage_limit(stats.memory.limit);
  metrics.mutable_pids()->set_current(stats.pids.current);
  metrics.mutable_pids()->set_limit(stats.pids.limit);
  metrics.mutable_memory_events()->set_oom(stats.memory.oom_events);
  metrics.mutable_memory_events()->set_oom_kill(stats.memory.oom_kills);
  return metrics;
}

}  // namespace

void FillMetrics(const oci::CgroupStats& stats, bool v2, wkt::Any* any) {
  any->set_type_url(v2 ? "io.containerd.cgroups.v2.Metrics" : "io.containerd.cgroups.v1.Metrics");
  any->set_value(v2 ? V2(stats).SerializeAsString() : V1(stats).SerializeAsString());
}

}  // namespace caisson::task
