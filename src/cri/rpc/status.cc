// SPDX-License-Identifier: Apache-2.0
#include <sys/utsname.h>

#include <cstdio>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "cri/cdi.h"
#include "cri/handler_probes.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {
namespace {

// mount_setattr(2), which makes a mount read-only with all that is mounted below it, came with Linux 5.12.
bool KernelMountsReadOnlyRecursively() {
  utsname system = {};
  int major = 0, minor = 0;
  if (uname(&system) != 0 || sscanf(system.release, "%d.%d", &major, &minor) != 2) return false;
  return major > 5 || (major == 5 && minor >= 12);
}

void AddCondition(v1::RuntimeStatus* status, const char* type, const Result<>& ready, const char* reason) {
  v1::RuntimeCondition& condition = *status->add_conditions();
  condition.set_type(type);
  condition.set_status(ready.has_value());
  if (ready) return;
  condition.set_reason(reason);
  condition.set_message(ready.error().message);
}

// What a VM's pod costs beyond its limits, for the RuntimeClass: what it takes to boot, and some room.
constexpr uint64_t kOverheadRoom = uint64_t{32} << 20;

void DescribeVms(Context& context, const std::string& handler, const HandlerConfig& configured, v1::StatusResponse* response) {
  std::string accelerator = context.vm_accelerators.Of(handler);
  (*response->mutable_info())["guestKernel/" + handler] = configured.kernel;
  (*response->mutable_info())["guestInitrd/" + handler] = configured.initrd;
  uint64_t overhead = (accelerator == "kvm" ? kLeastPodBytes : kLeastEmulatedPodBytes) + kOverheadRoom;
  (*response->mutable_info())["overhead/" + handler] = fmt::format("{}Mi", overhead >> 20);
  (*response->mutable_info())["accelerator/" + handler] = std::move(accelerator);
}

}  // namespace

Result<v1::StatusResponse> Status(Context& context, const v1::StatusRequest& request) {
  v1::StatusResponse response;
  AddCondition(response.mutable_status(), "RuntimeReady", Result<>(), "");
  AddCondition(response.mutable_status(), "NetworkReady", context.cni.Status(), "NetworkPluginNotReady");
  v1::RuntimeHandlerFeatures features;
  auto add_handler = [&](const std::string& name) {
    const std::string& of = name.empty() ? context.config.default_handler : name;
    const HandlerConfig& configured = context.config.handlers.at(of);
    const bool vm = configured.IsVm();
    if (auto usable = vm ? CheckVmHandler(of, configured) : Result<>(); !usable) {
      if (request.verbose()) (*response.mutable_info())["unusable/" + of] = usable.error().message;
      return;
    }
    if (configured.IsForeign() && context.probes != nullptr) {
      Result<> ready = context.probes->Check(of);
      if (request.verbose()) (*response.mutable_info())["probe/" + of] = ready ? "ok" : ready.error().message;
      if (!ready) return;
    }
    if (vm && request.verbose()) DescribeVms(context, of, configured, &response);
    v1::RuntimeHandler& handler = *response.add_runtime_handlers();
    handler.set_name(name);
    auto user_namespaces = context.user_namespaces.Check(name);
    features.set_user_namespaces(user_namespaces.has_value());
    // A guest's kernel is ours, and new enough.
    features.set_recursive_read_only_mounts(vm || (!configured.IsForeign() && KernelMountsReadOnlyRecursively()));
    *handler.mutable_features() = features;
    if (user_namespaces) {
      response.mutable_features()->set_user_namespaces_host_network(true);
    } else if (request.verbose() && !name.empty()) {
      (*response.mutable_info())["userNamespaces/" + name] = user_namespaces.error().message;
    }
  };
  add_handler("");  // CRI: the default handler
  for (const auto& [name, handler] : context.config.handlers) add_handler(name);
  response.mutable_features()->set_supplemental_groups_policy(true);
  if (request.verbose()) {
    (*response.mutable_info())["config"] = FormatConfig(context.config);
    (*response.mutable_info())["checkpoint"] = context.checkpoints.Describe();
    (*response.mutable_info())["cdi"] = DumpJson(DescribeCdi(context.config.containers.cdi_spec_dirs));
  }
  return response;
}

}  // namespace caisson::cri
