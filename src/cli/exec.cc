// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <memory>

#include "cli/command.h"
#include "cli/stream_client.h"

namespace caisson::cli {

using runtime::v1::RuntimeService;

namespace {

struct ExecOptions {
  std::string container;
  std::vector<std::string> command;
  int64_t timeout_seconds = 0;
  bool in = false, tty = false, guest = false;
};

// In no container but in the guest of a VM pod.
Result<> StreamInGuest(Command& command, const ExecOptions& options) {
  Client& client = command.client();
  control::v1::ExecGuestRequest request;
  request.set_pod_id(TRY(FindPod(client, options.container)).id());
  for (const auto& word : options.command) request.add_cmd(word);
  request.set_stdin(options.in);
  request.set_tty(options.tty);
  auto reply = TRY(client.Call(client.control(), &control::v1::Control::Stub::ExecGuest, request));
  command.exit_code = TRY(RunStream(reply.url(), {options.in, options.tty}));
  return {};
}

// With our stdin or terminal: a streaming session.
Result<> Stream(Command& command, const ExecOptions& options) {
  Client& client = command.client();
  runtime::v1::ExecRequest request;
  request.set_container_id(TRY(FindContainer(client, options.container)).id());
  for (const auto& word : options.command) request.add_cmd(word);
  request.set_stdin(options.in);
  request.set_stdout(true);
  request.set_stderr(!options.tty);
  request.set_tty(options.tty);
  auto reply = TRY(client.Call(client.runtime(), &RuntimeService::Stub::Exec, request));
  command.exit_code = TRY(RunStream(reply.url(), {options.in, options.tty}));
  return {};
}

Result<> Exec(Command& command, const ExecOptions& options) {
  if (options.guest) return StreamInGuest(command, options);
  if (options.in || options.tty) return Stream(command, options);
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
  auto* in = sub->add_flag("-i,--interactive", options->in, "Give it our stdin");
  auto* tty = sub->add_flag("-t,--tty", options->tty, "Give it a terminal; ours becomes its keyboard");
  auto* timeout = sub->add_option("--timeout", options->timeout_seconds, "Seconds after which it is killed (0: never)")->excludes(in)->excludes(tty);
  sub->add_flag("--guest", options->guest, "CONTAINER is a VM pod: run it in the guest itself, for debugging (docs/vm.md)")->excludes(timeout);
  sub->positionals_at_end();
  sub->callback([&command, options] {
    // "exec web -- cat /host" as others write it.
    if (options->command.size() > 1 && options->command.front() == "--") options->command.erase(options->command.begin());
    command.Run([&] { return Exec(command, *options); });
  });
}

}  // namespace caisson::cli
