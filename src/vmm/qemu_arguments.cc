// SPDX-License-Identifier: Apache-2.0
#include "vmm/qemu_arguments.h"

#include <algorithm>

#include "base/bad.h"
#include "base/id.h"

namespace caisson::vmm {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kMaxMemory = uint64_t{4} << 40;
constexpr uint32_t kMaxCpus = 288;                   // of microvm and q35
// For translated code, of the host's memory beside the guest's own. QEMU's default is a GiB, which a guest fills by running much
// code. To boot and start a container takes half of this.
constexpr int kTranslatedMib = 64;
constexpr size_t kCommandLineBytes = 1024;           // of the kernel's 2048 (COMMAND_LINE_SIZE)

bool IsMac(std::string_view mac) {
  if (mac.size() != 17) return false;
  for (size_t i = 0; i < mac.size(); ++i) {
    char c = mac[i];
    bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
    if (i % 3 == 2 ? c != ':' : !hex) return false;
  }
  // The multicast bit of a sender's address (IEEE 802): the least of the second digit.
  return std::string_view("13579bdfBDF").find(mac[1]) == std::string_view::npos;
}

// What the guest's kernel is told beside the caller's words.
std::string KernelCommandLine(const VmConfig& config, const QemuHost& host) {
  std::string line = host.arm64 ? "console=ttyAMA0" : "console=ttyS0 reboot=t";
  // A panic ends the VM (-no-reboot) instead of leaving it there. notests: 0.4 s of an emulated processor's time for ciphers
  // that nobody uses here.
  // numdummies: a kernel with the dummy driver built in makes a device that would be the pod's.
  line += " quiet panic=-1 cryptomgr.notests dummy.numdummies=0";
  // Under TCG the counter is the host's; measuring it against an emulated timer may never end.
  if (config.accelerator == Accelerator::kTcg && host.tsc_khz != 0) line += fmt::format(" tsc_early_khz={} tsc=reliable", host.tsc_khz);
  if (config.max_vcpus > config.vcpus) line += fmt::format(" maxcpus={}", config.vcpus);
  // What is plugged in is used.
  if (config.max_memory_bytes > config.memory_bytes) line += " memhp_default_state=online";
  if (!config.command_line.empty()) line += " " + config.command_line;
  return line;
}

class Arguments {
 public:
  Arguments(const VmConfig& config, const QemuFds& fds, const QemuHost& host) : config_(config), fds_(fds), host_(host) {
    words_.push_back(QemuProgram(config, host));
  }

  std::vector<std::string> Make() && {
    Add("-name", config_.name);
    for (const char* flag : {"-nodefaults", "-no-user-config", "-no-reboot"}) words_.emplace_back(flag);
    Add("-display", "none");
    // seccomp: no exec, no other user, no scheduling of others.
    Add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    Machine();
    Channels();
    Devices();
    Add("-kernel", FdPath(fds_.kernel));
    Add("-initrd", FdPath(fds_.initrd));
    Add("-append", KernelCommandLine(config_, host_));
    if (!config_.restore_from.empty()) {
      Add("-incoming", "defer");
      words_.emplace_back("-S");
    }
    return std::move(words_);
  }

 private:
  void Add(const char* option, std::string value) {
    words_.emplace_back(option);
    words_.push_back(std::move(value));
  }
  static std::string FdPath(int fd) { return fmt::format("/proc/self/fd/{}", fd); }
  // A virtio device on the machine's bus.
  std::string Virtio(std::string_view kind) const {
    return fmt::format("virtio-{}-{}", kind, config_.pci ? "pci" : "device");
  }

  void Machine() {
    bool kvm = config_.accelerator == Accelerator::kKvm;
    std::string machine = host_.arm64 ? "virt,gic-version=max" : config_.pci ? "q35,usb=off,sata=off,smbus=off,vmport=off" : "microvm";
    // Without erms the guest copies words at a time, not bytes, each of which is a step of an emulated processor.
    std::string cpu = kvm ? "host" : host_.arm64 ? "max,pauth-impdef=on" : "max,-erms";
    if (fds_.memory >= 0) {
      machine += ",memory-backend=memory";
      Add("-object", fmt::format("memory-backend-file,id=memory,size={},share={},mem-path={}", config_.memory_bytes,
                                 config_.memory.shared ? "on" : "off", FdPath(fds_.memory)));
    }
    Add("-machine", machine);
    Add("-accel", kvm ? "kvm" : fmt::format("tcg,thread=multi,tb-size={}", kTranslatedMib));
    Add("-cpu", cpu);
    Add("-smp", fmt::format("{}", std::max(config_.vcpus, config_.max_vcpus)));
    // arm64's virt plugs memory with firmware alone.
    std::string room = config_.max_memory_bytes > config_.memory_bytes && !host_.arm64 ? fmt::format(",slots={},maxmem={}M", kQemuMemorySlots, config_.max_memory_bytes / kMiB) : "";
    Add("-m", fmt::format("{}M{}", config_.memory_bytes / kMiB, room));
    // microvm's own, a SeaBIOS, does not start an ELF kernel every time in QEMU 10.
    if (!host_.arm64 && !config_.pci) Add("-bios", "qboot.rom");
  }

