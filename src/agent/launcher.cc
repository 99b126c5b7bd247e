// SPDX-License-Identifier: Apache-2.0
#include "agent/launcher.h"

#include "agent/launch_socket.h"
#include "base/log.h"
#include "caisson/guest/v1/launch.pb.h"

namespace caisson::agent {
namespace {

constexpr int64_t kHearMillis = 10'000;

guest::v1::LaunchAnswer Answer(Result<std::string> done) {
  guest::v1::LaunchAnswer answer;
  if (done) {
    answer.set_answer(std::move(*done));
    return answer;
  }
  answer.set_code(static_cast<int32_t>(done.error().code));
  answer.set_sys_errno(done.error().sys_errno);
  answer.set_message(std::move(done.error().message));
  return answer;
}

Result<std::string> CallByName(std::string_view name, std::string_view request, Descriptors* fds) {
  for (auto calls : {PodCalls(), ContainerCalls()}) {
    for (const LauncherCall& call : calls) {
      if (call.name == name) return call.serve(request, fds);
    }
  }
  return MakeError(Code::kUnimplemented, "no launcher does '{}'", name.substr(0, 64));
}

Result<> Serve(int connection) {
  LaunchMessage message = TRY(ReceiveLaunch(connection, Deadline::After(kHearMillis)));
  guest::v1::LaunchRequest request;
  if (!request.ParseFromString(message.text)) return MakeError(Code::kDataLoss, "the messenger's call does not parse");
  Descriptors fds;
  fds.came = std::move(message.fds);
  guest::v1::LaunchAnswer answer = Answer(CallByName(request.call(), request.request(), &fds));
  std::vector<int> go;
  for (const UniqueFd& fd : fds.go) go.push_back(fd.get());
  TRY(SendLaunch(connection, answer.SerializeAsString(), go, Deadline::After(kHearMillis)));
  if (fds.then) fds.then();
  return {};
}

}  // namespace

Result<UniqueFd> Descriptors::Take() {
  if (taken >= came.size()) return MakeError(Code::kInvalidArgument, "a descriptor is missing");
  return std::move(came[taken++]);
}

void RunLauncher(UniqueFd connection) {
  auto served = Serve(connection.get());
  if (!served) log::Error("a launcher: {}", served.error().message);
}

}  // namespace caisson::agent
