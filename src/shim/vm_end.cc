// SPDX-License-Identifier: Apache-2.0
#include "shim/vm_end.h"

#include <fcntl.h>

#include <algorithm>
#include <string_view>

#include "base/unique_fd.h"

namespace caisson::shim {
namespace {

constexpr std::string_view kPanic = "Kernel panic", kAgent = "the machine ends: ";
constexpr size_t kTailBytes = 600, kLineBytes = 200;

bool Has(const std::string& text, std::string_view word) { return text.find(word) != std::string::npos; }

// What follows `word` where it comes last, to the end of its line.
std::string LineAfter(const std::string& console, std::string_view word) {
  size_t at = console.rfind(word);
  if (at == std::string::npos) return "";
  std::string line = console.substr(at + word.size(), kLineBytes);
  return line.substr(0, line.find_first_of("\r\n\\"));
}

}  // namespace

VmEnd ExplainVmEnd(const std::string& vmm_status, uint64_t oom_kills, const std::string& console) {
  VmEnd end;
  const bool killed = Has(vmm_status, "was killed by signal");
  if (killed && oom_kills > 0) {
    end = {"VmOutOfMemory", "the host's cgroup of the pod had no memory left for its VM"};
  } else if (killed) {
    end = {"VmmKilled", "the pod's VMM was killed"};
  } else if (Has(console, kPanic)) {
    end = {"GuestPanic", "the kernel of the pod's VM panicked" + LineAfter(console, kPanic)};
  } else if (Has(console, kAgent)) {
    end = {"AgentDied", "the VM's PID 1 says: " + LineAfter(console, kAgent)};
  } else {
    end = {"VmEnded", "the pod's VM ended"};
  }
  end.message += " (" + vmm_status + ")";
  if (!console.empty()) end.message += "; its console ends with: " + console.substr(console.size() - std::min(console.size(), kTailBytes));
  return end;
}

Result<> WriteVmEnd(const std::string& bundle, const VmEnd& end) {
  std::string path = bundle + "/" + kVmEndFile, text = end.reason + "\n" + end.message;
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file || write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) return ErrnoError("write '{}'", path);
  return {};
}

}  // namespace caisson::shim
