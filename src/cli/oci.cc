// SPDX-License-Identifier: Apache-2.0
#include "cli/oci.h"

#include <limits.h>
#include <unistd.h>

#include <string>

#include "cli/command.h"

namespace caisson::cli {

int RunOci(char** words) {
  char self[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", self, sizeof self);
  std::string program = "caisson-oci";
  if (length > 0 && length < static_cast<ssize_t>(sizeof self)) {
    std::string path(self, static_cast<size_t>(length));
    program = path.substr(0, path.rfind('/') + 1) + program;
  }
  words[0] = program.data();
  execv(program.c_str(), words);
  Command().Fail(ErrnoError("run '{}'", program));
  return 1;
}

// For --help and completion; main has gone another way before the words are parsed.
void AddOci(CLI::App& app, Command&) {
  app.add_subcommand("oci", "The OCI runtime's command line (caisson-oci), as Docker and podman use it")->prefix_command();
}

}  // namespace caisson::cli
