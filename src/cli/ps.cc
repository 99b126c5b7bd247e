// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "base/clock.h"
#include "cli/command.h"

namespace caisson::cli {

using runtime::v1::RuntimeService;

namespace {
const char* StateName(runtime::v1::ContainerState state) {
  switch (state) {
    case runtime::v1::CONTAINER_CREATED: return "Created";
    case runtime::v1::CONTAINER_RUNNING: return "Running";
    case runtime::v1::CONTAINER_EXITED: return "Exited";
    default: return "Unknown";
  }
}
}  // namespace

void AddPs(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("ps", "List containers");
  auto all = std::make_shared<bool>(false);
  sub->add_flag("-a,--all", *all, "Also those that are not running");
  command.AddOutput(sub);
  sub->callback([&command, all] {
    command.Run([&]() -> Result<> {
      Client& client = command.client();
      runtime::v1::ListContainersRequest request;
      if (!*all) request.mutable_filter()->mutable_state()->set_state(runtime::v1::CONTAINER_RUNNING);
      auto list = TRY(client.Call(client.runtime(), &RuntimeService::Stub::ListContainers, request));
      if (command.json()) {
        Print(ToJson(list));
        return {};
      }
      int64_t now = NowNanos();
      std::vector<std::vector<std::string>> rows = {{"CONTAINER", "IMAGE", "CREATED", "STATE", "NAME", "ATTEMPT", "POD"}};
      for (const auto& container : list.containers()) {
        std::string image = container.image().user_specified_image().empty() ? container.image().image()
                                                                             : container.image().user_specified_image();
        rows.push_back({ShortId(container.id()), image.starts_with("sha256:") ? ShortId(image) : image,
                        FormatAge(container.created_at(), now), StateName(container.state()), container.metadata().name(),
                        fmt::format("{}", container.metadata().attempt()), ShortId(container.pod_sandbox_id())});
      }
      Print(FormatTable(rows));
      return {};
    });
  });
}

}  // namespace caisson::cli
