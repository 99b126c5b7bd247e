// SPDX-License-Identifier: Apache-2.0
//
// Cgroup: the control group of one container (or of one pod), on cgroup v1, v2 or a hybrid of both, made by us
// (cgroupfs driver) or by systemd (systemd driver). cgroups(7), Documentation/admin-guide/cgroup-{v1,v2}.
//
// Life cycle: Create makes the group in every hierarchy the host has, applies the limits, and undoes all of it if any
// step fails; Open finds an existing one again (after a restart). Delete removes it with everything made below it. The
// destructor removes nothing: a container outlives the process that made it.
//
// A process enters in one of two ways; the launcher uses the first, which is much cheaper (no global lock in the kernel):
//  - CloneIntoFd() goes to clone3(CLONE_INTO_CGROUP) when it is not -1, and the child itself writes "0" into each of
//    JoinFds() before it gives up its rights (async-signal-safe: one write(2) each);
//  - Attach(pid) moves any process from outside.
//
// Thread rule: one thread at a time per object. Calls block for single kernel operations; what may take longer (Kill,
// Freeze, Delete) takes a deadline. It never moves or mounts a hierarchy, never enables a controller that the host has
// disabled, and writes only at or below the group named, but for what a child needs of its parents: v2
// cgroup.subtree_control and v1 cpuset.cpus/mems of parents where they are empty.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::oci {

// linux.resources of the runtime-spec (config-linux.md), field for field. What is not set is left as the kernel has it.
struct Resources {
  struct Memory {
    std::optional<int64_t> limit, reservation, swap, kernel, kernel_tcp;  // bytes; -1 no limit; swap = memory + swap
    std::optional<uint64_t> swappiness;
    std::optional<bool> disable_oom_killer, use_hierarchy, check_before_update;
  };
  struct Cpu {
    std::optional<uint64_t> shares, period, burst, realtime_period;  // times in microseconds
    std::optional<int64_t> quota, realtime_runtime, idle;            // quota -1: no limit
    std::string cpus, mems;                                          // lists as "0-3,7"; empty: not set
  };
  struct WeightDevice {
    int64_t major = 0, minor = 0;
    std::optional<uint16_t> weight, leaf_weight;
  };
  struct ThrottleDevice {
    int64_t major = 0, minor = 0;
    uint64_t rate = 0;
  };
  struct BlockIo {
    std::optional<uint16_t> weight, leaf_weight;
    std::vector<WeightDevice> weight_device;
    std::vector<ThrottleDevice> read_bps, write_bps, read_iops, write_iops;
  };
  struct HugepageLimit {
    std::string page_size;  // "2MB", as in the names of the hugetlb files
    uint64_t limit = 0;
  };
  struct NetworkPriority {
    std::string name;
    uint32_t priority = 0;
  };
  struct Network {
    std::optional<uint32_t> class_id;
    std::vector<NetworkPriority> priorities;
  };
  struct Rdma {
    std::optional<uint32_t> hca_handles, hca_objects;
  };
  struct DeviceRule {
    bool allow = false;
    char type = 'a';                      // 'a', 'b' or 'c'
    std::optional<int64_t> major, minor;  // not set (or -1): any
    std::string access;                   // of "rwm"; empty: "rwm"
  };

  std::vector<DeviceRule> devices;  // in order, a later rule wins; empty at Create: no device policy at all
  std::optional<Memory> memory;
  std::optional<Cpu> cpu;
  std::optional<int64_t> pids_limit;  // <= 0: no limit (as runtime-spec 1.0 to 1.2 implementations do)
  std::optional<BlockIo> block_io;
  std::vector<HugepageLimit> hugepage_limits;
  std::optional<Network> network;
  std::map<std::string, Rdma> rdma;
  std::map<std::string, std::string> unified;  // v2 file name -> value; refused on a host without v2
};

// A stall of the PSI interface (Documentation/accounting/psi.rst). avg* are hundredths of a percent.
struct PsiLine {
  uint64_t avg10 = 0, avg60 = 0, avg300 = 0, total_usec = 0;
};
struct Psi {
  PsiLine some, full;
};

// kUsage: the total CPU time, the memory but for its extremes and events, the number of processes, pressure. Far fewer files.
enum class StatsPart { kUsage, kAll };

// What the group has used. A value that the host does not account is not set (or 0 in the plain fields).
struct CgroupStats {
  int64_t at_nanos = 0;  // CLOCK_REALTIME of reading
  struct Cpu {
    uint64_t usage_nanos = 0, user_nanos = 0, system_nanos = 0;
    uint64_t periods = 0, throttled_periods = 0, throttled_nanos = 0;
    std::optional<Psi> psi;
  } cpu;
  struct Memory {
    uint64_t usage = 0;        // bytes, page cache included
    uint64_t working_set = 0;  // usage without inactive file cache
    uint64_t rss = 0;          // anonymous memory
    uint64_t cache = 0, inactive_file = 0, active_file = 0, inactive_anon = 0, active_anon = 0, mapped_file = 0, dirty = 0,
             writeback = 0, unevictable = 0, rss_huge = 0, kernel = 0;
    uint64_t page_faults = 0, major_page_faults = 0;
    uint64_t limit = 0;  // bytes; UINT64_MAX: none
    uint64_t max_usage = 0, fail_count = 0;
    std::optional<uint64_t> swap_usage, swap_limit;  // swap alone
    uint64_t oom_events = 0;                         // v2: times the limit was met and reclaim failed
    uint64_t oom_kills = 0;                          // processes that the OOM killer has killed in it
    std::optional<Psi> psi;
  } memory;
  struct Pids {
    uint64_t current = 0;
    uint64_t limit = 0;  // 0: none
  } pids;
  struct IoDevice {
    uint64_t major = 0, minor = 0;
    uint64_t read_bytes = 0, write_bytes = 0, reads = 0, writes = 0;
  };
  std::vector<IoDevice> io;
  std::optional<Psi> io_psi;
  struct Hugetlb {
    std::string page_size;
    uint64_t usage = 0, max = 0, fail_count = 0;
  };
  std::vector<Hugetlb> hugetlb;
};

