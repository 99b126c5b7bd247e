// SPDX-License-Identifier: Apache-2.0
//
// Vm: one virtual machine, whatever VMM runs it. What a VMM cannot do answers kUnimplemented; no VMM's peculiarity is seen
// above this line. Each driver passes the same contract test (vm_contract_vm_test.cc).
//
// Life cycle: Create (a value, no process yet), Start (the VMM process; the guest runs, or is restored), then the rest,
// Kill. The Vm owns the VMM process, whose death ends it and which dies with this process (prctl(2) PR_SET_PDEATHSIG). Kill
// and the destructor need nobody's cooperation and leave no process and no file in run_dir; nor is one left there while it runs.
//
// Thread rule: one thread, of a process that has no other (it forks), which each call blocks under a deadline of its own:
// for what a healthy VMM does in milliseconds. The guest is never waited for here: its agent's first word comes over the
// channel, on the caller's loop.
//
// The VMM is hostile as soon as the guest may have broken out into it: it runs as another user, without capabilities,
// with a system call filter; it gets descriptors, no paths; what it says is bounded and parsed strictly.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sys/process_use.h"

namespace caisson::sys {
class EventLoop;
}

namespace caisson::vmm {

enum class Accelerator { kKvm, kTcg };

// With less the kernel and its initramfs do not start.
inline constexpr uint64_t kLeastVmMemoryBytes = uint64_t{48} << 20;
// Memory is plugged in in multiples of it: a block of memory of Linux on x86-64 (memory_block_size_bytes, below 64 GiB).
inline constexpr uint64_t kMemoryBlockBytes = uint64_t{128} << 20;

struct Nic {
  // With IFF_VNET_HDR (net/tap.h); the caller's, duplicated into the VMM. -1: one that leads nowhere, so that a template has
  // a NIC with the same offloads.
  int tap_fd = -1;
  std::string mac;  // "02:00:00:00:00:01"
};

// Where the guest's memory is, for templates and their clones.
struct MemoryFile {
  // Empty: anonymous memory. Else what MakeMemoryFile has made, or a path that leads to it ("/proc/self/fd/N"), of exactly
  // memory_bytes. A clone's must have been sealed: the VMM opens it for writing, and what one VMM could change in there all
  // other clones would run.
  std::string path;
  bool shared = false;  // true: the guest's writes go into the file (a template is being made); false: they are the clone's own
};

// A memory file for a template, `bytes` long and empty; it lives as long as it is open or mapped somewhere.
Result<UniqueFd> MakeMemoryFile(uint64_t bytes);
// The same for what Save writes: empty, and grows.
Result<UniqueFd> MakeStateFile();
// Of either, once the template's VMM has ended: nobody can change it any more (memfd_create(2), F_SEAL_WRITE).
// kFailedPrecondition: somebody still maps it for writing.
Result<> SealMemoryFile(int fd);
bool IsSealed(int fd);

struct VmConfig {
  std::string name;     // a safe name, seen in the process list
  std::string run_dir;  // absolute, of this VM alone, exists, nobody else may enter; for what must have a name for a moment
  std::string program;  // the VMM's binary; empty: the driver's own default
  std::string kernel, initrd;  // paths; the VMM's user must be allowed to read the files, not to reach them
  std::string command_line;    // what the guest's kernel gets beyond what the driver and the machine need
  Accelerator accelerator = Accelerator::kTcg;
  bool pci = false;  // a machine with a PCI bus (q35) where the driver's default has none
  uint32_t vcpus = 1;
  // Processors that the machine has; those beyond `vcpus` stand still until the guest's kernel starts them (CPU hotplug), which is then
  // its own affair. 0: vcpus.
  uint32_t max_vcpus = 0;
  uint64_t memory_bytes = 256 << 20;
  // That SetMemory can give it while it runs (memory hotplug), where `pci` is; the guest's kernel takes it into use by itself. 0:
  // memory_bytes.
  uint64_t max_memory_bytes = 0;
  MemoryFile memory;
  std::string restore_from;  // a state that Save has written, of the same config but for names and the NIC's tap; empty: a cold boot
  Nic nic;
  // A stream socket, the caller's, duplicated into the VMM: the guest's port "caisson.files.0" is its other end. -1: there is no such
  // port.
  int files_fd = -1;
  uint32_t uid = 0, gid = 0;  // of the VMM; 0: stays what we are
  std::vector<std::string> cgroup_procs;  // files that the VMM's pid is written into before it begins
};

struct Disk {
  std::string serial;  // at most 20 characters of [a-z0-9]; the guest finds it under this name
  int fd = -1;         // a raw image or block device; the caller's, duplicated into the VMM
  bool read_only = true;
};

// Of the VMM process.
using VmMetrics = sys::ProcessUse;

struct ConsolePart {
  std::string text;   // escaped as ConsoleTail's
  uint64_t end = 0;   // what comes after it begins here
};

class Vm {
 public:
  virtual ~Vm() = default;

