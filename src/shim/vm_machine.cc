// SPDX-License-Identifier: Apache-2.0
#include "shim/vm_machine.h"

#include <sys/socket.h>

#include "base/guest_words.h"

namespace caisson::shim {
namespace {
constexpr char kMac[] = "02:00:00:00:00:01";  // the guest gives its card the one of CNI's interface
}  // namespace

Result<> CheckVmOptions(const pod::v1::VmOptions& options) {
  if (options.vmm() != "qemu") return MakeError(Code::kUnimplemented, "there is no VMM '{}'", options.vmm().substr(0, 64));
  if (options.machine() != "" && options.machine() != "microvm" && options.machine() != "q35") {
    return MakeError(Code::kUnimplemented, "there is no machine '{}'", options.machine().substr(0, 64));
  }
  return {};
}

Result<std::pair<UniqueFd, UniqueFd>> MakeFilesPort() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return ErrnoError("make a socket pair");
  return std::pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

vmm::VmConfig VmConfigOf(const std::string& name, const std::string& run_dir, const pod::v1::VmOptions& options) {
  vmm::VmConfig config;
  config.name = name;
  config.run_dir = run_dir;
  config.program = options.program();
  config.kernel = options.kernel();
  config.initrd = options.initrd();
  config.accelerator = options.accelerator() == "kvm" ? vmm::Accelerator::kKvm : vmm::Accelerator::kTcg;
  if (options.vcpus() > 0) config.vcpus = options.vcpus();
  config.max_vcpus = options.max_vcpus();
  config.pci = options.machine() == "q35";
  if (options.memory_bytes() > 0) config.memory_bytes = options.memory_bytes();
  config.max_memory_bytes = options.max_memory_bytes();
  config.nic.mac = kMac;
  config.uid = options.uid();
  config.gid = options.gid();
  if (config.accelerator == vmm::Accelerator::kTcg) config.command_line = kGuestEmulatedWord;
  if (options.debug()) config.command_line += (config.command_line.empty() ? "" : " ") + std::string(kGuestDebugWord);
  return config;
}

}  // namespace caisson::shim
