// SPDX-License-Identifier: Apache-2.0
//
// What this host offers and lacks for running pods, with the remedy for each lack. Reads /proc, /sys and a few folders;
// changes nothing; needs neither root nor the daemon.
#pragma once

#include <string>
#include <vector>

namespace caisson::cli {

enum class Verdict { kOk, kWarn, kFail };

struct HostCheck {
  Verdict verdict = Verdict::kOk;
  std::string name;    // "kernel", "cgroups", …
  std::string fact;    // what was found
  std::string remedy;  // what to do; empty when ok
};

// `root` is put before every path: tests give a made-up tree, users "".
std::vector<HostCheck> CheckHost(const std::string& root, const std::string& cni_conf_dir);

// "5.10" <= "6.1.0-13-amd64", by the first two numbers.
bool KernelAtLeast(const std::string& release, int major, int minor);

}  // namespace caisson::cli
