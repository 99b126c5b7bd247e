// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"

#include <cstdio>

namespace caisson::cli {

void Command::Fail(const Error& error) {
  std::fprintf(stderr, "caisson: %s\n", Printable(error.message).c_str());
  exit_code = 1;
}

void Command::AddOutput(CLI::App* app) {
  app->add_option("-o,--output", output, "table or json")->check(CLI::IsMember({"table", "json"}))->capture_default_str();
}

namespace {

// The candidates that fit best: exact id or name first, then id prefixes.
template <class Item, class NameFits>
std::vector<const Item*> Fitting(const google::protobuf::RepeatedPtrField<Item>& items, const std::string& what,
                                 NameFits name_fits) {
  std::vector<const Item*> exact, prefix;
  for (const Item& item : items) {
    if (item.id() == what || name_fits(item)) exact.push_back(&item);
    if (what.size() >= 4 && item.id().starts_with(what)) prefix.push_back(&item);
  }
  return exact.empty() ? prefix : exact;
}

}  // namespace

Result<runtime::v1::PodSandbox> FindPod(Client& client, const std::string& what) {
  using Stub = runtime::v1::RuntimeService::Stub;
  auto pods = TRY(client.Call(client.runtime(), &Stub::ListPodSandbox, runtime::v1::ListPodSandboxRequest()));
  auto fits = Fitting(pods.items(), what, [&](const runtime::v1::PodSandbox& pod) {
    const auto& metadata = pod.metadata();
    return what == metadata.name() || what == metadata.namespace_() + "/" + metadata.name();
  });
  if (fits.empty()) return MakeError(Code::kNotFound, "no pod '{}' (see `caisson pods`)", what);
  const runtime::v1::PodSandbox* newest = fits[0];
  for (const auto* pod : fits) {
    if (pod->metadata().name() != newest->metadata().name() || pod->metadata().namespace_() != newest->metadata().namespace_()) {
      return MakeError(Code::kInvalidArgument, "'{}' fits {} pods; say more of the id, or namespace/name", what, fits.size());
    }
    if (pod->created_at() > newest->created_at()) newest = pod;
  }
  return *newest;
}

Result<runtime::v1::Container> FindContainer(Client& client, const std::string& what) {
  using Stub = runtime::v1::RuntimeService::Stub;
  auto list = TRY(client.Call(client.runtime(), &Stub::ListContainers, runtime::v1::ListContainersRequest()));
  std::string pod_name, name = what;
  if (size_t slash = what.rfind('/'); slash != std::string::npos) {
    pod_name = what.substr(0, slash);
    name = what.substr(slash + 1);
  }
  std::string pod_id;
  if (auto pod = FindPod(client, pod_name.empty() ? what : pod_name)) pod_id = pod->id();
  auto fits = Fitting(list.containers(), what, [&](const runtime::v1::Container& container) {
    return container.metadata().name() == name && (pod_name.empty() || container.pod_sandbox_id() == pod_id);
  });
  if (fits.empty() && pod_name.empty() && !pod_id.empty()) {
    for (const auto& container : list.containers()) {
      if (container.pod_sandbox_id() == pod_id) fits.push_back(&container);
    }
    if (fits.size() > 1) {
      return MakeError(Code::kInvalidArgument, "pod '{}' has {} containers; name one (see `caisson ps`)", what, fits.size());
    }
  }
  if (fits.empty()) return MakeError(Code::kNotFound, "no container '{}' (see `caisson ps -a`)", what);
  const runtime::v1::Container* newest = fits[0];
  for (const auto* container : fits) {
    if (container->pod_sandbox_id() != newest->pod_sandbox_id()) {
      return MakeError(Code::kInvalidArgument, "'{}' fits {} containers; say more of the id, or pod/name", what, fits.size());
    }
    if (container->created_at() > newest->created_at()) newest = container;
  }
  return *newest;
}

}  // namespace caisson::cli
