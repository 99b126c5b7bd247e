// SPDX-License-Identifier: Apache-2.0
//
// caisson-agent: /init of a VM pod's guest.
//
// PID 1 prepares the machine (early_init.h), starts the agent proper as its child and does nothing further but reap: it parses
// nothing that comes from outside. When the agent ends, whatever the reason, so does the machine, with that reason as the
// last line of its console. The agent itself is one event loop: it serves Task and caisson.pod.v1.Pod, as a companion does for
// a native pod, and caisson.guest.v1.Guest, on the channel to the companion (channel.h).
#include <malloc.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "agent/channel.h"
#include "agent/early_init.h"
#include "agent/guest_service.h"
#include "base/log.h"
#include "sys/event_loop.h"
#include "task/pod_service.h"
#include "task/task_service.h"
#include "ttrpc/server.h"

namespace caisson::agent {
namespace {

Result<> Serve() {
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_TRIM_THRESHOLD, 32 << 10);
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_NAME, "caisson-agent", 0, 0, 0);
  auto loop = TRY(sys::EventLoop::Create());
  auto tasks = TRY(task::Tasks::Create(loop.get()));
  GuestService guest(loop.get(), tasks.get());
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

std::string DescribeEnd(const siginfo_t& info) {
  if (info.si_code == CLD_EXITED) return fmt::format("the agent ended with status {}", info.si_status);
  return fmt::format("the agent was killed by signal {} ({})", info.si_status, strsignal(info.si_status));
}

[[noreturn]] void RunInit() {
  auto ready = EarlyInit();
  if (!ready) EndMachine(ready.error().message);
  pid_t agent = fork();
  if (agent < 0) EndMachine(ErrnoError("start the agent").message);
  if (agent == 0) {
    ready->Reset();
    setsid();
    auto done = Serve();
    if (!done) log::Error("{}", done.error().message);
    _exit(1);
  }
  FinishInit(std::move(*ready));
  for (;;) {
    siginfo_t info{};
    if (waitid(P_ALL, 0, &info, WEXITED) != 0 && errno == EINTR) continue;
    if (info.si_pid == agent) EndMachine(DescribeEnd(info));
  }
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
