// SPDX-License-Identifier: Apache-2.0
//
// Where the images of a registry are fetched from: containerd's certs.d tree (<dir>/<host>/hosts.toml, or certificate
// files alone as Docker has them), else the registry itself. Read at each pull. Pure but for the reads. hosts.cc is the
// one file that catches what toml++ throws.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "image/transport.h"
#include "image/url.h"

namespace caisson::image {

struct RegistryHost {
  Url base;  // up to and with "/v2" (or the path that override_path demands), no '/' at the end
  bool can_pull = true, can_resolve = true;
  TlsOptions tls;
  std::vector<std::string> headers;  // "Name: value"; may hold secrets
  int64_t dial_timeout_millis = 0;   // 0: the default
  // The registry that the reference names, in contrast to a mirror of it: the host the pull's credentials are for.
  bool upstream = false;

  std::string Authority() const { return base.Authority(); }
};

// The hosts to ask for images of `domain` ("docker.io", "localhost:5000"), mirrors first, never empty. Errors name the
// file and line.
Result<std::vector<RegistryHost>> HostsFor(const std::string& domain, const std::string& certs_dir);

// What a hosts.toml in folder `folder` says. `file` is for errors.
Result<std::vector<RegistryHost>> ParseHostsToml(std::string_view text, const std::string& file,
                                                 const std::string& folder, const std::string& domain);
// The registry of `domain` itself: docker.io is registry-1.docker.io; loopback speaks plain HTTP but on port 443.
Result<RegistryHost> DefaultHost(const std::string& domain);

}  // namespace caisson::image
