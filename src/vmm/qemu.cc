// SPDX-License-Identifier: Apache-2.0
#include "vmm/qemu.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/bad.h"
#include "base/limits.h"
#include "base/scope_exit.h"
#include "base/strings.h"
#include "sys/path.h"
#include "sys/process_use.h"
#include "sys/socket.h"
#include "vmm/accelerator.h"

namespace caisson::vmm {
namespace {

constexpr int64_t kVmmReapMillis = 10'000;  // of a killed process; one that hangs in the kernel beyond that is init's
constexpr size_t kShownMessageBytes = 1024;
constexpr unsigned kSealed = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

Result<UniqueFd> OpenFile(const char* what, const std::string& path, int flags) {
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC));
  if (!fd) return ErrnoError("open the {} '{}'", what, path);
  return fd;
}

// A clone's memory must be sealed, and all of it there: QEMU would enlarge what is too small, for all clones.
Result<UniqueFd> OpenMemory(const VmConfig& config) {
  if (config.memory.path.empty()) return UniqueFd();
  UniqueFd fd = TRY(OpenFile("memory file", config.memory.path, O_RDWR));
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoError("look at the memory file '{}'", config.memory.path);
  if (static_cast<uint64_t>(info.st_size) != config.memory_bytes) {
    return MakeError(Code::kFailedPrecondition, "the memory file '{}' has {} bytes instead of {}", config.memory.path, info.st_size,
                     config.memory_bytes);
  }
  if (config.memory.shared) return fd;
  if (!IsSealed(fd.get())) {
    return MakeError(Code::kFailedPrecondition, "the memory file '{}' is not sealed: one VM could change another's", config.memory.path);
  }
  return fd;
}

// So that a VMM that is not root may open /dev/kvm: its group, or, where the device is for root alone (no udev), a node of its own.
void LetUseKvm(LaunchSpec* spec) {
  constexpr char kDevice[] = "/dev/kvm";
  struct stat info;
  if (stat(kDevice, &info) != 0 || (info.st_mode & 0006) == 0006) return;
  if (info.st_gid != 0 && (info.st_mode & 0060) == 0060) {
    spec->groups = {info.st_gid};
  } else {
    spec->own_device = kDevice;
  }
}

QemuHost ThisHost(const VmConfig& config) {
  QemuHost host;
#if defined(__aarch64__)
  host.arm64 = true;
#endif
  if (config.accelerator == Accelerator::kTcg) host.tsc_khz = TscKilohertz();
  return host;
}

}  // namespace

