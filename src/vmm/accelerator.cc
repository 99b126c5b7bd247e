// SPDX-License-Identifier: Apache-2.0
#include "vmm/accelerator.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "base/clock.h"
#include "base/unique_fd.h"

namespace caisson::vmm {
namespace {

#if defined(__x86_64__)

constexpr uint32_t kTurns = 200'000;  // of two instructions: 0.1 ms of hardware, 100 ms and more of an interpreter
// Of the child's processor time, from the guest's first instruction: on a busy host it may get none for long, which says nothing of KVM.
constexpr int64_t kRunMillis = 40;
constexpr int64_t kDeadlineMillis = 1000;  // for everything, whatever happens
constexpr int64_t kMinMillionPerSecond = 100;

// What the child found, in memory it shares with us.
struct Report {
  enum State : int { kDied, kNoDevice, kFailed, kRunning, kDone } state;
  int error;
  const char* step;
  int64_t nanos;  // that its turns took when they took least; 0: it has not ended them yet
};

int64_t MillionPerSecond(int64_t nanos) { return int64_t{2} * kTurns * 1000 / std::max<int64_t>(nanos, 1); }

// Guest-physical layout: page tables at kTables (three pages), code at kCode.
constexpr uint64_t kMemoryBytes = 2 << 20, kTables = 0x10000, kCode = 0x1000;
constexpr uint8_t kStarted = 0x80, kEnded = 0x81;  // I/O ports that the guest writes to

// struct kvm_cpuid2, which <linux/kvm.h> ends with a flexible array in a form that makes it larger in C++, and with it the
// numbers of its ioctls.
struct Features {
  uint32_t count, padding;
  kvm_cpuid_entry2 entries[256];
};
constexpr unsigned long kGetFeatures = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8);  // KVM_GET_SUPPORTED_CPUID
constexpr unsigned long kSetFeatures = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);              // KVM_SET_CPUID2

class ProbeGuest {
 public:
  explicit ProbeGuest(Report* report) : report_(report) {}

