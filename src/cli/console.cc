// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <memory>
#include <thread>

#include "cli/command.h"

namespace caisson::cli {

using runtime::v1::RuntimeService;

namespace {

// The companion itself looks no more often at what its guest writes.
constexpr auto kFollowPeriod = std::chrono::milliseconds(200);

struct ConsoleOptions {
  std::string pod;
  bool follow = false;
};

// The machine goes first, then what the daemon holds of its pod, and only then it says so.
constexpr int kEndPeriods = 150;

bool HasEnded(Client& client, const std::string& pod_id) {
  runtime::v1::PodSandboxStatusRequest request;
  request.set_pod_sandbox_id(pod_id);
  auto status = client.Call(client.runtime(), &RuntimeService::Stub::PodSandboxStatus, request);
  return status ? status->status().state() != runtime::v1::SANDBOX_READY : status.error().code == Code::kNotFound;
}

// Nobody follows a machine that has ended: it is no error.
bool AwaitEnd(Client& client, const std::string& pod_id, int periods) {
  for (; periods > 0; --periods) {
    if (HasEnded(client, pod_id)) return true;
    if (periods > 1) std::this_thread::sleep_for(kFollowPeriod);
  }
  return false;
}

Result<> Console(Command& command, const ConsoleOptions& options) {
  Client& client = command.client();
  control::v1::ConsoleRequest request;
  request.set_pod_id(TRY(FindPod(client, options.pod)).id());
  for (bool first = true;; first = false) {
    auto part = client.Call(client.control(), &control::v1::Control::Stub::Console, request);
    if (!part && options.follow && AwaitEnd(client, request.pod_id(), first ? 1 : kEndPeriods)) return {};
    if (!part) return std::move(part.error());
    Print(part->text());
    request.set_from(part->end());
    if (!options.follow) return {};
    std::this_thread::sleep_for(kFollowPeriod);
  }
}

}  // namespace

void AddConsole(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("console", "What the guest of a VM pod has written to its console: the last 32 KiB");
  auto options = std::make_shared<ConsoleOptions>();
  sub->add_option("POD", options->pod, "Id, prefix or name")->required();
  sub->add_flag("-f,--follow", options->follow, "Go on until the machine ends");
  sub->callback([&command, options] { command.Run([&] { return Console(command, *options); }); });
}

}  // namespace caisson::cli
