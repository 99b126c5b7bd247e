// SPDX-License-Identifier: Apache-2.0
#include "oci/cgroup_plan.h"

#include <algorithm>
#include <cmath>

#include "base/id.h"
#include "base/limits.h"
#include "base/strings.h"

namespace caisson::oci {
namespace {

constexpr int64_t kPidMaxLimit = 4'194'304;  // the kernel's PID_MAX_LIMIT: pids.max refuses more

std::string Num(auto value) { return fmt::format("{}", value); }
std::string MaxOr(int64_t value) { return value < 0 ? "max" : Num(value); }

// A plan under construction for one cgroup version.
class Plan {
 public:
  Plan(const Resources& resources, const CgroupView& view) : r_(resources), view_(view) {}
  virtual ~Plan() = default;

 protected:
  CgroupWrite& Add(std::string controller, std::string file, std::string value) {
    CgroupWrite write;
    write.controller = std::move(controller);
    write.file = std::move(file);
    write.value = std::move(value);
    writes_.push_back(std::move(write));
    return writes_.back();
  }
  bool Has(std::string_view controller, const std::string& file) const { return view_.has_file(controller, file); }

  // An isolation that was asked for and that the host cannot give is an error, never a silent omission.
  Result<> Need(std::string_view controller, std::string_view what) const {
    if (view_.has_controller(controller)) return {};
    return MakeError(Code::kFailedPrecondition, "{} is set, but this host has no cgroup controller '{}'", what, controller);
  }

  Result<> CheckUsage(int64_t limit) const {
    if (!r_.memory->check_before_update.value_or(false) || limit <= 0 || !view_.memory_usage) return {};
    if (*view_.memory_usage <= static_cast<uint64_t>(limit)) return {};
    return MakeError(Code::kFailedPrecondition, "memory limit {} is below the {} bytes in use", limit, *view_.memory_usage);
  }

  Result<> CheckSwap() const {
    const auto& m = *r_.memory;
    if (m.swap.value_or(-1) < 0 || m.swap == 0) return {};
    if (m.limit.value_or(0) <= 0) {
      return MakeError(Code::kInvalidArgument, "memory.swap {} is set without memory.limit", *m.swap);
    }
    if (*m.swap < *m.limit) {
      return MakeError(Code::kInvalidArgument, "memory.swap {} (memory and swap) is below memory.limit {}", *m.swap, *m.limit);
    }
    return {};
  }

  static Result<> CheckWeight(std::optional<uint16_t> weight, std::string_view what) {
    if (!weight || *weight == 0 || (*weight >= 10 && *weight <= 1000)) return {};
    return MakeError(Code::kInvalidArgument, "{} {} is not between 10 and 1000", what, *weight);
  }

  Result<> CheckPageSizes() const {
    for (const auto& h : r_.hugepage_limits) {
      if (!IsSafeName(h.page_size)) return MakeError(Code::kInvalidArgument, "hugepage size '{}' is no size", h.page_size);
    }
    return {};
  }

  void Throttle(const std::string& file, const std::vector<Resources::ThrottleDevice>& devices, std::string_view v2_key) {
    for (const auto& device : devices) {
      std::string rate = v2_key.empty() ? Num(device.rate) : fmt::format("{}={}", v2_key, device.rate ? Num(device.rate) : "max");
      Add(v2_key.empty() ? "blkio" : "io", file, fmt::format("{}:{} {}", device.major, device.minor, rate));
    }
  }

  const Resources& r_;
  const CgroupView& view_;
  std::vector<CgroupWrite> writes_;
};

class V1 : public Plan {
 public:
  using Plan::Plan;
  Result<std::vector<CgroupWrite>> Make() {
    if (!r_.unified.empty()) {
      return MakeError(Code::kInvalidArgument, "unified '{}' is set, but this host's controllers are on cgroup v1",
                       r_.unified.begin()->first);
    }
    TRY(CheckPageSizes());
    if (r_.cpu) TRY(CpuTime());
    if (r_.cpu) TRY(Cpuset());
    if (r_.memory) TRY(Memory());
    if (r_.pids_limit) TRY(Pids());
    if (r_.block_io) TRY(BlockIo());
    Rest();
    return std::move(writes_);
  }

