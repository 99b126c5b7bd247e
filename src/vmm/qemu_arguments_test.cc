// SPDX-License-Identifier: Apache-2.0
#include "vmm/qemu_arguments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/strings.h"

namespace caisson::vmm {
namespace {

using testing::HasSubstr;
using testing::Not;

VmConfig Config() {
  VmConfig config;
  config.name = "pod1";
  config.run_dir = "/run/caisson/pods/pod1/vm";
  config.kernel = "/k";
  config.initrd = "/i";
  config.command_line = "agent.debug=1";
  config.nic.mac = "02:00:00:00:00:01";
  return config;
}

QemuFds Fds() {
  QemuFds fds;
  fds.qmp = 3;
  fds.channel = 4;
  fds.console = 5;
  fds.kernel = 6;
  fds.initrd = 7;
  return fds;
}

// Each option with its value on one line.
std::string Lines(const VmConfig& config, const QemuFds& fds, const QemuHost& host) {
  std::string lines;
  for (const std::string& word : QemuArguments(config, fds, host)) {
    lines += (lines.empty() ? "" : word.starts_with("-") ? "\n" : " ") + word;
  }
  return lines;
}

TEST(QemuArguments, ColdBootOnMicrovm) {
  QemuFds fds = Fds();
  fds.tap = 8;
  EXPECT_EQ(Lines(Config(), fds, {false, 2445430}),
            R"(/usr/bin/qemu-system-x86_64
-name pod1
-nodefaults
-no-user-config
-no-reboot
-display none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-machine microvm
-accel tcg,thread=multi,tb-size=64
-cpu max,-erms
-smp 1
-m 256M
-bios qboot.rom
-chardev socket,id=monitor,fd=3
-mon chardev=monitor,mode=control
-add-fd fd=5,set=0
-chardev file,id=console,path=/dev/fdset/0,append=on
-serial chardev:console
-device virtio-serial-device,max_ports=2
-chardev socket,id=agent,fd=4,server=on,wait=off
-device virtserialport,chardev=agent,name=caisson.agent.0
-object rng-builtin,id=entropy
-device virtio-rng-device,rng=entropy
-netdev tap,id=net,fd=8,vhost=off
-device virtio-net-device,netdev=net,mac=02:00:00:00:00:01
-device virtio-balloon-device
-device virtio-scsi-device,id=disks,num_queues=1
-kernel /proc/self/fd/6
-initrd /proc/self/fd/7
-append console=ttyS0 reboot=t quiet panic=-1 cryptomgr.notests dummy.numdummies=0 tsc_early_khz=2445430 tsc=reliable agent.debug=1)");
}

TEST(QemuArguments, TemplateAndItsClones) {
  VmConfig config = Config();
  config.memory = {"/proc/self/fd/9", true};
  QemuFds fds = Fds();
  fds.memory = 8;
  std::string lines = Lines(config, fds, {});
  EXPECT_THAT(lines, HasSubstr("-object memory-backend-file,id=memory,size=268435456,share=on,mem-path=/proc/self/fd/8\n"));
  EXPECT_THAT(lines, HasSubstr("-machine microvm,memory-backend=memory\n"));
  EXPECT_THAT(lines, HasSubstr("-netdev hubport,id=net,hubid=0\n"));
  EXPECT_THAT(lines, Not(HasSubstr("-incoming")));

  config.memory.shared = false;
  config.restore_from = "/state";
  lines = Lines(config, fds, {});
  EXPECT_THAT(lines, HasSubstr("share=off,mem-path=/proc/self/fd/8\n"));
  EXPECT_TRUE(lines.ends_with("\n-incoming defer\n-S")) << lines;
  EXPECT_THAT(lines, Not(HasSubstr("/state")));
}

TEST(QemuArguments, APortForFiles) {
  QemuFds fds = Fds();
  fds.files = 9;
  EXPECT_THAT(Lines(Config(), fds, {}), HasSubstr("-device virtio-serial-device,max_ports=3\n"
                                                  "-chardev socket,id=agent,fd=4,server=on,wait=off\n"
                                                  "-device virtserialport,chardev=agent,name=caisson.agent.0\n"
                                                  "-chardev socket,id=files,fd=9\n"
                                                  "-device virtserialport,chardev=files,name=caisson.files.0\n"));
}

TEST(QemuArguments, KvmHasAnHonestClock) {
  VmConfig config = Config();
  config.accelerator = Accelerator::kKvm;
  std::string lines = Lines(config, Fds(), {false, 2445430});
  EXPECT_THAT(lines, HasSubstr("-accel kvm\n-cpu host\n"));
  EXPECT_THAT(lines, Not(HasSubstr("tsc")));
}

TEST(QemuArguments, WithAPciBus) {
  VmConfig config = Config();
  config.pci = true;
  config.vcpus = 4;
  std::string lines = Lines(config, Fds(), {});
  EXPECT_THAT(lines, HasSubstr("-machine q35,usb=off,sata=off,smbus=off,vmport=off\n"));
  EXPECT_THAT(lines, HasSubstr("-smp 4\n"));
  EXPECT_THAT(lines, HasSubstr("-device virtio-net-pci,netdev=net,mac=02:00:00:00:00:01,romfile=\n"));
  EXPECT_THAT(lines, Not(HasSubstr("-device virtio-serial-device")));
  EXPECT_THAT(lines, Not(HasSubstr("-bios")));
}

// All are there from the start; the kernel starts only some.
TEST(QemuArguments, ProcessorsThatStandStill) {
  VmConfig config = Config();
  config.vcpus = 2;
  config.max_vcpus = 8;
  std::string lines = Lines(config, Fds(), {});
  EXPECT_THAT(lines, HasSubstr("-smp 8\n"));
  EXPECT_THAT(lines, HasSubstr(" maxcpus=2 "));
  config.max_vcpus = 2;
  EXPECT_THAT(Lines(config, Fds(), {}), Not(HasSubstr("maxcpus")));
}

TEST(QemuArguments, RoomForMoreMemory) {
  VmConfig config = Config();
  config.pci = true;
  config.memory_bytes = uint64_t{256} << 20;
  config.max_memory_bytes = uint64_t{1} << 30;
  std::string lines = Lines(config, Fds(), {});
  EXPECT_THAT(lines, HasSubstr("-m 256M,slots=32,maxmem=1024M\n"));
  EXPECT_THAT(lines, HasSubstr(" memhp_default_state=online "));
  config.max_memory_bytes = config.memory_bytes;
  EXPECT_THAT(Lines(config, Fds(), {}), HasSubstr("-m 256M\n"));
  config.pci = false;
  auto checked = CheckVmConfig(config);
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().code, Code::kUnimplemented);
}

TEST(QemuArguments, OnArm64) {
  std::string lines = Lines(Config(), Fds(), {true, 0});
  EXPECT_TRUE(lines.starts_with("/usr/bin/qemu-system-aarch64\n")) << lines;
  EXPECT_THAT(lines, HasSubstr("-machine virt,gic-version=max\n-accel tcg,thread=multi,tb-size=64\n-cpu max,pauth-impdef=on\n"));
  EXPECT_THAT(lines, HasSubstr("-append console=ttyAMA0 quiet panic=-1 cryptomgr.notests dummy.numdummies=0 agent.debug=1"));
}

// Nothing of a config can become an option, or a part of one, of its own.
TEST(QemuArguments, WordsOfAConfigAreChecked) {
  EXPECT_TRUE(CheckVmConfig(Config()));
  auto refused = [](auto change) {
    VmConfig config = Config();
    change(config);
    auto checked = CheckVmConfig(config);
    return !checked && checked.error().code == Code::kInvalidArgument;
  };
  for (const char* name : {"", "a,b", "a=b", "-drive", "a b", "../x", "\n"}) {
    bool dash = std::string_view(name) == "-drive";  // the value of -name: harmless, and a safe name
    EXPECT_EQ(refused([name](VmConfig& config) { config.name = name; }), !dash) << name;
  }
  for (const char* mac : {"02:00:00:00:00:0", "02:00:00:00:00:01,x=y", "03:00:00:00:00:01", "02-00-00-00-00-01", "0g:00:00:00:00:01"}) {
    EXPECT_TRUE(refused([mac](VmConfig& config) { config.nic.mac = mac; })) << mac;
  }
  EXPECT_TRUE(refused([](VmConfig& config) { config.run_dir = "x"; }));
  EXPECT_TRUE(refused([](VmConfig& config) { config.program = "qemu"; }));
  EXPECT_TRUE(refused([](VmConfig& config) { config.kernel = ""; }));
  EXPECT_TRUE(refused([](VmConfig& config) { config.vcpus = 0; }));
  EXPECT_TRUE(refused([](VmConfig& config) { config.vcpus = 289; }));
  EXPECT_TRUE(refused([](VmConfig& config) { config.vcpus = 2, config.max_vcpus = 1; }));
  EXPECT_TRUE(refused([](VmConfig& config) { config.max_vcpus = 289; }));
  EXPECT_TRUE(refused([](VmConfig& config) { config.pci = true, config.max_memory_bytes = config.memory_bytes - 1; }));
  EXPECT_TRUE(refused([](VmConfig& config) { config.memory_bytes = 32 << 20; }));
  EXPECT_TRUE(refused([](VmConfig& config) { config.memory_bytes += 1; }));
  EXPECT_TRUE(refused([](VmConfig& config) { config.command_line = "a\nb"; }));
  EXPECT_TRUE(refused([](VmConfig& config) { config.command_line = std::string(2000, 'a'); }));
  EXPECT_TRUE(refused([](VmConfig& config) { config.memory.shared = true; }));
  EXPECT_TRUE(refused([](VmConfig& config) { config.restore_from = "/state", config.memory = {"/m", true}; }));
}

}  // namespace
}  // namespace caisson::vmm
