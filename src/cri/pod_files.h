// SPDX-License-Identifier: Apache-2.0
//
// The files that every container of a pod sees unless it brings its own: resolv.conf, hostname, hosts.
#pragma once

#include <string>

#include "base/result.h"
#include "cri/v1/api.pb.h"

namespace caisson::cri {

// resolv.conf(5) text of a DNS configuration. kInvalidArgument for an entry with white space or control characters.
Result<std::string> FormatResolvConf(const runtime::v1::DNSConfig& dns);
// Writes the files into `dir`, which exists. Without a DNS configuration resolv.conf is the host's; hosts is the host's.
Result<> WritePodFiles(const std::string& dir, const runtime::v1::PodSandboxConfig& pod);

}  // namespace caisson::cri