 private:
  Result<> CpuTime() {
    const auto& c = *r_.cpu;
    bool time = c.shares.value_or(0) || c.quota.value_or(0) || c.period.value_or(0) || c.burst || c.idle.value_or(0) ||
                c.realtime_runtime.value_or(0) || c.realtime_period.value_or(0);
    if (!time) return {};
    TRY(Need("cpu", "a cpu limit"));
    // The kernel clamps shares to 2..262144 without a word.
    if (c.shares.value_or(0)) Add("cpu", "cpu.shares", Num(*c.shares)).read_back = c.idle.value_or(0) ? "" : Num(*c.shares);
    if (c.burst && c.quota) Add("cpu", "cpu.cfs_burst_us", "0").optional = true;  // it may not exceed the new quota
    // A new period with the old quota may exceed the parent's share; then it goes after the quota.
    if (c.period.value_or(0)) Add("cpu", "cpu.cfs_period_us", Num(*c.period)).retry_last = c.quota.value_or(0) != 0;
    if (c.quota.value_or(0)) Add("cpu", "cpu.cfs_quota_us", Num(*c.quota < 0 ? -1 : *c.quota));
    if (c.burst) Add("cpu", "cpu.cfs_burst_us", Num(*c.burst));
    if (c.realtime_period.value_or(0)) Add("cpu", "cpu.rt_period_us", Num(*c.realtime_period));
    if (c.realtime_runtime.value_or(0)) Add("cpu", "cpu.rt_runtime_us", Num(*c.realtime_runtime));
    if (c.idle) Add("cpu", "cpu.idle", Num(*c.idle)).optional = *c.idle == 0;
    return {};
  }

  Result<> Cpuset() {
    const auto& c = *r_.cpu;
    if (c.cpus.empty() && c.mems.empty()) return {};
    TRY(Need("cpuset", "cpu.cpus or cpu.mems"));
    if (!c.cpus.empty()) Add("cpuset", "cpuset.cpus", c.cpus);
    if (!c.mems.empty()) Add("cpuset", "cpuset.mems", c.mems);
    return {};
  }

  Result<> Memory() {
    const auto& m = *r_.memory;
    bool any = m.limit.value_or(0) || m.swap.value_or(0) || m.reservation.value_or(0) || m.swappiness || m.kernel_tcp.value_or(0) ||
               m.disable_oom_killer.value_or(false);
    if (!any) return {};
    TRY(Need("memory", "a memory limit"));
    TRY(CheckSwap());
    TRY(CheckUsage(m.limit.value_or(0)));
    auto rounded = [&](int64_t bytes) {
      return bytes < 0 ? std::string() : Num(static_cast<uint64_t>(bytes) / view_.page_size * view_.page_size);
    };
    auto limit = [&] {
      if (m.limit.value_or(0)) {
        Add("memory", "memory.limit_in_bytes", Num(std::max<int64_t>(*m.limit, -1))).read_back = rounded(*m.limit);
      }
    };
    // A kernel without swap accounting has no memsw files; the memory limit itself still holds. memory.limit -1 lifts
    // the swap limit too, which must not be below it.
    int64_t swap = m.swap.value_or(0);
    if (swap == 0 && m.limit && *m.limit < 0) swap = -1;
    bool grows = swap < 0 || static_cast<uint64_t>(swap) > view_.memsw_limit;
    if (!grows || swap == 0) limit();
    if (swap != 0) Add("memory", "memory.memsw.limit_in_bytes", Num(std::max<int64_t>(swap, -1))).optional = true;
    if (grows && swap != 0) limit();
    if (m.reservation.value_or(0)) Add("memory", "memory.soft_limit_in_bytes", Num(std::max<int64_t>(*m.reservation, -1)));
    // kernel is deprecated in the spec and refused by kernels since 5.16 (ENOTSUPP): ignored, as the spec allows.
    if (m.kernel_tcp.value_or(0)) {
      Add("memory", "memory.kmem.tcp.limit_in_bytes", Num(std::max<int64_t>(*m.kernel_tcp, -1))).optional = true;
    }
    if (m.swappiness) {
      if (*m.swappiness > 100) {
        return MakeError(Code::kInvalidArgument, "memory.swappiness {} is not between 0 and 100", *m.swappiness);
      }
      Add("memory", "memory.swappiness", Num(*m.swappiness));
    }
    if (m.disable_oom_killer.value_or(false)) Add("memory", "memory.oom_control", "1");
    return {};
  }

  Result<> Pids() {
    if (*r_.pids_limit > 0) TRY(Need("pids", "pids.limit"));
    int64_t limit = *r_.pids_limit;
    Add("pids", "pids.max", limit <= 0 || limit > kPidMaxLimit ? "max" : Num(limit)).optional = limit <= 0;
    return {};
  }

