// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <memory>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "cli/command.h"
#include "cli/host_checks.h"
#include "sys/guest_image.h"

namespace caisson::cli {

using runtime::v1::RuntimeService;

namespace {

const char* Word(Verdict verdict) {
  return verdict == Verdict::kOk ? "ok" : verdict == Verdict::kWarn ? "warn" : "FAIL";
}

// Keys of a verbose Status, before a handler's name.
constexpr std::string_view kAccelerator = "accelerator/", kUnusable = "unusable/", kProbe = "probe/";

using ByName = std::map<std::string, HostCheck>;  // an order that people can rely on
using Status = Result<runtime::v1::StatusResponse>;

Status Ask(Client& client) {
  runtime::v1::StatusRequest request;
  request.set_verbose(true);
  return client.Call(client.runtime(), &RuntimeService::Stub::Status, request, 3);
}

// What the companions found by trying: more than the host's files tell (file systems, the kernel's overlay).
std::vector<HostCheck> UserNamespacesOfPods(const Status& status) {
  std::vector<HostCheck> checks;
  if (!status) return checks;
  for (const auto& handler : status->runtime_handlers()) {
    if (handler.name().empty()) continue;                               // the default one, which has a name too
    if (status->info().contains(fmt::format("{}{}", kAccelerator, handler.name()))) continue;  // VMs have other walls
    std::string name = fmt::format("hostUsers: false ({})", handler.name());
    if (handler.features().user_namespaces()) {
      checks.push_back({Verdict::kOk, name, "id-mapped layers and volumes work", ""});
      continue;
    }
    auto reason = status->info().find("userNamespaces/" + handler.name());
    checks.push_back({Verdict::kWarn, name, reason == status->info().end() ? "does not work" : reason->second,
                      "Linux 5.19 (6.3 for volumes on tmpfs), and images on a file system that can be id-mapped"});
  }
  return checks;
}

// For the RuntimeClass of the handler that `key` ends with.
std::string OverheadOf(const Status& status, std::string_view key) {
  auto overhead = status->info().find(fmt::format("overhead{}", key.substr(key.find('/'))));
  return overhead == status->info().end() ? "" : fmt::format("; overhead.podFixed.memory of their RuntimeClass: {}", overhead->second);
}

ByName VmsOfPods(const Status& status) {
  ByName checks;
  if (!status) return {};
  for (const auto& [key, value] : status->info()) {
    std::string name = fmt::format("VMs ({})", key.substr(key.find('/') + 1));
    if (key.starts_with(kUnusable)) {
      checks[name] = {Verdict::kWarn, name, value, "install caisson-guest, if pods are to be virtual machines"};
    } else if (key.starts_with(kAccelerator) && value == "kvm") {
      checks[name] = {Verdict::kOk, name, "KVM runs them at the speed of hardware" + OverheadOf(status, key), ""};
    } else if (key.starts_with(kAccelerator)) {
      checks[name] = {Verdict::kWarn, name, "emulated (tcg): they work, and are slow" + OverheadOf(status, key), "a host whose /dev/kvm runs code at the speed of hardware"};
    }
  }
  return checks;
}

// What the guests boot, read as a whole.
ByName GuestImages(const Status& status) {
  constexpr std::string_view kKernel = "guestKernel/";
  ByName checks;
  if (!status) return {};
  for (const auto& [key, kernel] : status->info()) {
    auto initrd = key.starts_with(kKernel) ? status->info().find("guestInitrd/" + key.substr(kKernel.size())) : status->info().end();
    if (initrd == status->info().end()) continue;
    std::string name = fmt::format("guest image ({})", key.substr(kKernel.size()));
    auto verified = sys::VerifyGuestImage(kernel, initrd->second, CAISSON_VERSION);
    if (!verified) checks[name] = {Verdict::kFail, name, verified.error().message, "apt-get install --reinstall caisson-guest, or tools/build-guest"};
    else checks[name] = {Verdict::kOk, name, verified->empty() ? fmt::format("'{}', of your own: it has no manifest", kernel) : *verified, ""};
  }
  return checks;
}

// Handlers whose containers another project's runtime makes.
ByName ForeignHandlers(const Status& status) {
  ByName checks;
  if (!status) return {};
  for (const auto& [key, value] : status->info()) {
    if (!key.starts_with(kProbe)) continue;
    std::string name = fmt::format("handler {}", key.substr(kProbe.size()));
    if (value == "ok") checks[name] = {Verdict::kOk, name, "a probe pod has run with its runtime", ""};
    else checks[name] = {Verdict::kWarn, name, value, "docs/handlers.md; it is tried again from time to time"};
  }
  return checks;
}

// What the daemon found by asking criu.
std::vector<HostCheck> Checkpoints(const Status& status) {
  auto found = status ? status->info().find("checkpoint") : google::protobuf::Map<std::string, std::string>::const_iterator();
  if (!status || found == status->info().end()) return {};
  auto told = ParseJson(found->second);
  if (!told || !told->is_object()) return {};
  std::string checkpoint = told->value("checkpoint", ""), restore = told->value("restore", "");
  if (!checkpoint.empty()) {
    return {{Verdict::kWarn, "checkpoints", checkpoint, "cgroup v2 and apt-get install criu, of a version that knows this kernel; only CheckpointContainer needs it"}};
  }
  return {{Verdict::kOk, "checkpoints", restore.empty() ? "criu works; restoring is allowed" : "criu works; restoring is switched off", ""}};
}

HostCheck Daemon(const Client& client, const Status& status) {
  if (!status) return {Verdict::kWarn, "caissond", "no answer at " + client.socket(), "systemctl enable --now caissond"};
  for (const auto& condition : status->status().conditions()) {
    if (!condition.status()) return {Verdict::kWarn, "caissond", condition.type() + " is false: " + condition.message(), "see `caisson inspect`, the daemon's log"};
  }
  return {Verdict::kOk, "caissond", "ready at " + client.socket(), ""};
}

}  // namespace

void AddDoctor(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("doctor", "What this host offers and lacks, with the remedy; exit status 1 if something must be mended");
  auto conf_dir = std::make_shared<std::string>("/etc/cni/net.d");
  sub->add_option("--cni-conf-dir", *conf_dir, "Where the CNI configuration is")->capture_default_str();
  command.AddOutput(sub);
  sub->callback([&command, conf_dir] {
    auto checks = CheckHost("", *conf_dir);
    Status status = Ask(command.client());
    checks.push_back(Daemon(command.client(), status));
    for (auto& check : UserNamespacesOfPods(status)) checks.push_back(std::move(check));
    for (const ByName& found : {VmsOfPods(status), GuestImages(status), ForeignHandlers(status)}) {
      for (const auto& [name, check] : found) checks.push_back(check);
    }
    for (auto& check : Checkpoints(status)) checks.push_back(std::move(check));
    Json list = Json::array();
    std::vector<std::vector<std::string>> rows;
    for (const auto& check : checks) {
      if (check.verdict == Verdict::kFail) command.exit_code = 1;
      list.push_back({{"verdict", Word(check.verdict)}, {"name", check.name}, {"fact", check.fact}, {"remedy", check.remedy}});
      rows.push_back({Word(check.verdict), check.name, check.fact + (check.remedy.empty() ? "" : "  ->  " + check.remedy)});
    }
    Print(command.json() ? DumpJson(list) + "\n" : FormatTable(rows));
  });
}

}  // namespace caisson::cli
