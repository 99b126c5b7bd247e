// SPDX-License-Identifier: Apache-2.0
#include "image/transport.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <stop_token>

#include <curl/curl.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/strings.h"
#include "image/file.h"

namespace caisson::image {
namespace {

constexpr size_t kReceiveBytes = 256 << 10;  // libcurl's receive buffer: few reads, still within the L2 cache
constexpr size_t kMaxIdleLines = 8;
constexpr int64_t kIdleNanos = 60 * kNanosPerSecond;
constexpr int64_t kMinBytesPerSecond = 1024;
constexpr size_t kMaxHeaders = 200;

// Everything the callbacks of one transfer share. Used by the thread in Perform alone.
struct Transfer {
  const HttpRequest* request = nullptr;
  HttpResponse response;
  size_t header_bytes = 0;
  int64_t received = 0;    // body bytes
  int64_t sink_nanos = 0;  // spent in the sink: not the sender's fault
  bool refused_address = false;
  bool enough = false;  // an error's body is long enough
  std::optional<Error> error;
  bool sink_failed = false;  // the error is the sink's, to be passed on as it is
};

bool HasControl(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

size_t OnHeader(char* data, size_t, size_t size, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  std::string_view line = Trim({data, size});
  if (line.starts_with("HTTP/")) {  // also after a 100 Continue
    size_t space = line.find(' ');
    auto status = ParseInt64(line.substr(std::min(line.size(), space + 1), 3));
    transfer.response.status = status ? static_cast<int>(*status) : 0;
    transfer.response.headers.clear();
    return size;
  }
  transfer.header_bytes += size;
  size_t colon = line.find(':');
  if (colon == std::string_view::npos) return size;
  if (transfer.header_bytes > limits::kHttpHeaderBytes || transfer.response.headers.size() >= kMaxHeaders) {
    transfer.error = MakeError(Code::kInvalidArgument, "the answer has more than {} bytes or {} lines of headers",
                               limits::kHttpHeaderBytes, kMaxHeaders);
    return 0;
  }
  std::string name(line.substr(0, colon));
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  transfer.response.headers.emplace_back(std::move(name), Trim(line.substr(colon + 1)));
  return size;
}

// The body of anything but a success is kept up to a limit, for its error message, and the rest not waited for.
size_t OnErrorBody(Transfer& transfer, std::string_view chunk) {
  size_t room = limits::kHttpErrorBytes - transfer.response.body.size();
  transfer.response.body.append(chunk.substr(0, room));
  if (chunk.size() <= room) return chunk.size();
  transfer.enough = true;
  return 0;
}

size_t OnBody(char* data, size_t, size_t size, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  std::string_view chunk(data, size);
  transfer.received += static_cast<int64_t>(size);
  if (transfer.response.status != 200 && transfer.response.status != 206) return OnErrorBody(transfer, chunk);
  if (transfer.request->sink) {
    int64_t start = MonotonicNanos();
    auto taken = transfer.request->sink(transfer.response, chunk);
    transfer.sink_nanos += MonotonicNanos() - start;
    if (taken) return size;
    transfer.error = std::move(taken.error());
    transfer.sink_failed = true;
    return 0;
  }
  if (transfer.response.body.size() + size > transfer.request->max_body) {
    transfer.error = MakeError(Code::kInvalidArgument, "the answer is larger than the limit of {} bytes",
                               transfer.request->max_body);
    return 0;
  }
  transfer.response.body.append(chunk);
  return size;
}

// What a name resolved to decides, not the name: DNS may say anything.
bool IsRefused(const sockaddr* address, const HttpRequest& request) {
  unsigned char b[16] = {};
  bool v4 = address->sa_family == AF_INET;
  if (v4) {
    std::memcpy(b, &reinterpret_cast<const sockaddr_in*>(address)->sin_addr, 4);
  } else if (address->sa_family == AF_INET6) {
    const in6_addr& six = reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
    std::memcpy(b, &six, 16);
    if (IN6_IS_ADDR_V4MAPPED(&six)) {
      std::memmove(b, b + 12, 4);
      v4 = true;
    }
    if (!v4 && IN6_IS_ADDR_LINKLOCAL(&six)) return !request.allow_link_local;
    if (!v4) return !request.allow_loopback && (IN6_IS_ADDR_LOOPBACK(&six) || IN6_IS_ADDR_UNSPECIFIED(&six));
  } else {
    return true;
  }
  if (b[0] == 169 && b[1] == 254) return !request.allow_link_local;
  return !request.allow_loopback && (b[0] == 127 || b[0] == 0);
}

// Sockets are made here because libcurl's own are not close-on-exec.
curl_socket_t OpenSocket(void* user, curlsocktype, curl_sockaddr* address) {
  auto& transfer = *static_cast<Transfer*>(user);
  if (transfer.request != nullptr && IsRefused(&address->addr, *transfer.request)) {
    transfer.refused_address = true;
    return CURL_SOCKET_BAD;
  }
  return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}
// Behind a proxy the address is the proxy's, which the operator chose.
curl_socket_t OpenSocketToProxy(void*, curlsocktype, curl_sockaddr* address) {
  return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

struct FreeList {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using HeaderList = std::unique_ptr<curl_slist, FreeList>;

Result<HeaderList> MakeHeaders(const HttpRequest& request) {
  HeaderList list;
  auto add = [&list](const std::string& header) {
    curl_slist* longer = curl_slist_append(list.get(), header.c_str());
    CHECK(longer != nullptr);
    (void)list.release();
    list.reset(longer);
  };
  for (const std::string& header : request.headers) {
    // A line end would start a header of somebody else's making.
    if (HasControl(header)) return MakeError(Code::kInvalidArgument, "a request header holds a control character");
    add(header);
  }
  if (request.method == "POST") add("Expect:");
  return list;
}

void Set(CURL* easy, CURLoption option, long value) { CHECK(curl_easy_setopt(easy, option, value) == CURLE_OK); }
void Set(CURL* easy, CURLoption option, const std::string& value) {
  CHECK(curl_easy_setopt(easy, option, value.c_str()) == CURLE_OK);
}

Result<> SetTls(CURL* easy, const TlsOptions& tls) {
  Set(easy, CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2);
  if (tls.skip_verify) {
    Set(easy, CURLOPT_SSL_VERIFYPEER, 0L);
    Set(easy, CURLOPT_SSL_VERIFYHOST, 0L);
  }
  if (!tls.ca_files.empty()) {
    // The blob stands in for the system's bundle file; the system's CA folder stays in force.
    std::string pem;
    for (const std::string& file : tls.ca_files) pem += TRY(ReadSmallFile(file, limits::kConfigFileBytes)) + "\n";
    curl_blob blob{pem.data(), pem.size(), CURL_BLOB_COPY};
    CHECK(curl_easy_setopt(easy, CURLOPT_CAINFO_BLOB, &blob) == CURLE_OK);
    Set(easy, CURLOPT_CAPATH, "/etc/ssl/certs");
  }
  if (!tls.client_certs.empty()) {
    const auto& [certificate, key] = tls.client_certs.front();
    Set(easy, CURLOPT_SSLCERT, certificate);
    Set(easy, CURLOPT_SSLKEY, key.empty() ? certificate : key);
  }
  return {};
}

// Hints for the mistakes that everybody makes once.
std::string Hint(CURLcode code, std::string_view text) {
  if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE) {
    return " (x509: trust its CA by 'ca' in hosts.toml or a .crt file in the registry's folder below certs.d)";
  }
  if (text.find("wrong version number") != std::string_view::npos) {
    return " (it does not speak TLS here; if it is meant to speak plain HTTP, name it as http://… in hosts.toml)";
  }
  return "";
}

Exchange::Failure KindOf(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT: return Exchange::Failure::kConnect;
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING: return Exchange::Failure::kBroken;
    default: return Exchange::Failure::kFinal;
  }
}

void Fail(Exchange* exchange, Exchange::Failure failure, Error error) {
  exchange->failure = failure;
  exchange->error = std::move(error);
}

}  // namespace

std::string_view HttpResponse::Header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return {};
}

struct Transport::Line {
  Line() : multi(curl_multi_init()) {
    CHECK(multi != nullptr);
    curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, 4L);
    Renew();
  }
  ~Line() {
    curl_easy_cleanup(easy);
    curl_multi_cleanup(multi);
  }
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;

