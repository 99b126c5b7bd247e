// SPDX-License-Identifier: Apache-2.0
#include "image/fetch.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cctype>
#include <ctime>
#include <mutex>
#include <random>

#include <curl/curl.h>

#include "base/limits.h"
#include "base/strings.h"
#include "image/reference.h"

namespace caisson::image {
namespace {

constexpr int kMaxConnectAttempts = 2;           // of an address where nobody answers
constexpr int kMaxTotalAttempts = 100;           // even if each gets far
constexpr uint64_t kFarBytes = uint64_t{1} << 20;

bool IsRedirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

bool StaysOnRedirect(std::string_view header) {
  std::string lower(header.substr(0, header.find(':')));
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  return lower == "accept" || lower == "range";
}

Exchange Refuse(Exchange exchange, Error error) {
  exchange.failure = Exchange::Failure::kFinal;
  exchange.error = std::move(error);
  return exchange;
}

// Turns `request` towards `to`; what is meant for the old origin stays behind.
void Redirect(HttpRequest* request, const Url& to) {
  if (to.Origin() != request->url.Origin()) {
    std::erase_if(request->headers, [](const std::string& header) { return !StaysOnRedirect(header); });
    request->tls.client_certs.clear();
    // A server may be trusted unverified; that says nothing about others it names.
    if (to.host != request->url.host) {
      request->tls.skip_verify = false;
      bool loopback = IsLoopbackDomain(request->url.host);
      request->allow_loopback = request->allow_loopback && loopback;
      request->allow_link_local = false;
    }
  }
  request->url = to;
}

}  // namespace

Exchange PerformFollowing(Transport& transport, HttpRequest request, const CallControl& control, Url* last) {
  const std::string first = request.url.Origin();
  for (int hops = 0;; ++hops) {
    Exchange exchange = transport.Perform(request, control);
    if (last != nullptr) *last = request.url;
    if (!exchange.ok() || !IsRedirect(exchange.response.status) || request.method == "POST") return exchange;
    if (hops == limits::kRedirects) {
      return Refuse(std::move(exchange), MakeError(Code::kFailedPrecondition, "{}: more than {} redirects", first,
                                                   limits::kRedirects));
    }
    auto to = ResolveUrl(request.url, exchange.response.Header("location"));
    if (!to) return Refuse(std::move(exchange), std::move(to.error()).Within(first + ": redirect refused"));
    if (request.url.secure() && !to->secure()) {
      return Refuse(std::move(exchange),
                    MakeError(Code::kPermissionDenied, "{}: redirect from https to http ({}) refused",
                              request.url.Origin(), to->Origin()));
    }
    Redirect(&request, *to);
  }
}

std::optional<int64_t> ParseRetryAfter(std::string_view value) {
  value = Trim(value);
  if (auto seconds = ParseUint64(value)) return static_cast<int64_t>(std::min<uint64_t>(*seconds, 1 << 30)) * 1000;
  if (value.empty() || value.size() > 64) return std::nullopt;
  time_t at = curl_getdate(std::string(value).c_str(), nullptr);
  if (at == static_cast<time_t>(-1)) return std::nullopt;
  return std::max<int64_t>(0, at - NowNanos() / kNanosPerSecond) * 1000;
}

bool IsTransient(int status) {
  return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 || status == 504;
}

Result<> WaitFor(int64_t millis, const CallControl& control) {
  if (control.deadline && control.deadline->RemainingMillis() <= millis) {
    return MakeError(Code::kDeadlineExceeded, "no time is left to try again");
  }
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  never.wait_for(lock, control.cancel, std::chrono::milliseconds(millis), [] { return false; });
  if (control.cancel.stop_requested()) return MakeError(Code::kCancelled, "cancelled");
  return {};
}

void Attempts::Progress(uint64_t bytes) {
  if (bytes >= kFarBytes) failed_ = 0;
}

Result<bool> Attempts::Again(const Exchange& exchange) {
  bool transient = exchange.ok() ? IsTransient(exchange.response.status)
                                 : exchange.failure != Exchange::Failure::kFinal;
  if (!transient) return false;
  ++failed_;
  ++total_;
  int most = policy_.max_attempts;
  if (exchange.failure == Exchange::Failure::kConnect) most = std::min(most, kMaxConnectAttempts);
  if (failed_ >= most || total_ >= kMaxTotalAttempts) return false;
  int64_t ceiling = policy_.first_backoff_millis << std::min(failed_ - 1, 16);
  ceiling = std::clamp<int64_t>(ceiling, 1, policy_.max_backoff_millis);
  // Half fixed, half random: nodes that lost the same registry must not come back in step.
  thread_local std::minstd_rand random{std::random_device{}()};
  int64_t wait = ceiling / 2 + std::uniform_int_distribution<int64_t>(0, ceiling - ceiling / 2)(random);
  if (exchange.ok()) {
    auto demanded = ParseRetryAfter(exchange.response.Header("retry-after"));
    if (demanded && *demanded > policy_.max_retry_after_millis) return false;
    if (demanded) wait = std::max(wait, *demanded);
  }
  TRY(WaitFor(wait, control_));
  return true;
}

}  // namespace caisson::image
