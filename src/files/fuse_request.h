// SPDX-License-Identifier: Apache-2.0
//
// Requests of a guest's FUSE client (linux/fuse.h) as they come from a stream, and what is in them. They are hostile: what is
// too short, too long, not ended or not the name of one entry of a folder is told by an errno value. No state but the
// reader's buffer; any thread.
#pragma once

#include <linux/fuse.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "base/limits.h"
#include "base/result.h"

namespace caisson::files {

inline constexpr size_t kNameBytes = 255;  // NAME_MAX, of each file system that matters

struct FuseRequest {
  fuse_in_header header{};
  std::string_view body;
};

// Cuts a stream into requests: each begins with its own length.
class FuseReader {
 public:
  // At least `bytes` of room to read into; then Added says how many came.
  char* Room(size_t bytes);
  void Added(size_t bytes) { end_ += bytes; }
  // The next whole request, valid until Room; nothing: more has to come. Errors: no stream of requests, beyond repair.
  Result<std::optional<FuseRequest>> Next();

 private:
  std::string buffer_;
  size_t begin_ = 0, end_ = 0;
};

// Takes a request's body apart, from its beginning. After a failure everything fails.
class FuseBody {
 public:
  explicit FuseBody(std::string_view rest) : rest_(rest) {}

  template <class T>
  T Take() {
    T value{};
    if (rest_.size() < sizeof value) {
      error_ = error_ != 0 ? error_ : EINVAL;
      return value;
    }
    std::memcpy(&value, rest_.data(), sizeof value);
    rest_.remove_prefix(sizeof value);
    return value;
  }
  // The name of one entry of a folder: neither empty nor "." nor "..", without a slash.
  std::string TakeName();
  // Text up to its zero, at most `max` bytes.
  std::string TakeText(size_t max);
  std::string_view Rest() const { return rest_; }
  // 0, or an errno value.
  int error() const { return error_; }

 private:
  std::string_view rest_;
  int error_ = 0;
};

}  // namespace caisson::files
