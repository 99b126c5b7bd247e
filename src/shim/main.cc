// SPDX-License-Identifier: Apache-2.0
//
// containerd-shim-caisson-v2: the companion, one process per pod.
//
//   containerd-shim-caisson-v2 serve --id POD --listen-fd N [--seccomp-cache DIR]
//     serves the pod on an already listening unix socket until it is shut down; started by caissond.
//   containerd-shim-caisson-v2 cleanup --id POD --bundle DIR
//     after the companion's sudden death: ends and removes what it left.
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <string>

#include "base/log.h"
#include "base/strings.h"
#include "shim/cgroup_record.h"
#include "shim/native_pod.h"
#include "sys/event_loop.h"
#include "task/pod_service.h"
#include "task/task_service.h"
#include "ttrpc/server.h"

namespace caisson::shim {
namespace {

constexpr char kUsage[] =
    "usage: containerd-shim-caisson-v2 serve --id POD --listen-fd N [--seccomp-cache DIR]\n"
    "       containerd-shim-caisson-v2 cleanup --id POD --bundle DIR\n"
    "The companion of one pod of Caisson; caissond starts it.\n";

// "--name value" pairs after the verb.
Result<std::map<std::string, std::string>> ParseFlags(int argc, char** argv) {
  std::map<std::string, std::string> flags;
  for (int i = 2; i < argc; i += 2) {
    if (std::strncmp(argv[i], "--", 2) != 0 || i + 1 >= argc) return MakeError(Code::kInvalidArgument, "flag '{}' has no value", argv[i]);
    flags[argv[i] + 2] = argv[i + 1];
  }
  return flags;
}

Result<> Serve(std::map<std::string, std::string>& flags) {
  int listener = static_cast<int>(TRY(ParseUint64(flags["listen-fd"])));
  if (flags["id"].empty()) return MakeError(Code::kInvalidArgument, "serve needs --id");
  if (fcntl(listener, F_SETFD, FD_CLOEXEC) != 0) return ErrnoError("descriptor {} to listen on", listener);
  fcntl(listener, F_SETFL, fcntl(listener, F_GETFL) | O_NONBLOCK);
  // Its memory is paid once per pod: one arena, and what was freed goes back early.
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_TRIM_THRESHOLD, 64 << 10);
  mallopt(M_MMAP_THRESHOLD, 64 << 10);
  prctl(PR_SET_NAME, "caisson-shim", 0, 0, 0);
  signal(SIGPIPE, SIG_IGN);

  auto loop = TRY(sys::EventLoop::Create());
  auto tasks = TRY(task::Tasks::Create(loop.get()));
  // The answer to the request that ends us is written first.
  auto shutdown = [&loop] { loop->After(1, [&loop] { loop->Stop(); }); };
  NativePod pod(flags["id"], flags["seccomp-cache"], tasks.get(), shutdown);
  auto server = ttrpc::Server::Create(loop.get());
  pod.Register(server.get());
  task::RegisterTaskService(server.get(), tasks.get(), shutdown);
  task::RegisterPodService(server.get(), tasks.get());
  TRY(server->Listen(UniqueFd(listener)));
  return loop->Run();
}

Result<> Run(int argc, char** argv) {
  std::string verb = argc > 1 ? argv[1] : "--help";
  if (verb == "--help" || verb == "-h" || verb == "help") {
    std::fputs(kUsage, stdout);
    return {};
  }
  auto flags = TRY(ParseFlags(argc, argv));
  if (verb == "serve") return Serve(flags);
  if (verb == "cleanup") {
    if (flags["bundle"].empty()) return MakeError(Code::kInvalidArgument, "cleanup needs --bundle");
    return CleanUp(flags["bundle"]);
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
