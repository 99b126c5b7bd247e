// SPDX-License-Identifier: Apache-2.0
#include "agent/streams.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/id.h"
#include "base/limits.h"
#include "task/output.h"
#include "task/queued_input.h"

namespace caisson::agent {

struct Streams::Stream {
  UniqueFd socket;  // the two below have descriptors of their own
  std::unique_ptr<task::QueuedInput> in;
  task::KeptOutput kept;
  std::unique_ptr<task::Output> out;
};

// A connection under way: to 127.0.0.1, then to ::1.
struct Streams::Dialing {
  std::string id;
  uint16_t port = 0;
  Done done;
  std::vector<int> families = {AF_INET, AF_INET6};
  UniqueFd socket;
  Error last;
  sys::EventLoop::TimerId timer = 0;
};

void Streams::Dial(const std::string& id, uint16_t port, int64_t deadline_millis, Done done) {
  if (!IsSafeName(id) || port == 0) return done(MakeError(Code::kInvalidArgument, "a stream needs a name and a port"));
  if (streams_.contains(id)) return done(MakeError(Code::kAlreadyExists, "stream '{}' exists already", id));
  if (streams_.size() >= limits::kGuestStreams) return done(MakeError(Code::kResourceExhausted, "{} streams are open already", streams_.size()));
  streams_[id] = nullptr;  // the name is taken
  auto dialing = std::make_shared<Dialing>();
  dialing->id = id;
  dialing->port = port;
  dialing->done = std::move(done);
  dialing->last = MakeError(Code::kDeadlineExceeded, "port {} has not accepted within {} ms", port, deadline_millis);
  dialing->timer = loop_->After(deadline_millis, [this, dialing] {
    dialing->timer = 0;
    dialing->families.clear();
    TryNext(dialing);
  });
  TryNext(dialing);
}

void Streams::TryNext(const std::shared_ptr<Dialing>& dialing) {
  if (dialing->socket) loop_->Unwatch(dialing->socket.get());
  dialing->socket.Reset();
  while (!dialing->families.empty()) {
    int family = dialing->families.front();
    dialing->families.erase(dialing->families.begin());
    UniqueFd fd(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_in v4{};
    v4.sin_family = AF_INET;
    v4.sin_port = htons(dialing->port);
    v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    sockaddr_in6 v6{};
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(dialing->port);
    v6.sin6_addr = in6addr_loopback;
    const sockaddr* to = family == AF_INET ? reinterpret_cast<sockaddr*>(&v4) : reinterpret_cast<sockaddr*>(&v6);
    if (fd && connect(fd.get(), to, family == AF_INET ? sizeof v4 : sizeof v6) == 0) return OnConnected(dialing, std::move(fd));
    if (!fd || errno != EINPROGRESS) {
      dialing->last = ErrnoError("connect to port {}", dialing->port);
      continue;
    }
    dialing->socket = std::move(fd);
    auto watched = loop_->Watch(dialing->socket.get(), EPOLLOUT, [this, dialing](uint32_t) {
      int error = 0;
      socklen_t size = sizeof error;
      getsockopt(dialing->socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
      if (error == 0) {
        loop_->Unwatch(dialing->socket.get());
        return OnConnected(dialing, std::move(dialing->socket));
      }
      dialing->last = SysError(error, fmt::format("connect to port {}", dialing->port));
      TryNext(dialing);
    });
    if (watched) return;
    dialing->last = std::move(watched.error());
  }
  loop_->CancelTimer(std::exchange(dialing->timer, 0));
  streams_.erase(dialing->id);
  if (auto done = std::exchange(dialing->done, nullptr)) done(dialing->last);
}

void Streams::OnConnected(const std::shared_ptr<Dialing>& dialing, UniqueFd fd) {
  loop_->CancelTimer(std::exchange(dialing->timer, 0));
  auto stream = std::make_shared<Stream>();
  Stream* raw = stream.get();
  UniqueFd reader(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3)), writer(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!reader || !writer) {
    streams_.erase(dialing->id);
    return std::exchange(dialing->done, nullptr)(ErrnoError("duplicate a stream"));
  }
  stream->socket = std::move(fd);
  stream->in = std::make_unique<task::QueuedInput>(loop_, std::move(writer));
  stream->out = std::make_unique<task::Output>(loop_, &scratch_, std::move(reader), [raw](std::string_view bytes) { raw->kept.Append(bytes); },
                                               [raw] { raw->kept.End(); });
  stream->kept.SetSource(stream->out.get());
  streams_[dialing->id] = std::move(stream);
  std::exchange(dialing->done, nullptr)({});
}

void Streams::Read(const std::string& id, size_t max, task::KeptOutput::Reader reader) {
  auto found = streams_.find(id);
  if (found == streams_.end() || !found->second) return reader(MakeError(Code::kNotFound, "no stream '{}'", id.substr(0, 128)));
  found->second->kept.Read(max, false, std::move(reader));
}

void Streams::Write(const std::string& id, std::string bytes, Done done) {
  auto found = streams_.find(id);
  if (found == streams_.end() || !found->second) return done(MakeError(Code::kNotFound, "no stream '{}'", id.substr(0, 128)));
  if (!found->second->in) return done(MakeError(Code::kFailedPrecondition, "the stream '{}' is closed for writing", id));
  found->second->in->Write(std::move(bytes), std::move(done));
}

void Streams::Close(const std::string& id, bool only_write) {
  auto found = streams_.find(id);
  if (found == streams_.end() || !found->second) return;
  if (only_write) {
    found->second->in.reset();
    shutdown(found->second->socket.get(), SHUT_WR);
    return;
  }
  // A reader that waits may be on the stack.
  loop_->Post([stream = std::move(found->second)] {});
  streams_.erase(found);
}

}  // namespace caisson::agent
