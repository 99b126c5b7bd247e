// SPDX-License-Identifier: Apache-2.0
//
// ProxyRules: which proxy a request takes, by HTTP_PROXY, HTTPS_PROXY and NO_PROXY as Go programs (and so the other
// container runtimes) read them. An immutable value. A proxy's URL may hold a password: it is never in an error.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "image/url.h"

namespace caisson::image {

class ProxyRules {
 public:
  ProxyRules() = default;  // no proxy at all
  // Upper or lower case names; the upper case ones win.
  static ProxyRules FromEnvironment();
  ProxyRules(std::string http, std::string https, std::string_view no_proxy);

  // The proxy for `url`, or "" for none. Loopback hosts never take one.
  std::string For(const Url& url) const;

 private:
  bool Excluded(const Url& url) const;

  std::string http_, https_;
  std::vector<std::string> no_proxy_;
};

}  // namespace caisson::image
