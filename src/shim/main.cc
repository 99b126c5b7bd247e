// SPDX-License-Identifier: Apache-2.0
//
// containerd-shim-caisson-v2: the companion, one process per pod.
//
//   containerd-shim-caisson-v2 serve --id POD --listen-fd N [--log-fd N] [--seccomp-cache DIR] [--sandbox native|vm|shim]
//     serves the pod on an already listening unix socket until it is shut down, or gets SIGTERM; started by caissond.
//   containerd-shim-caisson-v2 -namespace NS -id ID [-address …] [-bundle DIR] start | delete
//     as containerd and CRI-O call their shims (shim_command.h); `start` leaves a companion behind that serves their pod or container:
//     `serve` with --namespace NS --socket PATH [--events PATH] [--log-level LEVEL] [--sandbox vm] [--settings PATH].
//   containerd-shim-caisson-v2 cleanup --id POD --bundle DIR
//     after the companion's sudden death: ends and removes what it left.
//   containerd-shim-caisson-v2 probe --folder DIR
//     whether pods can have user namespaces, with image layers in DIR: exit status 1 and the reason if not.
//   containerd-shim-caisson-v2 serve-files
//     serves folders to the guest of a VM pod, confined; started by its companion with two sockets (files/serve.h).
//   containerd-shim-caisson-v2 pause | exit STATUS
//     as the one process of a container: does nothing until it is ended, or ends at once.
//   containerd-shim-caisson-v2 criu-check [--criu PROGRAM]
//     becomes `criu check`, which says whether containers can be checkpointed on this host.
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "base/id.h"
#include "base/log.h"
#include "base/strings.h"
#include "files/serve.h"
#include "oci/user_namespace.h"
#include "shim/cgroup_record.h"
#include "shim/containerd_vm.h"
#include "shim/event_publisher.h"
#include "shim/foreign_pod.h"
#include "shim/foreign_record.h"
#include "shim/native_pod.h"
#include "shim/shim_actions.h"
#include "shim/shim_settings.h"
#include "shim/template_keeper.h"
#include "shim/vm_pod.h"
#include "sys/event_loop.h"
#include "task/checkpoint.h"
#include "task/pod_service.h"
#include "task/task_service.h"
#include "ttrpc/server.h"
#include "vmm/accelerator.h"

