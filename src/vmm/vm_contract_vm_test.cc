// SPDX-License-Identifier: Apache-2.0
//
// What each driver behind vm.h must do, on real guests: Debian's kernel, whose PID 1 is test/payload/echo_init.c.
#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/loop.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/clock.h"
#include "base/scope_exit.h"
#include "base/strings.h"
#include "sys/cgroup.h"
#include "sys/event_loop.h"
#include "sys/path.h"
#include "vmm/accelerator.h"
#include "vmm/vm.h"

namespace caisson::vmm {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;

constexpr int64_t kMillis = 60'000;  // an emulated guest on a busy machine
constexpr char kBuiltImage[] = CAISSON_BINARY_DIR "/test/vm-image";

// The guest image: CAISSON_CONTRACT_IMAGE, else one that is made here.
std::string GuestImage() {
  const char* given = getenv("CAISSON_CONTRACT_IMAGE");
  return given != nullptr ? given : kBuiltImage;
}

// The processes that are ours, alive or not reaped.
std::string Children() {
  std::string path = fmt::format("/proc/self/task/{}/children", getpid());
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

size_t OpenFds() {
  size_t count = 0;
  for ([[maybe_unused]] auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

// Makes the guest image once; empty, or why there is none.
std::string MakeImage(int* status) {
  pid_t pid = fork();
  std::string log = std::string(kBuiltImage) + ".log";
  if (pid == 0) {
    int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    dup2(fd, 1);
    dup2(fd, 2);
    execl("/usr/bin/python3", "python3", CAISSON_SOURCE_DIR "/tools/build-guest", "--agent", CAISSON_BINARY_DIR "/test/echo-init",
          "--output", kBuiltImage, nullptr);
    _exit(127);
  }
  waitpid(pid, status, 0);
  std::ifstream file(log);
  return {std::istreambuf_iterator<char>(file), {}};
}

class VmContract : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (geteuid() != 0) why_not_ = "starting a VMM as another user needs root";
    if (access("/usr/bin/qemu-system-x86_64", X_OK) != 0) why_not_ = "QEMU is not installed (tools/install-deps installs it)";
    if (!why_not_.empty()) return;
    AcceleratorProbe probe = ProbeAccelerator();
    accelerator_ = probe.accelerator;
    std::cout << AcceleratorName(accelerator_) << ": " << probe.reason << "\n";
    if (GuestImage() != kBuiltImage) return;
    int status = 0;
    std::string said = MakeImage(&status);
    ASSERT_TRUE(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77)) << said;
    if (WEXITSTATUS(status) == 77) why_not_ = said;
  }

  static void TearDownTestSuite() {
    template_memory_.Reset();
    template_state_.Reset();
  }

  void SetUp() override {
    if (!why_not_.empty()) GTEST_SKIP() << why_not_;
    char folder[] = "/tmp/caisson-vmm-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    children_ = Children();
    fds_ = OpenFds();
  }

  void TearDown() override {
    if (folder_.empty()) return;
    if (vm_ && HasFailure()) std::cerr << "console: " << vm_->ConsoleTail(4096) << "\n";
    vm_.reset();
    channel_.Reset();
    EXPECT_EQ(Children(), children_);
    EXPECT_EQ(OpenFds(), fds_);
    EXPECT_TRUE(std::filesystem::is_empty(folder_)) << folder_;
    std::filesystem::remove_all(folder_);
  }

  VmConfig Config() {
    VmConfig config;
    config.name = "contract";
    config.run_dir = folder_;
    config.kernel = GuestImage() + "/kernel";
    config.initrd = GuestImage() + "/initramfs";
    config.accelerator = accelerator_;
    config.max_vcpus = 2;
    config.memory_bytes = 160 << 20;
    config.nic.mac = "02:00:00:00:00:01";
    const passwd* nobody = getpwnam("nobody");
    config.uid = nobody->pw_uid;
    config.gid = nobody->pw_gid;
    return config;
  }

  // A VM that is a clone: a fraction of a boot's time. The first one makes the template.
  void Clone(VmConfig config) {
    config.memory = {sys::FdPath(template_memory_.get()), false};
    if (!template_memory_) {
      ASSERT_NO_FATAL_FAILURE(MakeTemplate(&config));
    }
    config.restore_from = sys::FdPath(template_state_.get());
    Boot(config);
  }
  void Clone() { Clone(Config()); }

  void MakeTemplate(VmConfig* config) {
    auto memory = MakeMemoryFile(config->memory_bytes);
    ASSERT_TRUE(memory);
    config->memory = {sys::FdPath(memory->get()), true};
    Boot(*config);
    channel_.Reset();
    ASSERT_TRUE(vm_->Pause(kMillis));
    auto state = MakeStateFile();
    ASSERT_TRUE(state);
    auto saved = vm_->Save(state->get(), kMillis);
    ASSERT_TRUE(saved) << saved.error().message;
    vm_.reset();
    ASSERT_TRUE(SealMemoryFile(memory->get()));
    ASSERT_TRUE(SealMemoryFile(state->get()));
    template_memory_ = std::move(*memory);
    template_state_ = std::move(*state);
    config->memory = {sys::FdPath(template_memory_.get()), false};
    fds_ += 2;
  }

  void Start(VmConfig config) {
    auto vm = CreateQemu(std::move(config));
    ASSERT_TRUE(vm) << vm.error().message;
    vm_ = std::move(*vm);
    auto started = vm_->Start(kMillis);
    ASSERT_TRUE(started) << started.error().message;
    Open();
  }

  // Starts a VM and waits for its first word.
  void Boot(VmConfig config) {
    ASSERT_NO_FATAL_FAILURE(Start(std::move(config)));
    ASSERT_EQ(Ask("echo hello"), "hello");
  }

  void Open() {
    auto channel = vm_->OpenChannel(kMillis);
    ASSERT_TRUE(channel) << channel.error().message;
    channel_ = std::move(*channel);
  }

  void Tell(const std::string& line) {
    std::string text = line + "\n";
    ASSERT_EQ(write(channel_.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }

  // The line that answers; what went wrong otherwise.
  std::string Ask(const std::string& line) {
    Tell(line);
    std::string answer;
    for (Deadline deadline = Deadline::After(kMillis); !deadline.Passed();) {
      pollfd wait{channel_.get(), POLLIN, 0};
      if (poll(&wait, 1, deadline.RemainingMillis()) <= 0) break;
      char byte;
      if (read(channel_.get(), &byte, 1) != 1) return "(closed after '" + answer + "')";
      if (byte == '\n') return answer;
      answer += byte;
    }
    return "(no answer)";
  }

  // Until the guest answers `line` with `wanted`.
  ::testing::AssertionResult Becomes(const std::string& line, const std::string& wanted) {
    std::string answer;
    for (Deadline deadline = Deadline::After(kMillis); !deadline.Passed();) {
      answer = Ask(line);
      if (answer == wanted) return ::testing::AssertionSuccess();
      if (answer.starts_with("(")) break;
      poll(nullptr, 0, 5);
    }
    return ::testing::AssertionFailure() << line << ": '" << answer << "' instead of '" << wanted << "'";
  }

  // The machine's: its guest has less before it says so.
  ::testing::AssertionResult MemoryBecomes(uint64_t wanted) {
    uint64_t got = 0;
    for (Deadline deadline = Deadline::After(kMillis); !deadline.Passed(); poll(nullptr, 0, 5)) {
      got = vm_->Memory(kMillis).value_or(0);
      if (got == wanted) return ::testing::AssertionSuccess();
    }
    return ::testing::AssertionFailure() << got << " instead of " << wanted;
  }

  // Since the guest's kernel began.
  int64_t Millis() {
    std::string answer = Ask("uptime");
    return ParseInt64(answer.substr(0, answer.find(' '))).value_or(INT64_MAX / 2);
  }

  ::testing::AssertionResult Ends() {
    pollfd wait{vm_->pidfd(), POLLIN, 0};
    if (poll(&wait, 1, kMillis) == 1) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "the VMM does not end";
  }

  UniqueFd Image(const std::string& text, int flags) {
    UniqueFd file(open(folder_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    EXPECT_EQ(ftruncate(file.get(), 1 << 20), 0);
    EXPECT_EQ(write(file.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
    return UniqueFd(open(sys::FdPath(file.get()).c_str(), flags | O_CLOEXEC));
  }

  // A loop device over `file`, gone with its last descriptor; none where there is none free.
  static UniqueFd LoopDevice(int file, uint32_t block_size) {
    UniqueFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    for (int tries = 0; control && tries < 16; ++tries) {
      UniqueFd device(open(fmt::format("/dev/loop{}", ioctl(control.get(), LOOP_CTL_GET_FREE)).c_str(), O_RDWR | O_CLOEXEC));
      loop_config config{};
      config.fd = static_cast<uint32_t>(file);
      config.block_size = block_size;
      config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
      // Somebody else may have taken it meanwhile.
      if (device && ioctl(device.get(), LOOP_CONFIGURE, &config) == 0) return device;
    }
    return {};
  }

  static std::string why_not_;
  static Accelerator accelerator_;
  static UniqueFd template_memory_, template_state_;
  std::string folder_, children_;
  size_t fds_ = 0;
  std::unique_ptr<Vm> vm_;
  UniqueFd channel_;
};
std::string VmContract::why_not_;
Accelerator VmContract::accelerator_;
UniqueFd VmContract::template_memory_, VmContract::template_state_;

TEST_F(VmContract, RunsAGuestThatAnswers) {
  Boot(Config());
  EXPECT_EQ(Ask("echo once more"), "once more");
  EXPECT_EQ(Ask("nics"), "02:00:00:00:00:01 ");
  std::cout << "uptime ms, modules, ms of these: " << Ask("uptime") << "\n";
  EXPECT_EQ(vm_->EndReason(), "");
  Ask("say a console line\x1b[31m");
  EXPECT_THAT(vm_->ConsoleTail(4096), HasSubstr("a console line\\x1b[31m\n"));
  EXPECT_EQ(vm_->ConsoleTail(7), "\\x1b[31m\n");
}

// Nothing in its folder while it runs; one process, of the user it is to be, that can write nothing and name nobody.
TEST_F(VmContract, IsConfined) {
  Clone();
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
  std::string proc = fmt::format("/proc/{}/", vm_->pid());
  auto status = sys::ReadFile(proc + "status", 64 << 10);
  ASSERT_TRUE(status);
  std::string uid = fmt::format("{}", getpwnam("nobody")->pw_uid);
  EXPECT_THAT(*status, ContainsRegex("Uid:\t" + uid + "\t" + uid + "\t" + uid + "\t" + uid + "\n"));
  // With KVM it may be in one: /dev/kvm's.
  if (accelerator_ == Accelerator::kTcg) {
    EXPECT_THAT(*status, ContainsRegex("Groups:\t *\n"));
  }
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapAmb"}) EXPECT_THAT(*status, HasSubstr(std::string(set) + ":\t0000000000000000\n"));
  EXPECT_THAT(*status, HasSubstr("CapBnd:\t0000000000000000\n"));
  EXPECT_THAT(*status, HasSubstr("NoNewPrivs:\t1\n"));
  EXPECT_THAT(*status, HasSubstr("Seccomp:\t2\n"));
  EXPECT_THAT(*status, HasSubstr(accelerator_ == Accelerator::kKvm ? "THP_enabled:\t0\n" : "THP_enabled:\t1\n"));
  EXPECT_THAT(*status, ContainsRegex("NSpid:\t[0-9]+\t1\n"));
  for (const char* kind : {"mnt", "pid"}) {
    std::string link = std::string("ns/") + kind;
    EXPECT_NE(std::filesystem::read_symlink(proc + link), std::filesystem::read_symlink("/proc/self/" + link)) << kind;
  }
  auto mounts = sys::ReadFile(proc + "mounts", 1 << 20);
  ASSERT_TRUE(mounts);
  for (std::string_view line : Split(Trim(*mounts), '\n')) {
    std::vector<std::string_view> fields = Split(line, ' ');
    EXPECT_TRUE(fields[3] == "ro" || fields[3].starts_with("ro,")) << line;
  }
  EXPECT_TRUE(std::filesystem::is_empty(proc + "root/tmp"));
  EXPECT_FALSE(std::filesystem::exists(proc + "root/proc/self"));  // seen from here: its own /proc knows no such process as us
}

// Also one that stays root can do nothing that root may.
TEST_F(VmContract, RootsVmmHasNoCapabilitiesEither) {
  VmConfig config = Config();
  config.uid = config.gid = 0;
  Clone(config);
  auto status = sys::ReadFile(fmt::format("/proc/{}/status", vm_->pid()), 64 << 10);
  ASSERT_TRUE(status);
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) EXPECT_THAT(*status, HasSubstr(std::string(set) + ":\t0000000000000000\n"));
}

TEST_F(VmContract, IsInItsCgroupFromTheStart) {
  auto mounts = sys::ReadCgroupMounts();
  ASSERT_TRUE(mounts);
  if (mounts->empty()) GTEST_SKIP() << "no cgroups are mounted here";
  std::string name = fmt::format("caisson-vmm-{}", getpid()), cgroup = mounts->front().mount_point + "/" + name;
  ASSERT_EQ(mkdir(cgroup.c_str(), 0755), 0) << cgroup;
  ScopeExit remove([&cgroup] { rmdir(cgroup.c_str()); });
  if (auto cpus = sys::ReadFile(cgroup + "/cpuset.cpus", 4096); cpus && Trim(*cpus).empty()) GTEST_SKIP() << "a cpuset takes nobody as it is";
  VmConfig config = Config();
  config.cgroup_procs = {cgroup + "/cgroup.procs"};
  Clone(config);
  auto memberships = sys::ReadFile(fmt::format("/proc/{}/cgroup", vm_->pid()), 64 << 10);
  ASSERT_TRUE(memberships);
  EXPECT_THAT(*memberships, HasSubstr("/" + name + "\n"));
  vm_.reset();
  EXPECT_EQ(rmdir(cgroup.c_str()), 0) << "somebody is still in there";
}

TEST_F(VmContract, RunsOnAPciBus) {
  VmConfig config = Config();
  config.pci = true;
  config.vcpus = 2;
  config.max_memory_bytes = config.memory_bytes + 2 * kMemoryBlockBytes;
  Boot(config);
  EXPECT_EQ(Ask("nics"), "02:00:00:00:00:01 ");
  UniqueFd layer = Image("the first layer.", O_RDONLY);
  ASSERT_TRUE(vm_->Attach({"layer0", layer.get(), true}, kMillis));
  EXPECT_TRUE(Becomes("disks", "layer0 "));
  ASSERT_TRUE(vm_->Detach("layer0", kMillis));
  // More memory than it was started with, in whole blocks.
  int64_t before = *ParseInt64(Ask("memory"));
  auto set = vm_->SetMemory(config.memory_bytes + 1, kMillis);
  ASSERT_TRUE(set) << set.error().message;
  EXPECT_EQ(vm_->PluggedMemory(), config.memory_bytes + kMemoryBlockBytes);
  EXPECT_TRUE(Becomes("memory", fmt::format("{}", before + static_cast<int64_t>(kMemoryBlockBytes >> 10))));
  EXPECT_EQ(vm_->SetMemory(config.max_memory_bytes + 1, kMillis).error().code, Code::kInvalidArgument);
}

// With a loop the console is taken as it comes; when the VM is gone, the loop has nothing of it left.
TEST_F(VmContract, ALoopTakesTheConsole) {
  auto loop = sys::EventLoop::Create();
  ASSERT_TRUE(loop);
  size_t fds = OpenFds();
  vm_ = std::move(*CreateQemu(Config(), loop->get()));
  auto started = vm_->Start(kMillis);
  ASSERT_TRUE(started) << started.error().message;
  ASSERT_TRUE((*loop)->Watch(vm_->pidfd(), EPOLLIN, [&](uint32_t) {
    (*loop)->Unwatch(vm_->pidfd());
    (*loop)->Stop();
  }));
  Open();
  Tell("panic");
  (*loop)->After(kMillis, [&] { (*loop)->Stop(); });
  ASSERT_TRUE((*loop)->Run());
  EXPECT_THAT(vm_->ConsoleTail(4096), HasSubstr("Kernel panic - not syncing"));
  EXPECT_THAT(vm_->EndReason(), HasSubstr("kernel panicked"));
  vm_.reset();
  channel_.Reset();
  EXPECT_EQ(OpenFds(), fds);
}

TEST_F(VmContract, HoldsOnlyWhatItWasGiven) {
  UniqueFd low(open("/etc/hostname", O_RDONLY | O_CLOEXEC));
  UniqueFd secret(fcntl(low.get(), F_DUPFD, 100));  // not closed on exec, and in nobody's way
  Clone();
  for (auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", vm_->pid()))) {
    EXPECT_NE(std::filesystem::read_symlink(entry), "/etc/hostname");
  }
  auto environment = sys::ReadFile(fmt::format("/proc/{}/environ", vm_->pid()), 4096);
  EXPECT_TRUE(environment && environment->empty());
}

// Also GHSA-wwj6-vghv-5p64: what all guests share is read-only to each.
TEST_F(VmContract, DisksComeAndGo) {
  Clone();
  EXPECT_EQ(Ask("disks"), "none");
  UniqueFd layer = Image("the first layer.", O_RDONLY), scratch = Image("the second disk.", O_RDWR);
  auto attached = vm_->Attach({"layer0", layer.get(), true}, kMillis);
  ASSERT_TRUE(attached) << attached.error().message;
  EXPECT_TRUE(Becomes("disks", "layer0 "));
  EXPECT_EQ(Ask("read layer0"), "the first layer.");
  EXPECT_NE(Ask("write layer0"), "written");
  attached = vm_->Attach({"scratch", scratch.get(), false}, kMillis);
  ASSERT_TRUE(attached) << attached.error().message;
  EXPECT_TRUE(Becomes("disks", "layer0 scratch "));
  EXPECT_EQ(Ask("write scratch"), "written");
  char text[17] = {};
  EXPECT_EQ(pread(scratch.get(), text, 16, 0), 16);
  EXPECT_STREQ(text, "written by guest");
  EXPECT_EQ(pread(layer.get(), text, 16, 0), 16);
  EXPECT_STREQ(text, "the first layer.");

  auto again = vm_->Attach({"layer0", layer.get(), true}, kMillis);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, Code::kAlreadyExists);
  auto detached = vm_->Detach("layer0", kMillis);
  ASSERT_TRUE(detached) << detached.error().message;
  EXPECT_TRUE(Becomes("disks", "scratch "));
  EXPECT_TRUE(vm_->Detach("layer0", kMillis));  // idempotent
  // The same name is free again, and nothing of the first is left.
  attached = vm_->Attach({"layer0", layer.get(), true}, kMillis);
  ASSERT_TRUE(attached) << attached.error().message;
  EXPECT_EQ(vm_->Attach({"notropen", scratch.get(), true}, kMillis).error().code, Code::kInvalidArgument);
  EXPECT_EQ(vm_->Attach({"a,b=c", layer.get(), true}, kMillis).error().code, Code::kInvalidArgument);
}

// QEMU keeps no descriptor of a disk that is gone.
TEST_F(VmContract, DetachedDisksAreClosed) {
  Clone();
  auto count = [this] {
    size_t number = 0;
    for ([[maybe_unused]] auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", vm_->pid()))) ++number;
    return number;
  };
  size_t before = count();
  UniqueFd layer = Image("the first layer.", O_RDONLY);
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(vm_->Attach({"layer0", layer.get(), true}, kMillis));
    ASSERT_TRUE(Becomes("disks", "layer0 "));
    auto detached = vm_->Detach("layer0", kMillis);
    ASSERT_TRUE(detached) << detached.error().message;
    ASSERT_TRUE(Becomes("disks", "none"));
  }
  EXPECT_EQ(count(), before);
}

// A block device of the host's, whatever is on it: the guest sees its bytes and its block size, and no other format.
TEST_F(VmContract, ABlockDeviceIsADisk) {
  UniqueFd backing(open(folder_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_EQ(ftruncate(backing.get(), 4 << 20), 0);
  // As a guest could leave it, to read a file of the host's at the next start: qcow2 with a backing file.
  const char header[] = "QFI\xfb\0\0\0\3\0\0\0\0\0\0\0\x68";
  ASSERT_EQ(pwrite(backing.get(), header, sizeof header - 1, 0), static_cast<ssize_t>(sizeof header - 1));
  UniqueFd device = LoopDevice(backing.get(), 4096);
  if (!device) GTEST_SKIP() << "no loop device to be had here";
  Clone();
  auto attached = vm_->Attach({"b7x0", device.get(), false}, kMillis);
  ASSERT_TRUE(attached) << attached.error().message;
  EXPECT_TRUE(Becomes("disks", "b7x0 "));
  EXPECT_EQ(Ask("read b7x0").substr(0, 3), "QFI");
  EXPECT_EQ(Ask("write b7x0"), "written");
  char text[17] = {};
  EXPECT_EQ(pread(device.get(), text, 16, 0), 16);
  EXPECT_STREQ(text, "written by guest");
  ASSERT_TRUE(vm_->Detach("b7x0", kMillis));
  EXPECT_TRUE(Becomes("disks", "none"));
  UniqueFd read_only(open(sys::FdPath(device.get()).c_str(), O_RDONLY | O_CLOEXEC));
  attached = vm_->Attach({"b7x0", read_only.get(), true}, kMillis);
  ASSERT_TRUE(attached) << attached.error().message;
  EXPECT_TRUE(Becomes("disks", "b7x0 "));
  EXPECT_NE(Ask("write b7x0"), "written");
}

// When QEMU has the descriptor already, and can do nothing with it.
TEST_F(VmContract, AFailedAttachLeavesNothing) {
  Clone();
  UniqueFd layer = Image("the first layer.", O_RDONLY);
  auto count = [this] {
    size_t number = 0;
    for ([[maybe_unused]] auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", vm_->pid()))) ++number;
    return number;
  };
  size_t before = count();
  UniqueFd unreadable(open(sys::FdPath(layer.get()).c_str(), O_PATH | O_CLOEXEC));
  EXPECT_FALSE(vm_->Attach({"again", unreadable.get(), true}, kMillis));
  EXPECT_EQ(count(), before);
  auto attached = vm_->Attach({"again", layer.get(), true}, kMillis);
  ASSERT_TRUE(attached) << attached.error().message;
  EXPECT_TRUE(Becomes("disks", "again "));
}

TEST_F(VmContract, ProcessorsStartAndStop) {
  Clone();
  EXPECT_EQ(Ask("start 1"), "0-1");
  EXPECT_EQ(Ask("start 1"), "0-1");
  EXPECT_EQ(Ask("stop 1"), "0");
  EXPECT_EQ(Ask("echo alive"), "alive");
}

TEST_F(VmContract, MemoryGoesAndComes) {
  VmConfig config = Config();
  Boot(config);
  EXPECT_EQ(*vm_->Memory(kMillis), config.memory_bytes);
  ASSERT_EQ(Ask("load virtio_balloon"), "loaded");
  int64_t all = *ParseInt64(Ask("memory"));
  auto set = vm_->SetMemory(config.memory_bytes - (32 << 20), kMillis);
  ASSERT_TRUE(set) << set.error().message;
  EXPECT_TRUE(Becomes("memory", fmt::format("{}", all - (32 << 10))));
  EXPECT_TRUE(MemoryBecomes(config.memory_bytes - (32 << 20)));
  ASSERT_TRUE(vm_->SetMemory(config.memory_bytes, kMillis));
  EXPECT_TRUE(Becomes("memory", fmt::format("{}", all)));
  EXPECT_EQ(vm_->SetMemory(config.memory_bytes + 1, kMillis).error().code, Code::kInvalidArgument);
  EXPECT_EQ(vm_->SetMemory(1 << 20, kMillis).error().code, Code::kInvalidArgument);
  EXPECT_TRUE(MemoryBecomes(config.memory_bytes));
}

TEST_F(VmContract, MemoryOfATemplateStays) {
  Clone();
  EXPECT_EQ(vm_->SetMemory(96 << 20, kMillis).error().code, Code::kUnimplemented);
}

TEST_F(VmContract, PausesAndResumes) {
  Clone();
  ASSERT_TRUE(vm_->Pause(kMillis));
  Tell("echo late");
  pollfd silent{channel_.get(), POLLIN, 0};
  EXPECT_EQ(poll(&silent, 1, 200), 0) << "a paused guest answers";
  ASSERT_TRUE(vm_->Resume(kMillis));
  EXPECT_EQ(Ask("echo and"), "late");
}

TEST_F(VmContract, IsSavedAndCloned) {
  VmConfig config = Config();
  auto memory = MakeMemoryFile(config.memory_bytes);
  ASSERT_TRUE(memory);
  config.memory = {sys::FdPath(memory->get()), true};
  auto state = MakeStateFile();
  ASSERT_TRUE(state);
  Boot(config);
  EXPECT_EQ(Ask("count"), "1");
  EXPECT_EQ(Ask("count"), "2");
  EXPECT_EQ(SealMemoryFile(memory->get()).error().code, Code::kFailedPrecondition);
  channel_.Reset();
  ASSERT_TRUE(vm_->Pause(kMillis));
  auto saved = vm_->Save(state->get(), kMillis);
  ASSERT_TRUE(saved) << saved.error().message;
  struct stat info;
  ASSERT_EQ(fstat(state->get(), &info), 0);
  EXPECT_LT(info.st_size, 4 << 20) << "the memory went with it";
  vm_->Kill();

  config.memory.shared = false;
  config.restore_from = sys::FdPath(state->get());
  config.nic.mac = "02:00:00:00:00:01";
  auto unsealed = CreateQemu(config);
  ASSERT_TRUE(unsealed);
  auto refused = (*unsealed)->Start(kMillis);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("is not sealed"));
  EXPECT_FALSE(IsSealed(memory->get()));
  ASSERT_TRUE(SealMemoryFile(memory->get()));
  EXPECT_TRUE(IsSealed(memory->get()));

  // Each goes on from there, and for itself.
  std::vector<std::unique_ptr<Vm>> clones;
  for (int i = 0; i < 2; ++i) {
    int64_t begin = MonotonicNanos();
    ASSERT_NO_FATAL_FAILURE(Start(config));
    EXPECT_EQ(Ask("count"), "3");
    std::cout << "clone: " << (MonotonicNanos() - begin) / kNanosPerMilli << " ms to the first answer\n";
    EXPECT_EQ(Ask("count"), "4");
    // Its clock goes on, neither at once nor much faster than ours.
    int64_t ours = MonotonicNanos(), guests = Millis();
    while (Millis() < guests + 100) poll(nullptr, 0, 1);
    EXPECT_GT((MonotonicNanos() - ours) / kNanosPerMilli, 50);
    UniqueFd layer = Image("the first layer.", O_RDONLY);
    ASSERT_TRUE(vm_->Attach({"layer0", layer.get(), true}, kMillis));
    EXPECT_TRUE(Becomes("disks", "layer0 "));
    auto metrics = vm_->Metrics();
    ASSERT_TRUE(metrics) << metrics.error().message;
    std::cout << "clone: RSS " << (metrics->resident_bytes >> 20) << " MiB, PSS " << (metrics->proportional_bytes >> 20) << " MiB\n";
    EXPECT_LT(metrics->proportional_bytes, metrics->resident_bytes);
    clones.push_back(std::move(vm_));
  }
}

TEST_F(VmContract, IsSavedWithItsMemory) {
  VmConfig config = Config();
  auto state = MakeStateFile();
  ASSERT_TRUE(state);
  Boot(config);
  EXPECT_EQ(Ask("count"), "1");
  channel_.Reset();
  ASSERT_TRUE(vm_->Pause(kMillis));
  auto saved = vm_->Save(state->get(), kMillis);
  ASSERT_TRUE(saved) << saved.error().message;
  vm_.reset();
  ASSERT_TRUE(SealMemoryFile(state->get()));
  config.restore_from = sys::FdPath(state->get());
  for (int i = 0; i < 2; ++i) {
    int64_t begin = MonotonicNanos();
    ASSERT_NO_FATAL_FAILURE(Start(config));
    EXPECT_EQ(Ask("count"), "2");
    std::cout << "with its memory: " << (MonotonicNanos() - begin) / kNanosPerMilli << " ms to the first answer\n";
    channel_.Reset();
  }
}

TEST_F(VmContract, MetricsGrow) {
  Clone();
  auto first = vm_->Metrics();
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_GT(first->cpu_nanos, 0U);
  EXPECT_GT(first->resident_bytes, 32U << 20);
  for (int i = 0; i < 200; ++i) Ask("echo work");
  EXPECT_GE(vm_->Metrics()->cpu_nanos, first->cpu_nanos);
}

TEST_F(VmContract, KilledFromOutside) {
  Clone();
  ASSERT_EQ(kill(vm_->pid(), SIGKILL), 0);
  ASSERT_TRUE(Ends());
  EXPECT_THAT(vm_->EndReason(), HasSubstr("was killed by signal 9"));
  auto attached = vm_->Pause(kMillis);
  ASSERT_FALSE(attached);
  EXPECT_EQ(attached.error().code, Code::kUnavailable);
  EXPECT_THAT(attached.error().message, HasSubstr("was killed by signal 9"));
  vm_->Kill();
  EXPECT_EQ(vm_->pidfd(), -1);
  EXPECT_THAT(vm_->EndReason(), HasSubstr("was killed by signal 9"));
}

TEST_F(VmContract, GuestsPanicEndsIt) {
  Clone();
  Tell("panic");
  ASSERT_TRUE(Ends());
  EXPECT_THAT(vm_->EndReason(), HasSubstr("kernel panicked or restarted"));
  EXPECT_THAT(vm_->ConsoleTail(4096), HasSubstr("Kernel panic - not syncing: sysrq triggered crash"));
  vm_->Kill();
  EXPECT_THAT(vm_->ConsoleTail(4096), HasSubstr("Kernel panic - not syncing: sysrq triggered crash"));
}

TEST_F(VmContract, AgentsEndEndsIt) {
  Clone();
  Tell("exit");
  ASSERT_TRUE(Ends());
  EXPECT_THAT(vm_->ConsoleTail(4096), HasSubstr("Attempted to kill init! exitcode=0x00000300"));
}

// A guest that fills its console waits for nobody, and nobody for it.
TEST_F(VmContract, AFloodedConsoleIsBounded) {
  Clone();
  Tell("flood");
  for (int i = 0; i < 50; ++i) {
    std::string tail = vm_->ConsoleTail(1 << 20);
    EXPECT_LE(tail.size(), 64U << 10);
    poll(nullptr, 0, 5);
  }
  EXPECT_THAT(vm_->ConsoleTail(1 << 20), HasSubstr("a line that says nothing"));
  ASSERT_TRUE(vm_->Pause(kMillis));
  ASSERT_TRUE(vm_->Resume(kMillis));
}

// One stream at a time; a new one works once the old one is gone.
TEST_F(VmContract, ChannelsFollowOneAnother) {
  Clone();
  for (int i = 0; i < 5; ++i) {
    channel_.Reset();
    Open();
    EXPECT_EQ(Ask("echo anew"), "anew");
  }
}

TEST_F(VmContract, DiesWithTheProcessThatStartedIt) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  UniqueFd reader(ends[0]), writer(ends[1]);
  pid_t owner = fork();
  if (owner == 0) {
    auto vm = CreateQemu(Config());
    int pid = vm && (*vm)->Start(kMillis) ? (*vm)->pid() : -1;
    (void)!write(writer.get(), &pid, sizeof pid);
    pause();
  }
  int vmm = -1;
  ASSERT_EQ(read(reader.get(), &vmm, sizeof vmm), static_cast<ssize_t>(sizeof vmm));
  ASSERT_GT(vmm, 0);
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, vmm, 0)));
  ASSERT_TRUE(pidfd);
  ASSERT_EQ(kill(owner, SIGKILL), 0);
  pollfd wait{pidfd.get(), POLLIN, 0};
  EXPECT_EQ(poll(&wait, 1, kMillis), 1) << "QEMU outlives its owner";
  syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
  waitpid(owner, nullptr, 0);
}

TEST_F(VmContract, StartsThatFailLeaveNothing) {
  VmConfig config = Config();
  config.program = "/usr/bin/no-such-vmm";
  auto started = (*CreateQemu(config))->Start(kMillis);
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message, HasSubstr("start '/usr/bin/no-such-vmm': execute it: No such file or directory"));

  config = Config();
  config.kernel = "/etc/hostname";
  started = (*CreateQemu(config))->Start(kMillis);
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message, ContainsRegex("exited with status 1.*kernel")) << "QEMU's own words are missing";

  config = Config();
  config.cgroup_procs = {folder_ + "/none/cgroup.procs"};
  started = (*CreateQemu(config))->Start(kMillis);
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message, HasSubstr("enter its cgroup: No such file or directory"));

  config = Config();
  config.program = "/usr/bin/sleep";  // ends at once, with usage
  started = (*CreateQemu(config))->Start(kMillis);
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message, HasSubstr("exited with status 1"));
}

// A VMM that says nothing.
TEST_F(VmContract, DeadlinesAreKept) {
  std::string script = folder_ + "/vmm";
  {
    std::ofstream file(script);
    file << "#!/bin/sh\nexec /usr/bin/sleep 1000\n";
  }
  ASSERT_EQ(chmod(script.c_str(), 0755), 0);
  ASSERT_EQ(chmod(folder_.c_str(), 0755), 0);
  VmConfig config = Config();
  config.program = script;
  auto started = (*CreateQemu(config))->Start(300);
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code, Code::kDeadlineExceeded) << started.error().message;
  unlink(script.c_str());

  // A stopped VMM answers nobody.
  Clone();
  ASSERT_EQ(kill(vm_->pid(), SIGSTOP), 0);
  auto paused = vm_->Pause(300);
  ASSERT_FALSE(paused);
  EXPECT_EQ(paused.error().code, Code::kDeadlineExceeded) << paused.error().message;
  vm_->Kill();
}

}  // namespace
}  // namespace caisson::vmm