  Result<> BlockIo() {
    const auto& b = *r_.block_io;
    TRY(CheckWeight(b.weight, "blockIO.weight"));
    TRY(CheckWeight(b.leaf_weight, "blockIO.leafWeight"));
    bool throttles = !b.read_bps.empty() || !b.write_bps.empty() || !b.read_iops.empty() || !b.write_iops.empty();
    if (throttles) TRY(Need("blkio", "a blockIO throttle"));
    // Weights exist only with an I/O scheduler that has them; they are shares, not limits: left out otherwise.
    std::string prefix = Has("blkio", "blkio.weight") ? "blkio." : "blkio.bfq.";
    if (b.weight.value_or(0)) Add("blkio", prefix + "weight", Num(*b.weight)).optional = true;
    if (b.leaf_weight.value_or(0)) Add("blkio", "blkio.leaf_weight", Num(*b.leaf_weight)).optional = true;
    for (const auto& d : b.weight_device) {
      TRY(CheckWeight(d.weight, "blockIO.weightDevice"));
      std::string device = fmt::format("{}:{} ", d.major, d.minor);
      if (d.weight.value_or(0)) Add("blkio", prefix + "weight_device", device + Num(*d.weight)).optional = true;
      if (d.leaf_weight.value_or(0)) Add("blkio", "blkio.leaf_weight_device", device + Num(*d.leaf_weight)).optional = true;
    }
    Throttle("blkio.throttle.read_bps_device", b.read_bps, "");
    Throttle("blkio.throttle.write_bps_device", b.write_bps, "");
    Throttle("blkio.throttle.read_iops_device", b.read_iops, "");
    Throttle("blkio.throttle.write_iops_device", b.write_iops, "");
    return {};
  }

  // The kubelet sends hugepage limits wherever it runs; these controllers may be missing.
  void Rest() {
    for (const auto& h : r_.hugepage_limits) {
      bool there = view_.has_controller("hugetlb");
      Add("hugetlb", fmt::format("hugetlb.{}.limit_in_bytes", h.page_size), Num(h.limit)).optional = !there;
      Add("hugetlb", fmt::format("hugetlb.{}.rsvd.limit_in_bytes", h.page_size), Num(h.limit)).optional = true;
    }
    if (r_.network && r_.network->class_id.value_or(0)) {
      Add("net_cls", "net_cls.classid", Num(*r_.network->class_id)).optional = true;
    }
    if (r_.network) {
      for (const auto& p : r_.network->priorities) {
        Add("net_prio", "net_prio.ifpriomap", fmt::format("{} {}", p.name, p.priority)).optional = true;
      }
    }
    for (const auto& [device, limit] : r_.rdma) {
      std::string line = device;
      if (limit.hca_handles) line += fmt::format(" hca_handle={}", *limit.hca_handles);
      if (limit.hca_objects) line += fmt::format(" hca_object={}", *limit.hca_objects);
      Add("rdma", "rdma.max", line).optional = !view_.has_controller("rdma");
    }
  }
};

class V2 : public Plan {
 public:
  using Plan::Plan;
  Result<std::vector<CgroupWrite>> Make() {
    TRY(CheckPageSizes());
    if (r_.cpu) TRY(Cpu());
    if (r_.memory) TRY(Memory());
    if (r_.pids_limit) {
      if (*r_.pids_limit > 0) TRY(Need("pids", "pids.limit"));
      int64_t limit = *r_.pids_limit;
      Add("pids", "pids.max", limit <= 0 || limit > kPidMaxLimit ? "max" : Num(limit)).optional = limit <= 0;
    }
    if (r_.block_io) TRY(Io());
    TRY(Rest());
    TRY(Unified());
    return std::move(writes_);
  }

