// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "base/strings.h"
#include "cli/command.h"
#include "cli/stream_client.h"

namespace caisson::cli {

using runtime::v1::RuntimeService;

namespace {

struct Ports {
  uint16_t local = 0, remote = 0;
};

// "PORT", "LOCAL:PORT", or ":PORT" for any local one.
Result<Ports> ParsePorts(const std::string& text) {
  auto parts = Split(text, ':');
  auto remote = ParseUint64(parts.back());
  auto local = parts.size() == 1 ? remote : parts[0].empty() ? Result<uint64_t>(0) : ParseUint64(parts[0]);
  if (parts.size() > 2 || !remote || !local || *remote < 1 || *remote > 65'535 || *local > 65'535) {
    return MakeError(Code::kInvalidArgument, "'{}' is not [LOCAL:]PORT", text);
  }
  return Ports{static_cast<uint16_t>(*local), static_cast<uint16_t>(*remote)};
}

Result<> Forward(Client& client, const std::string& what, const std::string& text) {
  Ports ports = TRY(ParsePorts(text));
  runtime::v1::PortForwardRequest request;
  request.set_pod_sandbox_id(TRY(FindPod(client, what)).id());
  request.add_port(ports.remote);
  auto new_url = [&]() -> Result<std::string> {
    return TRY(client.Call(client.runtime(), &RuntimeService::Stub::PortForward, request)).url();
  };
  TRY(new_url());  // a pod that cannot be forwarded to is told at once
  return RunForward(ports.local, new_url, [&](uint16_t local) {
    Print(fmt::format("127.0.0.1:{} is port {} of the pod\n", local, ports.remote));
  });
}

}  // namespace

void AddPortForward(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("port-forward", "Make a port inside a pod reachable at this host's loopback, until interrupted");
  auto pod = std::make_shared<std::string>(), ports = std::make_shared<std::string>();
  sub->add_option("POD", *pod, "Id, prefix or name")->required();
  sub->add_option("PORTS", *ports, "[LOCAL:]PORT")->required();
  sub->callback([&command, pod, ports] { command.Run([&] { return Forward(command.client(), *pod, *ports); }); });
}

}  // namespace caisson::cli
