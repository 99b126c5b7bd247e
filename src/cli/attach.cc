// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "cli/command.h"
#include "cli/stream_client.h"

namespace caisson::cli {

using runtime::v1::RuntimeService;

void AddAttach(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("attach", "Show a running container's output from now on, and write to its stdin");
  struct Options {
    std::string container;
    bool in = false, tty = false;
  };
  auto options = std::make_shared<Options>();
  sub->add_option("CONTAINER", options->container, "Id, prefix, name, pod/name, or a pod of one container")->required();
  sub->add_flag("-i,--interactive", options->in, "Write our stdin to the container's");
  sub->add_flag("-t,--tty", options->tty, "The container has a terminal: ours becomes its keyboard");
  sub->callback([&command, options] {
    command.Run([&]() -> Result<> {
      Client& client = command.client();
      runtime::v1::AttachRequest request;
      request.set_container_id(TRY(FindContainer(client, options->container)).id());
      request.set_stdin(options->in);
      request.set_stdout(true);
      request.set_stderr(!options->tty);
      request.set_tty(options->tty);
      auto reply = TRY(client.Call(client.runtime(), &RuntimeService::Stub::Attach, request));
      command.exit_code = TRY(RunStream(reply.url(), {options->in, options->tty}));
      return {};
    });
  });
}

}  // namespace caisson::cli