namespace caisson::shim {
namespace {

constexpr char kUsage[] =
    "usage: containerd-shim-caisson-v2 serve --id POD --listen-fd N [--log-fd N] [--seccomp-cache DIR] [--sandbox native|vm|shim|template] [--folder DIR]\n"
    "       containerd-shim-caisson-v2 -namespace NS -id ID [-address PATH] [-bundle DIR] [-debug] start|delete\n"
    "       containerd-shim-caisson-v2 -v | -info\n"
    "       containerd-shim-caisson-v2 cleanup --id POD --bundle DIR\n"
    "       containerd-shim-caisson-v2 probe --folder DIR | --accelerator kvm\n"
    "       containerd-shim-caisson-v2 criu-check [--criu PROGRAM]\n"
    "       containerd-shim-caisson-v2 pause | exit STATUS\n"
    "The companion of one pod of Caisson; caissond, containerd or CRI-O starts it.\n";
// From the death of a pod's machine to that of its companion: its last answers are on their way.
constexpr int64_t kEndMillis = 200;
// What containerd has not taken when its last container is gone is lost after that.
constexpr int64_t kLastEventsMillis = 2'000;

using Flags = std::map<std::string, std::string>;

// "--name value" pairs after the verb.
Result<Flags> ParseFlags(int argc, char** argv, std::initializer_list<const char*> known) {
  Flags flags;
  for (int i = 2; i < argc; i += 2) {
    bool good = std::strncmp(argv[i], "--", 2) == 0 &&
                std::any_of(known.begin(), known.end(), [&](const char* name) { return std::strcmp(name, argv[i] + 2) == 0; });
    if (!good) return MakeError(Code::kInvalidArgument, "unknown flag '{}' (try --help)", argv[i]);
    if (i + 1 >= argc) return MakeError(Code::kInvalidArgument, "flag '{}' has no value", argv[i]);
    flags[argv[i] + 2] = argv[i + 1];
  }
  bool has_id = std::any_of(known.begin(), known.end(), [](const char* name) { return std::strcmp(name, "id") == 0; });
  if (has_id && !IsSafeName(flags["id"])) return MakeError(Code::kInvalidArgument, "'--id {}' is no pod's id", flags["id"]);
  return flags;
}

// A descriptor that was handed to us; nothing of ours inherits it.
Result<int> TakeDescriptor(const std::string& number) {
  uint64_t fd = TRY(ParseUint64(number));
  if (fd > INT_MAX || fcntl(static_cast<int>(fd), F_SETFD, FD_CLOEXEC) != 0) {
    return MakeError(Code::kInvalidArgument, "'{}' is no open descriptor", number);
  }
  return static_cast<int>(fd);
}

// Its memory is paid once per pod: one arena, and what was freed goes back early.
void SaveMemory() {
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_TRIM_THRESHOLD, 32 << 10);
  mallopt(M_TOP_PAD, 0);
  mallopt(M_MMAP_THRESHOLD, 64 << 10);
}

// SIGTERM and SIGINT on the loop; children get their own mask back (oci).
Result<UniqueFd> WatchSignals(sys::EventLoop* loop, std::function<void()> on_end) {
  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  if (sigprocmask(SIG_BLOCK, &ends, nullptr) != 0) return ErrnoError("block SIGTERM");
  UniqueFd fd(signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) return ErrnoError("signalfd");
  TRY(loop->Watch(fd.get(), EPOLLIN, [raw = fd.get(), on_end = std::move(on_end)](uint32_t) {
    signalfd_siginfo info;
    if (read(raw, &info, sizeof info) == sizeof info) on_end();
  }));
  return fd;
}

// Until the loop is stopped.
Result<> ServePod(SandboxPod* pod, ttrpc::Server* server, UniqueFd listener, sys::EventLoop* loop, const std::function<void()>& shutdown) {
  RegisterSandboxService(server, pod, shutdown);
  UniqueFd signals = TRY(WatchSignals(loop, [&] {
    auto stopped = pod->Stop(kStopMillis);
    if (!stopped) log::Error("stop pod {}: {}", pod->id(), stopped.error().message);
    shutdown();
  }));
  TRY(server->Listen(std::move(listener)));
  auto done = loop->Run();
  loop->Unwatch(signals.get());
  return done;
}

// Not before the answer to the request that ends us is written.
std::function<void()> StopSoon(sys::EventLoop* loop) {
  return [loop] { loop->Post([loop] { loop->Stop(); }); };
}

Result<> ServeNative(const std::string& id, const std::string& seccomp_cache, UniqueFd listener, sys::EventLoop* loop) {
  auto tasks = TRY(task::Tasks::Create(loop));
  auto shutdown = StopSoon(loop);
  NativePod pod(id, seccomp_cache, tasks.get());
  auto server = ttrpc::Server::Create(loop);
  task::RegisterTaskService(server.get(), tasks.get(), shutdown);
  task::RegisterPodService(server.get(), tasks.get());
  return ServePod(&pod, server.get(), std::move(listener), loop, shutdown);
}

// What a companion of containerd's does beside serving: its events, what `delete` has to find in a bundle.
task::TasksOptions ForContainerd(const Flags& flags, EventPublisher* publisher) {
  task::TasksOptions options;
  options.seccomp_cache_dir = kSeccompFolder;
  options.containerd_namespace = flags.at("namespace");
  options.on_cgroup = &RecordCgroup;
  options.on_created = [](const task::Task& task) { return WriteBundleFile(task.bundle, kInitPidFile, fmt::format("{}", task.init.oci.pid)); };
  options.on_ended = [](const task::Task& task) {
    auto written = WriteBundleFile(task.bundle, kExitFile, fmt::format("{} {}", task.init.exit_status, task.init.exited_at_nanos));
    if (!written) log::Warn("{}", written.error().message);
  };
  // Nothing is left for `delete`, which may come late, when another of that name has its place.
  options.on_deleted = [](const task::Task& task) { ForgetCgroups(task.bundle); };
  if (publisher != nullptr) options.on_event = [publisher](const task::Event& event) { publisher->Publish(event); };
  return options;
}

// Until the loop is stopped; `shutdown` when there is nothing left to serve.
Result<> ServeContainerdVm(const Flags& flags, UniqueFd listener, EventPublisher* publisher, const std::function<void()>& shutdown, sys::EventLoop* loop) {
  auto settings = flags.find("settings");
  task::EventSink on_event;
  if (publisher != nullptr) on_event = [publisher](const task::Event& event) { publisher->Publish(event); };
  ContainerdVm vm(flags.at("id"), flags.at("namespace"), loop, TRY(LoadShimSettings(settings == flags.end() ? "" : settings->second)), std::move(on_event));
  auto server = ttrpc::Server::Create(loop);
  vm.Register(server.get(), [&vm, shutdown] {
    if (auto stopped = vm.pod()->Stop(kStopMillis); !stopped) log::Error("stop pod {}: {}", vm.pod()->id(), stopped.error().message);
    shutdown();
  });
  return ServePod(vm.pod(), server.get(), std::move(listener), loop, shutdown);
}

Result<> ServeContainerd(Flags flags, UniqueFd listener, sys::EventLoop* loop) {
  log::Level level = log::Level::kInfo;
  if (log::ParseLevel(flags["log-level"], &level)) log::SetLevel(level);
  if (chdir("/") != 0) return ErrnoError("chdir to '/'");
  (void)mkdir("/run/caisson", 0700);
  std::optional<EventPublisher> publisher;
  if (!flags["events"].empty()) publisher.emplace(loop, flags["events"], flags["namespace"]);
  auto shutdown = [stop = StopSoon(loop), &publisher, socket = flags["socket"]] {
    // Whoever asks for the same pod from now on gets another companion.
    unlink(socket.c_str());
    publisher ? publisher->Flush(kLastEventsMillis, stop) : stop();
  };
  if (flags["sandbox"] == "vm") return ServeContainerdVm(flags, std::move(listener), publisher ? &*publisher : nullptr, shutdown, loop);
  auto tasks = TRY(task::Tasks::Create(loop));
  tasks->set_options(ForContainerd(flags, publisher ? &*publisher : nullptr));
  NativePod pod(flags["id"], kSeccompFolder, tasks.get());
  auto server = ttrpc::Server::Create(loop);
  // A sandbox ends by its own service: it may well be without containers for a while.
  task::RegisterTaskService(server.get(), tasks.get(), [&pod, shutdown] {
    if (!pod.active()) shutdown();
  });
  task::RegisterPodService(server.get(), tasks.get());
  return ServePod(&pod, server.get(), std::move(listener), loop, shutdown);
}

Result<> ServeVm(const std::string& id, const std::string& seccomp_cache, UniqueFd listener, sys::EventLoop* loop) {
  auto shutdown = StopSoon(loop);
  // Without its machine a pod is nothing: those who wait are told, then this process ends as well.
  VmPod pod(id, loop, [loop, shutdown] { loop->After(kEndMillis, shutdown); });
  pod.SetSeccompCache(seccomp_cache);
  auto server = ttrpc::Server::Create(loop);
  pod.Register(server.get(), shutdown);
  return ServePod(&pod, server.get(), std::move(listener), loop, shutdown);
}

Result<> ServeForeign(const std::string& id, const std::string& seccomp_cache, UniqueFd listener, sys::EventLoop* loop) {
  auto tasks = TRY(task::Tasks::Create(loop));
  auto shutdown = StopSoon(loop);
  ForeignPod pod(id, seccomp_cache, tasks.get(), [loop, shutdown] { loop->After(kEndMillis, shutdown); });
  auto server = ttrpc::Server::Create(loop);
  pod.Register(server.get(), shutdown);
  return ServePod(&pod, server.get(), std::move(listener), loop, shutdown);
}

// A template belongs to no pod.
Result<> ServeTemplate(const std::string& id, const std::string& folder, UniqueFd listener, sys::EventLoop* loop) {
  if (!folder.starts_with('/')) return MakeError(Code::kInvalidArgument, "--sandbox template needs --folder with an absolute path");
  auto shutdown = StopSoon(loop);
  TemplateKeeper keeper(id, folder, loop, shutdown);
  auto server = ttrpc::Server::Create(loop);
  keeper.Register(server.get());
  UniqueFd signals = TRY(WatchSignals(loop, shutdown));
  TRY(server->Listen(std::move(listener)));
  auto done = loop->Run();
  loop->Unwatch(signals.get());
  return done;
}

Result<> Serve(Flags flags) {
  UniqueFd listener(TRY(TakeDescriptor(flags["listen-fd"])));
  fcntl(listener.get(), F_SETFL, fcntl(listener.get(), F_GETFL) | O_NONBLOCK);
  if (!flags["log-fd"].empty()) log::SetFd(TRY(TakeDescriptor(flags["log-fd"])));
  SaveMemory();
  prctl(PR_SET_NAME, "caisson-shim", 0, 0, 0);
  auto loop = TRY(sys::EventLoop::Create());
  if (!flags["namespace"].empty()) return ServeContainerd(std::move(flags), std::move(listener), loop.get());
  const std::string& sandbox = flags["sandbox"];
  if (sandbox == "vm") return ServeVm(flags["id"], flags["seccomp-cache"], std::move(listener), loop.get());
  if (sandbox == "shim") return ServeForeign(flags["id"], flags["seccomp-cache"], std::move(listener), loop.get());
  if (sandbox == "template") return ServeTemplate(flags["id"], flags["folder"], std::move(listener), loop.get());
  if (!sandbox.empty() && sandbox != "native") return MakeError(Code::kInvalidArgument, "no sandbox '{}' (there are: native, vm, shim, template)", sandbox);
  return ServeNative(flags["id"], flags["seccomp-cache"], std::move(listener), loop.get());
}

Result<> ProbeKvm(const std::string& name) {
  if (name != "kvm") return MakeError(Code::kInvalidArgument, "no accelerator '{}' to probe for (there is: kvm)", name);
  auto probe = vmm::ProbeAccelerator();
  if (probe.accelerator == vmm::Accelerator::kKvm) return {};
  return MakeError(Code::kUnavailable, "KVM is not usable: {}", probe.reason);
}

// As the one process of a container that keeps a sandbox: until SIGTERM or SIGINT, reaping what comes to it.
Result<> Pause() {
  sigset_t set;
  sigemptyset(&set);
  for (int number : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&set, number);
  if (sigprocmask(SIG_BLOCK, &set, nullptr) != 0) return ErrnoError("block signals");
  for (;;) {
    siginfo_t info{};
    while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) == 0 && info.si_pid != 0) info.si_pid = 0;
    int number = sigwaitinfo(&set, nullptr);
    if (number == SIGTERM || number == SIGINT) return {};
  }
}

