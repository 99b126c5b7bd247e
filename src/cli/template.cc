// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "base/clock.h"
#include "cli/command.h"

namespace caisson::cli {
namespace {

using Stub = control::v1::Control::Stub;

struct RemoveOptions {
  std::vector<std::string> ids;
  bool all = false;
};

Result<> ListTemplates(Command& command) {
  Client& client = command.client();
  auto list = TRY(client.Call(client.control(), &Stub::ListTemplates, control::v1::ListTemplatesRequest()));
  if (command.json()) {
    Print(ToJson(list));
    return {};
  }
  const int64_t now = NowNanos();
  std::vector<std::vector<std::string>> rows = {{"TEMPLATE", "HANDLER", "VM", "STATE", "BYTES", "AGE", "USES", "LAST USE"}};
  for (const auto& one : list.templates()) {
    std::string shape = fmt::format("{} vCPU, {}, {}", one.vcpus(), FormatBytes(one.memory_bytes()), one.accelerator());
    std::string state = one.error().empty() ? one.state() : fmt::format("{}: {}", one.state(), one.error().substr(0, 80));
    rows.push_back({one.id(), one.handler(), Printable(shape), Printable(state), FormatBytes(one.bytes()), FormatAge(one.since_nanos(), now),
                    fmt::format("{}", one.uses()), FormatAge(one.used_at_nanos(), now)});
  }
  Print(FormatTable(rows));
  if (list.warm() > 0) Print(fmt::format("\n{} of their clones {} for pods, warm\n", list.warm(), list.warm() == 1 ? "waits" : "wait"));
  return {};
}

Result<> RemoveTemplates(Command& command, const RemoveOptions& options) {
  if (options.ids.empty() && !options.all) return MakeError(Code::kInvalidArgument, "name templates (see `caisson template ls`), or --all");
  Client& client = command.client();
  control::v1::RemoveTemplatesRequest request;
  for (const std::string& id : options.ids) request.add_ids(id);
  request.set_all(options.all);
  auto removed = TRY(client.Call(client.control(), &Stub::RemoveTemplates, request));
  for (const std::string& id : removed.ids()) Print(id + "\n");
  return {};
}

}  // namespace

void AddTemplate(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("template", "Templates that VM pods are clones of");
  sub->require_subcommand(1);
  CLI::App* ls = sub->add_subcommand("ls", "List them");
  command.AddOutput(ls);
  ls->callback([&command] { command.Run([&] { return ListTemplates(command); }); });
  CLI::App* rm = sub->add_subcommand("rm", "End templates; pods that are clones live on");
  auto options = std::make_shared<RemoveOptions>();
  rm->add_option("TEMPLATE", options->ids, "Ids or their beginnings");
  rm->add_flag("--all", options->all, "All of them");
  rm->callback([&command, options] { command.Run([&] { return RemoveTemplates(command, *options); }); });
}

}  // namespace caisson::cli
