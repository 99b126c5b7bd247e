// SPDX-License-Identifier: Apache-2.0
#include "image/registry.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/limits.h"
#include "base/strings.h"
#include "image/auth.h"
#include "image/blob_stream.h"
#include "image/digest.h"
#include "image/fetch.h"
#include "image/hosts.h"
#include "image/transport.h"

namespace caisson::image {
namespace {

constexpr int kMirrorAttempts = 2;  // where another host can be asked instead

// One call of Registry: what it is about, for whom.
struct Call {
  const Reference& reference;
  const std::optional<Credentials>& credentials;
  const CallControl& control;
};

struct Fetched {
  std::string bytes;
  std::string content_type;
  std::string digest;
};

bool IsEnded(const Error& error) {
  return error.code == Code::kCancelled || error.code == Code::kDeadlineExceeded;
}

class HttpRegistry : public Registry {
 public:
  explicit HttpRegistry(RegistryOptions options)
      : options_(std::move(options)),
        policy_{options_.max_attempts, options_.first_backoff_millis, 10'000, options_.max_retry_after_millis},
        transport_({options_.user_agent, options_.stall_timeout_millis,
                    options_.proxy_from_environment ? ProxyRules::FromEnvironment() : ProxyRules()}),
        auth_(transport_, policy_) {}

  Result<Resolved> Resolve(const Reference& reference, const std::optional<Credentials>& credentials,
                           const Platform& platform, const CallControl& control) override;
  Result<std::string> ResolveDigest(const Reference& reference, const std::optional<Credentials>& credentials,
                                    const CallControl& control) override;
  Result<> FetchBlob(const Reference& reference, const Descriptor& blob, const std::optional<Credentials>& credentials,
                     uint64_t offset, const BlobSink& sink, const CallControl& control) override;
  Result<std::string> FetchSmallBlob(const Reference& reference, const Descriptor& blob,
                                     const std::optional<Credentials>& credentials, size_t max_bytes,
                                     const CallControl& control) override;
  void CloseIdleConnections() override { transport_.CloseIdle(); }

 private:
  // Runs `ask` at each host that `may` be asked until one succeeds. The error tells of all of them.
  template <class T, class May, class Ask>
  Result<T> AtEachHost(const Call& call, const std::string& what, May may, Ask ask);
  Result<Authorizer::Target> TargetAt(const RegistryHost& host, const Call& call);
  HttpRequest RequestAt(const RegistryHost& host, const Call& call, const std::string& below) const;
  // One exchange, and one more if the host asks for a login.
  Exchange AskOnce(const Authorizer::Target& target, HttpRequest request, const CallControl& control,
                   std::string* authorization);
  Error StatusError(const Authorizer::Target& target, const HttpResponse& response, std::string_view authorization,
                    std::string_view unknown) const;
  RetryPolicy PolicyAt(bool last) const;

  Result<Fetched> FetchManifest(const Call& call, const std::string& tag_or_digest);
  Result<Fetched> ManifestAt(const RegistryHost& host, const Call& call, const std::string& tag_or_digest,
                             const std::string& method, bool last);
  Result<> BlobAt(const RegistryHost& host, const Call& call, const Descriptor& blob, BlobStream* stream, bool last);

  const RegistryOptions options_;
  const RetryPolicy policy_;
  Transport transport_;
  Authorizer auth_;
};

template <class T, class May, class Ask>
Result<T> HttpRegistry::AtEachHost(const Call& call, const std::string& what, May may, Ask ask) {
  std::vector<RegistryHost> hosts = TRY(HostsFor(call.reference.domain, options_.certs_dir));
  std::erase_if(hosts, [&](const RegistryHost& host) { return !may(host); });
  if (hosts.empty()) {
    return MakeError(Code::kFailedPrecondition, "{}: no host in hosts.toml has the capability for it", what);
  }
  std::string earlier;
  for (size_t i = 0;; ++i) {
    bool last = i + 1 == hosts.size();
    Result<T> result = ask(hosts[i], last);
    if (result) return result;
    Error error = std::move(result.error());
    // The last host is the registry itself, and its answer is the one that counts.
    if (last || IsEnded(error)) {
      error.message = what + ": " + error.message;
      if (!earlier.empty()) error.message += " (before that: " + earlier + ")";
      return error;
    }
    if (earlier.size() < 1000) earlier += (earlier.empty() ? "" : "; ") + error.message;
  }
}

Result<Authorizer::Target> HttpRegistry::TargetAt(const RegistryHost& host, const Call& call) {
  Login login = TRY(ChooseLogin(host, call.reference, call.credentials, options_.docker_config));
  return Authorizer::Target{host, "repository:" + call.reference.path + ":pull", std::move(login)};
}

HttpRequest HttpRegistry::RequestAt(const RegistryHost& host, const Call& call, const std::string& below) const {
  HttpRequest request;
  request.url = host.base;
  request.url.path += "/" + call.reference.path + "/" + below;
  // How a mirror of several registries learns which one is meant (containerd's convention).
  if (!host.upstream) request.url.query = "ns=" + UrlEncode(call.reference.domain);
  request.headers = host.headers;
  request.tls = host.tls;
  request.connect_timeout_millis =
      host.dial_timeout_millis != 0 ? host.dial_timeout_millis : options_.connect_timeout_millis;
  return request;
}

RetryPolicy HttpRegistry::PolicyAt(bool last) const {
  RetryPolicy policy = policy_;
  if (!last) policy.max_attempts = std::min(policy.max_attempts, kMirrorAttempts);
  return policy;
}

Exchange HttpRegistry::AskOnce(const Authorizer::Target& target, HttpRequest request, const CallControl& control,
                               std::string* authorization) {
  const std::vector<std::string> headers = request.headers;
  for (bool answered = false;; answered = true) {
    *authorization = auth_.HeaderFor(target);
    request.headers = headers;
    if (!authorization->empty()) request.headers.push_back("Authorization: " + *authorization);
    Url last;
    Exchange exchange = PerformFollowing(transport_, request, control, &last);
    if (!exchange.ok() || exchange.response.status != 401 || answered) return exchange;
    // A login is for the host itself: where it redirects to does not get to ask for one (CVE-2020-15157).
    if (last.Origin() != target.host.base.Origin()) return exchange;
    auto able = auth_.Answer(target, exchange.response, control);
    if (able) continue;
    exchange.failure = Exchange::Failure::kFinal;
    exchange.error = std::move(able.error());
    return exchange;
  }
}

Error HttpRegistry::StatusError(const Authorizer::Target& target, const HttpResponse& response,
                                std::string_view authorization, std::string_view unknown) const {
  const std::string origin = target.host.base.Origin();
  std::string words = Redact(ServerMessage(response), target.login, authorization);
  switch (response.status) {
    case 401: {
      std::string why = target.login.empty() ? "the repository does not exist or needs credentials, and none are for it"
                                             : "the credentials are refused";
      if (!target.login.note.empty()) why += " (" + target.login.note + ")";
      return MakeError(Code::kUnauthenticated, "{}: unauthorized: {}: {}", origin, why, words);
    }
    case 403: return MakeError(Code::kPermissionDenied, "{}: forbidden: {}", origin, words);
    case 404: return MakeError(Code::kNotFound, "{}: not found: {}", origin, response.body.empty() ? unknown : words);
    case 429: return MakeError(Code::kResourceExhausted, "{}: too many requests: {}", origin, words);
    default: break;
  }
  if (response.status == 400 && response.body.find("HTTPS server") != std::string::npos) {
    return MakeError(Code::kFailedPrecondition, "{}: it speaks TLS: name it as https://… in hosts.toml", origin);
  }
  bool server = response.status >= 500;
  return MakeError(server ? Code::kUnavailable : Code::kUnknown, "{}: {}: {}", origin,
                   server ? "the registry fails" : "unexpected answer", words);
}

Result<Fetched> HttpRegistry::ManifestAt(const RegistryHost& host, const Call& call, const std::string& tag_or_digest,
                                         const std::string& method, bool last) {
  Authorizer::Target target = TRY(TargetAt(host, call));
  HttpRequest request = RequestAt(host, call, "manifests/" + tag_or_digest);
  request.method = method;
  request.max_body = limits::kManifestBytes;
  // One header: some registries read only the first.
  request.headers.push_back(
      fmt::format("Accept: {}, {}, {}, {}, */*", kOciIndex, kOciManifest, kDockerIndex, kDockerManifest));
  RetryPolicy policy = PolicyAt(last);
  Attempts attempts(policy, call.control);
  Exchange exchange;
  std::string authorization;
  do {
    exchange = AskOnce(target, request, call.control, &authorization);
  } while (TRY(attempts.Again(exchange)));
  if (!exchange.ok()) return std::move(exchange.error);
  if (exchange.response.status != 200) return StatusError(target, exchange.response, authorization, "manifest unknown");

  Fetched fetched;
  fetched.content_type = exchange.response.Header("content-type");
  fetched.digest = exchange.response.Header("docker-content-digest");
  if (!CheckDigest(fetched.digest)) fetched.digest.clear();
  if (method == "HEAD") return fetched;
  fetched.bytes = std::move(exchange.response.body);
  // Which bytes these are is decided here, not by what the header says of them.
  bool asked_by_digest = CheckDigest(tag_or_digest).has_value();
  for (const std::string& expected : {asked_by_digest ? tag_or_digest : std::string(), fetched.digest}) {
    if (!expected.empty()) TRY(VerifyDigest(fetched.bytes, expected, host.base.Origin() + ": manifest"));
  }
  fetched.digest = asked_by_digest ? tag_or_digest : Sha256Digest(fetched.bytes);
  return fetched;
}

Result<Fetched> HttpRegistry::FetchManifest(const Call& call, const std::string& tag_or_digest) {
  bool by_digest = CheckDigest(tag_or_digest).has_value();
  return AtEachHost<Fetched>(
      call, fmt::format("image '{}'", call.reference.ToString()),
      [&](const RegistryHost& host) { return by_digest ? host.can_pull : host.can_resolve; },
      [&](const RegistryHost& host, bool last) { return ManifestAt(host, call, tag_or_digest, "GET", last); });
}

Result<Resolved> HttpRegistry::Resolve(const Reference& reference, const std::optional<Credentials>& credentials,
                                       const Platform& platform, const CallControl& control) {
  Call call{reference, credentials, control};
  const std::string what = fmt::format("image '{}'", reference.ToString());
  Resolved out;
  std::set<std::string> seen;
  Descriptor wanted;
  wanted.digest = reference.digest.empty() ? reference.tag : reference.digest;
  for (int depth = 0;; ++depth) {
    Fetched fetched = TRY(FetchManifest(call, wanted.digest));
    auto size = static_cast<int64_t>(fetched.bytes.size());
    if (depth > 0 && size != wanted.size) {
      return MakeError(Code::kDataLoss, "{}: manifest {} has {} bytes, its index says {}", what, wanted.digest, size,
                       wanted.size);
    }
    auto parsed = ParseManifest(fetched.bytes, fetched.content_type);
    // A sender that says nothing leaves the index's word.
    if (parsed && depth > 0) parsed = ParseManifest(fetched.bytes, wanted.media_type);
    if (!parsed) return std::move(parsed.error()).Within(what);
    Descriptor own = wanted;
    own.digest = fetched.digest;
    own.size = size;
    auto* index = std::get_if<Index>(&*parsed);
    own.media_type = index != nullptr ? index->media_type : std::get<Manifest>(*parsed).media_type;
    if (depth == 0) {
      out.root = own;
      out.root_bytes = fetched.bytes;
    }
    if (index == nullptr) {
      out.manifest = std::move(own);
      out.manifest_bytes = std::move(fetched.bytes);
      out.parsed = std::move(std::get<Manifest>(*parsed));
      return out;
    }
    if (depth + 1 >= limits::kIndexDepth || !seen.insert(own.digest).second) {
      return MakeError(Code::kInvalidArgument, "{}: indexes are nested deeper than {}", what, limits::kIndexDepth);
    }
    auto chosen = ChoosePlatform(*index, platform);
    if (!chosen) return std::move(chosen.error()).Within(what);
    wanted = std::move(*chosen);
  }
}

Result<std::string> HttpRegistry::ResolveDigest(const Reference& reference,
                                                const std::optional<Credentials>& credentials,
                                                const CallControl& control) {
  if (!reference.digest.empty()) return reference.digest;
  Call call{reference, credentials, control};
  auto head = AtEachHost<Fetched>(
      call, fmt::format("image '{}'", reference.ToString()), [](const RegistryHost& host) { return host.can_resolve; },
      [&](const RegistryHost& host, bool last) { return ManifestAt(host, call, reference.tag, "HEAD", last); });
  if (head && !head->digest.empty()) return head->digest;
  // The header is optional, and so is HEAD at some registries; but "no" is "no".
  if (!head && head.error().code != Code::kUnknown) return std::move(head.error());
  return TRY(FetchManifest(call, reference.tag)).digest;
}

Result<> HttpRegistry::BlobAt(const RegistryHost& host, const Call& call, const Descriptor& blob, BlobStream* stream,
                              bool last) {
  Authorizer::Target target = TRY(TargetAt(host, call));
  RetryPolicy policy = PolicyAt(last);
  Attempts attempts(policy, call.control);
  for (;;) {
    HttpRequest request = RequestAt(host, call, "blobs/" + blob.digest);
    uint64_t before = stream->position();
    stream->Begin();
    if (before > 0) request.headers.push_back(fmt::format("Range: bytes={}-", before));
    request.sink = [stream](const HttpResponse& head, std::string_view chunk) { return stream->Take(head, chunk); };
    std::string authorization;
    Exchange exchange = AskOnce(target, std::move(request), call.control, &authorization);
    int status = exchange.response.status;
    if (exchange.ok() && (status == 200 || status == 206)) {
      if (stream->complete()) return {};
      exchange.failure = Exchange::Failure::kBroken;
      exchange.error = stream->Short(exchange.response, host.base.Origin());
      if (exchange.error.code == Code::kDataLoss) exchange.failure = Exchange::Failure::kFinal;
    }
    // A connection that breaks after the last byte broke nothing.
    if (exchange.failure == Exchange::Failure::kBroken && stream->complete()) return {};
    attempts.Progress(stream->position() - before);
    if (TRY(attempts.Again(exchange))) continue;
    if (exchange.error.code == Code::kDataLoss && !stream->sink_error()) {
      return std::move(exchange.error).Within(host.base.Origin());
    }
    if (!exchange.ok()) return std::move(exchange.error);
    return StatusError(target, exchange.response, authorization, "blob unknown");
  }
}

Result<> HttpRegistry::FetchBlob(const Reference& reference, const Descriptor& blob,
                                 const std::optional<Credentials>& credentials, uint64_t offset, const BlobSink& sink,
                                 const CallControl& control) {
  const std::string what = fmt::format("image '{}': blob {}", reference.ToString(), blob.digest);
  TRY(CheckDigest(blob.digest));
  if (!blob.urls.empty()) {
    return MakeError(Code::kUnimplemented, "{}: foreign blobs (with URLs of their own) are not fetched", what);
  }
  if (blob.size < 0 || offset > static_cast<uint64_t>(blob.size)) {
    return MakeError(Code::kInvalidArgument, "{}: offset {} is beyond its {} bytes", what, offset, blob.size);
  }
  BlobStream stream(static_cast<uint64_t>(blob.size), offset, sink);
  if (stream.complete()) return {};
  Call call{reference, credentials, control};
  auto done = AtEachHost<void>(
      call, what, [](const RegistryHost& host) { return host.can_pull; },
      [&](const RegistryHost& host, bool last) -> Result<> {
        // What the sink did not take is not another host's business.
        if (stream.sink_error()) return MakeError(Code::kCancelled, "the sink has failed");
        return BlobAt(host, call, blob, &stream, last);
      });
  if (stream.sink_error()) return *stream.sink_error();
  return done;
}

Result<std::string> HttpRegistry::FetchSmallBlob(const Reference& reference, const Descriptor& blob,
                                                 const std::optional<Credentials>& credentials, size_t max_bytes,
                                                 const CallControl& control) {
  const std::string what = fmt::format("image '{}': blob {}", reference.ToString(), blob.digest);
  if (blob.size < 0 || static_cast<uint64_t>(blob.size) > max_bytes) {
    return MakeError(Code::kInvalidArgument, "{}: its {} bytes are more than the limit of {}", what, blob.size,
                     max_bytes);
  }
  std::string bytes;
  bytes.reserve(static_cast<size_t>(blob.size));
  auto take = [&bytes](std::string_view chunk) -> Result<> {
    bytes.append(chunk);
    return {};
  };
  TRY(FetchBlob(reference, blob, credentials, 0, take, control));
  TRY(VerifyDigest(bytes, blob.digest, what));
  return bytes;
}

}  // namespace

Result<std::unique_ptr<Registry>> Registry::Create(RegistryOptions options) {
  if (options.stall_timeout_millis < 1 || options.connect_timeout_millis < 1 || options.max_attempts < 1 ||
      options.first_backoff_millis < 0) {
    return MakeError(Code::kInvalidArgument, "registry options: timeouts and attempts must be positive");
  }
  return std::unique_ptr<Registry>(std::make_unique<HttpRegistry>(std::move(options)));
}

}  // namespace caisson::image
