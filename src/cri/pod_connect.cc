// SPDX-License-Identifier: Apache-2.0
#include "cri/pod_connect.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <utility>

#include "base/check.h"
#include "base/limits.h"
#include "net/netns.h"

namespace caisson::cri {
namespace {

const char* AddressOf(int family) { return family == AF_INET ? "127.0.0.1" : "::1"; }

int ConnectLoopback(int fd, int family, uint16_t port) {
  if (family == AF_INET) {
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to);
  }
  sockaddr_in6 to = {};
  to.sin6_family = AF_INET6;
  to.sin6_port = htons(port);
  to.sin6_addr = in6addr_loopback;
  return connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to);
}

}  // namespace

struct PodConnector::Attempt {
  std::string netns_path;
  uint16_t port = 0;
  Done done;
  UniqueFd fd;
  int family = AF_INET;
  sys::EventLoop::TimerId timer = 0;
  Error first;  // of 127.0.0.1
};

Result<std::unique_ptr<PodConnector>> PodConnector::Create(sys::EventLoop* loop) {
  UniqueFd home(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!home) return ErrnoError("open the network namespace");
  return std::unique_ptr<PodConnector>(new PodConnector(loop, std::move(home)));
}

void PodConnector::Connect(const std::string& netns_path, uint16_t port, Done done) {
  auto attempt = std::make_shared<Attempt>();
  attempt->netns_path = netns_path;
  attempt->port = port;
  attempt->done = std::move(done);
  attempt->timer = loop_->After(limits::kForwardConnectMillis, [this, attempt] {
    attempt->timer = 0;
    Finish(attempt, MakeError(Code::kDeadlineExceeded, "no answer from {} port {}", AddressOf(attempt->family), attempt->port));
  });
  Try(attempt, AF_INET);
}

Result<UniqueFd> PodConnector::Socket(const std::string& netns_path, int family) {
  UniqueFd netns;
  if (!netns_path.empty()) {
    netns = UniqueFd(open(netns_path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    if (!netns) return ErrnoError("open the pod's network namespace");
    if (setns(netns.get(), CLONE_NEWNET) != 0) return ErrnoError("enter the pod's network namespace");
  }
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  int error = errno;
  // Back, so that a pod's namespace does not live on because this thread is in it.
  if (netns) CHECK(setns(home_.get(), CLONE_NEWNET) == 0);
  if (!fd) return SysError(error, "make a socket in the pod's network namespace");
  return fd;
}

void PodConnector::Try(const std::shared_ptr<Attempt>& attempt, int family) {
  attempt->family = family;
  auto fd = Socket(attempt->netns_path, family);
  if (!fd) return Failed(attempt, std::move(fd.error()));
  attempt->fd = std::move(*fd);
  int one = 1;
  setsockopt(attempt->fd.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (ConnectLoopback(attempt->fd.get(), family, attempt->port) == 0) return Finish(attempt, std::move(attempt->fd));
  auto describe = [attempt](int error) {
    return SysError(error, fmt::format("connect to {} port {}", AddressOf(attempt->family), attempt->port));
  };
  if (errno != EINPROGRESS) return Failed(attempt, describe(errno));
  auto watched = loop_->Watch(attempt->fd.get(), EPOLLOUT, [this, attempt, describe](uint32_t) {
    loop_->Unwatch(attempt->fd.get());
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(attempt->fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0) error = errno;
    if (error != 0) return Failed(attempt, describe(error));
    Finish(attempt, std::move(attempt->fd));
  });
  if (!watched) Failed(attempt, std::move(watched.error()));
}

void PodConnector::Failed(const std::shared_ptr<Attempt>& attempt, Error error) {
  attempt->fd.Reset();
  if (attempt->family == AF_INET) {
    attempt->first = std::move(error);
    return Try(attempt, AF_INET6);
  }
  // A pod without IPv6 says nothing of interest about it.
  Finish(attempt, std::move(attempt->first));
}

void PodConnector::Finish(const std::shared_ptr<Attempt>& attempt, Result<UniqueFd> result) {
  if (attempt->timer != 0) loop_->CancelTimer(std::exchange(attempt->timer, 0));
  if (attempt->fd) {
    loop_->Unwatch(attempt->fd.get());
    attempt->fd.Reset();
  }
  if (auto done = std::exchange(attempt->done, nullptr)) done(std::move(result));
}

}  // namespace caisson::cri