  // A handle without a past. curl_easy_reset is not enough: a transfer that found nobody to connect to leaves its
  // receive buffer, and with one CURLOPT_BUFFERSIZE is refused. Connections are the multi handle's and are kept.
  void Renew() {
    curl_easy_cleanup(easy);
    easy = curl_easy_init();
    CHECK(easy != nullptr);
  }
  Result<HeaderList> Configure(const HttpRequest& request, const Options& options, Transfer* transfer, char* why);
  Exchange Run(const HttpRequest& request, const Options& options, const CallControl& control, Transfer* transfer,
               const char* why);
  std::optional<CURLcode> Finished();

  CURLM* multi;
  CURL* easy = nullptr;
  std::string origin;
  int64_t used_nanos = 0;
};

Result<HeaderList> Transport::Line::Configure(const HttpRequest& request, const Options& options, Transfer* transfer,
                                              char* why) {
  Set(easy, CURLOPT_URL, request.url.ToString());
  CHECK(curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK);
  Set(easy, CURLOPT_FOLLOWLOCATION, 0L);
  Set(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
  Set(easy, CURLOPT_PATH_AS_IS, 1L);
  Set(easy, CURLOPT_NOSIGNAL, 1L);
  Set(easy, CURLOPT_TCP_KEEPALIVE, 1L);
  Set(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  Set(easy, CURLOPT_BUFFERSIZE, request.sink ? kReceiveBytes : 16 << 10);
  Set(easy, CURLOPT_CONNECTTIMEOUT_MS, request.connect_timeout_millis);
  Set(easy, CURLOPT_USERAGENT, options.user_agent);
  if (request.method == "HEAD") Set(easy, CURLOPT_NOBODY, 1L);
  if (request.method == "POST") {
    Set(easy, CURLOPT_POST, 1L);
    Set(easy, CURLOPT_POSTFIELDSIZE, static_cast<long>(request.body.size()));
    CHECK(curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request.body.c_str()) == CURLE_OK);
  }
  // Always set, so that libcurl does not look into the environment by itself.
  std::string proxy = options.proxies.For(request.url);
  Set(easy, CURLOPT_PROXY, proxy);
  if (!proxy.empty()) CHECK(curl_easy_setopt(easy, CURLOPT_NOPROXY, "") == CURLE_OK);
  TRY(SetTls(easy, request.tls));
  HeaderList headers = TRY(MakeHeaders(request));
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, &OnHeader);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &OnBody);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
  curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, proxy.empty() ? &OpenSocket : &OpenSocketToProxy);
  curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, transfer);
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, why);
  return headers;
}

