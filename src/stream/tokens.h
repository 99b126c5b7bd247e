// SPDX-License-Identifier: Apache-2.0
//
// What may be streamed, by secret: each token is 256 random bits, is good for one use, for a minute, and stands for one
// verb with one target. Bounded. Thread-safe.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>

#include "base/result.h"
#include "stream/server.h"

namespace caisson::stream {

struct ExecGrant {
  ExecTarget target;
};
struct AttachGrant {
  ExecTarget target;
};
using Grant = std::variant<ExecGrant, AttachGrant, PortForwardTarget>;

// The first component of the URL's path: "exec", "attach", "portforward".
std::string_view VerbOf(const Grant& grant);

class Tokens {
 public:
  explicit Tokens(int64_t life_millis) : life_nanos_(life_millis * 1'000'000) {}

  // Errors: kResourceExhausted when limits::kStreamTokens are unused and not expired.
  Result<std::string> Add(Grant grant);
  // The grant, which is used up, or nothing: never given out, used, expired, or for another verb (then used up too).
  std::optional<Grant> Take(std::string_view verb, const std::string& token);

 private:
  struct Entry {
    std::string token;
    int64_t expires;
    Grant grant;
  };
  void DropExpired();

  const int64_t life_nanos_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // the oldest first
  std::unordered_map<std::string, std::list<Entry>::iterator> by_token_;
};

}  // namespace caisson::stream
