// SPDX-License-Identifier: Apache-2.0
//
// What surrounds one HTTP request: redirects that never take secrets along, and repeated attempts with backoff,
// jitter and Retry-After. Objects belong to one call and thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "image/registry.h"
#include "image/transport.h"

namespace caisson::image {

// Performs `request` and follows redirects of a GET or HEAD: at most limits::kRedirects, never from https to http,
// never to another scheme. Request headers other than Accept and Range, and client certificates, stay with the origin
// they were meant for. `last`, if not null, becomes the URL that answered.
Exchange PerformFollowing(Transport& transport, HttpRequest request, const CallControl& control, Url* last = nullptr);

struct RetryPolicy {
  int max_attempts = 5;
  int64_t first_backoff_millis = 200;
  int64_t max_backoff_millis = 10'000;
  int64_t max_retry_after_millis = 60'000;
};

// Seconds or an HTTP date (RFC 9110, 10.2.3) as milliseconds from now, not negative; none if it is neither.
std::optional<int64_t> ParseRetryAfter(std::string_view value);
// 408, 429 and the 5xx that a later attempt may find gone.
bool IsTransient(int status);
// Sleeps, unless the call is ended: then kCancelled or kDeadlineExceeded.
Result<> WaitFor(int64_t millis, const CallControl& control);

// Counts the attempts of one request.
class Attempts {
 public:
  Attempts(const RetryPolicy& policy, const CallControl& control) : policy_(policy), control_(control) {}

  // Whether a request that ended in `exchange` should be made again; if so, the wait is over when this returns.
  Result<bool> Again(const Exchange& exchange);
  // Bytes that the last attempt brought. One that got far is not held against the sender.
  void Progress(uint64_t bytes);

 private:
  const RetryPolicy& policy_;
  const CallControl& control_;
  int failed_ = 0;
  int total_ = 0;
};

}  // namespace caisson::image
