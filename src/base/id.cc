// SPDX-License-Identifier: Apache-2.0
#include "base/id.h"

#include <sys/random.h>

#include "base/check.h"

namespace caisson {

std::string NewId() {
  unsigned char bytes[32];
  // Up to 256 bytes getrandom(2) neither blocks after boot nor returns short.
  CHECK(getrandom(bytes, sizeof bytes, 0) == sizeof bytes);
  std::string id;
  id.reserve(64);
  for (unsigned char byte : bytes) {
    id.push_back("0123456789abcdef"[byte >> 4]);
    id.push_back("0123456789abcdef"[byte & 15]);
  }
  return id;
}

bool IsSafeName(std::string_view name) {
  if (name.empty() || name.size() > 128 || name == "." || name == "..") return false;
  for (char c : name) {
    bool alnum = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!alnum && c != '_' && c != '.' && c != '-') return false;
  }
  return true;
}

}  // namespace caisson
