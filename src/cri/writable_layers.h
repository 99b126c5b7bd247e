// SPDX-License-Identifier: Apache-2.0
//
// WritableLayers: how much containers have written. Measuring a layer reads its whole tree, so that it is done on a
// thread of its own, one layer after the other, and the outcome kept for a time that grows with what measuring cost.
// A layer never measured is waited for, though not for long; one that is out of date is answered as it was and
// measured anew. Layers nobody asks for are forgotten. Thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "cri/background.h"
#include "image/image_store.h"

namespace caisson::cri {

class WritableLayers {
 public:
  struct Measured {
    image::Usage usage;
    int64_t at_nanos = 0;  // CLOCK_REALTIME
  };
  using Measure = std::function<Result<image::Usage>(const std::string& key)>;
  using Start = std::function<void(std::function<void()>)>;  // runs it, on another thread or at once
  using Clock = std::function<int64_t()>;                    // monotonic nanoseconds

  WritableLayers(image::ImageStore& images, Background& background);
  WritableLayers(Measure measure, Start start, Clock clock);

  // Those of `keys` (of snapshots) that are known within `wait_millis`.
  std::map<std::string, Measured> Get(const std::vector<std::string>& keys, int64_t wait_millis);

 private:
  struct State;
  static void Work(const std::shared_ptr<State>& state);
  std::shared_ptr<State> state_;
};

}  // namespace caisson::cri