std::optional<CURLcode> Transport::Line::Finished() {
  int left = 0;
  while (CURLMsg* message = curl_multi_info_read(multi, &left)) {
    if (message->msg == CURLMSG_DONE) return message->data.result;
  }
  return std::nullopt;
}

namespace {

// Breaks off a transfer that is slower than kMinBytesPerSecond over a window of the stall timeout. Time in which the
// sink held us up does not count.
class StallWatch {
 public:
  StallWatch(int64_t timeout_millis, const Transfer& transfer)
      : timeout_(timeout_millis * kNanosPerMilli), transfer_(transfer), start_(MonotonicNanos()) {}

  bool Stalled() {
    int64_t waited = MonotonicNanos() - start_ - (transfer_.sink_nanos - sink_nanos_);
    if (waited < timeout_) return false;
    int64_t wanted = std::max<int64_t>(kMinBytesPerSecond * timeout_ / kNanosPerSecond, 1);
    if (transfer_.received - received_ < wanted) return true;
    start_ = MonotonicNanos();
    received_ = transfer_.received;
    sink_nanos_ = transfer_.sink_nanos;
    return false;
  }

 private:
  const int64_t timeout_;
  const Transfer& transfer_;
  int64_t start_;
  int64_t received_ = 0, sink_nanos_ = 0;
};

// What a transfer that libcurl gave up means.
void Explain(CURLcode code, CURL* easy, const char* why, const HttpRequest& request, Transfer* transfer,
             Exchange* exchange) {
  const std::string origin = request.url.Origin();
  if (transfer->error) {
    Error error = std::move(*transfer->error);
    return Fail(exchange, Exchange::Failure::kFinal,
                transfer->sink_failed ? std::move(error) : std::move(error).Within(origin));
  }
  if (transfer->refused_address) {
    return Fail(exchange, Exchange::Failure::kFinal,
                MakeError(Code::kPermissionDenied,
                          "{}: the address is loopback or link-local, where a registry must not send us", origin));
  }
  long os_error = 0;
  curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &os_error);
  Exchange::Failure kind = KindOf(code);
  if (code == CURLE_SSL_CONNECT_ERROR && os_error == ECONNRESET) kind = Exchange::Failure::kBroken;
  std::string text = why[0] != '\0' ? why : curl_easy_strerror(code);
  if (code == CURLE_COULDNT_CONNECT && os_error != 0) text = SysError(static_cast<int>(os_error), "connect").message;
  Code as = kind == Exchange::Failure::kFinal ? Code::kFailedPrecondition : Code::kUnavailable;
  Error error = MakeError(as, "{}: {}{}", origin, text, Hint(code, text));
  error.sys_errno = static_cast<int>(os_error);
  Fail(exchange, kind, std::move(error));
}

}  // namespace