// One hierarchy that the group is in. `controllers` is what the container sees as its directory's name below
// /sys/fs/cgroup ("cpu,cpuacct", "systemd", "unified" in hybrid mode, "" on pure v2).
struct CgroupHierarchy {
  bool v2 = false;
  std::vector<std::string> controllers;  // "cpu", "memory", "name=systemd"; on v2 those enabled for the group
  std::string mount_point;               // where the hierarchy is mounted in our mount namespace
  std::string path;                      // absolute path of the group's directory in our mount namespace
};

struct CgroupOptions {
  // linux.cgroupsPath. cgroupfs driver: a path below the root of each hierarchy ("/kubepods/pod1/ctr", a leading '/'
  // changes nothing); systemd driver: "slice:prefix:name" ("kubepods-pod1.slice:caisson:ctr"). Anything with "..",
  // an empty element or a NUL is refused.
  std::string path;
  bool systemd = false;
  Resources resources;
  // A hierarchy that we may not write to is left out instead of failing, which may be all of them: the group is then one
  // without processes, that can be neither limited nor frozen. To Open also one that is gone.
  bool rootless = false;
};

class Cgroup {
 public:
  // Errors: kAlreadyExists when a group of that name has processes in it (an empty one left behind is taken over);
  // kInvalidArgument for a path or value that cannot be; else the failing file and value. Nothing is left on failure.
  static Result<std::unique_ptr<Cgroup>> Create(const CgroupOptions& options);
  // Errors: kNotFound when no hierarchy has the group, unless `rootless`. `resources` is not looked at.
  static Result<std::unique_ptr<Cgroup>> Open(const CgroupOptions& options);
  virtual ~Cgroup() = default;  // removes nothing

  // For clone3's `cgroup` field, or -1 (no cgroup2 hierarchy here). Owned by the Cgroup.
  virtual int CloneIntoFd() = 0;
  // The same for the group below this one that process `pid` of the container is in. A container that has enabled
  // controllers for groups of its own (systemd, Docker inside) leaves its own group unable to hold a process (clone3: EBUSY).
  // Errors: kNotFound when it is in none below.
  virtual Result<UniqueFd> GroupBelowOf(int pid) = 0;
  // Files into which a single-threaded process writes "0" to move itself. Opened at first use, owned by the Cgroup until
  // CloseFds. After a clone with CloneIntoFd() these are the remaining hierarchies only.
  virtual Result<std::vector<int>> JoinFds() = 0;
  // Gives back the descriptors of the two calls above; they are opened anew when asked for again.
  virtual void CloseFds() = 0;
  // Moves process `pid` (with all its threads) into the group, in every hierarchy. With the systemd driver the scope is
  // started with the first process: Create starts it with a short-lived process of ours otherwise.
  virtual Result<> Attach(int pid) = 0;

  // Changes limits of a living group; what must hold between values (memory and swap) is ordered as the kernel wants.
  // Values that the kernel rounds or drops silently are read back. Errors: file, value and reason; earlier values of the
  // same call stay.
  virtual Result<> Apply(const Resources& resources) = 0;

  // Every process in the group and below it. Bounded; a process may be gone already.
  virtual Result<std::vector<int>> Pids() = 0;
  // Sends `signal` to each of them once.
  virtual Result<> Signal(int signal) = 0;
  // SIGKILL to all, also to those forked meanwhile and those frozen, until none is left. Errors: kDeadlineExceeded with
  // the pids that stay.
  virtual Result<> Kill(Deadline deadline) = 0;
  // Stops and resumes all processes. Idempotent. Freeze thaws again when the deadline passes.
  virtual Result<> Freeze(Deadline deadline) = 0;
  virtual Result<> Thaw() = 0;
  virtual Result<bool> Frozen() = 0;

  virtual Result<CgroupStats> Stats(StatsPart part) = 0;
  // A descriptor that polls readable (EPOLLIN) when the group may have met an OOM, or is being removed. Read it (up to
  // 4 KiB, non-blocking) and then ask OomKills(). The caller owns it.
  virtual Result<UniqueFd> OomEvents() = 0;
  // Processes killed by the OOM killer in the group since it was made.
  virtual Result<uint64_t> OomKills() = 0;

  // Removes the group and all below it; kills what still lives in it first. Gone already: success. Errors: what would
  // not go before the deadline.
  virtual Result<> Delete(Deadline deadline) = 0;

  virtual const std::vector<CgroupHierarchy>& Hierarchies() const = 0;
  // True on a host whose controllers are on v2.
  virtual bool IsV2() const = 0;
};

}  // namespace caisson::oci
