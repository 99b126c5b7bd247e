// SPDX-License-Identifier: Apache-2.0
//
// caisson: the operator's command.
#include <cstdlib>
#include <string_view>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/oci.h"

int main(int argc, char** argv) {
  using namespace caisson::cli;
  IgnoreBrokenPipes();

  // All that follows is the OCI runtime's own.
  if (argc > 1 && std::string_view(argv[1]) == "oci") return RunOci(argv + 1);

  CLI::App app("Run and look at pods on this node, through caissond's CRI socket.\n\n"
               "  caisson run --rm docker.io/library/busybox:1.36 echo hello\n"
               "  caisson pods; caisson ps; caisson logs -f NAME\n"
               "  caisson doctor            what this host offers and lacks\n"
               "  caisson explain POD       where the time of a pod's start went",
               "caisson");
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);

  Command command;
  const char* from_environment = std::getenv("CAISSON_SOCKET");
  command.socket = from_environment ? from_environment : "/run/caisson/caisson.sock";
  app.add_option("--socket,--address", command.socket, "caissond's socket (also: $CAISSON_SOCKET)")->capture_default_str();

  for (auto add : {AddRun, AddPods, AddPs, AddLogs, AddExec, AddConsole, AddAttach, AddPortForward, AddStop, AddRm, AddPull, AddImages, AddRmi,
                   AddImport, AddInspect, AddStats, AddTemplate, AddExplain, AddDoctor, AddConfig, AddMigrate, AddOci, AddVersion, AddCompletion}) {
    add(app, command);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  return command.exit_code;
}
