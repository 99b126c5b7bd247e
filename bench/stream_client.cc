// SPDX-License-Identifier: Apache-2.0
#include "stream_client.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace caisson::bench {
namespace {

constexpr size_t kReadBytes = 256 << 10;
constexpr size_t kHeadBytes = 4096;
constexpr int kSilenceMillis = 60'000;  // then something hangs

[[noreturn]] void Fail(const std::string& why) {
  fprintf(stderr, "cri_bench: streaming: %s\n", why.c_str());
  exit(1);
}

[[noreturn]] void FailErrno(const std::string& what) { Fail(what + ": " + strerror(errno)); }

}  // namespace

StreamClient::StreamClient(const std::string& url, const std::string& protocol) : buffer_(kReadBytes, '\0') {
  constexpr std::string_view kScheme = "http://";
  if (!url.starts_with(kScheme)) Fail("not an http URL: " + url);
  size_t slash = url.find('/', kScheme.size());
  std::string authority = url.substr(kScheme.size(), slash - kScheme.size());
  size_t colon = authority.rfind(':');
  std::string host = authority.substr(0, colon);
  if (host.starts_with('[')) host = host.substr(1, host.size() - 2);
  Connect(host, authority.substr(colon + 1));
  Upgrade(authority, url.substr(slash), protocol);
}

void StreamClient::Connect(const std::string& host, const std::string& port) {
  addrinfo hints = {}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) Fail("no address " + host);
  socket_ = UniqueFd(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  int result = connect(socket_.get(), found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  if (result != 0) FailErrno("connect to " + host + ":" + port);
  int on = 1;
  setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void StreamClient::Upgrade(const std::string& host, const std::string& path, const std::string& protocol) {
  Write("POST " + path + " HTTP/1.1\r\nHost: " + host + "\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n" +
        "X-Stream-Protocol-Version: " + protocol + "\r\nContent-Length: 0\r\n\r\n");
  std::string answer;
  while (answer.find("\r\n\r\n") == std::string::npos) {
    ssize_t got = recv(socket_.get(), buffer_.data(), 1, 0);
    if (got != 1) Fail("the server closed instead of upgrading: " + answer);
    answer.append(buffer_, 0, 1);
  }
  if (!answer.starts_with("HTTP/1.1 101")) Fail("no upgrade: " + answer.substr(0, answer.find('\r')));
}

// Reads while the server does not take more: neither side must wait for the other for ever.
void StreamClient::Write(std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t put = send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (put > 0) {
      bytes.remove_prefix(static_cast<size_t>(put));
      continue;
    }
    if (put < 0 && errno != EAGAIN && errno != EINTR) FailErrno("send");
    pollfd wait = {socket_.get(), POLLIN | POLLOUT, 0};
    if (poll(&wait, 1, kSilenceMillis) <= 0) Fail("the server takes nothing");
    if ((wait.revents & POLLIN) && !Read()) Fail("the server closed the connection");
  }
}

bool StreamClient::Read() {
  pollfd wait = {socket_.get(), POLLIN, 0};
  if (poll(&wait, 1, kSilenceMillis) <= 0) Fail("the server says nothing");
  ssize_t got = recv(socket_.get(), buffer_.data(), buffer_.size(), 0);
  if (got <= 0) return false;
  auto fed = parser_.Feed(std::string_view(buffer_).substr(0, static_cast<size_t>(got)), *this);
  if (!fed) Fail(fed.error().message);
  return true;
}

uint32_t StreamClient::OpenStream(const stream::SpdyHeaders& headers) {
  uint32_t id = next_;
  next_ += 2;
  Stream& stream = streams_[id];
  Write(writer_.SynStream(id, headers));
  while (!stream.open) {
    if (!Read()) Fail("the server closed the connection");
  }
  return id;
}

void StreamClient::Send(uint32_t stream, std::string_view data, bool fin) {
  Write(stream::SpdyWriter::DataHead(stream, data.size(), fin).append(data));
}

void StreamClient::Await(uint32_t id, uint64_t bytes) {
  Stream& stream = streams_[id];
  while (stream.bytes < bytes && !stream.fin) {
    if (!Read()) Fail("the server closed the connection");
  }
  if (stream.bytes < bytes) Fail("a stream ended after " + std::to_string(stream.bytes) + " bytes");
}

std::string StreamClient::AwaitEnd(uint32_t id) {
  Stream& stream = streams_[id];
  while (!stream.fin && Read()) continue;
  return stream.head;
}

void StreamClient::OnSynReply(uint32_t id, bool fin) {
  streams_[id].open = true;
  if (fin) streams_[id].fin = true;
}

// Go's servers end a stream that way when all has been said.
void StreamClient::OnRstStream(uint32_t id, uint32_t) { streams_[id].open = streams_[id].fin = true; }

void StreamClient::OnData(uint32_t id, std::string_view piece, bool fin) {
  Stream& stream = streams_[id];
  stream.bytes += piece.size();
  if (stream.head.size() < kHeadBytes) stream.head.append(piece.substr(0, kHeadBytes - stream.head.size()));
  if (fin) stream.fin = true;
}

}  // namespace caisson::bench
