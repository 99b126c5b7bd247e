// SPDX-License-Identifier: Apache-2.0
//
// Url: an http or https URL, checked; nothing else is ever followed. Parsing is libcurl's own, so that what we check is
// what libcurl then connects to. Pure values, any thread.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace caisson::image {

struct Url {
  std::string scheme;  // "http" or "https"
  std::string host;    // lowercase; IPv6 in brackets
  int port = 0;        // never 0 once parsed
  std::string path;    // begins with '/'
  std::string query;   // without '?'; may hold secrets (signed redirects)

  bool secure() const { return scheme == "https"; }
  // "host" or "host:port" where the port is not the scheme's own.
  std::string Authority() const;
  // "https://host:port": who answers.
  std::string Origin() const { return scheme + "://" + Authority(); }
  std::string ToString() const;
  // For people: without the query.
  std::string Shown() const { return Origin() + path; }
};

// kInvalidArgument for other schemes, user:password@, control characters, more than 8 KiB. A fragment is dropped.
Result<Url> ParseUrl(std::string_view text);
// A Location header's value (absolute or relative) seen from `base`.
Result<Url> ResolveUrl(const Url& base, std::string_view location);
// Percent-encodes everything but RFC 3986's unreserved characters.
std::string UrlEncode(std::string_view text);

}  // namespace caisson::image
