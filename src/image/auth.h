// SPDX-License-Identifier: Apache-2.0
//
// Authorizer answers the challenges of registries: basic, and bearer tokens from token servers (distribution-spec,
// "Token Authentication" and "OAuth2"), which it caches until they expire. Credentials are chosen per host before they
// come here (ChooseLogin) and are sent only to that host, or to a token server that it names and that CheckRealm
// accepts. Thread-safe. Nothing here puts a secret into an error.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "image/challenge.h"
#include "image/fetch.h"
#include "image/hosts.h"
#include "image/registry.h"

namespace caisson::image {

// What of a pull's credentials is for one host.
struct Login {
  std::string username, password;
  std::string identity_token;  // refresh token of a token server
  std::string registry_token;  // bearer token of the registry itself
  std::string note;            // why there is none; for the error when one is asked for

  bool empty() const { return username.empty() && identity_token.empty() && registry_token.empty(); }
};

// The login for `host`: the caller's credentials if they are for it (their server_address names it or, without one, it
// is the reference's own registry and no mirror), else what `docker_config` holds. kInvalidArgument for credentials
// that cannot be read.
Result<Login> ChooseLogin(const RegistryHost& host, const Reference& reference,
                          const std::optional<Credentials>& credentials, const std::string& docker_config);

// Whether a token may be asked for at `realm`, which `host` named: http(s) only; no http for a registry that has TLS;
// and where anybody on the way could have named it (plain HTTP, unverified TLS), only on the same host if there is a
// secret to send.
Result<Url> CheckRealm(const RegistryHost& host, std::string_view realm, bool has_secret);

// `text` without any of the login's secrets, printable and short: for what a server says.
std::string Redact(std::string text, const Login& login, std::string_view authorization);
// The server's own words for an error (distribution-spec, "Error Codes"), or the status alone.
std::string ServerMessage(const HttpResponse& response);

class Authorizer {
 public:
  Authorizer(Transport& transport, RetryPolicy policy) : transport_(transport), policy_(policy) {}

  // What to ask for at whom.
  struct Target {
    const RegistryHost& host;
    std::string scope;  // "repository:library/busybox:pull"
    Login login;
  };

  // The value of the Authorization header for a request, or "" if none is known to be needed.
  std::string HeaderFor(const Target& target);
  // Makes HeaderFor answer `challenge` (a 401 of target.host itself). kUnauthenticated when that cannot be done.
  Result<> Answer(const Target& target, const HttpResponse& challenge, const CallControl& control);

 private:
  struct Entry {
    std::string header;
    int64_t expires_nanos = 0;
  };
  Result<Entry> FetchToken(const Target& target, const Challenge& challenge, const CallControl& control);
  void Remember(const Target& target, Entry entry);

  Transport& transport_;
  const RetryPolicy policy_;
  std::mutex mutex_;
  std::map<std::string, Entry> cache_;  // guarded by mutex_; bounded
};

}  // namespace caisson::image
