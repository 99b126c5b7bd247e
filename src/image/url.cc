// SPDX-License-Identifier: Apache-2.0
#include "image/url.h"

#include <algorithm>
#include <cctype>
#include <memory>

#include <curl/curl.h>

#include "base/check.h"
#include "base/strings.h"

namespace caisson::image {
namespace {

constexpr size_t kMaxUrl = 8192;

struct FreeHandle {
  void operator()(CURLU* handle) const { curl_url_cleanup(handle); }
};
using Handle = std::unique_ptr<CURLU, FreeHandle>;

std::string Part(CURLU* handle, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(handle, part, &text, flags) != CURLUE_OK || text == nullptr) return {};
  std::string copy(text);
  curl_free(text);
  return copy;
}

Result<> CheckText(std::string_view text) {
  if (text.size() > kMaxUrl) return MakeError(Code::kInvalidArgument, "a URL is longer than {} bytes", kMaxUrl);
  for (unsigned char c : text) {
    if (c <= 0x20 || c == 0x7f) return MakeError(Code::kInvalidArgument, "a URL holds a space or control character");
  }
  return {};
}

// The text of a bad URL may hold a password, so that errors say only what is wrong with it.
Result<Url> Take(CURLU* handle) {
  Url url;
  url.scheme = Part(handle, CURLUPART_SCHEME);
  if (url.scheme != "http" && url.scheme != "https") {
    return MakeError(Code::kInvalidArgument, "a URL of scheme '{}' is refused: only http and https are followed",
                     url.scheme.substr(0, 20));
  }
  if (!Part(handle, CURLUPART_USER).empty() || !Part(handle, CURLUPART_PASSWORD).empty()) {
    return MakeError(Code::kInvalidArgument, "a URL with a user name or password in it is refused");
  }
  url.host = Part(handle, CURLUPART_HOST);
  std::transform(url.host.begin(), url.host.end(), url.host.begin(), [](unsigned char c) { return std::tolower(c); });
  if (url.host.empty()) return MakeError(Code::kInvalidArgument, "a URL has no host");
  url.port = static_cast<int>(TRY(ParseInt64(Part(handle, CURLUPART_PORT, CURLU_DEFAULT_PORT))));
  if (url.port < 1 || url.port > 65535) return MakeError(Code::kInvalidArgument, "a URL has an impossible port");
  url.path = Part(handle, CURLUPART_PATH);
  if (url.path.empty()) url.path = "/";
  url.query = Part(handle, CURLUPART_QUERY);
  return url;
}

}  // namespace

std::string Url::Authority() const {
  if (port == (secure() ? 443 : 80)) return host;
  return host + ":" + std::to_string(port);
}

std::string Url::ToString() const { return Origin() + path + (query.empty() ? "" : "?" + query); }

Result<Url> ParseUrl(std::string_view text) {
  TRY(CheckText(text));
  Handle handle(curl_url());
  CHECK(handle != nullptr);
  CURLUcode code =
      curl_url_set(handle.get(), CURLUPART_URL, std::string(text).c_str(), CURLU_NON_SUPPORT_SCHEME | CURLU_PATH_AS_IS);
  if (code != CURLUE_OK) return MakeError(Code::kInvalidArgument, "not a URL: {}", curl_url_strerror(code));
  return Take(handle.get());
}

Result<Url> ResolveUrl(const Url& base, std::string_view location) {
  TRY(CheckText(location));
  Handle handle(curl_url());
  CHECK(handle != nullptr);
  CURLUcode code = curl_url_set(handle.get(), CURLUPART_URL, base.ToString().c_str(), 0);
  if (code == CURLUE_OK) {
    code = curl_url_set(handle.get(), CURLUPART_URL, std::string(location).c_str(), CURLU_NON_SUPPORT_SCHEME);
  }
  if (code != CURLUE_OK) return MakeError(Code::kInvalidArgument, "not a URL: {}", curl_url_strerror(code));
  return Take(handle.get());
}

std::string UrlEncode(std::string_view text) {
  std::string out;
  for (unsigned char c : text) {
    if (std::isalnum(c) || c == '-' || c == '.' || c == '_' || c == '~') {
      out.push_back(static_cast<char>(c));
    } else {
      out += fmt::format("%{:02X}", c);
    }
  }
  return out;
}

}  // namespace caisson::image
