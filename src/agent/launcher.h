// SPDX-License-Identifier: Apache-2.0
//
// The launcher: a process that PID 1 forks to do one thing for the messenger that needs rights, and that ends with its answer. What the
// containers' processes are started by is here, and all else that changes the guest. It trusts the messenger's words no further than
// that each is a pod's business: names lead nowhere, and volumes, layers and bundles are below kRunDir.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::agent {

// The descriptors that came with a call, and those that go with its answer.
struct Descriptors {
  std::vector<UniqueFd> came, go;
  size_t taken = 0;
  std::function<void()> then;  // what the launcher does when it has answered
  // The next that came. Errors: there is none.
  Result<UniqueFd> Take();
};

struct LauncherCall {
  std::string_view name;
  Result<std::string> (*serve)(std::string_view request, Descriptors* fds);
};
std::span<const LauncherCall> PodCalls();        // launcher_pod.cc
std::span<const LauncherCall> ContainerCalls();  // launcher_container.cc

// Where ExecRecord (launch.proto) of a bundle is.
inline std::string RecordPath(const std::string& bundle) { return bundle + "/exec"; }

template <class Request, class Response>
Result<std::string> ServeTyped(Result<Response> (*call)(const Request&, Descriptors*), std::string_view bytes, Descriptors* fds) {
  Request request;
  if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return MakeError(Code::kInvalidArgument, "the request does not parse");
  return TRY(call(request, fds)).SerializeAsString();
}
// What `serve` is for a function of messages.
template <auto kCall>
Result<std::string> ServeCall(std::string_view bytes, Descriptors* fds) {
  return ServeTyped(kCall, bytes, fds);
}

// Hears one call by `connection`, does it and answers. For a process that ends then; nothing is thrown away that others hold.
void RunLauncher(UniqueFd connection);

}  // namespace caisson::agent
