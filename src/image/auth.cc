// SPDX-License-Identifier: Apache-2.0
#include "image/auth.h"

#include <algorithm>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/strings.h"
#include "image/digest.h"
#include "image/docker_config.h"

namespace caisson::image {
namespace {

constexpr size_t kMaxCached = 1000;
constexpr int64_t kDefaultLifeSeconds = 60;  // of a token that does not say (token specification)
constexpr int64_t kBasicLifeSeconds = 300;
constexpr size_t kMaxMessage = 300;

// Which cache entry is for whom; the secrets themselves are not in the key.
std::string CacheKey(const Authorizer::Target& target) {
  const Login& login = target.login;
  std::string who;
  for (const std::string& part : {login.username, login.password, login.identity_token}) {
    who += fmt::format("{}:{};", part.size(), part);
  }
  return target.host.base.ToString() + "\n" + target.scope + "\n" + Sha256Digest(who);
}

// The scope to ask for. A registry behind a path (override_path) knows its repositories by other names than we do, so
// its own word counts, but only for pulling from one repository.
std::string ScopeFor(const std::string& ours, const std::string& theirs) {
  constexpr std::string_view kPrefix = "repository:";
  if (!theirs.starts_with(kPrefix) || theirs.size() > 512 || theirs.find(' ') != std::string::npos) return ours;
  size_t colon = theirs.rfind(':');
  if (colon <= kPrefix.size()) return ours;
  for (std::string_view action : Split(std::string_view(theirs).substr(colon + 1), ',')) {
    if (action == "pull") return theirs.substr(0, colon) + ":pull";
  }
  return ours;
}

Result<HttpRequest> TokenRequest(const Authorizer::Target& target, const Challenge& challenge) {
  const Login& login = target.login;
  HttpRequest request;
  request.url = TRY(CheckRealm(target.host, challenge.Param("realm"), !login.empty()));
  bool same_host = request.url.host == target.host.base.host;
  request.tls = target.host.tls;
  if (!same_host) {
    request.tls.skip_verify = false;
    request.tls.client_certs.clear();
    request.allow_loopback = IsLoopbackDomain(target.host.base.host);
    request.allow_link_local = false;
  }
  request.max_body = limits::kTokenBytes;
  std::string scope = ScopeFor(target.scope, challenge.Param("scope"));
  std::string query = "service=" + UrlEncode(challenge.Param("service")) + "&scope=" + UrlEncode(scope);
  if (!login.identity_token.empty()) {
    request.method = "POST";
    request.headers = {"Content-Type: application/x-www-form-urlencoded"};
    request.body = query + "&client_id=caisson&grant_type=refresh_token&refresh_token=" +
                   UrlEncode(login.identity_token);
    return request;
  }
  request.url.query += (request.url.query.empty() ? "" : "&") + query;
  if (!login.username.empty()) {
    request.url.query += "&account=" + UrlEncode(login.username);
    request.headers = {"Authorization: Basic " + Base64(login.username + ":" + login.password)};
  }
  return request;
}

// {"token": "…", "access_token": "…", "expires_in": seconds}
Result<std::pair<std::string, int64_t>> ParseToken(std::string_view body) {
  Json json = TRY(ParseJson(body, limits::kTokenBytes));
  if (!json.is_object()) return MakeError(Code::kUnauthenticated, "its answer is no JSON object");
  std::string token;
  for (const char* key : {"token", "access_token"}) {
    auto at = json.find(key);
    const auto* text = at == json.end() ? nullptr : at->get_ptr<const std::string*>();
    if (text != nullptr && !text->empty()) {
      token = *text;
      break;
    }
  }
  bool clean = std::all_of(token.begin(), token.end(), [](unsigned char c) { return c > 0x20 && c < 0x7f; });
  if (token.empty() || !clean) return MakeError(Code::kUnauthenticated, "its answer holds no usable token");
  int64_t life = kDefaultLifeSeconds;
  auto expires = json.find("expires_in");
  if (expires != json.end() && expires->is_number_unsigned()) {
    life = static_cast<int64_t>(std::min<uint64_t>(expires->get<uint64_t>(), 24 * 3600));
  }
  return std::pair(std::move(token), std::max(life, kDefaultLifeSeconds));
}

Result<Login> FromCredentials(const Credentials& credentials) {
  Login login;
  login.username = credentials.username;
  login.password = credentials.password;
  login.identity_token = credentials.identity_token;
  login.registry_token = credentials.registry_token;
  if (login.username.empty() && !credentials.auth.empty()) {
    auto pair = DecodeBasic(credentials.auth);
    if (!pair) return MakeError(Code::kInvalidArgument, "the credentials' 'auth' is not base64 of user:password");
    std::tie(login.username, login.password) = std::move(*pair);
  }
  // Docker's way to say that the password is an identity token.
  if (login.username == "<token>" && login.identity_token.empty()) login.identity_token = std::move(login.password);
  if (!login.identity_token.empty()) login.username.clear(), login.password.clear();
  return login;
}

void ReplaceAll(std::string* text, std::string_view secret) {
  // Shorter ones would garble the text more than hide anything.
  if (secret.size() < 4) return;
  for (size_t at = text->find(secret); at != std::string::npos; at = text->find(secret, at + 3)) {
    text->replace(at, secret.size(), "***");
  }
}

}  // namespace

Result<Login> ChooseLogin(const RegistryHost& host, const Reference& reference,
                          const std::optional<Credentials>& credentials, const std::string& docker_config) {
  const std::string name = CanonicalRegistry(host.Authority());
  if (credentials) {
    Login login = TRY(FromCredentials(*credentials));
    std::string server = CanonicalRegistry(credentials->server_address);
    bool meant = server.empty() ? host.upstream : server == name || (host.upstream && server == reference.domain);
    if (!login.empty() && meant) return login;
    if (!login.empty()) {
      return Login{.username = {}, .password = {}, .identity_token = {}, .registry_token = {},
                   .note = server.empty() ? "the pull's credentials are for the registry itself, not for its mirrors"
                                          : fmt::format("the pull's credentials are for '{}'", server.substr(0, 200))};
    }
  }
  auto found = ReadDockerLogin(docker_config, host.upstream ? reference.domain : name, reference.path);
  Login login;
  if (found && found->credentials) login = TRY(FromCredentials(*found->credentials));
  // A broken file must not stop pulls that need no login.
  login.note = found ? found->note : found.error().message;
  return login;
}

Result<Url> CheckRealm(const RegistryHost& host, std::string_view realm, bool has_secret) {
  auto url = ParseUrl(realm);
  if (!url) return std::move(url.error()).Within(host.base.Origin() + ": token server refused");
  if (host.base.secure() && !url->secure()) {
    return MakeError(Code::kPermissionDenied, "{}: names the token server {} without TLS: refused", host.base.Origin(),
                     url->Origin());
  }
  bool anybodys_word = !host.base.secure() || host.tls.skip_verify;
  if (has_secret && anybodys_word && url->host != host.base.host) {
    return MakeError(Code::kPermissionDenied,
                     "{}: names a token server on another host ({}), and without verified TLS that cannot be trusted "
                     "with credentials: refused",
                     host.base.Origin(), url->Origin());
  }
  return url;
}

std::string Redact(std::string text, const Login& login, std::string_view authorization) {
  size_t space = authorization.find(' ');  // "Bearer …"
  if (space != std::string_view::npos) ReplaceAll(&text, authorization.substr(space + 1));
  ReplaceAll(&text, login.password);
  ReplaceAll(&text, login.identity_token);
  ReplaceAll(&text, login.registry_token);
  if (!login.username.empty()) ReplaceAll(&text, Base64(login.username + ":" + login.password));
  // ASCII only: the text is cut, perhaps within a character, and errors travel in protobuf strings.
  text.resize(std::min(text.size(), kMaxMessage));
  for (char& c : text) c = c >= 0x20 && c < 0x7f ? c : '?';
  return text;
}

std::string ServerMessage(const HttpResponse& response) {
  std::string status = fmt::format("HTTP status {}", response.status);
  auto json = ParseJson(response.body, limits::kHttpErrorBytes);
  if (!json || !json->is_object()) return status;
  const Json* entry = &*json;
  auto errors = json->find("errors");
  bool listed = errors != json->end() && errors->is_array() && !errors->empty() && (*errors)[0].is_object();
  if (listed) entry = &(*errors)[0];
  std::string words;
  for (const char* key : {"code", "message", "details", "error_description"}) {
    auto at = entry->find(key);
    const auto* text = at == entry->end() ? nullptr : at->get_ptr<const std::string*>();
    if (text == nullptr || text->empty()) continue;
    std::string word = *text;
    if (key == std::string_view("code")) {
      // MANIFEST_UNKNOWN reads better as "manifest unknown".
      for (char& c : word) c = c == '_' ? ' ' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (word == words) {
      continue;
    }
    words += (words.empty() ? "" : ": ") + word;
  }
  return words.empty() ? status : fmt::format("{} ({})", words, status);
}

std::string Authorizer::HeaderFor(const Target& target) {
  if (!target.login.registry_token.empty()) return "Bearer " + target.login.registry_token;
  std::lock_guard lock(mutex_);
  auto at = cache_.find(CacheKey(target));
  if (at == cache_.end()) return "";
  if (MonotonicNanos() < at->second.expires_nanos) return at->second.header;
  cache_.erase(at);
  return "";
}

void Authorizer::Remember(const Target& target, Entry entry) {
  std::string key = CacheKey(target);
  std::lock_guard lock(mutex_);
  if (cache_.size() >= kMaxCached) {
    std::erase_if(cache_, [now = MonotonicNanos()](const auto& item) { return item.second.expires_nanos <= now; });
    if (cache_.size() >= kMaxCached) cache_.clear();
  }
  cache_[key] = std::move(entry);
}

Result<> Authorizer::Answer(const Target& target, const HttpResponse& challenge, const CallControl& control) {
  std::vector<Challenge> challenges;
  for (const auto& [name, value] : challenge.headers) {
    if (name == "www-authenticate") ParseChallenges(value, &challenges);
  }
  const std::string origin = target.host.base.Origin();
  for (const Challenge& one : challenges) {
    if (one.scheme != "bearer") continue;
    if (!target.login.registry_token.empty()) break;  // was sent, and refused
    Remember(target, TRY(FetchToken(target, one, control)));
    return {};
  }
  for (const Challenge& one : challenges) {
    if (one.scheme != "basic" || target.login.username.empty()) continue;
    std::string header = "Basic " + Base64(target.login.username + ":" + target.login.password);
    Remember(target, {std::move(header), MonotonicNanos() + kBasicLifeSeconds * kNanosPerSecond});
    return {};
  }
  std::string why = challenges.empty() ? "it asks for no login that is known here" : "it asks for a login";
  if (!target.login.note.empty()) why += " (" + target.login.note + ")";
  return MakeError(Code::kUnauthenticated, "{}: unauthorized: {}{}", origin, why,
                   target.login.empty() ? ", and there are no credentials for it" : "");
}

Result<Authorizer::Entry> Authorizer::FetchToken(const Target& target, const Challenge& challenge,
                                                 const CallControl& control) {
  HttpRequest request = TRY(TokenRequest(target, challenge));
  const std::string where = "token server " + request.url.Shown();
  Attempts attempts(policy_, control);
  Exchange exchange;
  do {
    exchange = PerformFollowing(transport_, request, control);
  } while (TRY(attempts.Again(exchange)));
  if (!exchange.ok()) return std::move(exchange.error).Within(where);
  int status = exchange.response.status;
  if (status != 200) {
    bool refused = status == 400 || status == 401 || status == 403;
    std::string words = Redact(ServerMessage(exchange.response), target.login, "");
    std::string login = target.login.empty() ? "; there are no credentials for it" : "";
    if (!target.login.note.empty()) login += " (" + target.login.note + ")";
    return MakeError(refused ? Code::kUnauthenticated : Code::kUnavailable, "{}: {}{}{}", where,
                     refused ? "unauthorized: " : "", words, login);
  }
  auto token = ParseToken(exchange.response.body);
  if (!token) return std::move(token.error()).Within(where);
  // Renewed a little early: the clock runs while a request is on its way.
  int64_t life = token->second * kNanosPerSecond / 10 * 9;
  return Entry{"Bearer " + token->first, MonotonicNanos() + life};
}

}  // namespace caisson::image
