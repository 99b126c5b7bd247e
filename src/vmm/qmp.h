// SPDX-License-Identifier: Apache-2.0
//
// Qmp: QEMU's monitor (qemu-qmp-ref(7)) over a unix stream socket, for a process of one thread: one command at a time, its
// answer waited for under a deadline. Events that a driver asks about are kept, at most limits::kQmpEvents, the rest dropped.
//
// What comes in is foreign: each message is one line of bounded JSON and one of the four forms that QMP has; an answer must
// carry the command's id. After any breach, and after a deadline has passed, the connection is of no use: each call answers
// with the error that ended it. Secrets never go through it.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/json.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::vmm {

struct QmpEvent {
  std::string name;    // "SHUTDOWN"
  std::string detail;  // what tells events of this name apart: SHUTDOWN's reason, MIGRATION's status, DEVICE_DELETED's device
};

struct QmpMessage {
  enum class Kind { kGreeting, kReturn, kError, kEvent };
  Kind kind = Kind::kEvent;
  int64_t id = 0;      // of kReturn and kError
  Error error;         // of kError: kNotFound, kUnimplemented or kInternal, the description printable
  QmpEvent event;      // of kEvent
  std::string result;  // of kReturn: JSON
};

// One message without its line end. Errors: kInvalidArgument.
Result<QmpMessage> ParseQmpMessage(std::string_view line);

class Qmp {
 public:
  // Over a connected socket: takes the greeting, ends the negotiation. Errors: kUnavailable when the other end is closed.
  static Result<std::unique_ptr<Qmp>> Connect(UniqueFd socket, Deadline deadline);

  // Executes a command; `fd`, if any, goes with it (SCM_RIGHTS). Returns the result as JSON. Errors: the command's own, after
  // which the connection goes on; or what ended the connection.
  Result<std::string> Execute(std::string_view command, const Json& arguments, Deadline deadline, int fd = -1);
  // The next event `name` that has not been taken yet. A command that is to cause it: Forget the older ones first.
  Result<QmpEvent> WaitFor(std::string_view name, Deadline deadline);
  void Forget(std::string_view name);
  // Takes in what is there, without waiting.
  void Drain();
  // The oldest event `name` that has been taken in, which is then forgotten.
  std::optional<QmpEvent> Take(std::string_view name);

  int fd() const { return socket_.get(); }
  bool broken() const { return broken_.has_value(); }

 private:
  explicit Qmp(UniqueFd socket) : socket_(std::move(socket)) {}
  Result<> Send(std::string_view text, int fd, Deadline deadline);
  // Answers with the next message, or with none once the deadline has passed.
  Result<std::optional<QmpMessage>> Next(Deadline deadline);
  Result<> Fill(Deadline deadline, bool* more);
  // The next message that is no event.
  Result<QmpMessage> NextAnswer(Deadline deadline);
  void Keep(QmpEvent event);
  Error Break(Error error);

  UniqueFd socket_;
  std::string buffer_;
  size_t backlog_ = 0;  // bytes since the last answer
  std::deque<QmpEvent> events_;
  std::optional<Error> broken_;
  int64_t last_id_ = 0;
};

}  // namespace caisson::vmm
