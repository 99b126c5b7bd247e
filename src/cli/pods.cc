// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"
#include "cli/command.h"

namespace caisson::cli {

using runtime::v1::RuntimeService;

void AddPods(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("pods", "List pod sandboxes");
  command.AddOutput(sub);
  sub->callback([&command] {
    command.Run([&]() -> Result<> {
      Client& client = command.client();
      auto pods = TRY(client.Call(client.runtime(), &RuntimeService::Stub::ListPodSandbox, runtime::v1::ListPodSandboxRequest()));
      if (command.json()) {
        Print(ToJson(pods));
        return {};
      }
      int64_t now = NowNanos();
      std::vector<std::vector<std::string>> rows = {{"POD", "CREATED", "STATE", "NAMESPACE", "NAME", "ATTEMPT", "HANDLER"}};
      for (const auto& pod : pods.items()) {
        rows.push_back({ShortId(pod.id()), FormatAge(pod.created_at(), now),
                        pod.state() == runtime::v1::SANDBOX_READY ? "Ready" : "NotReady", pod.metadata().namespace_(),
                        pod.metadata().name(), fmt::format("{}", pod.metadata().attempt()),
                        pod.runtime_handler().empty() ? "(default)" : pod.runtime_handler()});
      }
      Print(FormatTable(rows));
      return {};
    });
  });
}

}  // namespace caisson::cli
