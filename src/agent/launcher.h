// SPDX-License-Identifier: Apache-2.0
//
// The launcher: a process that PID 1 forks to do one thing for the messenger that needs rights, and that ends with its answer. What the
// containers' processes are started by is here, and all else that changes the guest. It trusts the messenger's words no further than
// that each is a pod's business: names lead nowhere, and volumes, layers and bundles are below kRunDir.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
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

// The calls by name.
class LauncherCalls {
 public:
  template <class Request, class Response>
  void Add(const char* name, Result<Response> (*call)(const Request&, Descriptors*)) {
    calls_[name] = [call](std::string_view bytes, Descriptors* fds) -> Result<std::string> {
      Request request;
      if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return MakeError(Code::kInvalidArgument, "the request does not parse");
      Response response = TRY(call(request, fds));
      return response.SerializeAsString();
    };
  }
  Result<std::string> Call(const std::string& name, std::string_view request, Descriptors* fds) const;

 private:
  std::map<std::string, std::function<Result<std::string>(std::string_view, Descriptors*)>> calls_;
};

void AddPodCalls(LauncherCalls* calls);        // launcher_pod.cc
void AddContainerCalls(LauncherCalls* calls);  // launcher_container.cc

// Hears one call by `connection`, does it and answers. For a process that ends then; nothing is thrown away that others hold.
void RunLauncher(UniqueFd connection);

}  // namespace caisson::agent
