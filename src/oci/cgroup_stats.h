// SPDX-License-Identifier: Apache-2.0
//
// CgroupStats from the files of a group. A file that is missing leaves its values out; one that is there but cannot be
// read is an error. Any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "oci/cgroup.h"

namespace caisson::oci {

// The group's directory in each v1 hierarchy; empty: the host does not have it. `unified` is for PSI.
struct V1Dirs {
  std::string cpu, cpuacct, memory, pids, blkio, hugetlb, unified;
};
Result<CgroupStats> ReadStatsV1(const V1Dirs& dirs, StatsPart part);
Result<CgroupStats> ReadStatsV2(const std::string& dir, StatsPart part);

// "some avg10=0.12 avg60=… total=…\nfull …"; not set if it is not that.
std::optional<Psi> ParsePsi(std::string_view text);
// "8:0 rbytes=1 wbytes=2 rios=3 wios=4 …" lines of io.stat.
std::vector<CgroupStats::IoDevice> ParseIoStat(std::string_view text);
// Adds "8:0 Read 123" lines of blkio.throttle.io_service_bytes (or, with `operations`, io_serviced).
void ParseBlkio(std::string_view text, bool operations, std::vector<CgroupStats::IoDevice>* devices);

}  // namespace caisson::oci