 private:
  Result<> Cpu() {
    const auto& c = *r_.cpu;
    if (c.realtime_runtime.value_or(0) || c.realtime_period.value_or(0)) {
      return MakeError(Code::kInvalidArgument, "cpu.realtimeRuntime and realtimePeriod do not exist on cgroup v2");
    }
    if (c.shares.value_or(0) || c.quota.value_or(0) || c.period.value_or(0) || c.burst || c.idle.value_or(0)) {
      TRY(Need("cpu", "a cpu limit"));
    }
    // An idle group has no weight of its own (EINVAL).
    if (c.idle) Add("cpu", "cpu.idle", Num(*c.idle)).optional = *c.idle == 0;
    if (c.shares.value_or(0) && c.idle.value_or(0) == 0) Add("cpu", "cpu.weight", Num(CpuWeightOfShares(*c.shares)));
    if (c.burst && c.quota) Add("cpu", "cpu.max.burst", "0").optional = true;  // it may not exceed the new quota
    if (c.quota.value_or(0) || c.period.value_or(0)) {
      // One word keeps the period; a period never stands alone, so the quota of now is repeated before it.
      std::string quota = c.quota.value_or(0) ? MaxOr(*c.quota) : view_.cpu_quota;
      Add("cpu", "cpu.max", c.period.value_or(0) ? fmt::format("{} {}", quota, *c.period) : quota);
    }
    if (c.burst) Add("cpu", "cpu.max.burst", Num(*c.burst)).optional = *c.burst == 0;
    if (!c.cpus.empty() || !c.mems.empty()) TRY(Need("cpuset", "cpu.cpus or cpu.mems"));
    if (!c.cpus.empty()) Add("cpuset", "cpuset.cpus", c.cpus);
    if (!c.mems.empty()) Add("cpuset", "cpuset.mems", c.mems);
    return {};
  }

  Result<> Memory() {
    const auto& m = *r_.memory;
    if (m.disable_oom_killer.value_or(false) || m.swappiness) {
      return MakeError(Code::kInvalidArgument, "memory.{} does not exist on cgroup v2",
                       m.swappiness ? "swappiness" : "disableOOMKiller");
    }
    if (!m.limit.value_or(0) && !m.swap.value_or(0) && !m.reservation.value_or(0)) return {};
    TRY(Need("memory", "a memory limit"));
    TRY(CheckSwap());
    TRY(CheckUsage(m.limit.value_or(0)));
    // OCI counts memory and swap together, v2 swap alone. The file is not there without swap support: nothing to limit.
    int64_t swap = m.swap.value_or(0);
    if (swap == 0 && m.limit && *m.limit < 0) swap = -1;
    if (swap != 0) {
      Add("memory", "memory.swap.max", swap < 0 ? "max" : Num(swap - *m.limit)).optional = true;
    }
    if (m.limit.value_or(0)) {
      auto& write = Add("memory", "memory.max", MaxOr(*m.limit));
      if (*m.limit > 0) write.read_back = Num(static_cast<uint64_t>(*m.limit) / view_.page_size * view_.page_size);
    }
    if (m.reservation.value_or(0)) Add("memory", "memory.low", MaxOr(*m.reservation));
    return {};
  }

  Result<> Io() {
    const auto& b = *r_.block_io;
    TRY(CheckWeight(b.weight, "blockIO.weight"));
    bool bfq = Has("io", "io.bfq.weight");
    auto weight = [&](uint16_t value) { return bfq ? uint64_t{value} : IoWeightOfBlkio(value); };
    std::string file = bfq ? "io.bfq.weight" : "io.weight";
    if (b.weight.value_or(0)) Add("io", file, bfq ? Num(*b.weight) : fmt::format("default {}", weight(*b.weight))).optional = true;
    for (const auto& d : b.weight_device) {
      TRY(CheckWeight(d.weight, "blockIO.weightDevice"));
      if (!d.weight.value_or(0)) continue;
      Add("io", file, fmt::format("{}:{} {}", d.major, d.minor, weight(*d.weight))).optional = true;
    }
    bool throttles = !b.read_bps.empty() || !b.write_bps.empty() || !b.read_iops.empty() || !b.write_iops.empty();
    if (throttles) TRY(Need("io", "a blockIO throttle"));
    Throttle("io.max", b.read_bps, "rbps");
    Throttle("io.max", b.write_bps, "wbps");
    Throttle("io.max", b.read_iops, "riops");
    Throttle("io.max", b.write_iops, "wiops");
    return {};
  }

  Result<> Rest() {
    if (r_.network && (r_.network->class_id.value_or(0) || !r_.network->priorities.empty())) {
      return MakeError(Code::kInvalidArgument, "network.classID and network.priorities do not exist on cgroup v2");
    }
    bool hugetlb = view_.has_controller("hugetlb");
    for (const auto& h : r_.hugepage_limits) {
      Add("hugetlb", fmt::format("hugetlb.{}.max", h.page_size), Num(h.limit)).optional = !hugetlb;
      Add("hugetlb", fmt::format("hugetlb.{}.rsvd.max", h.page_size), Num(h.limit)).optional = true;
    }
    for (const auto& [device, limit] : r_.rdma) {
      std::string line = device;
      if (limit.hca_handles) line += fmt::format(" hca_handle={}", *limit.hca_handles);
      if (limit.hca_objects) line += fmt::format(" hca_object={}", *limit.hca_objects);
      Add("rdma", "rdma.max", line).optional = !view_.has_controller("rdma");
    }
    return {};
  }

