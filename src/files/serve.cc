// SPDX-License-Identifier: Apache-2.0
#include "files/serve.h"

#include <malloc.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <string>
#include <utility>
#include <vector>

#include "files/confine.h"
#include "files/file_server.h"
#include "sys/fd_message.h"

namespace caisson::files {
namespace {

constexpr size_t kReadBytes = 64 << 10;
// Descriptors that are neither files of the guest's nor opened ones.
constexpr size_t kSpareDescriptors = 64;
constexpr size_t kMostDescriptors = 1 << 18;

FileServerBounds BoundsOf(size_t descriptors) {
  FileServerBounds bounds;
  size_t free = std::min(descriptors, kMostDescriptors);
  free -= std::min(free, kSpareDescriptors);
  // An open file is pinned: two descriptors.
  bounds.open_files = free / 4;
  bounds.inodes.descriptors = free / 4;
  return bounds;
}

// A volume or nothing. False: the companion has gone.
Result<bool> TakeVolume(FileServer* server) {
  VolumeMessage message{};
  std::vector<UniqueFd> fds;
  ssize_t got = sys::ReceiveFds(kStarterSocket, &message, sizeof message, &fds, MSG_DONTWAIT);
  if (got < 0 && errno == EAGAIN) return true;
  if (got <= 0) return false;
  if (got != sizeof message) return MakeError(Code::kInternal, "a message of {} bytes from the companion", got);
  message.name[sizeof message.name - 1] = '\0';
  if (message.removed != 0) {
    server->RemoveVolume(message.name);
  } else {
    TRY(server->AddVolume(message.name, fds.empty() ? UniqueFd() : std::move(fds.front()), message.writable != 0, message.constant != 0));
  }
  return true;
}

// False: there is no guest any more.
bool Send(std::string_view answer) {
  while (!answer.empty()) {
    ssize_t sent = write(kGuestSocket, answer.data(), answer.size());
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return false;
    answer.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

Result<> ServeAll(FileServer* server) {
  FuseReader reader;
  // Without a VMM there is nothing to do, but not for us to end the pod: its end is told by who has a reason for it.
  bool guest = true;
  for (;;) {
    pollfd both[2] = {{guest ? kGuestSocket : -1, POLLIN, 0}, {kStarterSocket, POLLIN, 0}};
    if (poll(both, 2, -1) < 0 && errno != EINTR) return ErrnoError("wait for the guest");
    ssize_t got = 0;
    if (both[0].revents != 0) {
      got = read(kGuestSocket, reader.Room(kReadBytes), kReadBytes);
      guest = got > 0 || (got < 0 && (errno == EINTR || errno == EAGAIN));
    }
    // After the guest was read: a volume of which it asks has been sent before it could know of it.
    if (!TRY(TakeVolume(server))) return {};
    if (got <= 0) continue;
    reader.Added(static_cast<size_t>(got));
    for (;;) {
      auto request = TRY(reader.Next());
      if (!request) break;
      if (!Send(server->Handle(*request))) guest = false;
    }
    EndWithStarter();
  }
}

Result<> Run() {
  prctl(PR_SET_NAME, "caisson-files", 0, 0, 0);
  mallopt(M_ARENA_MAX, 1);
  signal(SIGPIPE, SIG_IGN);
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return ErrnoError("ask for the limit of descriptors");
  UniqueFd own = TRY(Confine());
  FileServer server(std::move(own), BoundsOf(files.rlim_max));
  if (send(kStarterSocket, kReady, sizeof kReady, MSG_NOSIGNAL) < 0) return ErrnoError("say that we are ready");
  return ServeAll(&server);
}

}  // namespace

int Serve() {
  auto done = Run();
  if (done) return 0;
  const std::string& words = done.error().message;
  (void)!send(kStarterSocket, words.data(), std::min<size_t>(words.size(), 1024), MSG_NOSIGNAL | MSG_DONTWAIT);
  return 1;
}

}  // namespace caisson::files
