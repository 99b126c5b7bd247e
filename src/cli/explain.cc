// SPDX-License-Identifier: Apache-2.0
#include <fstream>
#include <memory>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "cli/command.h"
#include "cli/timeline_view.h"

namespace caisson::cli {

using runtime::v1::RuntimeService;

namespace {

struct ExplainOptions {
  std::string pod, svg, trace;
};

std::string Text(const Json& object, const char* key) {
  auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}
int64_t Number(const Json& object, const char* key) {
  auto found = object.find(key);
  return found != object.end() && found->is_number_integer() ? found->get<int64_t>() : 0;
}

// The "timeline" entry of a verbose status: a JSON array of steps.
Result<> AppendSteps(const google::protobuf::Map<std::string, std::string>& info, const std::string& subject,
                     std::vector<TimelineStep>* steps) {
  auto found = info.find("timeline");
  if (found == info.end()) return {};
  Json array = TRY(ParseJson(found->second));
  if (!array.is_array()) return MakeError(Code::kInternal, "the daemon's timeline is not a list");
  for (const auto& item : array) {
    if (!item.is_object()) continue;
    steps->push_back({subject, Text(item, "operation"), Text(item, "name"), Number(item, "begin_nanos"),
                      Number(item, "end_nanos"), Text(item, "error")});
  }
  return {};
}

Result<std::vector<TimelineStep>> Fetch(Client& client, const std::string& pod_id) {
  std::vector<TimelineStep> steps;
  runtime::v1::PodSandboxStatusRequest request;
  request.set_pod_sandbox_id(pod_id);
  request.set_verbose(true);
  auto pod = TRY(client.Call(client.runtime(), &RuntimeService::Stub::PodSandboxStatus, request));
  TRY(AppendSteps(pod.info(), "pod", &steps));
  runtime::v1::ListContainersRequest list;
  list.mutable_filter()->set_pod_sandbox_id(pod_id);
  auto containers = TRY(client.Call(client.runtime(), &RuntimeService::Stub::ListContainers, list));
  for (const auto& container : containers.containers()) {
    runtime::v1::ContainerStatusRequest status_request;
    status_request.set_container_id(container.id());
    status_request.set_verbose(true);
    auto status = client.Call(client.runtime(), &RuntimeService::Stub::ContainerStatus, status_request);
    if (status) TRY(AppendSteps(status->info(), container.metadata().name(), &steps));
  }
  return steps;
}

Result<> WriteTo(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  if (!file.flush()) return MakeError(Code::kInternal, "cannot write '{}'", path);
  return {};
}

Result<> Explain(Command& command, const ExplainOptions& options) {
  Client& client = command.client();
  auto pod = TRY(FindPod(client, options.pod));
  auto steps = TRY(Fetch(client, pod.id()));
  if (steps.empty()) return MakeError(Code::kNotFound, "the daemon has no timeline of pod '{}'", options.pod);
  const std::string& name = pod.metadata().name();
  if (!options.svg.empty()) TRY(WriteTo(options.svg, DrawTimeline(steps, name)));
  if (!options.trace.empty()) TRY(WriteTo(options.trace, TraceTimeline(steps, name)));
  if (options.svg.empty() && options.trace.empty()) Print(FormatTimeline(steps));
  return {};
}

}  // namespace

void AddExplain(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("explain", "Where the time of a pod's start (and stop) went, step by step");
  auto options = std::make_shared<ExplainOptions>();
  sub->add_option("POD", options->pod, "Id, prefix or name")->required();
  sub->add_option("--svg", options->svg, "Draw it into this file");
  sub->add_option("--trace", options->trace, "Write it into this file as a trace for ui.perfetto.dev or chrome://tracing");
  sub->callback([&command, options] { command.Run([&] { return Explain(command, *options); }); });
}

}  // namespace caisson::cli
