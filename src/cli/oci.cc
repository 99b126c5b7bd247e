// SPDX-License-Identifier: Apache-2.0
#include "cli/oci.h"

#include <limits.h>
#include <unistd.h>

#include <string>

#include "cli/command.h"
#include "sys/own_program.h"

namespace caisson::cli {

int RunOci(char** words) {
  std::string program = "caisson-oci";
  if (auto self = sys::OwnProgram()) program = self->substr(0, self->rfind('/') + 1) + program;
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