Exchange Transport::Line::Run(const HttpRequest& request, const Options& options, const CallControl& control,
                              Transfer* transfer, const char* why) {
  Exchange exchange;
  const std::string asked = request.url.Origin();
  StallWatch watch(options.stall_timeout_millis, *transfer);
  std::optional<CURLcode> result;
  for (;;) {
    int running = 0;
    CHECK(curl_multi_perform(multi, &running) == CURLM_OK);
    result = Finished();
    if (result) break;
    if (control.cancel.stop_requested()) {
      Fail(&exchange, Exchange::Failure::kFinal, MakeError(Code::kCancelled, "{}: cancelled", asked));
      break;
    }
    if (control.deadline && control.deadline->Passed()) {
      Fail(&exchange, Exchange::Failure::kFinal, MakeError(Code::kDeadlineExceeded, "{}: the deadline passed", asked));
      break;
    }
    if (watch.Stalled()) {
      Fail(&exchange, Exchange::Failure::kBroken,
           MakeError(Code::kUnavailable, "{}: stalled: less than {} bytes/s for {} ms", asked, kMinBytesPerSecond,
                     options.stall_timeout_millis));
      break;
    }
    int64_t wait = std::min<int64_t>(1000, std::max<int64_t>(options.stall_timeout_millis / 4, 10));
    if (control.deadline) wait = std::min<int64_t>(wait, control.deadline->RemainingMillis());
    CHECK(curl_multi_poll(multi, nullptr, 0, static_cast<int>(wait), nullptr) == CURLM_OK);
  }
  if (result && *result != CURLE_OK && !transfer->enough) Explain(*result, easy, why, request, transfer, &exchange);
  exchange.response = std::move(transfer->response);
  return exchange;
}

Transport::Transport(Options options) : options_(std::move(options)) {
  static const CURLcode global = curl_global_init(CURL_GLOBAL_DEFAULT);
  CHECK(global == CURLE_OK);
}

Transport::~Transport() = default;

std::unique_ptr<Transport::Line> Transport::Take(const std::string& origin) {
  std::vector<std::unique_ptr<Line>> old;  // closed without the lock
  std::lock_guard lock(mutex_);
  int64_t now = MonotonicNanos();
  std::erase_if(idle_, [&](std::unique_ptr<Line>& line) {
    if (now - line->used_nanos < kIdleNanos) return false;
    old.push_back(std::move(line));
    return true;
  });
  if (idle_.empty()) return std::make_unique<Line>();
  auto at = std::find_if(idle_.rbegin(), idle_.rend(), [&](const auto& line) { return line->origin == origin; });
  size_t index = at == idle_.rend() ? idle_.size() - 1 : static_cast<size_t>(idle_.rend() - at) - 1;
  auto line = std::move(idle_[index]);
  idle_.erase(idle_.begin() + static_cast<ptrdiff_t>(index));
  return line;
}

void Transport::GiveBack(std::unique_ptr<Line> line) {
  std::unique_ptr<Line> oldest;
  line->used_nanos = MonotonicNanos();
  std::lock_guard lock(mutex_);
  idle_.push_back(std::move(line));
  if (idle_.size() <= kMaxIdleLines) return;
  oldest = std::move(idle_.front());
  idle_.erase(idle_.begin());
}

void Transport::CloseIdle() {
  std::vector<std::unique_ptr<Line>> old;
  std::lock_guard lock(mutex_);
  old.swap(idle_);
}

Exchange Transport::Perform(const HttpRequest& request, const CallControl& control) {
  Exchange exchange;
  if (control.cancel.stop_requested()) {
    Fail(&exchange, Exchange::Failure::kFinal, MakeError(Code::kCancelled, "{}: cancelled", request.url.Origin()));
    return exchange;
  }
  std::unique_ptr<Line> line = Take(request.url.Origin());
  Transfer transfer;
  transfer.request = &request;
  char why[CURL_ERROR_SIZE] = "";
  auto headers = line->Configure(request, options_, &transfer, why);
  if (!headers) {
    Fail(&exchange, Exchange::Failure::kFinal, std::move(headers.error()));
    return exchange;  // the line, configured by half, goes too
  }
  CHECK(curl_multi_add_handle(line->multi, line->easy) == CURLM_OK);
  {
    std::stop_callback wake(control.cancel, [&line] { curl_multi_wakeup(line->multi); });
    exchange = line->Run(request, options_, control, &transfer, why);
  }
  // Removing an unfinished transfer closes its connection.
  curl_multi_remove_handle(line->multi, line->easy);
  line->Renew();
  line->origin = request.url.Origin();
  GiveBack(std::move(line));
  return exchange;
}

}  // namespace caisson::image
