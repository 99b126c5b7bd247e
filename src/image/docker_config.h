// SPDX-License-Identifier: Apache-2.0
//
// Credentials from a docker config.json (or podman's auth.json, which is the same with paths as keys). Read at each
// pull; nothing is cached. Credential helpers are programs and are not run: the answer says so. Pure but for the read.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "image/image_store.h"

namespace caisson::image {

struct DockerLogin {
  std::optional<Credentials> credentials;
  std::string note;  // why there are none though the file speaks of the host; for an error's text
};

// `host`: as in references, "docker.io" or "host:port". `path`: "library/busybox"; the longest key that is a prefix of
// host/path wins. Errors (bad JSON, wrong types) name the file and never its contents.
Result<DockerLogin> FindDockerLogin(std::string_view config_text, std::string_view file, std::string_view host,
                                    std::string_view path);
// The same from a file; one that does not exist holds nothing.
Result<DockerLogin> ReadDockerLogin(const std::string& file, std::string_view host, std::string_view path);

// "https://index.docker.io/v1/", "index.docker.io" and "registry-1.docker.io" are "docker.io"; other addresses lose
// scheme and path. For comparing what a login is for.
std::string CanonicalRegistry(std::string_view address);

// user and password of base64("user:password"); none if it is not that.
std::optional<std::pair<std::string, std::string>> DecodeBasic(std::string_view base64);
std::string Base64(std::string_view bytes);

}  // namespace caisson::image
