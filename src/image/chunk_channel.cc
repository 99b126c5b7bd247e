// SPDX-License-Identifier: Apache-2.0
#include "image/chunk_channel.h"

#include <utility>

namespace caisson::image {

bool ChunkChannel::Push(std::unique_lock<std::mutex>& lock) {
  changed_.wait(lock, [&] { return stopped_ || blocks_.size() < kMaxBlocks; });
  if (stopped_) return false;
  blocks_.push_back(std::exchange(filling_, {}));
  changed_.notify_all();
  return true;
}

bool ChunkChannel::Write(std::string_view bytes) {
  // Only the writer touches filling_: transfers give many small pieces, the lock is taken once a block.
  if (filling_.capacity() < kBlockBytes) filling_.reserve(kBlockBytes);
  filling_ += bytes;
  if (filling_.size() + (16 << 10) < kBlockBytes) return true;
  std::unique_lock lock(mutex_);
  return Push(lock);
}

void ChunkChannel::Finish(std::optional<Error> error) {
  std::unique_lock lock(mutex_);
  if (!error && !filling_.empty()) Push(lock);
  error_ = std::move(error);
  finished_ = true;
  changed_.notify_all();
}

Result<std::string> ChunkChannel::Read() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return finished_ || !blocks_.empty(); });
  if (error_) return *error_;
  if (blocks_.empty()) return std::string();
  std::string block = std::move(blocks_.front());
  blocks_.pop_front();
  changed_.notify_all();
  return block;
}

void ChunkChannel::Stop() {
  std::lock_guard lock(mutex_);
  stopped_ = true;
  blocks_.clear();
  changed_.notify_all();
}

}  // namespace caisson::image
