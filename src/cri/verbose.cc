// SPDX-License-Identifier: Apache-2.0
#include "cri/verbose.h"

#include <google/protobuf/util/json_util.h>

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

Json TimelineJson(const google::protobuf::RepeatedPtrField<daemon::v1::TimelineStep>& timeline) {
  Json steps = Json::array();
  for (const auto& step : timeline) {
    Json one = {{"operation", step.operation()},
                {"name", step.name()},
                {"beginNanos", step.begin_nanos()},
                {"endNanos", step.end_nanos()}};
    if (!step.error().empty()) one["error"] = step.error();
    steps.push_back(std::move(one));
  }
  return steps;
}

}  // namespace

std::string PodInfoJson(const PodRecord& record) {
  Json cni = nullptr;
  if (!record.network().raw_json().empty()) {
    if (auto parsed = ParseJson(record.network().raw_json())) cni = std::move(*parsed);
  }
  return DumpJson({{"pid", record.sandbox_pid()},
                   {"companionPid", record.shim_pid()},
                   {"netns", record.netns_path()},
                   {"runtimeHandler", record.resolved_handler()},
                   {"reason", record.reason()},
                   {"cniResult", std::move(cni)},
                   {"config", ToJson(record.config())},
                   {"timeline", TimelineJson(record.timeline())}});
}

std::string ContainerInfoJson(const ContainerRecord& record, const std::string& bundle) {
  return DumpJson({{"pid", record.pid()},
                   {"sandboxID", record.pod_id()},
                   {"snapshotKey", record.snapshot_key()},
                   {"bundle", bundle},
                   {"cgroupsPath", record.cgroup_path()},
                   {"config", ToJson(record.config())},
                   {"timeline", TimelineJson(record.timeline())}});
}

}  // namespace caisson::cri
