// SPDX-License-Identifier: Apache-2.0
#include "cri/writable_layers.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>

#include "base/clock.h"

namespace caisson::cri {
namespace {

// Measuring takes at most a fiftieth of the time, and a layer that is measured in no time is still not measured always.
constexpr int64_t kCostFactor = 50;
constexpr int64_t kFreshNanos = 2 * kNanosPerSecond;
constexpr int64_t kStaleNanos = 60 * kNanosPerSecond;
constexpr int64_t kForgetNanos = 600 * kNanosPerSecond;

}  // namespace

struct WritableLayers::State {
  struct Layer {
    std::optional<Measured> measured;
    bool tried = false;  // measured, or measuring has failed
    bool queued = false;
    int64_t due = 0, asked = 0;  // of `clock`
  };

  Measure measure;
  Start start;
  Clock clock;
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, Layer> layers;
  std::deque<std::string> queue;
  bool working = false;

  // All with the mutex held.
  void Ask(const std::string& key, int64_t now) {
    Layer& layer = layers[key];
    layer.asked = now;
    if (layer.queued || (layer.tried && now < layer.due)) return;
    layer.queued = true;
    // Somebody waits for the new ones.
    if (layer.tried) {
      queue.push_back(key);
    } else {
      queue.push_front(key);
    }
  }

  bool Tried(const std::string& key) const {
    auto at = layers.find(key);
    return at == layers.end() || at->second.tried;
  }

  void Record(const std::string& key, Result<image::Usage> usage, int64_t begin, int64_t end) {
    auto at = layers.find(key);
    if (at == layers.end()) return;
    if (!usage && usage.error().code == Code::kNotFound) {
      layers.erase(at);  // the container has gone
      return;
    }
    Layer& layer = at->second;
    if (usage) layer.measured = Measured{*usage, NowNanos()};
    layer.tried = true;
    layer.queued = false;
    layer.due = end + std::clamp((end - begin) * kCostFactor, kFreshNanos, kStaleNanos);
  }
};

WritableLayers::WritableLayers(Measure measure, Start start, Clock clock) : state_(std::make_shared<State>()) {
  state_->measure = std::move(measure);
  state_->start = std::move(start);
  state_->clock = std::move(clock);
}

WritableLayers::WritableLayers(image::ImageStore& images, Background& background)
    : WritableLayers([&images](const std::string& key) { return images.SnapshotUsage(key); },
                     [&background](std::function<void()> task) { background.Start(std::move(task)); },
                     MonotonicNanos) {}

void WritableLayers::Work(const std::shared_ptr<State>& state) {
  std::unique_lock lock(state->mutex);
  while (!state->queue.empty()) {
    std::string key = std::move(state->queue.front());
    state->queue.pop_front();
    lock.unlock();
    int64_t begin = state->clock();
    auto usage = state->measure(key);
    int64_t end = state->clock();
    lock.lock();
    state->Record(key, std::move(usage), begin, end);
    state->changed.notify_all();
  }
  state->working = false;
  int64_t now = state->clock();
  std::erase_if(state->layers, [&](const auto& layer) { return now - layer.second.asked > kForgetNanos; });
}

std::map<std::string, WritableLayers::Measured> WritableLayers::Get(const std::vector<std::string>& keys,
                                                                    int64_t wait_millis) {
  bool start = false;
  {
    std::lock_guard lock(state_->mutex);
    int64_t now = state_->clock();
    for (const std::string& key : keys) state_->Ask(key, now);
    start = !state_->queue.empty() && !state_->working;
    if (start) state_->working = true;
  }
  if (start) state_->start([state = state_] { Work(state); });
  std::unique_lock lock(state_->mutex);
  state_->changed.wait_for(lock, std::chrono::milliseconds(wait_millis), [&] {
    return std::all_of(keys.begin(), keys.end(), [&](const std::string& key) { return state_->Tried(key); });
  });
  std::map<std::string, Measured> known;
  for (const std::string& key : keys) {
    auto at = state_->layers.find(key);
    if (at != state_->layers.end() && at->second.measured) known[key] = *at->second.measured;
  }
  return known;
}

}  // namespace caisson::cri
