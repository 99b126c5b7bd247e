// SPDX-License-Identifier: Apache-2.0
//
// Transport: one HTTP/1.1 request and its answer over libcurl; the only file pair that knows libcurl's transfers. It
// does not retry, redirect or authenticate: fetch.h and auth.h do. HTTP/1.1 because a blob is one long answer: a
// connection each, no head-of-line blocking and no flow-control window of HTTP/2 in the way.
//
// Thread-safe: Perform blocks its thread; each call takes a connection set from a pool and gives it back, so that
// connections outlive calls. Bounded: headers, bodies that are not passed to a sink, time without progress.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "image/proxy.h"
#include "image/registry.h"
#include "image/url.h"

namespace caisson::image {

struct TlsOptions {
  bool skip_verify = false;
  std::vector<std::string> ca_files;                            // trusted beside the system's
  std::vector<std::pair<std::string, std::string>> client_certs;  // certificate, key ("" if in the same file)
};

struct HttpResponse {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers;  // names in lowercase, as many as came
  std::string body;                                           // of what no sink took

  // The first header `name` (lowercase), or "".
  std::string_view Header(std::string_view name) const;
};

// Called with each piece of the body of a 200 or 206; the head is complete by then.
using BodySink = std::function<Result<>(const HttpResponse& head, std::string_view chunk)>;

struct HttpRequest {
  std::string method = "GET";  // GET, HEAD, POST
  Url url;
  std::vector<std::string> headers;  // "Name: value"; may hold secrets
  std::string body;                  // of a POST
  TlsOptions tls;
  int64_t connect_timeout_millis = 30'000;
  size_t max_body = 0;  // of a 200 without a sink
  // Whether addresses that only this node can mean are allowed: loopback; link-local, where clouds keep their
  // instances' secrets. A configured registry may be anywhere, a host that a registry names may not.
  bool allow_loopback = true, allow_link_local = true;
  BodySink sink;  // may be empty
};

struct Exchange {
  enum class Failure {
    kNone,     // an answer came, whatever its status
    kConnect,  // nobody answered at that address
    kBroken,   // the connection broke or stalled on the way
    kFinal,    // trying again will not help: TLS, limits, the sink's error, cancellation
  };
  HttpResponse response;
  Failure failure = Failure::kNone;
  Error error;  // set unless kNone; names the origin, never a query or header

  bool ok() const { return failure == Failure::kNone; }
};

class Transport {
 public:
  struct Options {
    std::string user_agent = "caisson";
    int64_t stall_timeout_millis = 60'000;
    ProxyRules proxies;
  };

  explicit Transport(Options options);
  ~Transport();
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  Exchange Perform(const HttpRequest& request, const CallControl& control);
  void CloseIdle();

 private:
  struct Line;  // a set of connections and the handle that uses them
  std::unique_ptr<Line> Take(const std::string& origin);
  void GiveBack(std::unique_ptr<Line> line);

  const Options options_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Line>> idle_;  // guarded by mutex_; the last used last
};

}  // namespace caisson::image
