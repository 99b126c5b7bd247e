// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <memory>

#include "cli/command.h"

namespace caisson::cli {

using runtime::v1::RuntimeService;

namespace {

struct ExecOptions {
  std::string container;
  std::vector<std::string> command;
  int64_t timeout_seconds = 0;
};

Result<> Exec(Command& command, const ExecOptions& options) {
  Client& client = command.client();
  auto container = TRY(FindContainer(client, options.container));
  runtime::v1::ExecSyncRequest request;
  request.set_container_id(container.id());
  request.set_timeout(options.timeout_seconds);
  for (const auto& word : options.command) request.add_cmd(word);
  auto reply = TRY(client.Call(client.runtime(), &RuntimeService::Stub::ExecSync, request, 0));
  Print(reply.stdout());
  [[maybe_unused]] ssize_t written = write(STDERR_FILENO, reply.stderr().data(), reply.stderr().size());
  command.exit_code = reply.exit_code();
  return {};
}

}  // namespace

void AddExec(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("exec", "Run a command in a running container; its output and exit code are this command's");
  auto options = std::make_shared<ExecOptions>();
  sub->add_option("CONTAINER", options->container, "Id, prefix, name, pod/name, or a pod of one container")->required();
  sub->add_option("COMMAND", options->command, "The command and its arguments")->required();
  sub->add_option("--timeout", options->timeout_seconds, "Seconds after which it is killed (0: never)");
  sub->positionals_at_end();
  sub->callback([&command, options] { command.Run([&] { return Exec(command, *options); }); });
}

}  // namespace caisson::cli
