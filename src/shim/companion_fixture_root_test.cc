// SPDX-License-Identifier: Apache-2.0
#include "shim/companion_fixture.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>

#include "base/strings.h"
#include "sys/path.h"
#include "sys/socket.h"

namespace caisson::shim {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kCompanion[] = CAISSON_BINARY_DIR "/bin/containerd-shim-caisson-v2";

void MakeRootfs(const std::string& root) {
  for (const char* dir : {"bin", "proc", "sys", "dev", "tmp", "etc"}) fs::create_directories(root + "/" + dir);
  fs::copy_file("/bin/busybox", root + "/bin/busybox");
  for (const char* applet : {"sh", "sleep", "echo", "cat", "true", "false", "yes", "head", "seq", "id", "hostname", "ps", "kill", "dd",
                             "setsid", "stty", "ls", "touch", "grep", "wc", "mkdir", "usleep", "test", "printf", "readlink"}) {
    fs::create_symlink("busybox", root + "/bin/" + applet);
  }
}

// Mounts of others, pods of another test among them, are neither seen nor counted.
void EnterOwnMountNamespace() {
  static const bool entered = unshare(CLONE_NEWNS) == 0 && mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  ASSERT_TRUE(entered);
}

}  // namespace

void CompanionTest::SetUp() {
  if (geteuid() != 0) GTEST_SKIP() << "needs root: it makes containers";
  if (access("/bin/busybox", X_OK) != 0) GTEST_SKIP() << "needs /bin/busybox (package busybox-static)";
  EnterOwnMountNamespace();
  signal(SIGPIPE, SIG_IGN);
  char pattern[] = "/tmp/caisson-shim-XXXXXX";
  folder_ = mkdtemp(pattern);
  name_ = folder_.substr(5);
  bundle_ = folder_ + "/pod";
  rootfs_ = folder_ + "/rootfs";
  fs::create_directory(bundle_);
  MakeRootfs(rootfs_);
  mounts_before_ = Mounts();
  Spawn();
}

void CompanionTest::TearDown() {
  if (folder_.empty()) return;
  if (pid_ > 0) {
    sandbox::ShutdownSandboxRequest request;
    request.set_sandbox_id(name_);
    auto shut = Call<sandbox::ShutdownSandboxResponse>(kSandbox, "ShutdownSandbox", request);
    EXPECT_TRUE(shut) << shut.error().message;
    if (!shut) kill(pid_, SIGKILL);
    EXPECT_EQ(AwaitCompanion(), shut ? 0 : SIGKILL);
  }
  client_.reset();
  loop_->Post([this] { loop_->Stop(); });
  thread_.join();
  EXPECT_THAT(Cgroups(), testing::IsEmpty());
  EXPECT_THAT(Processes(name_), testing::IsEmpty());
  // Fewer are no fault of ours: whoever removes a mount point on the host takes our copy of its mount away.
  EXPECT_LE(Mounts(), mounts_before_);
  if (HasFailure()) std::fprintf(stderr, "companion's log: %s\n", sys::ReadFile(folder_ + "/shim.log", 1 << 20).value_or("").c_str());
  fs::remove_all(folder_);
}

