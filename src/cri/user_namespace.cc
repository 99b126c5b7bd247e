// SPDX-License-Identifier: Apache-2.0
#include "cri/user_namespace.h"

#include <unistd.h>

#include <limits>

#include "base/log.h"
#include "base/strings.h"
#include "cri/pod_teardown.h"
#include "cri/shim_client.h"
#include "sys/path.h"

namespace caisson::cri {

namespace v1 = runtime::v1;

namespace {

constexpr int kMostMappings = 340;  // user_namespaces(7)
constexpr int64_t kProbeMillis = 10'000;
constexpr size_t kProbeLogBytes = 4096;

const v1::NamespaceOption& OptionsOf(const v1::PodSandboxConfig& pod) {
  return pod.linux().security_context().namespace_options();
}

bool Share(uint32_t one, uint32_t one_size, uint32_t other, uint32_t other_size) {
  return one < uint64_t{other} + other_size && other < uint64_t{one} + one_size;
}

bool SameMapping(const v1::IDMapping& one, const v1::IDMapping& other) {
  return one.host_id() == other.host_id() && one.container_id() == other.container_id() && one.length() == other.length();
}

Result<> CheckMappingsOfPod(const v1::UserNamespace& options) {
  for (auto [mappings, what] : {std::pair(&options.uids(), "uids"), {&options.gids(), "gids"}}) {
    // As the kubelet sends it and other runtimes take it: one range for the whole pod.
    if (mappings->size() != 1) {
      return MakeError(Code::kInvalidArgument, "userns_options.{} has {} mappings; a pod's user namespace needs exactly one", what, mappings->size());
    }
    TRY(CheckIdMappings(*mappings, std::string("userns_options.") + what));
    if (!ToHostId(*mappings, 0)) return MakeError(Code::kInvalidArgument, "userns_options.{} does not map id 0: the pod would have no root", what);
    if ((*mappings)[0].host_id() == 0) return MakeError(Code::kInvalidArgument, "userns_options.{} would make the pod's root the host's", what);
  }
  if (SameMapping(options.uids(0), options.gids(0))) return {};
  return MakeError(Code::kInvalidArgument, "userns_options has other mappings for users than for groups");
}

}  // namespace

bool HasUserNamespace(const v1::NamespaceOption& options) {
  return options.has_userns_options() && options.userns_options().mode() == v1::POD;
}

bool HasUserNamespace(const v1::PodSandboxConfig& pod) { return HasUserNamespace(OptionsOf(pod)); }

const v1::UserNamespace& UserNamespaceOf(const v1::PodSandboxConfig& pod) { return OptionsOf(pod).userns_options(); }

Result<> CheckUserNamespace(const v1::PodSandboxConfig& pod) {
  const v1::NamespaceOption& options = OptionsOf(pod);
  if (!options.has_userns_options()) return {};
  const v1::UserNamespace& wanted = options.userns_options();
  if (wanted.mode() != v1::POD && wanted.mode() != v1::NODE) {
    return MakeError(Code::kInvalidArgument, "a pod's user namespace is its own or the node's, not {}", v1::NamespaceMode_Name(wanted.mode()));
  }
  if (wanted.mode() == v1::NODE) {
    if (wanted.uids().empty() && wanted.gids().empty()) return {};
    return MakeError(Code::kInvalidArgument, "userns_options has mappings, but its mode is NODE");
  }
  TRY(CheckMappingsOfPod(wanted));
  for (auto [mode, what] : {std::pair(options.pid(), "PID"), {options.ipc(), "IPC"}}) {
    if (mode == v1::NODE) return MakeError(Code::kInvalidArgument, "a pod with a user namespace cannot have the host's {} namespace", what);
  }
  return {};
}

Result<> CheckSameUserNamespace(const v1::PodSandboxConfig& pod, const v1::ContainerConfig& container) {
  const v1::NamespaceOption& options = container.linux().security_context().namespace_options();
  bool wants = HasUserNamespace(options), has = HasUserNamespace(pod);
  if (options.has_userns_options() && !wants && options.userns_options().mode() != v1::NODE) {
    return MakeError(Code::kInvalidArgument, "container '{}': a container's user namespace is its pod's, not {}",
                     container.metadata().name(), v1::NamespaceMode_Name(options.userns_options().mode()));
  }
  if (wants != has) {
    return MakeError(Code::kInvalidArgument, "container '{}' asks for {}, but its pod has {}", container.metadata().name(),
                     wants ? "a user namespace" : "the host's user namespace", has ? "one of its own" : "the host's");
  }
  if (!wants) return {};
  const v1::UserNamespace &own = options.userns_options(), &pods = UserNamespaceOf(pod);
  bool same = own.uids_size() == 1 && own.gids_size() == 1 && SameMapping(own.uids(0), pods.uids(0)) && SameMapping(own.gids(0), pods.gids(0));
  if (same) return {};
  return MakeError(Code::kInvalidArgument, "container '{}' has another mapping in userns_options than its pod", container.metadata().name());
}

Result<> CheckIdMappings(const IdMappings& mappings, const std::string& what) {
  if (mappings.size() > kMostMappings) return MakeError(Code::kInvalidArgument, "{} has more than {} mappings", what, kMostMappings);
  // 4294967295 is no id (setresuid(2)).
  constexpr uint64_t kEnd = std::numeric_limits<uint32_t>::max();
  for (int i = 0; i < mappings.size(); ++i) {
    const v1::IDMapping& one = mappings[i];
    if (one.length() == 0) return MakeError(Code::kInvalidArgument, "{} has a mapping of length 0", what);
    if (uint64_t{one.host_id()} + one.length() > kEnd || uint64_t{one.container_id()} + one.length() > kEnd) {
      return MakeError(Code::kInvalidArgument, "{}: {} ids from {} to the host's from {} go past the last id there is", what, one.length(),
                       one.container_id(), one.host_id());
    }
    for (int j = 0; j < i; ++j) {
      const v1::IDMapping& other = mappings[j];
      if (Share(one.host_id(), one.length(), other.host_id(), other.length()) ||
          Share(one.container_id(), one.length(), other.container_id(), other.length())) {
        return MakeError(Code::kInvalidArgument, "{} has mappings that overlap", what);
      }
    }
  }
  return {};
}

std::optional<uint32_t> ToHostId(const IdMappings& mappings, uint32_t id) {
  for (const auto& mapping : mappings) {
    if (id >= mapping.container_id() && id - mapping.container_id() < mapping.length()) {
      return mapping.host_id() + (id - mapping.container_id());
    }
  }
  return std::nullopt;
}

Result<> CheckUserIsMapped(const v1::PodSandboxConfig& pod, const v1::LinuxContainerUser& user) {
  if (!HasUserNamespace(pod)) return {};
  const v1::UserNamespace& space = UserNamespaceOf(pod);
  auto unmapped = [&](const char* what, int64_t id) {
    return MakeError(Code::kInvalidArgument, "{} {} is not in the pod's user namespace, which has the {} ids from {}", what, id,
                     space.uids(0).length(), space.uids(0).container_id());
  };
  if (!ToHostId(space.uids(), static_cast<uint32_t>(user.uid()))) return unmapped("user", user.uid());
  if (!ToHostId(space.gids(), static_cast<uint32_t>(user.gid()))) return unmapped("group", user.gid());
  for (int64_t group : user.supplemental_groups()) {
    if (!ToHostId(space.gids(), static_cast<uint32_t>(group))) return unmapped("supplemental group", group);
  }
  return {};
}

HostIds HostIdsOf(const v1::PodSandboxConfig& pod, uint32_t uid, uint32_t gid) {
  const v1::UserNamespace& space = UserNamespaceOf(pod);
  auto map = [](const IdMappings& mappings, uint32_t id) {
    return ToHostId(mappings, id).value_or(ToHostId(mappings, 0).value_or(0));
  };
  return {map(space.uids(), uid), map(space.gids(), gid)};
}

void SetMaps(const v1::UserNamespace& user_namespace, pod::v1::SandboxOptions* options) {
  auto set = [](const v1::IDMapping& from, pod::v1::IdMap* to) {
    to->set_container_id(from.container_id());
    to->set_host_id(from.host_id());
    to->set_size(from.length());
  };
  for (const auto& mapping : user_namespace.uids()) set(mapping, options->add_uid_maps());
  for (const auto& mapping : user_namespace.gids()) set(mapping, options->add_gid_maps());
}

Result<> UserNamespaceSupport::Check(const std::string& handler) {
  const std::string& name = handler.empty() ? config_.default_handler : handler;
  if (auto known = config_.handlers.find(name); known != config_.handlers.end() && known->second.IsVm()) {
    return MakeError(Code::kUnimplemented, "handler '{}' runs pods in VMs, where user namespaces are not supported yet", name);
  } else if (known != config_.handlers.end() && known->second.IsForeign()) {
    return MakeError(Code::kUnimplemented, "handler '{}' has a runtime of another project's, whose pods cannot have user namespaces", name);
  }
  std::lock_guard lock(mutex_);
  auto [at, unknown] = known_.try_emplace(name);
  Answer& answer = at->second;
  int64_t now = clock_();
  if (!unknown && (answer.result || now - answer.asked_at < kAgainNanos)) return answer.result;
  answer = {Probe(name), now};
  if (unknown && !answer.result) log::Info("handler '{}': {}", name, answer.result.error().message);
  return answer.result;
}

Result<> UserNamespaceSupport::Probe(const std::string& handler) {
  std::string program = TRY(FindCompanion(config_, handler));
  std::string log_path = fmt::format("{}/probe-{}.log", config_.state, handler);
  unlink(log_path.c_str());
  auto ran = RunCompanionCommand(program, {"probe", "--folder", config_.root}, log_path, kProbeMillis);
  auto text = sys::ReadFile(log_path, kProbeLogBytes);
  unlink(log_path.c_str());
  if (ran) return {};
  // The last line is the companion's reason, as it logs it.
  std::string reason = text ? std::string(Trim(*text)) : std::string();
  reason = reason.substr(reason.rfind('\n') + 1);
  if (size_t said = reason.find("msg="); said != std::string::npos) reason = reason.substr(said + 4);
  return MakeError(Code::kFailedPrecondition, "user namespaces of pods do not work on this host: {}",
                   reason.empty() ? ran.error().message : reason);
}

}  // namespace caisson::cri
