// SPDX-License-Identifier: Apache-2.0
#include "vmm/qmp.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <nlohmann/json.hpp>

#include "base/bad.h"
#include "base/limits.h"
#include "sys/fd_message.h"
#include "vmm/tail.h"

namespace caisson::vmm {
namespace {

constexpr size_t kErrorBytes = 1024;  // of an error's description

// Events that mean something to a driver, and the member of "data" that tells them apart.
struct KnownEvent {
  const char* name;
  const char* detail;
};
constexpr KnownEvent kEvents[] = {{"SHUTDOWN", "reason"},       {"MIGRATION", "status"},    {"DEVICE_DELETED", "device"},
                                  {"GUEST_PANICKED", "action"}, {"BLOCK_IO_ERROR", "action"}};

const Json* Member(const Json& object, const char* key) {
  auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

const std::string* TextOf(const Json& object, const char* key) {
  const Json* found = Member(object, key);
  return found != nullptr && found->is_string() ? found->get_ptr<const std::string*>() : nullptr;
}

Result<int64_t> IdOf(const Json& message) {
  const Json* id = Member(message, "id");
  if (id == nullptr || !id->is_number_unsigned() || id->get<uint64_t>() > INT64_MAX) return Bad("an answer without an id of ours");
  return static_cast<int64_t>(id->get<uint64_t>());
}

Result<> ReadError(const Json& error, Error* parsed) {
  if (!error.is_object()) return Bad("'error' is no object");
  const std::string* type = TextOf(error, "class");
  const std::string* description = TextOf(error, "desc");
  if (type == nullptr || description == nullptr) return Bad("an error without class or description");
  Code code = *type == "DeviceNotFound" ? Code::kNotFound : *type == "CommandNotFound" ? Code::kUnimplemented : Code::kInternal;
  *parsed = Error{code, 0, Printable(std::string_view(*description).substr(0, kErrorBytes))};
  return {};
}

Result<QmpEvent> EventOf(const Json& message) {
  const std::string* name = TextOf(message, "event");
  if (name == nullptr) return Bad("'event' is no text");
  QmpEvent event{name->substr(0, kErrorBytes), ""};
  const Json* data = Member(message, "data");
  if (data != nullptr && !data->is_object()) return Bad("an event's 'data' is no object");
  for (const KnownEvent& known : kEvents) {
    if (event.name != known.name || data == nullptr) continue;
    if (const std::string* detail = TextOf(*data, known.detail)) event.detail = Printable(std::string_view(*detail).substr(0, kErrorBytes));
  }
  return event;
}

bool IsKnown(const QmpEvent& event) {
  return std::any_of(std::begin(kEvents), std::end(kEvents), [&](const KnownEvent& known) { return event.name == known.name; });
}

}  // namespace

Result<QmpMessage> ParseQmpMessage(std::string_view line) {
  Json message = TRY(ParseJson(line, limits::kQmpMessageBytes));
  if (!message.is_object()) return Bad("a message that is no object");
  QmpMessage parsed;
  int forms = 0;
  if (const Json* greeting = Member(message, "QMP")) {
    if (!greeting->is_object()) return Bad("a greeting that is no object");
    parsed.kind = QmpMessage::Kind::kGreeting;
    ++forms;
  }
  if (const Json* result = Member(message, "return")) {
    parsed.kind = QmpMessage::Kind::kReturn;
    parsed.id = TRY(IdOf(message));
    parsed.result = DumpJson(*result);
    ++forms;
  }
  if (const Json* error = Member(message, "error")) {
    parsed.kind = QmpMessage::Kind::kError;
    parsed.id = TRY(IdOf(message));
    TRY(ReadError(*error, &parsed.error));
    ++forms;
  }
  if (Member(message, "event") != nullptr) {
    parsed.kind = QmpMessage::Kind::kEvent;
    parsed.event = TRY(EventOf(message));
    ++forms;
  }
  if (forms != 1) return Bad("a message that is not one of greeting, return, error and event");
  return parsed;
}

Result<std::unique_ptr<Qmp>> Qmp::Connect(UniqueFd socket, Deadline deadline) {
  std::unique_ptr<Qmp> qmp(new Qmp(std::move(socket)));
  QmpMessage greeting = TRY(qmp->NextAnswer(deadline));
  if (greeting.kind != QmpMessage::Kind::kGreeting) return Bad("QEMU's monitor begins without a greeting");
  TRY(qmp->Execute("qmp_capabilities", Json::object(), deadline));
  return qmp;
}

Error Qmp::Break(Error error) {
  error = std::move(error).Within("QEMU's monitor");
  broken_ = error;
  return error;
}

Result<std::string> Qmp::Execute(std::string_view command, const Json& arguments, Deadline deadline, int fd) {
  if (broken_) return Error(*broken_);
  Json message{{"execute", command}, {"arguments", arguments}, {"id", ++last_id_}};
  TRY(Send(DumpJson(message) + "\n", fd, deadline));
  auto answer = NextAnswer(deadline);
  if (!answer) return std::move(answer.error()).Within(command);
  if (answer->kind == QmpMessage::Kind::kGreeting || answer->id != last_id_) return Break(Bad("an answer to what was not asked"));
  backlog_ = 0;
  if (answer->kind == QmpMessage::Kind::kError) return std::move(answer->error).Within(command);
  return std::move(answer->result);
}

Result<> Qmp::Send(std::string_view text, int fd, Deadline deadline) {
  while (!text.empty()) {
    ssize_t sent = sys::SendFds(socket_.get(), text, std::span(&fd, fd >= 0 ? 1 : 0), MSG_DONTWAIT);
    if (sent >= 0) {
      text.remove_prefix(static_cast<size_t>(sent));
      fd = -1;  // goes with the first byte
      continue;
    }
    if (errno == EINTR) continue;
    if (errno == EPIPE || errno == ECONNRESET) return Break(MakeError(Code::kUnavailable, "closed"));
    if (errno != EAGAIN) return Break(ErrnoError("send"));
    pollfd wait{socket_.get(), POLLOUT, 0};
    if (poll(&wait, 1, deadline.RemainingMillis()) == 0) return Break(MakeError(Code::kDeadlineExceeded, "takes no command"));
  }
  return {};
}

// One read. `more`: something came.
Result<> Qmp::Fill(Deadline deadline, bool* more) {
  *more = false;
  for (;;) {
    char chunk[16 << 10];
    ssize_t got = recv(socket_.get(), chunk, sizeof chunk, MSG_DONTWAIT);
    if (got > 0) {
      buffer_.append(chunk, static_cast<size_t>(got));
      backlog_ += static_cast<size_t>(got);
      if (backlog_ > limits::kQmpBacklogBytes) return Break(MakeError(Code::kResourceExhausted, "does not stop talking"));
      *more = true;
      return {};
    }
    if (got == 0 || errno == ECONNRESET) return Break(MakeError(Code::kUnavailable, "closed"));
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return Break(ErrnoError("receive"));
    pollfd wait{socket_.get(), POLLIN, 0};
    if (poll(&wait, 1, deadline.RemainingMillis()) == 0) return {};
  }
}

Result<std::optional<QmpMessage>> Qmp::Next(Deadline deadline) {
  if (broken_) return Error(*broken_);
  size_t searched = 0;
  for (;;) {
    size_t end = buffer_.find('\n', searched);
    if (end != std::string::npos) {
      auto message = ParseQmpMessage(std::string_view(buffer_).substr(0, end));
      buffer_.erase(0, end + 1);
      if (!message) return Break(std::move(message.error()));
      return std::optional<QmpMessage>(std::move(*message));
    }
    searched = buffer_.size();
    if (searched > limits::kQmpMessageBytes) return Break(MakeError(Code::kResourceExhausted, "a message without an end"));
    bool more = false;
    TRY(Fill(deadline, &more));
    if (!more) return std::optional<QmpMessage>();
  }
}

Result<QmpMessage> Qmp::NextAnswer(Deadline deadline) {
  for (;;) {
    std::optional<QmpMessage> message = TRY(Next(deadline));
    // The answer to a command that is no longer waited for would be taken for the next one's.
    if (!message) return Break(MakeError(Code::kDeadlineExceeded, "no answer"));
    if (message->kind != QmpMessage::Kind::kEvent) return std::move(*message);
    Keep(std::move(message->event));
  }
}

void Qmp::Keep(QmpEvent event) {
  if (!IsKnown(event)) return;
  if (events_.size() >= limits::kQmpEvents) events_.pop_front();
  events_.push_back(std::move(event));
}

std::optional<QmpEvent> Qmp::Take(std::string_view name) {
  auto found = std::find_if(events_.begin(), events_.end(), [&](const QmpEvent& event) { return event.name == name; });
  if (found == events_.end()) return std::nullopt;
  QmpEvent event = std::move(*found);
  events_.erase(found);
  return event;
}

void Qmp::Forget(std::string_view name) {
  Drain();
  std::erase_if(events_, [&](const QmpEvent& event) { return event.name == name; });
}

Result<QmpEvent> Qmp::WaitFor(std::string_view name, Deadline deadline) {
  for (;;) {
    if (auto event = Take(name)) return std::move(*event);
    std::optional<QmpMessage> message = TRY(Next(deadline));
    if (!message) return MakeError(Code::kDeadlineExceeded, "QEMU's monitor: no event {}", name);
    if (message->kind != QmpMessage::Kind::kEvent) return Break(Bad("an answer to what was not asked"));
    Keep(std::move(message->event));
  }
}

void Qmp::Drain() {
  // At most so much at a time: what talks without end is not listened to for ever.
  size_t end = backlog_ + (1 << 20);
  while (!broken_ && backlog_ < end) {
    auto message = Next(Deadline::After(0));
    if (!message || !*message) break;
    if ((*message)->kind != QmpMessage::Kind::kEvent) {
      (void)Break(Bad("an answer to what was not asked"));
      break;
    }
    Keep(std::move((*message)->event));
  }
  backlog_ = 0;
}

}  // namespace caisson::vmm
