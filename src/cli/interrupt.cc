// SPDX-License-Identifier: Apache-2.0
#include "cli/interrupt.h"

#include <csignal>

namespace caisson::cli {
namespace {
volatile std::sig_atomic_t interrupted = 0;
}

void IgnoreBrokenPipes() { std::signal(SIGPIPE, SIG_IGN); }

void CatchInterrupts() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool TakeInterrupt() {
  if (!interrupted) return false;
  interrupted = 0;
  return true;
}

}  // namespace caisson::cli
