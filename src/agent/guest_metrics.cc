// SPDX-License-Identifier: Apache-2.0
#include "agent/guest_metrics.h"

#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/limits.h"
#include "base/strings.h"
#include "sys/path.h"
#include "sys/proc_text.h"

namespace caisson::agent {
namespace {

std::vector<std::string_view> Words(std::string_view text) {
  std::vector<std::string_view> words;
  for (size_t at = 0;;) {
    size_t begin = text.find_first_not_of(" \t\n", at);
    if (begin == text.npos) return words;
    at = std::min(text.find_first_of(" \t\n", begin), text.size());
    words.push_back(text.substr(begin, at - begin));
  }
}

uint64_t Number(std::string_view word) { return ParseUint64(word).value_or(0); }

// "0.42" in hundredths.
uint32_t Hundredths(std::string_view word) {
  size_t point = word.find('.');
  if (point == word.npos || word.size() != point + 3) return 0;
  return static_cast<uint32_t>(Number(word.substr(0, point)) * 100 + Number(word.substr(point + 1)));
}

uint64_t NanosOf(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<uint64_t>(time.tv_sec * kNanosPerSecond + time.tv_nsec);
}

}  // namespace

void FillGuestMetrics(const ProcTexts& texts, guest::v1::MetricsResponse* response) {
  response->set_memory_total_bytes(sys::ProcNumber(texts.meminfo, "MemTotal:") << 10);
  response->set_memory_available_bytes(sys::ProcNumber(texts.meminfo, "MemAvailable:") << 10);
  response->set_agent_resident_bytes(sys::ProcNumber(texts.status, "VmRSS:") << 10);
  // mm/balloon_compaction.c counts pages of the balloon here, in and out.
  uint64_t in = sys::ProcNumber(texts.vmstat, "balloon_inflate "), out = sys::ProcNumber(texts.vmstat, "balloon_deflate ");
  response->set_balloon_bytes((in > out ? in - out : 0) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)));
  // "cpu user nice system idle iowait irq softirq steal …" in hundredths of a second (proc_stat(5), USER_HZ).
  auto words = Words(texts.stat.substr(0, texts.stat.find('\n')));
  auto nanos = [&](size_t i) { return i < words.size() ? Number(words[i]) * (kNanosPerSecond / 100) : 0; };
  response->set_user_nanos(nanos(1) + nanos(2));
  response->set_system_nanos(nanos(3));
  response->set_idle_nanos(nanos(4));
  response->set_iowait_nanos(nanos(5));
  response->set_irq_nanos(nanos(6) + nanos(7));
  response->set_steal_nanos(nanos(8));
  // "0.20 0.18 0.12 1/80 11206": runnable ones of all threads.
  auto load = Words(texts.loadavg);
  if (load.size() < 4) return;
  response->set_load1(Hundredths(load[0]));
  response->set_load5(Hundredths(load[1]));
  response->set_load15(Hundredths(load[2]));
  response->set_runnable(Number(load[3].substr(0, load[3].find('/'))));
  response->set_threads(Number(load[3].substr(load[3].find('/') + 1)));
}

Result<guest::v1::MetricsResponse> ReadGuestMetrics() {
  std::string meminfo = TRY(sys::ReadFile("/proc/meminfo", limits::kCgroupFileBytes));
  std::string stat = TRY(sys::ReadFile("/proc/stat", limits::kCgroupFileBytes));
  std::string loadavg = TRY(sys::ReadFile("/proc/loadavg", limits::kCgroupFileBytes));
  std::string vmstat = TRY(sys::ReadFile("/proc/vmstat", limits::kCgroupFileBytes));
  std::string status = TRY(sys::ReadFile("/proc/self/status", limits::kCgroupFileBytes));
  guest::v1::MetricsResponse response;
  FillGuestMetrics({meminfo, stat, loadavg, vmstat, status}, &response);
  response.set_uptime_nanos(NanosOf(CLOCK_BOOTTIME));
  response.set_agent_cpu_nanos(NanosOf(CLOCK_PROCESS_CPUTIME_ID));
  return response;
}

}  // namespace caisson::agent
