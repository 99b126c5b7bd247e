// SPDX-License-Identifier: Apache-2.0
//
// Qemu: a Vm run by QEMU 7.2 or later. vm.h is its contract, CreateQemu its only maker; this header is for the driver's own
// files. The monitor (Qmp) and the guest's console are open from Start to Kill.
//
// In run_dir the channel's socket has a name for as long as it takes to make it; then it is reached by a descriptor alone.
#pragma once

#include <functional>
#include <map>
#include <optional>

#include "sys/event_loop.h"
#include "vmm/launch.h"
#include "vmm/qemu_arguments.h"
#include "vmm/qmp.h"
#include "vmm/tail.h"
#include "vmm/vm.h"

namespace caisson::vmm {

class Qemu : public Vm {
 public:
  Qemu(VmConfig config, sys::EventLoop* loop);
  ~Qemu() override { Kill(); }

  Result<> Start(int64_t deadline_millis) override;
  int pidfd() const override { return process_.pidfd.get(); }
  int pid() const override { return process_.pid; }
  Result<UniqueFd> OpenChannel(int64_t deadline_millis) override;
  Result<> Attach(const Disk& disk, int64_t deadline_millis) override;
  Result<> Detach(const std::string& serial, int64_t deadline_millis) override;
  Result<> Pause(int64_t deadline_millis) override;
  Result<> Resume(int64_t deadline_millis) override;
  Result<> Save(int file, int64_t deadline_millis) override;
  Result<> SetMemory(uint64_t bytes, int64_t deadline_millis) override;
  uint64_t PluggedMemory() const override { return plugged_bytes_; }
  Result<uint64_t> Memory(int64_t deadline_millis) override;
  Result<VmMetrics> Metrics() override;
  void Kill() override;
  std::string ConsoleTail(size_t limit) override;
  ConsolePart Console(uint64_t from) override;
  std::string EndReason() override;

 private:
  // A pipe of the VMM's or its monitor, looked at when there is something, but not all the time.
  struct Watched {
    int fd = -1;
    sys::EventLoop::TimerId timer = 0;
    std::function<bool()> take;  // false: there will be nothing more
  };

  Result<> StartOrFail(Deadline deadline);
  Result<> LaunchProcess(UniqueFd monitor, Deadline deadline);
  Result<UniqueFd> ListenOnChannel();
  Result<> Restore(Deadline deadline);
  // Both ways of a migration: its settings, the descriptor `fd` for the state, the command, its end.
  Result<> Migrate(const char* command, int fd, Deadline deadline);
  Result<Qmp*> Monitor();
  // `error` with what the VMM has said, where it has ended.
  Error Explain(Error error);
  void Watch(int fd, std::function<bool()> take);
  void Rewatch(Watched* watched);
  void Unwatch();
  void DrainAll();
  // True once the process has ended; then its status is known.
  bool Ended();
  Result<> PlugMemory(uint64_t bytes, Deadline deadline);
  Result<> PlugIn(const Disk& disk, bool is_device, int set, Deadline deadline);
  Result<> PlugOut(const std::string& serial, int set, Deadline deadline);

  const VmConfig config_;
  sys::EventLoop* loop_;
  QemuHost host_;
  Tail console_, messages_;
  std::unique_ptr<Qmp> qmp_;
  Launched process_;
  UniqueFd channel_;  // O_PATH, of the listening socket
  std::map<std::string, int> disks_;  // serial → fd set
  int last_set_ = 0;
  uint64_t plugged_bytes_;
  int memory_slots_used_ = 0;
  std::vector<std::unique_ptr<Watched>> watched_;
  std::string status_;    // how the process ended
  std::string shutdown_;  // QEMU's reason, if it ended by itself
  bool started_ = false;
};

}  // namespace caisson::vmm
