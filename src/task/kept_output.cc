// SPDX-License-Identifier: Apache-2.0
#include "task/kept_output.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"

namespace caisson::task {

KeptOutput::~KeptOutput() {
  if (waiting_) std::exchange(waiting_, nullptr)(Part{{}, true});
}

KeptOutput::Part KeptOutput::Take(size_t max) {
  Part part;
  if (bytes_.size() <= max) {
    part.data = std::exchange(bytes_, {});
  } else {
    part.data = bytes_.substr(0, max);
    bytes_.erase(0, max);
  }
  part.ended = ended_ && bytes_.empty();
  return part;
}

void KeptOutput::Append(std::string_view bytes) {
  bytes_.append(bytes);
  if (waiting_) {
    std::exchange(waiting_, nullptr)(Take(waiting_max_));
  }
  if (bytes_.size() >= limits::kKeptOutputBytes && source_ != nullptr) source_->Pause(true);
}

void KeptOutput::End() {
  ended_ = true;
  source_ = nullptr;
  if (waiting_) std::exchange(waiting_, nullptr)(Take(waiting_max_));
}

void KeptOutput::Read(size_t max, bool no_wait, Reader reader) {
  if (waiting_) return reader(MakeError(Code::kFailedPrecondition, "the output is awaited already"));
  max = std::clamp<size_t>(max, 1, limits::kKeptOutputBytes);
  Part part = Take(max);
  if (source_ != nullptr && bytes_.size() < limits::kKeptOutputBytes) {
    source_->Pause(false);
    // What a full pipe still holds is there too: a dead process's last words are.
    if (part.data.empty() && no_wait) {
      source_->Drain();
      part = Take(max);
    }
  }
  if (!part.data.empty() || part.ended || no_wait) return reader(std::move(part));
  waiting_ = std::move(reader);
  waiting_max_ = max;
}

void KeptOutput::OnExit() {
  if (waiting_) std::exchange(waiting_, nullptr)(Take(waiting_max_));
}

}  // namespace caisson::task
