// SPDX-License-Identifier: Apache-2.0
#include "shim/shim_actions.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <memory>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "base/strings.h"
#include "containerd/task_v3.pb.h"
#include "containerd/types.pb.h"
#include "oci/cgroup.h"
#include "shim/cgroup_record.h"
#include "shim/shim_settings.h"
#include "sys/event_loop.h"
#include "sys/new_file.h"
#include "sys/oom_score.h"
#include "sys/own_program.h"
#include "sys/path.h"
#include "sys/socket.h"
#include "sys/spawn.h"
#include "task/timestamp.h"
#include "ttrpc/client.h"

namespace caisson::shim {
namespace {

namespace v3 = containerd::task::v3;

constexpr char kSocketFolder[] = "/run/containerd/s";
constexpr char kScheme[] = "unix://";
constexpr uint32_t kLostStatus = 128 + SIGKILL;
constexpr size_t kMaxInputBytes = 4 << 20;
constexpr int64_t kInputMillis = 10'000, kEndMillis = 10'000;
constexpr int kMaxOomScore = 1000;

std::string Environment(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

Result<std::string> WorkingFolder() {
  char path[PATH_MAX];
  if (getcwd(path, sizeof path) == nullptr) return ErrnoError("getcwd");
  return std::string(path);
}

Result<std::string> BundleOf(const ShimCommand& command) {
  if (command.bundle.empty()) return WorkingFolder();
  if (!command.bundle.starts_with('/')) return MakeError(Code::kInvalidArgument, "'-bundle {}' is no absolute path", command.bundle.substr(0, 256));
  return command.bundle;
}

// stdin to its end. What is no pipe has nothing for us (a terminal would never end).
Result<std::string> ReadInput() {
  struct stat info {};
  if (fstat(STDIN_FILENO, &info) != 0 || (!S_ISFIFO(info.st_mode) && !S_ISSOCK(info.st_mode) && !S_ISREG(info.st_mode))) return std::string();
  Deadline deadline = Deadline::After(kInputMillis);
  std::string input;
  char bytes[4096];
  for (;;) {
    pollfd in = {STDIN_FILENO, POLLIN, 0};
    if (poll(&in, 1, deadline.RemainingMillis()) == 0) return MakeError(Code::kDeadlineExceeded, "stdin does not end");
    ssize_t got = read(STDIN_FILENO, bytes, sizeof bytes);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) return ErrnoError("read stdin");
    if (got == 0) return input;
    input.append(bytes, static_cast<size_t>(got));
    if (input.size() > kMaxInputBytes) return MakeError(Code::kResourceExhausted, "more than {} bytes on stdin", kMaxInputBytes);
  }
}

Result<> Print(const std::string& text) {
  std::string_view rest = text;
  while (!rest.empty()) {
    ssize_t written = write(STDOUT_FILENO, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return ErrnoError("write to stdout");
    rest.remove_prefix(static_cast<size_t>(written));
  }
  return {};
}

Result<> MakeFolders(const std::string& path) {
  for (size_t at = path.find('/', 1);; at = path.find('/', at + 1)) {
    std::string folder = path.substr(0, at);
    if (mkdir(folder.c_str(), 0711) != 0 && errno != EEXIST) return ErrnoError("make '{}'", folder);
    if (at == std::string::npos) return {};
  }
}

// The FIFO that containerd reads our log from; not valid where there is none.
UniqueFd OpenLog(const std::string& bundle) {
  // Both sides, so that it opens although nobody reads it yet, and breaks nothing when nobody does any more (fifo(7)).
  UniqueFd log(open((bundle + "/log").c_str(), O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC));
  struct stat info {};
  if (log && (fstat(log.get(), &info) != 0 || !S_ISFIFO(info.st_mode))) log.Reset();
  return log;
}

// A companion goes after its containers and before its client when memory is short, as other shims do. Best effort.
void RaiseOomScore(int pid) {
  auto own = sys::OwnOomScore();
  if (own && *own < kMaxOomScore) (void)sys::SetOomScore(pid, *own + 1);
}

Result<> MoveTo(const std::string& cgroup_path, int pid) {
  oci::CgroupOptions options;
  options.path = cgroup_path;
  auto cgroup = oci::Cgroup::Open(options);
  if (!cgroup && cgroup.error().code == Code::kNotFound) cgroup = oci::Cgroup::Create(options);
  if (!cgroup) return std::move(cgroup.error());
  return (*cgroup)->Attach(pid);
}

// What the companion makes of its pod, and what it reads on how.
struct CompanionKind {
  bool vm = false;
  std::string settings_path;  // empty: there is no such file
};

Result<CompanionKind> KindOfCompanion(const ShimCommand& command, const StartInput& input, const std::string& config) {
  CompanionKind kind;
  kind.settings_path = input.settings_path.empty() ? Environment(kShimSettingsVariable) : input.settings_path;
  ShimSettings settings = TRY(LoadShimSettings(kind.settings_path));
  std::string asked = TRY(SandboxOf(config));
  kind.vm = command.vm() || (asked.empty() ? settings.sandbox : asked) == "vm";
  return kind;
}

Result<int> SpawnCompanion(const ShimCommand& command, const StartInput& input, const CompanionKind& kind, const std::string& bundle, const std::string& group,
                           const std::string& socket, int listener) {
  sys::SpawnRequest request;
  request.program = TRY(sys::OwnProgram());
  request.argv = {request.program, "serve", "--id", group, "--namespace", command.name_space, "--socket", socket, "--listen-fd", "3"};
  request.fds = {listener};
  UniqueFd log = OpenLog(bundle);
  if (log) {
    request.argv.insert(request.argv.end(), {"--log-fd", "4"});
    request.fds.push_back(log.get());
  }
  std::string events = input.ttrpc_address.empty() ? Environment("TTRPC_ADDRESS") : input.ttrpc_address;
  if (!events.empty()) request.argv.insert(request.argv.end(), {"--events", events});
  if (kind.vm) request.argv.insert(request.argv.end(), {"--sandbox", "vm"});
  if (!kind.settings_path.empty()) request.argv.insert(request.argv.end(), {"--settings", kind.settings_path});
  if (input.debug) request.argv.insert(request.argv.end(), {"--log-level", "debug"});
  for (const char* name : {"PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS"}) {
    if (const char* value = getenv(name)) request.environment.push_back(fmt::format("{}={}", name, value));
  }
  return sys::SpawnDetached(request);
}

Result<> StartCompanion(const ShimCommand& command, const StartInput& input, const CompanionKind& kind, const std::string& bundle, const std::string& group,
                        const std::string& socket) {
  UniqueFd listener = TRY(sys::ListenUnixAnew(socket));
  auto start = [&]() -> Result<> {
    int pid = TRY(SpawnCompanion(command, input, kind, bundle, group, socket, listener.get()));
    RaiseOomScore(pid);
    auto placed = input.shim_cgroup.empty() ? Result<>() : MoveTo(input.shim_cgroup, pid);
    if (placed) placed = WriteBundleFile(bundle, kShimPidFile, fmt::format("{}", pid));
    if (!placed) kill(pid, SIGKILL);
    return placed;
  };
  auto started = start();
  if (!started) unlink(socket.c_str());
  return started;
}

// Ends a container whose companion lives: when its client could not make use of it.
class Ending {
 public:
  Ending(sys::EventLoop* loop, std::shared_ptr<ttrpc::Client> client, std::string id) : loop_(loop), client_(std::move(client)), id_(std::move(id)) {}

  void Run() {
    v3::KillRequest kill;
    kill.set_id(id_);
    kill.set_signal(SIGKILL);
    kill.set_all(true);
    Call("Kill", kill, [this](bool done) { done ? Wait() : ShutDown(); });
  }

 private:
  void Wait() {
    v3::WaitRequest wait;
    wait.set_id(id_);
    Call("Wait", wait, [this](bool) { Delete(); });
  }
  void Delete() {
    v3::DeleteRequest remove;
    remove.set_id(id_);
    Call("Delete", remove, [this](bool) { ShutDown(); });
  }
  void ShutDown() {
    v3::ShutdownRequest shutdown;
    shutdown.set_id(id_);
    Call("Shutdown", shutdown, [this](bool) { loop_->Stop(); });
  }
  template <class Request>
  void Call(const char* method, const Request& request, std::function<void(bool)> then) {
    client_->Call("containerd.task.v3.Task", method, request.SerializeAsString(), kEndMillis,
                  [then = std::move(then)](Result<std::string> answer) { then(answer.has_value()); });
  }

  sys::EventLoop* loop_;
  std::shared_ptr<ttrpc::Client> client_;
  std::string id_;
};

// Nobody lives there: its socket's file goes.
Result<> EndLiving(const std::string& socket, const std::string& id) {
  auto connection = sys::ConnectUnix(socket);
  if (!connection) {
    if (connection.error().sys_errno == ECONNREFUSED) unlink(socket.c_str());
    return {};
  }
  auto loop = TRY(sys::EventLoop::Create());
  Ending ending(loop.get(), TRY(ttrpc::Client::Create(loop.get(), std::move(*connection))), id);
  ending.Run();
  return loop->Run();
}

// How the container ended: as its companion has written, or with it.
void FillExit(const std::string& bundle, v3::DeleteResponse* response) {
  int64_t nanos = NowNanos();
  response->set_exit_status(kLostStatus);
  if (auto exit = sys::ReadFile(bundle + "/" + kExitFile, 64)) {
    auto words = Split(*exit, ' ');
    auto status = ParseUint64(words[0]);
    auto at = words.size() == 2 ? ParseInt64(words[1]) : Result<int64_t>(MakeError(Code::kInvalidArgument, "no time"));
    if (status && at) {
      response->set_exit_status(static_cast<uint32_t>(*status));
      nanos = *at;
    }
  }
  task::SetTime(nanos, response->mutable_exited_at());
}

}  // namespace

Result<> WriteBundleFile(const std::string& bundle, const char* name, const std::string& text) {
  return sys::ReplaceFile(bundle + "/" + name, text);
}

Result<> StartShim(const ShimCommand& command) {
  std::string bundle = TRY(WorkingFolder());
  StartInput input = TRY(ParseStartInput(TRY(ReadInput()), command));
  auto config = sys::ReadFile(bundle + "/config.json", limits::kJsonBytes);
  // A sandbox that is no container has none.
  if (!config && config.error().sys_errno == ENOENT) config = std::string("{}");
  if (!config) return std::move(config.error());
  auto group = GroupOf(*config, command.id);
  if (!group) return std::move(group.error()).Within(bundle + "/config.json");
  CompanionKind kind = TRY(KindOfCompanion(command, input, *config));
  std::string folder = input.socket_dir.empty() ? kSocketFolder : input.socket_dir;
  TRY(MakeFolders(folder));
  std::string socket = SocketPath(folder, command, *group);
  if (!sys::ConnectUnix(socket)) TRY(StartCompanion(command, input, kind, bundle, *group, socket));
  std::string address = kScheme + socket;
  TRY(WriteBundleFile(bundle, kAddressFile, address));
  return Print(StartAnswer(input, Environment("MAX_SHIM_VERSION"), address));
}

Result<> DeleteShim(const ShimCommand& command) {
  std::string bundle = TRY(BundleOf(command));
  v3::DeleteResponse response;
  if (auto pid = sys::ReadFile(bundle + "/" + kInitPidFile, 64)) response.set_pid(static_cast<uint32_t>(ParseUint64(Trim(*pid)).value_or(0)));
  auto address = sys::ReadFile(bundle + "/" + kAddressFile, limits::kPathBytes);
  if (address && address->starts_with(kScheme)) TRY(EndLiving(address->substr(sizeof kScheme - 1), command.id));
  TRY(CleanUp(bundle));
  // The root is mounted where the container alone sees it; clients that mount it themselves may leave it to us.
  while (umount2((bundle + "/rootfs").c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
  }
  FillExit(bundle, &response);
  return Print(response.SerializeAsString());
}

Result<> PrintInfo(const ShimCommand& command) {
  containerd::types::RuntimeInfo info;
  info.set_name(command.vm() ? "io.containerd.caisson-vm.v2" : "io.containerd.caisson.v2");
  info.mutable_version()->set_version(CAISSON_VERSION);
  return Print(info.SerializeAsString());
}

}  // namespace caisson::shim
