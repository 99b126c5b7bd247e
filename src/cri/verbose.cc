// SPDX-License-Identifier: Apache-2.0
#include "cri/verbose.h"

#include <google/protobuf/util/json_util.h>

#include <set>

#include <nlohmann/json.hpp>

#include "base/json.h"

namespace caisson::cri {
namespace {

Json ToJson(const google::protobuf::Message& message) {
  std::string text;
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return nullptr;
  auto parsed = ParseJson(text);
  return parsed ? std::move(*parsed) : Json(nullptr);
}

}  // namespace

std::string MessageJson(const google::protobuf::Message& message) { return DumpJson(ToJson(message)); }

std::string TimelineJson(const Timeline& timeline) {
  Json steps = Json::array();
  for (const auto& step : timeline) {
    steps.push_back({{"operation", step.operation()},
                     {"name", step.name()},
                     {"begin_nanos", step.begin_nanos()},
                     {"end_nanos", step.end_nanos()},
                     {"error", step.error()}});
  }
  return DumpJson(steps);
}

std::string PodInfoJson(const PodRecord& record) {
  Json cni = nullptr;
  if (!record.network().raw_json().empty()) {
    if (auto parsed = ParseJson(record.network().raw_json())) cni = std::move(*parsed);
  }
  Json check = nullptr;
  if (const auto& network = record.network(); network.checked_at_nanos() != 0) {
    check = {{"checkedAtNanos", network.checked_at_nanos()}, {"error", network.check_error()}};
  }
  Json vm = nullptr;
  if (record.has_vm()) {
    vm = {{"vmm", record.vm().vmm()},
          {"accelerator", record.vm().accelerator()},
          {"machine", record.vm().machine()},
          {"vcpus", record.vm().vcpus()},
          {"memoryBytes", record.vm().memory_bytes()},
          {"vmmUser", record.vm().vmm_id()},
          {"start", record.vm().start()},
          {"templateError", record.vm().template_error()},
          {"kernel", record.vm().kernel_release()}};
  }
  const auto& linux = record.config().linux();
  return DumpJson({{"pid", record.sandbox_pid()},
                   {"companionPid", record.shim_pid()},
                   {"netns", record.netns_path()},
                   {"userNamespace", record.user_namespace_path()},
                   {"runtimeHandler", record.resolved_handler()},
                   {"vm", std::move(vm)},
                   {"reason", record.reason()},
                   {"resources", ToJson(record.has_resources() ? record.resources() : linux.resources())},
                   {"overhead", ToJson(record.has_overhead() ? record.overhead() : linux.overhead())},
                   {"cniResult", std::move(cni)},
                   {"cniCheck", std::move(check)},
                   {"config", ToJson(record.config())}});
}

std::string ContainerInfoJson(const ContainerRecord& record, const std::string& bundle) {
  // Each was given, or there would be no container.
  std::set<std::string> devices;
  for (const auto& device : record.config().cdi_devices()) devices.insert(device.name());
  return DumpJson({{"pid", record.pid()},
                   {"cdiDevices", std::move(devices)},
                   {"sandboxID", record.pod_id()},
                   {"snapshotKey", record.snapshot_key()},
                   {"bundle", bundle},
                   {"cgroupsPath", record.cgroup_path()},
                   {"config", ToJson(record.config())}});
}

}  // namespace caisson::cri