  void Channels() {
    Add("-chardev", fmt::format("socket,id=monitor,fd={}", fds_.qmp));
    Add("-mon", "chardev=monitor,mode=control");
    // By a set, since only so does a file chardev take a descriptor; append: it would truncate a pipe.
    Add("-add-fd", fmt::format("fd={},set=0", fds_.console));
    Add("-chardev", "file,id=console,path=/dev/fdset/0,append=on");
    Add("-serial", "chardev:console");
    Add("-device", Virtio("serial") + (fds_.files >= 0 ? ",max_ports=3" : ",max_ports=2"));
    Add("-chardev", fmt::format("socket,id=agent,fd={},server=on,wait=off", fds_.channel));
    Add("-device", fmt::format("virtserialport,chardev=agent,name={}", kQemuAgentPort));
    if (fds_.files < 0) return;
    Add("-chardev", fmt::format("socket,id=files,fd={}", fds_.files));
    Add("-device", fmt::format("virtserialport,chardev=files,name={}", kQemuFilesPort));
  }

  void Devices() {
    Add("-object", "rng-builtin,id=entropy");
    Add("-device", Virtio("rng") + ",rng=entropy");
    std::string mac = config_.nic.mac.empty() ? "" : ",mac=" + config_.nic.mac;
    Add("-netdev", fds_.tap >= 0 ? fmt::format("tap,id=net,fd={},vhost=off", fds_.tap) : "hubport,id=net,hubid=0");
    // No boot ROM: nobody boots over it.
    Add("-device", Virtio("net") + ",netdev=net" + mac + (config_.pci ? ",romfile=" : ""));
    Add("-device", Virtio("balloon"));
    // Disks are plugged in here: microvm has no other bus that takes any while it runs.
    Add("-device", Virtio("scsi") + ",id=disks,num_queues=1");
  }

  const VmConfig& config_;
  const QemuFds& fds_;
  const QemuHost& host_;
  std::vector<std::string> words_;
};

}  // namespace

Result<> CheckVmConfig(const VmConfig& config) {
  // IsSafeName: no comma and no '=', which have a meaning to QEMU.
  if (!IsSafeName(config.name)) return Bad("the VM's name '{}' is not a safe name", config.name);
  if (config.run_dir.empty() || config.run_dir.front() != '/') return Bad("the VM's folder '{}' is not absolute", config.run_dir);
  if (!config.program.empty() && config.program.front() != '/') return Bad("the VMM's program '{}' is not absolute", config.program);
  if (config.kernel.empty() || config.initrd.empty()) return Bad("a VM without kernel or initramfs");
  if (config.vcpus == 0 || config.vcpus > kMaxCpus) return Bad("a VM cannot have {} processors: 1 to {}", config.vcpus, kMaxCpus);
  if (config.max_vcpus != 0 && (config.max_vcpus < config.vcpus || config.max_vcpus > kMaxCpus)) {
    return Bad("a VM of {} processors cannot have {} later: at least as many, at most {}", config.vcpus, config.max_vcpus, kMaxCpus);
  }
  if (config.memory_bytes < kLeastVmMemoryBytes || config.memory_bytes > kMaxMemory || config.memory_bytes % kMiB != 0) {
    return Bad("a VM cannot have {} bytes of memory: {} MiB to {} TiB, in MiB", config.memory_bytes, kLeastVmMemoryBytes / kMiB, kMaxMemory >> 40);
  }
  if (config.max_memory_bytes != 0) {
    if (!config.pci) return MakeError(Code::kUnimplemented, "memory can be plugged into a machine with a PCI bus (q35) only");
    if (config.max_memory_bytes < config.memory_bytes || config.max_memory_bytes > kMaxMemory || config.max_memory_bytes % kMiB != 0) {
      return Bad("a VM of {} bytes of memory cannot have {} later: at least as many, at most {} TiB, in MiB", config.memory_bytes, config.max_memory_bytes, kMaxMemory >> 40);
    }
  }
  if (!config.nic.mac.empty() && !IsMac(config.nic.mac)) return Bad("'{}' is not the MAC address of one station", config.nic.mac);
  if (config.command_line.size() > kCommandLineBytes ||
      std::any_of(config.command_line.begin(), config.command_line.end(), [](char c) { return c < ' ' || c > '~'; })) {
    return Bad("the kernel's command line is longer than {} bytes or not printable", kCommandLineBytes);
  }
  if (config.memory.path.empty() && config.memory.shared) return Bad("memory that is shared needs a memory file");
  if (config.memory.shared && !config.restore_from.empty()) return Bad("a VM that is restored cannot share its memory with the template");
  return {};
}

std::string QemuProgram(const VmConfig& config, const QemuHost& host) {
  if (!config.program.empty()) return config.program;
  return host.arm64 ? "/usr/bin/qemu-system-aarch64" : "/usr/bin/qemu-system-x86_64";
}

std::vector<std::string> QemuArguments(const VmConfig& config, const QemuFds& fds, const QemuHost& host) {
  return Arguments(config, fds, host).Make();
}

}  // namespace caisson::vmm