Result<UniqueFd> MakeMemoryFile(uint64_t bytes) {
  UniqueFd fd(memfd_create("caisson-guest-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return ErrnoError("make a memory file");
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return ErrnoError("size a memory file to {} bytes", bytes);
  // From now on: QEMU may fill it, but not make it larger.
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) return ErrnoError("seal a memory file's size");
  return fd;
}

Result<UniqueFd> MakeStateFile() {
  UniqueFd fd(memfd_create("caisson-guest-state", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return ErrnoError("make a file for a VM's state");
  return fd;
}

bool IsSealed(int fd) {
  int seals = fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (static_cast<unsigned>(seals) & kSealed) == kSealed;
}

Result<> SealMemoryFile(int fd) {
  if (fcntl(fd, F_ADD_SEALS, kSealed) == 0) return {};
  if (errno == EBUSY) return MakeError(Code::kFailedPrecondition, "seal a memory file: it is still mapped for writing");
  return ErrnoError("seal a memory file");
}

Result<std::unique_ptr<Vm>> CreateQemu(VmConfig config, sys::EventLoop* loop) {
  TRY(CheckVmConfig(config));
  return std::unique_ptr<Vm>(std::make_unique<Qemu>(std::move(config), loop));
}

Qemu::Qemu(VmConfig config, sys::EventLoop* loop) : config_(std::move(config)), loop_(loop), plugged_bytes_(config_.memory_bytes) {}

Result<> Qemu::Start(int64_t deadline_millis) {
  if (started_) return MakeError(Code::kFailedPrecondition, "VM '{}' has been started already", config_.name);
  started_ = true;
  auto started = StartOrFail(Deadline::After(deadline_millis));
  if (started) return started;
  Error error = Explain(std::move(started.error()));
  Kill();
  return std::move(error).Within(fmt::format("start VM '{}'", config_.name));
}

Result<> Qemu::StartOrFail(Deadline deadline) {
  console_ = TRY(Tail::Create(limits::kVmConsoleBytes));
  messages_ = TRY(Tail::Create(limits::kVmmMessageBytes));
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return ErrnoError("make a socket pair");
  UniqueFd ours(ends[0]), theirs(ends[1]);
  TRY(LaunchProcess(std::move(theirs), deadline));
  qmp_ = TRY(Qmp::Connect(std::move(ours), deadline));
  if (!config_.restore_from.empty()) TRY(Restore(deadline));
  Watch(console_.fd(), [this] { return console_.Drain(); });
  Watch(messages_.fd(), [this] { return messages_.Drain(); });
  Watch(qmp_->fd(), [this] {
    qmp_->Drain();
    return !qmp_->broken();
  });
  return {};
}

Result<> Qemu::LaunchProcess(UniqueFd monitor, Deadline deadline) {
  host_ = ThisHost(config_);
  UniqueFd listening = TRY(ListenOnChannel());
  UniqueFd kernel = TRY(OpenFile("guest's kernel", config_.kernel, O_RDONLY));
  UniqueFd initrd = TRY(OpenFile("guest's initramfs", config_.initrd, O_RDONLY));
  UniqueFd memory = TRY(OpenMemory(config_));
  UniqueFd console = console_.TakeWriter(), messages = messages_.TakeWriter();
  LaunchSpec spec;
  QemuFds fds;
  auto give = [&spec](int fd) {
    spec.fds.push_back(fd);
    return 3 + static_cast<int>(spec.fds.size()) - 1;
  };
  fds.qmp = give(monitor.get());
  fds.channel = give(listening.get());
  fds.console = give(console.get());
  fds.kernel = give(kernel.get());
  fds.initrd = give(initrd.get());
  if (memory) fds.memory = give(memory.get());
  if (config_.files_fd >= 0) fds.files = give(config_.files_fd);
  if (config_.nic.tap_fd >= 0) {
    fds.tap = give(config_.nic.tap_fd);
  } else if (geteuid() == 0 && access("/dev/net/tun", F_OK) == 0) {
    spec.lone_tap = static_cast<int>(spec.fds.size());
    fds.tap = give(-1);
  }
  spec.program = QemuProgram(config_, host_);
  spec.arguments = QemuArguments(config_, fds, host_);
  spec.messages_fd = messages.get();
  spec.uid = config_.uid;
  spec.gid = config_.gid;
  if (config_.accelerator == Accelerator::kKvm) LetUseKvm(&spec);
  // Memory of a file's has none in any case, memory that is anonymous gains speed by them, and so does translated code.
  spec.huge_pages = !memory || config_.accelerator != Accelerator::kKvm;
  spec.cgroup_procs = config_.cgroup_procs;
  process_ = TRY(Launch(spec, deadline));
  return {};
}

Result<UniqueFd> Qemu::ListenOnChannel() {
  std::string path = config_.run_dir + "/channel";
  UniqueFd listening = TRY(sys::ListenUnixAnew(path));
  ScopeExit remove([&path] { unlink(path.c_str()); });
  // unix(7) sockets are found by their inode: the name is not needed to connect.
  channel_ = TRY(OpenFile("channel's socket", path, O_PATH | O_NOFOLLOW));
  return listening;
}

Result<UniqueFd> Qemu::OpenChannel(int64_t) {
  TRY(Monitor());
  auto channel = sys::ConnectUnix(sys::FdPath(channel_.get()));
  if (!channel) return Explain(std::move(channel.error()).Within("open the channel to the guest"));
  return channel;
}

Result<Qmp*> Qemu::Monitor() {
  if (!qmp_) return MakeError(Code::kFailedPrecondition, "VM '{}' does not run", config_.name);
  return qmp_.get();
}

Error Qemu::Explain(Error error) {
  // The monitor closes a moment before the process ends.
  if (error.code == Code::kUnavailable && process_.pidfd && status_.empty()) {
    if (auto status = ReapLaunched(process_, 1000)) status_ = *status;
  }
  if (std::string reason = EndReason(); !reason.empty()) error = MakeError(Code::kUnavailable, "{}", reason);
  return error;
}

Result<> Qemu::Pause(int64_t deadline_millis) {
  Qmp* qmp = TRY(Monitor());
  auto done = qmp->Execute("stop", Json::object(), Deadline::After(deadline_millis));
  if (!done) return Explain(std::move(done.error()));
  return {};
}

Result<> Qemu::Resume(int64_t deadline_millis) {
  Qmp* qmp = TRY(Monitor());
  auto done = qmp->Execute("cont", Json::object(), Deadline::After(deadline_millis));
  if (!done) return Explain(std::move(done.error()));
  return {};
}

Result<> Qemu::SetMemory(uint64_t bytes, int64_t deadline_millis) {
  Qmp* qmp = TRY(Monitor());
  const uint64_t most = std::max(config_.memory_bytes, config_.max_memory_bytes);
  if (bytes < kLeastVmMemoryBytes || bytes > most) {
    return Bad("VM '{}' cannot have {} bytes of memory: {} to {}", config_.name, bytes, kLeastVmMemoryBytes, most);
  }
  Deadline deadline = Deadline::After(deadline_millis);
  if (bytes > plugged_bytes_) {
    auto plugged = PlugMemory(bytes - plugged_bytes_, deadline);
    if (!plugged) return Explain(std::move(plugged.error()).Within("plug in memory"));
  }
  // Of a template's memory, mapped privately, QEMU could give nothing back: it would have to make holes in the sealed file.
  if (!config_.memory.path.empty()) {
    // What was plugged in is whole blocks.
    if (bytes >= config_.memory_bytes && bytes + kMemoryBlockBytes > plugged_bytes_) return {};
    return MakeError(Code::kUnimplemented, "the memory of VM '{}' is shared with others that come of its template, and cannot become less", config_.name);
  }
  auto done = qmp->Execute("balloon", {{"value", bytes}}, deadline);
  if (!done) return Explain(std::move(done.error()));
  return {};
}

// A DIMM of whole blocks of memory: the guest's kernel takes no others (mm/memory_hotplug.c, memory_block_size_bytes).
Result<> Qemu::PlugMemory(uint64_t bytes, Deadline deadline) {
  const uint64_t room = config_.max_memory_bytes - plugged_bytes_;
  const uint64_t size = std::min((bytes + kMemoryBlockBytes - 1) / kMemoryBlockBytes, room / kMemoryBlockBytes) * kMemoryBlockBytes;
  if (size < bytes || memory_slots_used_ >= kQemuMemorySlots) {
    return MakeError(Code::kResourceExhausted, "VM '{}' has {} bytes of memory in {} of {} slots and cannot have {} more", config_.name, plugged_bytes_,
                     memory_slots_used_, kQemuMemorySlots, bytes);
  }
  const std::string memory = fmt::format("memory{}", memory_slots_used_), dimm = fmt::format("dimm{}", memory_slots_used_);
  TRY(qmp_->Execute("object-add", {{"qom-type", "memory-backend-ram"}, {"id", memory}, {"size", size}}, deadline));
  auto plugged = qmp_->Execute("device_add", {{"driver", "pc-dimm"}, {"id", dimm}, {"memdev", memory}}, deadline);
  if (!plugged) {
    (void)qmp_->Execute("object-del", {{"id", memory}}, deadline);
    return std::move(plugged.error());
  }
  ++memory_slots_used_;
  plugged_bytes_ += size;
  return {};
}

Result<uint64_t> Qemu::Memory(int64_t deadline_millis) {
  Qmp* qmp = TRY(Monitor());
  auto done = qmp->Execute("query-balloon", Json::object(), Deadline::After(deadline_millis));
  if (!done) return Explain(std::move(done.error()));
  Json answer = TRY(ParseJson(*done));
  if (!answer.is_object() || !answer.contains("actual") || !answer["actual"].is_number_unsigned()) return Bad("query-balloon says {}", *done);
  return std::min(answer["actual"].get<uint64_t>(), plugged_bytes_);
}

Result<VmMetrics> Qemu::Metrics() {
  if (!process_.pidfd || Ended()) return MakeError(Code::kUnavailable, "VM '{}' has no VMM process", config_.name);
  return sys::ReadProcessUse(pid());
}

void Qemu::Kill() {
  Unwatch();
  if (process_.pidfd) {
    syscall(SYS_pidfd_send_signal, process_.pidfd.get(), SIGKILL, nullptr, 0);
    if (status_.empty()) {
      auto status = ReapLaunched(process_, kVmmReapMillis);
      status_ = status ? *status : status.error().message;
    }
    DrainAll();
    process_.pidfd.Reset();
  }
  qmp_.reset();
  console_.Close();
  messages_.Close();
  channel_.Reset();
  disks_.clear();
}

void Qemu::DrainAll() {
  (void)console_.Drain();
  (void)messages_.Drain();
  if (!qmp_) return;
  qmp_->Drain();
  while (auto event = qmp_->Take("SHUTDOWN")) shutdown_ = event->detail;
}

bool Qemu::Ended() {
  if (!status_.empty()) return true;
  if (!process_.pidfd) return false;
  auto status = ReapLaunched(process_, 0);
  if (!status) return false;
  status_ = *status;
  return true;
}

std::string Qemu::ConsoleTail(size_t limit) {
  (void)console_.Drain();
  return Printable(console_.Last(limit));
}

ConsolePart Qemu::Console(uint64_t from) {
  (void)console_.Drain();
  std::string_view text = console_.From(from);
  uint64_t end = console_.total();
  // Half of a line's end waits for the other.
  if (text.ends_with('\r')) {
    text.remove_suffix(1);
    --end;
  }
  return {Printable(text), end};
}

std::string Qemu::EndReason() {
  if (!Ended()) return "";
  DrainAll();
  std::string reason = "QEMU " + status_;
  if (shutdown_ == "guest-reset") {
    reason += ": the guest's kernel panicked or restarted";  // the same to QEMU: panic=-1
  } else if (shutdown_ == "guest-shutdown") {
    reason += ": the guest switched itself off";
  } else if (!shutdown_.empty()) {
    reason += ": " + shutdown_;
  }
  std::string said = Printable(Trim(messages_.Last(kShownMessageBytes)));
  if (!said.empty()) reason += ": " + said;
  return reason;
}

void Qemu::Watch(int fd, std::function<bool()> take) {
  if (loop_ == nullptr) return;
  watched_.push_back(std::make_unique<Watched>(Watched{fd, 0, std::move(take)}));
  Rewatch(watched_.back().get());
}

void Qemu::Rewatch(Watched* watched) {
  // After each look a pause: a guest that fills its console costs us some looks a second, and itself the rest.
  auto look = [this, watched](uint32_t) {
    loop_->Unwatch(watched->fd);
    if (!watched->take()) return;
    watched->timer = loop_->After(limits::kVmConsoleMillis, [this, watched] {
      watched->timer = 0;
      Rewatch(watched);
    });
  };
  // Without memory for a watch the console is looked at when somebody asks.
  (void)loop_->Watch(watched->fd, EPOLLIN, look);
}

void Qemu::Unwatch() {
  for (auto& watched : watched_) {
    loop_->Unwatch(watched->fd);
    if (watched->timer != 0) loop_->CancelTimer(watched->timer);
  }
  watched_.clear();
}

}  // namespace caisson::vmm
