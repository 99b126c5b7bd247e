// SPDX-License-Identifier: Apache-2.0
//
// The streaming server: what a CRI client reaches by the URLs that Exec, Attach and PortForward answer with. It speaks
// HTTP/1.1 with an upgrade to SPDY/3.1 or WebSocket and the Kubernetes subprotocols above them:
//   exec, attach   SPDY: v4, v3, v2.channel.k8s.io, channel.k8s.io; WebSocket: v5, v4.channel.k8s.io,
//                  v4.base64.channel.k8s.io, channel.k8s.io, base64.channel.k8s.io and none
//   port-forward   SPDY: portforward.k8s.io; WebSocket: v4.channel.k8s.io, v4.base64.channel.k8s.io, none, and
//                  SPDY/3.1+portforward.k8s.io (SPDY in WebSocket messages)
//
// It knows no CRI types and no processes. Backend, which the daemon implements, gives it descriptors: the server moves
// bytes between them and the client. One thread serves all clients. A URL is good once, for a minute, for one verb and
// target. A client that goes away, in whatever manner, frees all that belongs to its session at once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/limits.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::stream {

struct ExecTarget {
  std::string container_id;
  std::string pod_id;             // in place of a container: the process is in this pod's guest itself
  std::vector<std::string> args;  // of Attach: empty
  bool tty = false;
  bool in = false, out = false, err = false;  // with a tty there is no err
  std::string peer;                           // the client's address, for the backend; set by the server
};

struct PortForwardTarget {
  std::string pod_id;
  std::vector<uint16_t> ports;  // for WebSocket clients, whose protocol has them in the request
};

// A process, or an attachment to one, as the backend hands it over. Descriptors are the session's then; the server
// makes them non-blocking. A terminal's master or a socket may serve as several of them: then each is a duplicate.
struct Process {
  UniqueFd in;   // written to; at the client's end of input shut down (a socket) and closed
  UniqueFd out;  // read until its end
  UniqueFd err;
  // The rest may be empty. Called on the server's thread, so none may block.
  std::function<void(uint16_t width, uint16_t height)> resize;
  // Called once when the client has ended its input and all of it has been written to `in`, which is closed by then.
  std::function<void()> input_end;
  // Called once, when the session begins. `done` may be called from any thread, once: with the exit code, or why there
  // is none. Without `wait` the session ends, successfully, at the end of `out` and `err`.
  std::function<void(std::function<void(Result<int>)> done)> wait;
  // Called exactly once, when the session is over: it ran to its end, or the client is gone. (By the thread that calls
  // the backend's `done`, if the server itself is gone by then.)
  std::function<void()> end;
};

class Backend {
 public:
  virtual ~Backend() = default;
  // Each is called on the server's thread and returns at once. `done` is called once, from any thread, at any time; if
  // the client is gone by then, what it brings is closed and ended.
  virtual void Exec(const ExecTarget& target, std::function<void(Result<Process>)> done) = 0;
  virtual void Attach(const ExecTarget& target, std::function<void(Result<Process>)> done) = 0;
  // A connected stream socket to the port inside the pod.
  virtual void Connect(const std::string& pod_id, uint16_t port, std::function<void(Result<UniqueFd>)> done) = 0;
};

struct ServerOptions {
  std::string address = "127.0.0.1";
  uint16_t port = 0;     // 0: any
  std::string base_url;  // of the URLs that are given out, where it is not the listener's own ("https://node:10010")
  std::string tls_certificate;  // PEM files; both or none
  std::string tls_key;
  int64_t idle_timeout_millis = 4 * 3600 * 1000;  // of a session without a byte in either direction; as the kubelet's
  int64_t creation_timeout_millis = limits::kStreamCreationMillis;
  int64_t handshake_timeout_millis = limits::kStreamHandshakeMillis;
  int64_t token_millis = limits::kStreamTokenMillis;
};

class Server {
 public:
  // Listens and starts its thread. `backend` outlives the server. Errors: the address is taken, a file is unreadable.
  static Result<std::unique_ptr<Server>> Start(ServerOptions options, Backend& backend);
  // Ends all sessions and joins the thread.
  virtual ~Server() = default;

  // A URL for one client. Errors: kResourceExhausted when limits::kStreamTokens are waiting to be used. Thread-safe.
  virtual Result<std::string> ExecUrl(ExecTarget target) = 0;
  virtual Result<std::string> AttachUrl(ExecTarget target) = 0;
  virtual Result<std::string> PortForwardUrl(PortForwardTarget target) = 0;

  virtual uint16_t port() const = 0;
  // Open connections; thread-safe.
  virtual size_t connections() const = 0;
  // Reads the certificate and key again, for connections to come. Errors: the old ones stay. Thread-safe.
  virtual Result<> ReloadTls() = 0;
};

}  // namespace caisson::stream