Result<> RunShimCommand(const ShimCommand& command) {
  if (command.version) {
    std::fputs("containerd-shim-caisson-v2:\n  Version:  " CAISSON_VERSION "\n", stdout);
    return {};
  }
  if (command.info) return PrintInfo(command);
  return command.action == "start" ? StartShim(command) : DeleteShim(command);
}

Result<> Run(int argc, char** argv) {
  if (IsShimCommand(argc, argv)) return RunShimCommand(TRY(ParseShimCommand(argc, argv)));
  std::string_view verb = argc > 1 ? argv[1] : "--help";
  if (verb == "--help" || verb == "-h" || verb == "help") {
    std::fputs(kUsage, stdout);
    return {};
  }
  if (verb == "serve") return Serve(TRY(ParseFlags(argc, argv, {"id", "listen-fd", "log-fd", "seccomp-cache", "sandbox", "folder", "namespace", "socket", "events", "log-level", "settings"})));
  if (verb == "serve-files") std::exit(files::Serve());
  if (verb == "cleanup") {
    auto flags = TRY(ParseFlags(argc, argv, {"id", "bundle"}));
    if (!flags["bundle"].starts_with('/')) return MakeError(Code::kInvalidArgument, "cleanup needs --bundle with an absolute path");
    auto cleaned = CleanUp(flags["bundle"]);
    auto foreign = CleanUpForeign(flags["bundle"]);
    TRY(std::move(cleaned));
    return foreign;
  }
  if (verb == "probe") {
    auto flags = TRY(ParseFlags(argc, argv, {"folder", "accelerator"}));
    if (!flags["accelerator"].empty()) return ProbeKvm(flags["accelerator"]);
    if (!flags["folder"].starts_with('/')) return MakeError(Code::kInvalidArgument, "probe needs --folder with an absolute path");
    return oci::ProbeUserNamespaces(flags["folder"]);
  }
  if (verb == "pause") return Pause();
  if (verb == "exit") std::exit(static_cast<int>(TRY(ParseUint64(argc > 2 ? argv[2] : "0"))) & 0xff);
  if (verb == "criu-check") {
    auto flags = TRY(ParseFlags(argc, argv, {"criu"}));
    std::string program = TRY(task::FindCriu(flags["criu"])), check = "check";
    char* args[] = {program.data(), check.data(), nullptr};
    execv(program.c_str(), args);
    return ErrnoError("exec '{}'", program);
  }
  return MakeError(Code::kInvalidArgument, "unknown verb '{}' (try --help)", verb);
}

}  // namespace
}  // namespace caisson::shim

int main(int argc, char** argv) {
  auto done = caisson::shim::Run(argc, argv);
  if (done) return 0;
  caisson::log::Error("{}", done.error().message);
  return 1;
}