  // Starts the VMM and the guest in it; with restore_from the guest goes on where Save found it. Errors: the VMM's own last
  // words; kDeadlineExceeded. After an error: as after Kill.
  virtual Result<> Start(int64_t deadline_millis) = 0;
  // Readable (EPOLLIN) once the VMM has ended; -1 before Start and after Kill. Owned by the Vm. The VMM may be reaped by
  // whoever waits for any child of this process; then only EndReason knows less.
  virtual int pidfd() const = 0;
  virtual int pid() const = 0;
  // A stream to the agent's port in the guest: non-blocking. The guest may not listen yet; see guest_channel.h for the
  // greeting. One at a time: a second waits, silent, until the first is closed, and may then hear the end of what was meant
  // for that.
  virtual Result<UniqueFd> OpenChannel(int64_t deadline_millis) = 0;
  // The disk appears in the guest under its serial some time after. Errors: kAlreadyExists, kResourceExhausted (no slot left).
  virtual Result<> Attach(const Disk& disk, int64_t deadline_millis) = 0;
  // The guest must have let go of it. Idempotent.
  virtual Result<> Detach(const std::string& serial, int64_t deadline_millis) = 0;
  virtual Result<> Pause(int64_t deadline_millis) = 0;
  virtual Result<> Resume(int64_t deadline_millis) = 0;
  // Writes the paused machine's state into `file` (the caller's): all of it, but for the memory where that is in a shared
  // MemoryFile.
  virtual Result<> Save(int file, int64_t deadline_millis) = 0;
  // The guest is to have so much memory; what it lets go of is the host's, as it goes, and what is plugged in the guest takes into use, which
  // is not waited for. kInvalidArgument: more than max_memory_bytes, or hardly any. kUnimplemented: what it was started with cannot
  // become less, for it is a file's.
  virtual Result<> SetMemory(uint64_t bytes, int64_t deadline_millis) = 0;
  // What the machine has, whether or not its guest uses it: memory_bytes, and what SetMemory has plugged in, which stays.
  virtual uint64_t PluggedMemory() const = 0;
  // What the guest has of its memory now.
  virtual Result<uint64_t> Memory(int64_t deadline_millis) = 0;
  // kUnavailable: it has ended.
  virtual Result<VmMetrics> Metrics() = 0;
  // SIGKILL, reaped; then the files in run_dir that are the driver's go. Idempotent.
  virtual void Kill() = 0;
  // The end of what the guest wrote to its console, at most `limit` bytes before what is not printable is escaped; also
  // after Kill.
  virtual std::string ConsoleTail(size_t limit) = 0;
  // What came after the first `from` bytes of all that the guest has ever written there, as far as it is kept
  // (limits::kVmConsoleBytes); also after Kill. `from` beyond the end: nothing.
  virtual ConsolePart Console(uint64_t from) = 0;
  // Why the VMM ended: its exit status or signal and its last words; for errors and for people. Empty while it runs.
  virtual std::string EndReason() = 0;
};

// QEMU: machine microvm on x86-64, virt on arm64; or q35. kInvalidArgument names what is wrong with the config.
// `loop` outlives the Vm. With it the console and the VMM's messages are taken as they come, some times a second at most,
// however much the guest says; without it only by the calls above, and what is then more than a pipe holds is lost.
Result<std::unique_ptr<Vm>> CreateQemu(VmConfig config, sys::EventLoop* loop = nullptr);

}  // namespace caisson::vmm
