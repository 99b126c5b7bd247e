// SPDX-License-Identifier: Apache-2.0
//
// Image references as Docker normalises them: "busybox" is "docker.io/library/busybox:latest". The grammar is the one
// of the distribution project's `reference` package, without regular expressions. Pure values, any thread.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace caisson::image {

struct Reference {
  std::string domain;  // "docker.io", "localhost:5000", "[::1]:5000"
  std::string path;    // "library/busybox"
  std::string tag;     // never empty unless there is a digest
  std::string digest;  // "sha256:…" or empty. It wins over the tag, which is then only a name

  std::string Repository() const { return domain + "/" + path; }             // "docker.io/library/busybox"
  std::string Tagged() const { return tag.empty() ? "" : Repository() + ":" + tag; }
  std::string Digested(std::string_view of) const { return Repository() + "@" + std::string(of); }
  // Repository[:tag][@digest].
  std::string ToString() const;
};

// kInvalidArgument names the reference and the rule it breaks. 64 hex digits alone are refused as Docker does: that is
// an image id.
Result<Reference> ParseReference(std::string_view text);

// True for "localhost", 127.0.0.0/8 and [::1], with or without a port: hosts that speak plain HTTP unless configured.
bool IsLoopbackDomain(std::string_view domain);

}  // namespace caisson::image
