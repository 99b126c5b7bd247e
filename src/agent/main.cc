// SPDX-License-Identifier: Apache-2.0
//
// caisson-agent: /init of a VM pod's guest. Four kinds of processes, by what each may do:
//
//   PID 1       prepares the machine (early_init.h), then reaps, and starts launchers (supervisor.h); it parses nothing that comes
//               from outside. When the messenger ends, whatever the reason, so does the machine, with that reason as the last line
//               of its console.
//   messenger   one event loop without rights (rights.h): it serves Task and caisson.pod.v1.Pod, as a companion does for a native
//               pod, and caisson.guest.v1.Guest, on the channel to the companion (channel.h), and reads figures.
//   launchers   each does one thing that the messenger may not, such as making a container, and ends (launcher.h).
//   carriers    of shared folders, where there are any (shared_folders.h).
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <utility>

#include "agent/channel.h"
#include "agent/early_init.h"
#include "agent/guest_service.h"
#include "agent/launch_socket.h"
#include "agent/launcher.h"
#include "agent/launches.h"
#include "agent/rights.h"
#include "agent/supervisor.h"
#include "base/log.h"
#include "sys/event_loop.h"
#include "task/pod_service.h"
#include "task/task_service.h"
#include "ttrpc/server.h"

namespace caisson::agent {
namespace {

constexpr int64_t kPortMillis = 10'000;

Result<> OwnMessengersFiles() {
  std::string port = TRY(AwaitPort(kPortName, Deadline::After(kPortMillis)));
  if (chown(port.c_str(), kNobodysId, kNobodysId) != 0) return ErrnoError("own '{}'", port);
  if ((mkdir(kGatesDir, 0700) != 0 && errno != EEXIST) || chown(kGatesDir, kNobodysId, kNobodysId) != 0) return ErrnoError("make '{}'", kGatesDir);
  return {};
}

Result<> Serve(UniqueFd socket) {
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_TRIM_THRESHOLD, 32 << 10);
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_NAME, "caisson-agent", 0, 0, 0);
  SpareFromOom();
  TRY(OwnMessengersFiles());
  TRY(DropRights());
  TRY(AllowMessengerCalls());
  auto loop = TRY(sys::EventLoop::Create());
  Launches launches(std::move(socket));
  auto tasks = TRY(task::Tasks::Create(loop.get(), &launches));
  GuestService guest(loop.get(), tasks.get(), &launches);
  TRY(guest.Start());
  auto server = ttrpc::Server::Create(loop.get());
  guest.Register(server.get());
  task::RegisterTaskService(server.get(), tasks.get(), [] {});  // it is the companion that ends a VM
  task::RegisterPodService(server.get(), tasks.get());
  Channel channel(loop.get(), server.get());
  TRY(channel.Open());
  return loop->Run();
}

// The VMM is told to end by a reset: it was started with "-no-reboot".
[[noreturn]] void EndMachine(const std::string& why) {
  log::Error("the machine ends: {}", why);
  sync();
  reboot(RB_AUTOBOOT);
  for (;;) pause();
}

// A child that does `run` and ends.
template <class Run>
pid_t StartChild(const char* what, Run run) {
  pid_t child = fork();
  if (child < 0) EndMachine(ErrnoError("start {}", what).message);
  if (child > 0) return child;
  run();
  _exit(1);
}

[[noreturn]] void RunInit() {
  auto initramfs = EarlyInit();
  if (!initramfs) EndMachine(initramfs.error().message);
  auto children = task::OwnChildren();
  if (!children) EndMachine(children.error().message);
  auto pair = MakeSocketPair(SOCK_SEQPACKET);
  if (!pair) EndMachine(pair.error().message);
  SupervisorOptions options;
  options.children = std::move(*children);
  options.messenger = StartChild("the agent", [&] {
    initramfs->Reset();
    pair->first.Reset();
    options.children.reset();
    setsid();
    auto served = Serve(std::move(pair->second));
    if (!served) log::Error("{}", served.error().message);
  });
  options.settler = StartChild("what is left to do", [&] {
    pair->first.Reset();
    pair->second.Reset();
    FinishInit(std::move(*initramfs));
  });
  options.socket = std::move(pair->first);
  options.launch = &RunLauncher;
  pair->second.Reset();
  initramfs->Reset();
  EndMachine(Supervise(std::move(options)));
}

}  // namespace
}  // namespace caisson::agent

int main(int argc, char** argv) {
  if (getpid() == 1) caisson::agent::RunInit();
  if (argc == 2 && std::strcmp(argv[1], "--version") == 0) {
    std::puts("caisson-agent " CAISSON_VERSION);
    return 0;
  }
  std::fputs("caisson-agent: the first process of a VM pod's guest; it runs as PID 1 only\n", stderr);
  return 2;
}
