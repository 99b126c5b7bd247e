// SPDX-License-Identifier: Apache-2.0
#include "cri/ask_companions.h"

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

namespace caisson::cri {
namespace {

constexpr int64_t kSlackMillis = 500;  // beyond the calls' own deadline, in case the loop is late

// Shared with the calls' callbacks, which may come after everybody has stopped waiting.
struct Answers {
  std::mutex mutex;
  std::condition_variable changed;
  size_t pending = 0;
  std::map<std::string, std::string> payloads;

  void Take(const std::string& pod_id, Result<std::string> payload) {
    std::lock_guard lock(mutex);
    if (payload) payloads[pod_id] = std::move(*payload);
    if (--pending == 0) changed.notify_all();
  }
};

}  // namespace

std::map<std::string, std::string> AskCompanions(const ShimsOfPods& shims, std::string_view method, const std::string& request, int64_t deadline_millis) {
  auto answers = std::make_shared<Answers>();
  answers->pending = shims.size();
  for (const auto& [pod_id, shim] : shims) {
    shim->ttrpc().Call(service::kPod, method, request, deadline_millis,
                       [answers, id = pod_id](Result<std::string> payload) { answers->Take(id, std::move(payload)); });
  }
  std::unique_lock lock(answers->mutex);
  answers->changed.wait_for(lock, std::chrono::milliseconds(deadline_millis + kSlackMillis), [&] { return answers->pending == 0; });
  return answers->payloads;
}

}  // namespace caisson::cri