  // Runs in the child.
  void Run(const char* device) {
    UniqueFd kvm(open(device, O_RDWR | O_CLOEXEC));
    if (!kvm || ioctl(kvm.get(), KVM_GET_API_VERSION, 0) != KVM_API_VERSION) return Fail(Report::kNoDevice, "open");
    UniqueFd vm(ioctl(kvm.get(), KVM_CREATE_VM, 0));
    if (!vm) return Fail(Report::kNoDevice, "make a VM");
    // Intel needs three pages of its own (Documentation/virt/kvm/api.rst, KVM_SET_TSS_ADDR); anywhere above the memory.
    (void)ioctl(vm.get(), KVM_SET_TSS_ADDR, 0xfffbd000);
    void* memory = mmap(nullptr, kMemoryBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return Fail(Report::kFailed, "allocate memory");
    kvm_userspace_memory_region region{};
    region.memory_size = kMemoryBytes;
    region.userspace_addr = reinterpret_cast<uint64_t>(memory);
    if (ioctl(vm.get(), KVM_SET_USER_MEMORY_REGION, &region) != 0) return Fail(Report::kFailed, "give it memory");
    Fill(static_cast<uint8_t*>(memory));
    UniqueFd cpu(ioctl(vm.get(), KVM_CREATE_VCPU, 0));
    int run_bytes = ioctl(kvm.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
    if (!cpu || run_bytes < static_cast<int>(sizeof(kvm_run))) return Fail(Report::kFailed, "make a processor");
    void* run = mmap(nullptr, static_cast<size_t>(run_bytes), PROT_READ | PROT_WRITE, MAP_SHARED, cpu.get(), 0);
    if (run == MAP_FAILED) return Fail(Report::kFailed, "map a processor");
    if (!SetFeatures(kvm.get(), cpu.get()) || !SetRegisters(cpu.get())) return Fail(Report::kFailed, "set registers");
    Time(cpu.get(), static_cast<kvm_run*>(run));
  }

 private:
  void Fail(Report::State state, const char* step) {
    report_->error = errno;
    report_->step = step;
    report_->state = state;
  }

  static void Fill(uint8_t* memory) {
    // 64-bit code needs paging: one page of 2 MiB, mapped onto itself (present, writable, user; PS in the last).
    uint64_t entry = (kTables + 0x1000) | 7;
    memcpy(memory + kTables, &entry, sizeof entry);
    entry = (kTables + 0x2000) | 7;
    memcpy(memory + kTables + 0x1000, &entry, sizeof entry);
    entry = 0x87;
    memcpy(memory + kTables + 0x2000, &entry, sizeof entry);
    constexpr uint8_t kProgram[] = {0xe6, kStarted,                     // out kStarted, al
                                    0xb9, kTurns & 0xff, kTurns >> 8 & 0xff, kTurns >> 16 & 0xff, 0,  // mov ecx, kTurns
                                    0xff, 0xc9,                         // dec ecx
                                    0x75, 0xfc,                         // jnz to that
                                    0xe6, kEnded,                       // out kEnded, al
                                    0xeb, 0xf1};                        // jmp to the first
    memcpy(memory + kCode, kProgram, sizeof kProgram);
  }

  static bool SetFeatures(int kvm, int cpu) {
    static Features features;
    features.count = static_cast<uint32_t>(std::size(features.entries));
    // Long mode is to be among them.
    return ioctl(kvm, kGetFeatures, &features) == 0 && ioctl(cpu, kSetFeatures, &features) == 0;
  }

  static bool SetRegisters(int cpu) {
    kvm_sregs special{};
    if (ioctl(cpu, KVM_GET_SREGS, &special) != 0) return false;
    special.cr3 = kTables;
    special.cr4 = 0x20;         // PAE
    special.cr0 = 0x80000013;   // PG, ET, MP, PE
    special.efer = 0x500;       // LMA, LME
    kvm_segment code{};
    code.limit = ~0U;
    code.selector = 8;
    code.type = 11;
    code.present = code.s = code.l = code.g = 1;
    kvm_segment data{};
    data.limit = ~0U;
    data.selector = 16;
    data.type = 3;
    data.present = data.s = data.db = data.g = 1;
    special.cs = code;
    special.ds = special.es = special.fs = special.gs = special.ss = data;
    kvm_regs registers{};
    registers.rip = kCode;
    registers.rsp = 0x8000;
    registers.rflags = 2;
    return ioctl(cpu, KVM_SET_SREGS, &special) == 0 && ioctl(cpu, KVM_SET_REGS, &registers) == 0;
  }

  // Once it was fast is enough: the other times somebody else ran in between. SIGPROF ends us if it never is.
  void Time(int cpu, kvm_run* run) {
    sigset_t end;
    sigemptyset(&end);
    sigaddset(&end, SIGPROF);
    itimerval limit{};
    limit.it_value.tv_usec = kRunMillis * 1000;
    if (signal(SIGPROF, SIG_DFL) == SIG_ERR || sigprocmask(SIG_UNBLOCK, &end, nullptr) != 0 || setitimer(ITIMER_PROF, &limit, nullptr) != 0) {
      return Fail(Report::kFailed, "set a timer");
    }
    report_->state = Report::kRunning;
    int64_t begin = 0;
    for (;;) {
      if (ioctl(cpu, KVM_RUN, 0) != 0) {
        if (errno == EINTR) continue;
        return Fail(Report::kFailed, "run it");
      }
      bool started = run->io.port == kStarted;
      if (run->exit_reason != KVM_EXIT_IO || (!started && (run->io.port != kEnded || begin == 0))) {
        errno = 0;
        return Fail(Report::kFailed, "run it");
      }
      int64_t now = MonotonicNanos();
      if (started) {
        begin = now;
        continue;
      }
      if (report_->nanos == 0 || now - begin < report_->nanos) report_->nanos = std::max<int64_t>(now - begin, 1);
      if (MillionPerSecond(report_->nanos) < kMinMillionPerSecond) continue;
      report_->state = Report::kDone;
      return;
    }
  }

  Report* report_;
};

AcceleratorProbe Judge(const Report& report, const std::string& device, bool ended) {
  switch (report.state) {
    case Report::kDone:
      return {Accelerator::kKvm, fmt::format("{} million guest instructions per second", MillionPerSecond(report.nanos))};
    case Report::kRunning:
      return {Accelerator::kTcg, report.nanos == 0
                                     ? fmt::format("{} is too slow: {} guest instructions took more than {} ms", device, 2 * kTurns, kRunMillis)
                                     : fmt::format("{} is too slow: {} million guest instructions per second", device, MillionPerSecond(report.nanos))};
    case Report::kNoDevice:
    case Report::kFailed:
      return {Accelerator::kTcg, fmt::format("{}: {}: {}", device, report.step == nullptr ? "run a guest" : report.step,
                                             report.error == 0 ? "an unexpected exit" : strerror(report.error))};
    case Report::kDied:
      break;
  }
  return {Accelerator::kTcg, ended ? fmt::format("{}: the probe's process died", device)
                                   : fmt::format("{}: no virtual machine within {} ms", device, kDeadlineMillis)};
}

#endif

}  // namespace

#if defined(__x86_64__)

AcceleratorProbe ProbeAccelerator(const std::string& device) {
  // Saves the process on hosts without it.
  if (access(device.c_str(), R_OK | W_OK) != 0) return {Accelerator::kTcg, fmt::format("{}: {}", device, strerror(errno))};
  void* shared = mmap(nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return {Accelerator::kTcg, "no memory for the probe"};
  auto* report = new (shared) Report{};
  pid_t pid = fork();
  if (pid == 0) {
    ProbeGuest(report).Run(device.c_str());
    _exit(0);
  }
  AcceleratorProbe probe{Accelerator::kTcg, "no process for the probe"};
  if (pid > 0) {
    UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    pollfd end{pidfd.get(), POLLIN, 0};
    Deadline deadline = Deadline::After(kDeadlineMillis);
    int ready;
    while ((ready = poll(&end, 1, deadline.RemainingMillis())) < 0 && errno == EINTR) {
    }
    if (ready <= 0) kill(pid, SIGKILL);
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    probe = Judge(*report, device, ready > 0);
  }
  munmap(shared, sizeof(Report));
  return probe;
}

uint32_t TscKilohertz() {
  constexpr int64_t kNanos = 2'000'000;
  auto raw = [] {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return now.tv_sec * kNanosPerSecond + now.tv_nsec;
  };
  // A pair of both clocks; of some the one that took least, hence was not interrupted.
  struct Pair {
    int64_t nanos;
    uint64_t ticks;
  };
  auto pair = [&raw] {
    Pair best{};
    uint64_t shortest = ~0ULL;
    for (int i = 0; i < 8; ++i) {
      uint64_t before = __builtin_ia32_rdtsc();
      int64_t nanos = raw();
      uint64_t took = __builtin_ia32_rdtsc() - before;
      if (took < shortest) shortest = took, best = {nanos, before + took / 2};
    }
    return best;
  };
  Pair begin = pair();
  timespec pause{0, kNanos};
  nanosleep(&pause, nullptr);
  Pair end = pair();
  return static_cast<uint32_t>((end.ticks - begin.ticks) * 1'000'000 / static_cast<uint64_t>(end.nanos - begin.nanos));
}

#else

// Only what has been timed is used, and there is no probe for this processor yet.
AcceleratorProbe ProbeAccelerator(const std::string&) { return {Accelerator::kTcg, "KVM is not probed on this architecture"}; }

uint32_t TscKilohertz() { return 0; }

#endif

const char* AcceleratorName(Accelerator accelerator) { return accelerator == Accelerator::kKvm ? "kvm" : "tcg"; }

}  // namespace caisson::vmm
