// SPDX-License-Identifier: Apache-2.0
#include "stream/tokens.h"

#include "base/clock.h"
#include "base/id.h"
#include "base/limits.h"

namespace caisson::stream {

std::string_view VerbOf(const Grant& grant) {
  if (std::holds_alternative<ExecGrant>(grant)) return "exec";
  return std::holds_alternative<AttachGrant>(grant) ? "attach" : "portforward";
}

void Tokens::DropExpired() {
  int64_t now = MonotonicNanos();
  while (!entries_.empty() && entries_.front().expires <= now) {
    by_token_.erase(entries_.front().token);
    entries_.pop_front();
  }
}

Result<std::string> Tokens::Add(Grant grant) {
  std::string token = NewId();
  std::lock_guard lock(mutex_);
  DropExpired();
  if (entries_.size() >= limits::kStreamTokens) {
    return MakeError(Code::kResourceExhausted, "{} streaming URLs are waiting to be used", entries_.size());
  }
  entries_.push_back({token, MonotonicNanos() + life_nanos_, std::move(grant)});
  by_token_[token] = std::prev(entries_.end());
  return token;
}

std::optional<Grant> Tokens::Take(std::string_view verb, const std::string& token) {
  std::lock_guard lock(mutex_);
  DropExpired();
  // A hash table's timing says nothing of 256 random bits that are good once.
  auto found = by_token_.find(token);
  if (found == by_token_.end()) return std::nullopt;
  Grant grant = std::move(found->second->grant);
  entries_.erase(found->second);
  by_token_.erase(found);
  if (VerbOf(grant) != verb) return std::nullopt;
  return grant;
}

}  // namespace caisson::stream
