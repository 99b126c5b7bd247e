// SPDX-License-Identifier: Apache-2.0
#include "agent/launches.h"

#include <sys/socket.h>

#include <utility>

#include "caisson/guest/v1/launch.pb.h"

namespace caisson::agent {

Result<LaunchMessage> Launches::CallText(const char* call, std::string request, const std::vector<int>& fds, const Birthplace* place) {
  Deadline deadline = Deadline::After(kLaunchMillis);
  SocketPair pair = TRY(MakeSocketPair(SOCK_STREAM));
  if (place != nullptr) TRY(AskForSenders(pair.first.get()));
  TRY(AskForLauncher(socket_.get(), pair.second.get(), place, deadline));
  pair.second.Reset();
  guest::v1::LaunchRequest envelope;
  envelope.set_call(call);
  envelope.set_request(std::move(request));
  TRY(SendLaunch(pair.first.get(), envelope.SerializeAsString(), fds, deadline));
  auto message = ReceiveLaunch(pair.first.get(), deadline);
  if (!message) return std::move(message.error()).Within(call);
  guest::v1::LaunchAnswer answer;
  if (!answer.ParseFromString(message->text)) return MakeError(Code::kDataLoss, "{}: the launcher's answer does not parse", call);
  if (answer.code() != 0) return Error{static_cast<Code>(answer.code()), answer.sys_errno(), answer.message()};
  message->text = std::move(*answer.mutable_answer());
  return message;
}

std::optional<task::EndedProcess> Launches::Next() {
  task::EndedProcess ended;
  if (!TakeNotice(socket_.get(), &ended)) return std::nullopt;
  return ended;
}

}  // namespace caisson::agent
