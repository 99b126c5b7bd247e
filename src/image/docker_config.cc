// SPDX-License-Identifier: Apache-2.0
#include "image/docker_config.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cctype>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/limits.h"
#include "base/strings.h"
#include "image/file.h"

namespace caisson::image {
namespace {

Error Bad(std::string_view file, std::string_view field, std::string_view why) {
  return MakeError(Code::kInvalidArgument, "docker config '{}': {} {}", file, field, why);
}

std::string WithoutScheme(std::string_view key) {
  if (size_t at = key.find("://"); at != std::string_view::npos) key.remove_prefix(at + 3);
  while (key.ends_with('/')) key.remove_suffix(1);
  std::string text(key);
  size_t host_end = std::min(text.find('/'), text.size());
  std::transform(text.begin(), text.begin() + static_cast<ptrdiff_t>(host_end), text.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return text;
}

bool IsDockerHub(std::string_view host) {
  return host == "docker.io" || host == "index.docker.io" || host == "registry-1.docker.io";
}

// How many characters of host/path the key `key` covers; 0 if it is for something else.
size_t Covers(std::string_view key, std::string_view host, std::string_view path) {
  std::string bare = WithoutScheme(key);
  size_t slash = std::min(bare.find('/'), bare.size());
  std::string key_host = bare.substr(0, slash);
  if (IsDockerHub(key_host)) key_host = "docker.io";
  if (key_host != host) return 0;
  std::string rest = slash < bare.size() ? bare.substr(slash + 1) : "";
  // What docker login writes is the address of an API, not a path of repositories.
  if (rest.empty() || rest == "v1" || rest == "v2") return host.size();
  bool prefix = path == rest || (path.starts_with(rest) && path[rest.size()] == '/');
  return prefix ? host.size() + 1 + rest.size() : 0;
}

Result<std::string> GetString(const Json& object, const char* key, std::string_view file) {
  auto at = object.find(key);
  if (at == object.end() || at->is_null()) return std::string();
  const auto* text = at->get_ptr<const std::string*>();
  if (text == nullptr) return Bad(file, fmt::format("auths.….{}", key), "is not a string");
  return *text;
}

Result<Credentials> ParseEntry(const Json& entry, std::string_view file) {
  if (!entry.is_object()) return Bad(file, "auths.…", "is not an object");
  Credentials credentials;
  credentials.username = TRY(GetString(entry, "username", file));
  credentials.password = TRY(GetString(entry, "password", file));
  credentials.identity_token = TRY(GetString(entry, "identitytoken", file));
  credentials.registry_token = TRY(GetString(entry, "registrytoken", file));
  std::string auth = TRY(GetString(entry, "auth", file));
  if (!auth.empty()) {
    auto pair = DecodeBasic(auth);
    if (!pair) return Bad(file, "auths.….auth", "is not base64 of user:password");
    credentials.username = pair->first;
    if (!pair->second.empty()) credentials.password = pair->second;
  }
  return credentials;
}

bool IsEmpty(const Credentials& c) {
  return c.username.empty() && c.password.empty() && c.identity_token.empty() && c.registry_token.empty();
}

// The helper program that the file names for `host`, or "".
std::string HelperFor(const Json& json, std::string_view host) {
  auto helpers = json.find("credHelpers");
  if (helpers != json.end() && helpers->is_object()) {
    for (const auto& [key, name] : helpers->items()) {
      const auto* text = name.get_ptr<const std::string*>();
      if (text != nullptr && CanonicalRegistry(key) == host) return *text;
    }
  }
  auto store = json.find("credsStore");
  if (store == json.end()) return "";
  const auto* text = store->get_ptr<const std::string*>();
  return text == nullptr ? "" : *text;
}

}  // namespace

std::string CanonicalRegistry(std::string_view address) {
  std::string bare = WithoutScheme(address);
  bare = bare.substr(0, bare.find('/'));
  return IsDockerHub(bare) ? "docker.io" : bare;
}

std::string Base64(std::string_view bytes) {
  std::string out(4 * ((bytes.size() + 2) / 3) + 1, '\0');
  int size = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                             reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<int>(bytes.size()));
  out.resize(static_cast<size_t>(size));
  return out;
}

std::optional<std::pair<std::string, std::string>> DecodeBasic(std::string_view base64) {
  std::string text(Trim(base64));
  while (text.ends_with('=')) text.pop_back();
  if (text.empty() || text.size() > limits::kTokenBytes) return std::nullopt;
  // EVP_DecodeBlock wants whole groups of four.
  size_t padding = (4 - text.size() % 4) % 4;
  if (padding == 3) return std::nullopt;
  text.append(padding, '=');
  std::string out(text.size() / 4 * 3, '\0');
  int size = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                             reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (size < 0) return std::nullopt;
  out.resize(static_cast<size_t>(size) - padding);
  size_t colon = out.find(':');
  if (colon == std::string::npos || colon == 0) return std::nullopt;
  std::string password = out.substr(colon + 1);
  while (password.ends_with('\0')) password.pop_back();  // what old docker clients padded with
  return std::pair(out.substr(0, colon), std::move(password));
}

Result<DockerLogin> FindDockerLogin(std::string_view config_text, std::string_view file, std::string_view host,
                                    std::string_view path) {
  DockerLogin login;
  if (Trim(config_text).empty()) return login;
  auto json = ParseJson(config_text, limits::kConfigFileBytes);
  if (!json) return std::move(json.error()).Within(fmt::format("docker config '{}'", file));
  if (!json->is_object()) return Bad(file, "document", "is not an object");
  auto auths = json->find("auths");
  if (auths != json->end() && !auths->is_null()) {
    if (!auths->is_object()) return Bad(file, "auths", "is not an object");
    size_t best = 0;
    for (const auto& [key, entry] : auths->items()) {
      size_t covered = Covers(key, host, path);
      if (covered <= best) continue;
      Credentials credentials = TRY(ParseEntry(entry, file));
      if (IsEmpty(credentials)) continue;  // docker leaves {} where a helper holds the secret
      best = covered;
      login.credentials = std::move(credentials);
    }
  }
  if (login.credentials) return login;
  std::string helper = HelperFor(*json, host);
  if (!helper.empty()) {
    login.note = fmt::format("'{}' names the credential helper '{}', which is not run: give credentials by an "
                             "imagePullSecret or write them into 'auths'",
                             file, helper.substr(0, 100));
  }
  return login;
}

Result<DockerLogin> ReadDockerLogin(const std::string& file, std::string_view host, std::string_view path) {
  if (file.empty()) return DockerLogin{};
  auto text = ReadSmallFile(file, limits::kConfigFileBytes);
  if (!text && text.error().code == Code::kNotFound) return DockerLogin{};
  if (!text) return std::move(text.error()).Within("docker config");
  return FindDockerLogin(*text, file, host, path);
}

}  // namespace caisson::image
