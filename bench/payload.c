// SPDX-License-Identifier: Apache-2.0
//
// The program of every benchmark container and of the peers' sandbox image. Waits for SIGTERM and exits with 0; its
// arguments are only there to be found in /proc. As "true" it exits at once.
#include <signal.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char** argv) {
  const char* name = strrchr(argv[0], '/');
  if (strcmp(name ? name + 1 : argv[0], "true") == 0) return 0;
  (void)argc;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigprocmask(SIG_BLOCK, &set, 0);
  int signal_number = 0;
  sigwait(&set, &signal_number);
  return 0;
}