  Result<> Unified() {
    for (const auto& [file, value] : r_.unified) {
      size_t dot = file.find('.');
      // "cgroup.*" files are the runtime's own: cgroup.procs or cgroup.subtree_control would move the container.
      if (!IsSafeName(file) || dot == 0 || dot == std::string::npos || file.starts_with("cgroup.") || value.size() > 4096) {
        return MakeError(Code::kInvalidArgument, "unified '{}' is not a file of a cgroup controller", file);
      }
      TRY(Need(file.substr(0, dot), fmt::format("unified '{}'", file)));
      for (std::string_view line : Split(value, '\n')) {
        if (!Trim(line).empty()) Add(file.substr(0, dot), file, std::string(line));
      }
    }
    return {};
  }
};

}  // namespace

Result<std::string> CleanCgroupPath(std::string_view path) {
  auto bad = [&](std::string_view why) {
    return MakeError(Code::kInvalidArgument, "cgroup path '{}': {}", path.substr(0, 256), why);
  };
  if (path.size() >= limits::kPathBytes / 2) return bad("too long");
  if (path.find('\0') != std::string_view::npos || path.find('\n') != std::string_view::npos) return bad("bad character");
  while (path.starts_with('/')) path.remove_prefix(1);
  while (path.ends_with('/')) path.remove_suffix(1);
  if (path.empty()) return bad("names the root of the hierarchy");
  for (std::string_view part : Split(path, '/')) {
    if (part.empty() || part == "." || part == "..") return bad("has an empty, '.' or '..' element");
    if (part.size() > 255) return bad("element longer than 255 bytes");
  }
  return std::string(path);
}

Result<std::vector<CgroupWrite>> PlanV1(const Resources& resources, const CgroupView& view) {
  return V1(resources, view).Make();
}

Result<std::vector<CgroupWrite>> PlanV2(const Resources& resources, const CgroupView& view) {
  return V2(resources, view).Make();
}

Result<std::vector<CgroupWrite>> PlanV1Devices(const std::vector<Resources::DeviceRule>& rules) {
  std::vector<CgroupWrite> writes;
  for (const auto& rule : rules) {
    std::string access = rule.access.empty() ? "rwm" : rule.access;
    if (access.find_first_not_of("rwm") != std::string::npos || access.size() > 3) {
      return MakeError(Code::kInvalidArgument, "device rule: access '{}' is not made of 'rwm'", rule.access);
    }
    if (rule.type != 'a' && rule.type != 'b' && rule.type != 'c') {
      return MakeError(Code::kInvalidArgument, "device rule: type '{}' is not a, b or c", rule.type);
    }
    auto number = [](std::optional<int64_t> n) { return n.value_or(-1) < 0 ? std::string("*") : Num(*n); };
    std::string numbers = fmt::format("{}:{}", number(rule.major), number(rule.minor));
    const char* file = rule.allow ? "devices.allow" : "devices.deny";
    auto add = [&](char type) {
      CgroupWrite write;
      write.controller = "devices";
      write.file = file;
      write.value = fmt::format("{} {} {}", type, numbers, access);
      writes.push_back(std::move(write));
    };
    // The kernel takes 'a' to mean everything, whatever stands behind it (devcgroup_update_access).
    if (rule.type == 'a' && (numbers != "*:*" || access.size() != 3)) {
      add('b');
      add('c');
    } else {
      add(rule.type);
    }
  }
  return writes;
}

uint64_t CpuWeightOfShares(uint64_t shares) {
  if (shares <= 2) return 1;
  if (shares >= 262144) return 10000;
  double l = std::log2(static_cast<double>(shares));
  return static_cast<uint64_t>(std::ceil(std::pow(10.0, (l * l + 125 * l) / 612.0 - 7.0 / 34.0) - 1e-9));
}

uint64_t IoWeightOfBlkio(uint64_t weight) {
  weight = std::clamp<uint64_t>(weight, 10, 1000);
  return 1 + (weight - 10) * 9999 / 990;
}

}  // namespace caisson::oci
