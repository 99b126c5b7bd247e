// SPDX-License-Identifier: Apache-2.0
//
// launcher_bench BUNDLE COUNT: times the launcher itself, in process as the companion uses it, on the OCI bundle BUNDLE:
// create and start, exec of /bin/true until it has exited, and kill and delete. One line of JSON per round, milliseconds.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/clock.h"
#include "base/json.h"
#include "oci/container.h"
#include "oci/spec.h"

namespace {

using caisson::Result;

double Millis(int64_t since) { return static_cast<double>(caisson::MonotonicNanos() - since) / 1e6; }

Result<std::string> ReadFile(const std::string& path) {
  caisson::UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return caisson::ErrnoError("open '{}'", path);
  std::string text(1 << 20, '\0');
  ssize_t n = read(fd.get(), text.data(), text.size());
  if (n < 0) return caisson::ErrnoError("read '{}'", path);
  text.resize(static_cast<size_t>(n));
  return text;
}

void Reap(const caisson::oci::Process& process) {
  siginfo_t info{};
  while (waitid(P_PIDFD, static_cast<id_t>(process.pidfd.get()), &info, WEXITED) != 0 && errno == EINTR) {
  }
}

Result<> Round(const std::string& bundle, const std::string& config, int number) {
  int64_t at = caisson::MonotonicNanos();
  caisson::oci::CreateOptions options;
  options.id = "bench-" + std::to_string(getpid()) + "-" + std::to_string(number);
  options.bundle = bundle;
  options.spec = TRY(caisson::oci::ParseSpec(config));
  options.seccomp_cache_dir = bundle + "/seccomp";
  auto container = TRY(caisson::oci::Container::Create(std::move(options)));
  TRY(container->Start());
  double start = Millis(at);

  caisson::oci::ExecOptions exec;
  exec.process = container->spec().process;
  exec.process.args = {"/bin/true"};
  at = caisson::MonotonicNanos();
  auto process = TRY(container->Exec(std::move(exec)));
  Reap(process);
  double ran = Millis(at);

  TRY(container->Kill(SIGKILL, true));
  Reap(container->init());
  at = caisson::MonotonicNanos();
  TRY(container->Delete(5000));
  printf("{\"create_start\": %.3f, \"exec\": %.3f, \"delete\": %.3f}\n", start, ran, Millis(at));
  fflush(stdout);
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: launcher_bench BUNDLE COUNT\n");
    return 2;
  }
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  auto config = ReadFile(std::string(argv[1]) + "/config.json");
  Result<> done;
  if (!config) done = std::move(config.error());
  for (int i = 0; done && i < atoi(argv[2]); ++i) done = Round(argv[1], *config, i);
  if (!done) {
    fprintf(stderr, "launcher_bench: %s\n", done.error().message.c_str());
    return 1;
  }
  return 0;
}
