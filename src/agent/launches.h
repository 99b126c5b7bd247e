// SPDX-License-Identifier: Apache-2.0
//
// Launches: how the messenger has done what it may not do itself: each call is served by a launcher that PID 1 forks for it
// (launcher.h) and that ends with its answer. Also where it hears of the ends of the containers' processes, which are PID 1's children.
// Calls block until they are answered, under their deadline, as the launch of a container does. One thread, the loop's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/launch_socket.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "task/ended_processes.h"

namespace caisson::agent {

inline constexpr int64_t kLaunchMillis = 75'000;  // longer than any launcher's own deadline

class Launches : public task::EndedProcesses {
 public:
  // `socket`: the messenger's end of the pair with PID 1.
  explicit Launches(UniqueFd socket) : socket_(std::move(socket)) {}

  // `fds` go with it and stay the caller's. Descriptors of the answer are put into `got`, where they are wanted. Errors: the call's own;
  // kUnavailable for a launcher that has died, or could not be born.
  template <class Request, class Response>
  Result<Response> Call(const char* call, const Request& request, const std::vector<int>& fds = {}, std::vector<UniqueFd>* got = nullptr) {
    LaunchMessage answer = TRY(CallText(call, request.SerializeAsString(), fds, nullptr));
    if (got != nullptr) *got = std::move(answer.fds);
    return Parse<Response>(call, answer.text);
  }
  // The same of a launcher that is born in `place` and stays. Its pid is put into `pid`.
  template <class Request, class Response>
  Result<Response> CallIn(const Birthplace& place, const char* call, const Request& request, const std::vector<int>& fds, std::vector<UniqueFd>* got, int* pid) {
    LaunchMessage answer = TRY(CallText(call, request.SerializeAsString(), fds, &place));
    *got = std::move(answer.fds);
    *pid = answer.sender;
    return Parse<Response>(call, answer.text);
  }

  // EndedProcesses.
  int fd() const override { return socket_.get(); }
  std::optional<task::EndedProcess> Next() override;

 private:
  template <class Response>
  static Result<Response> Parse(const char* call, const std::string& text) {
    Response response;
    if (!response.ParseFromString(text)) return MakeError(Code::kDataLoss, "the answer to {} does not parse", call);
    return response;
  }
  Result<LaunchMessage> CallText(const char* call, std::string request, const std::vector<int>& fds, const Birthplace* place);

  UniqueFd socket_;
};

}  // namespace caisson::agent