void CompanionTest::Spawn() {
  std::string path = bundle_ + "/shim.sock";
  UniqueFd listener = sys::ListenUnix(path).value();
  UniqueFd log(open((folder_ + "/shim.log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, log.get(), 2);
  posix_spawn_file_actions_adddup2(&actions, listener.get(), 3);
  std::vector<std::string> words = {kCompanion, "serve", "--id", name_, "--listen-fd", "3", "--seccomp-cache", folder_ + "/seccomp"};
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ASSERT_EQ(posix_spawn(&pid_, kCompanion, &actions, nullptr, argv.data(), environ), 0) << kCompanion;
  posix_spawn_file_actions_destroy(&actions);
  loop_ = sys::EventLoop::Create().value();
  thread_ = std::thread([this] { EXPECT_TRUE(loop_->Run()); });
  client_ = ttrpc::Client::Create(loop_.get(), sys::ConnectUnix(path).value()).value();
}

int CompanionTest::AwaitCompanion() {
  int status = 0;
  EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
  pid_ = -1;
  return status;
}

Result<sandbox::CreateSandboxResponse> CompanionTest::CreateSandbox(const pod::v1::SandboxOptions& options, const std::string& netns_path) {
  sandbox::CreateSandboxRequest request;
  request.set_sandbox_id(name_);
  request.set_bundle_path(bundle_);
  request.set_netns_path(netns_path);
  request.mutable_options()->set_type_url("caisson.pod.v1.SandboxOptions");
  request.mutable_options()->set_value(options.SerializeAsString());
  return Call<sandbox::CreateSandboxResponse>(kSandbox, "CreateSandbox", request);
}

void CompanionTest::StartPod(pod::v1::SandboxOptions options, const std::string& netns_path) {
  if (netns_path.empty() && options.uid_maps().empty()) options.set_host_network(true);
  auto created = CreateSandbox(options, netns_path);
  ASSERT_TRUE(created) << created.error().message;
  sandbox::StartSandboxRequest request;
  request.set_sandbox_id(name_);
  auto started = Call<sandbox::StartSandboxResponse>(kSandbox, "StartSandbox", request);
  ASSERT_TRUE(started) << started.error().message;
  ASSERT_GT(started->pid(), 0u);
  ASSERT_GT(started->created_at().seconds(), 0);
}

json CompanionTest::Spec(const std::string& script) {
  std::string space = fmt::format("/proc/{}/ns/", pid_);
  json mounts = json::array({{{"destination", "/proc"}, {"type", "proc"}, {"source", "proc"}},
                             {{"destination", "/dev"}, {"type", "tmpfs"}, {"source", "tmpfs"}, {"options", {"mode=755"}}},
                             {{"destination", "/dev/pts"}, {"type", "devpts"}, {"source", "devpts"}, {"options", {"newinstance", "ptmxmode=0666"}}},
                             {{"destination", "/dev/shm"}, {"type", "caisson-shm"}, {"source", "shm"}}});
  json namespaces = json::array({{{"type", "mount"}}, {{"type", "pid"}}, {{"type", "cgroup"}}, {{"type", "ipc"}, {"path", space + "ipc"}},
                                 {{"type", "uts"}, {"path", space + "uts"}}, {{"type", "network"}, {"path", space + "net"}}});
  json caps = {"CAP_KILL", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID"};
  return {{"ociVersion", "1.2.0"},
          {"process",
           {{"user", {{"uid", 0}, {"gid", 0}}},
            {"args", {"/bin/sh", "-c", script, name_}},
            {"env", {"PATH=/bin", "TERM=dumb"}},
            {"cwd", "/"},
            {"capabilities", {{"bounding", caps}, {"effective", caps}, {"permitted", caps}}},
            {"noNewPrivileges", true}}},
          {"root", {{"path", rootfs_}}},
          {"mounts", mounts},
          {"linux", {{"namespaces", namespaces}}}};
}

Result<v3::CreateTaskResponse> CompanionTest::Create(const std::string& id, const json& given, pod::v1::CreateOptions options) {
  std::string bundle = folder_ + "/" + id;
  fs::create_directories(bundle + "/rootfs");
  fs::create_directories(fs::path(LogPath(id)).parent_path());
  json spec = given;
  spec["linux"]["cgroupsPath"] = "/" + name_ + "/" + id;
  std::ofstream(bundle + "/config.json") << spec.dump();
  v3::CreateTaskRequest request;
  request.set_id(id);
  request.set_bundle(bundle);
  if (options.log_path().empty()) options.set_log_path(LogPath(id));
  request.mutable_options()->set_type_url("caisson.pod.v1.CreateOptions");
  request.mutable_options()->set_value(options.SerializeAsString());
  return Call<v3::CreateTaskResponse>(kTask, "Create", request);
}

Result<v3::StartResponse> CompanionTest::Start(const std::string& id) {
  v3::StartRequest request;
  request.set_id(id);
  return Call<v3::StartResponse>(kTask, "Start", request);
}

void CompanionTest::Run(const std::string& id, const std::string& script) {
  auto created = Create(id, script);
  ASSERT_TRUE(created) << created.error().message;
  auto started = Start(id);
  ASSERT_TRUE(started) << started.error().message;
  ASSERT_EQ(started->pid(), created->pid());
}

v3::WaitResponse CompanionTest::Wait(const std::string& id) {
  v3::WaitRequest request;
  request.set_id(id);
  auto waited = Call<v3::WaitResponse>(kTask, "Wait", request);
  EXPECT_TRUE(waited) << waited.error().message;
  return waited.value_or(v3::WaitResponse());
}

Result<v3::DeleteResponse> CompanionTest::Delete(const std::string& id) {
  v3::DeleteRequest request;
  request.set_id(id);
  return Call<v3::DeleteResponse>(kTask, "Delete", request);
}

Result<wkt::Empty> CompanionTest::Kill(const std::string& id, int signal, bool all) {
  v3::KillRequest request;
  request.set_id(id);
  request.set_signal(static_cast<uint32_t>(signal));
  request.set_all(all);
  return Call<wkt::Empty>(kTask, "Kill", request);
}

Result<pod::v1::ContainerInfoResponse> CompanionTest::Info(const std::string& id) {
  pod::v1::ContainerInfoRequest request;
  request.set_container_id(id);
  return Call<pod::v1::ContainerInfoResponse>(kPod, "ContainerInfo", request);
}

Result<pod::v1::ExecSyncResponse> CompanionTest::ExecSync(const std::string& id, std::vector<std::string> args, int64_t timeout_millis,
                                                          uint64_t limit) {
  pod::v1::ExecSyncRequest request;
  request.set_container_id(id);
  for (auto& word : args) request.add_args(std::move(word));
  request.set_timeout_nanos(timeout_millis * 1'000'000);
  request.set_limit_bytes(limit);
  return Call<pod::v1::ExecSyncResponse>(kPod, "ExecSync", request);
}

std::vector<LogLine> CompanionTest::Log(const std::string& path) const {
  std::vector<LogLine> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    size_t one = line.find(' '), two = line.find(' ', one + 1), three = line.find(' ', two + 1);
    if (three == std::string::npos) {
      ADD_FAILURE() << "no log line: " << line;
      continue;
    }
    lines.push_back({line.substr(0, one), line.substr(one + 1, two - one - 1), line.substr(two + 1, three - two - 1), line.substr(three + 1)});
  }
  return lines;
}

std::string CompanionTest::LogText(const std::string& path) const {
  std::string text;
  for (const auto& line : Log(path)) text += line.text + (line.tag == "F" ? "\n" : "");
  return text;
}

void CompanionTest::Await(const char* what, const std::function<bool()>& done) {
  for (int i = 0; i < 12'000; ++i) {
    if (done()) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  FAIL() << "not within a minute: " << what;
}

std::vector<int> CompanionTest::Processes(const std::string& marker) {
  std::vector<int> found;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    auto pid = ParseInt64(entry.path().filename().string());
    if (!pid || *pid == getpid()) continue;
    auto command = sys::ReadFile(entry.path().string() + "/cmdline", 1 << 20);
    if (command && command->find(marker) != std::string::npos) found.push_back(static_cast<int>(*pid));
  }
  return found;
}

std::vector<std::string> CompanionTest::Cgroups() const {
  std::vector<std::string> found;
  auto look = [&](const fs::path& root) {
    std::error_code ignored;
    if (fs::exists(root / name_, ignored)) {
      for (const auto& entry : fs::recursive_directory_iterator(root / name_, ignored)) {
        if (entry.is_directory(ignored)) found.push_back(entry.path().string());
      }
      // The parent is the test's own.
      if (found.empty()) fs::remove(root / name_, ignored);
    }
  };
  look("/sys/fs/cgroup");
  for (const auto& entry : fs::directory_iterator("/sys/fs/cgroup")) {
    if (entry.is_directory()) look(entry.path());
  }
  return found;
}

size_t CompanionTest::Mounts() {
  std::ifstream file("/proc/self/mountinfo");
  return static_cast<size_t>(std::count(std::istreambuf_iterator<char>(file), {}, '\n'));
}

}  // namespace caisson::shim
