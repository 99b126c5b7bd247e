// SPDX-License-Identifier: Apache-2.0
//
// ChunkChannel hands bytes from one thread to another, a bounded number at a time. One writer, one reader.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace caisson::image {

class ChunkChannel {
 public:
  // Writer: waits while the reader is far behind. False once the reader has stopped.
  bool Write(std::string_view bytes);
  // Writer: no more follows; with an error the reader gets that instead of the end.
  void Finish(std::optional<Error> error);
  // Reader: the next bytes, empty at the end, or the writer's error. Waits; the writer always finishes.
  Result<std::string> Read();
  // Reader: takes no more.
  void Stop();

 private:
  static constexpr size_t kBlockBytes = 256 << 10, kMaxBlocks = 8;
  bool Push(std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string filling_;
  std::deque<std::string> blocks_;
  bool finished_ = false, stopped_ = false;
  std::optional<Error> error_;
};

}  // namespace caisson::image
