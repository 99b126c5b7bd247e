// SPDX-License-Identifier: Apache-2.0
//
// ttRPC frames (docs/ttrpc.md): a ten byte header (payload length, stream id, type, flags; numbers big-endian) and a
// payload of at most 4 MiB. Pure values; FrameReader holds what has arrived of an unfinished frame.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace caisson::ttrpc {

enum class FrameType : uint8_t { kRequest = 1, kResponse = 2, kData = 3 };

inline constexpr uint8_t kFlagRemoteClosed = 1;
inline constexpr uint8_t kFlagRemoteOpen = 2;
inline constexpr uint8_t kFlagNoData = 4;
inline constexpr size_t kFrameHeaderBytes = 10;

struct Frame {
  uint32_t stream = 0;
  FrameType type = FrameType::kRequest;
  uint8_t flags = 0;
  std::string payload;
};

// The frame as bytes. Errors: kResourceExhausted for a payload past the limit.
Result<std::string> EncodeFrame(const Frame& frame);

class FrameReader {
 public:
  // Adds bytes that arrived.
  void Add(std::string_view bytes) { buffer_.append(bytes); }
  // The next whole frame, or nothing yet. Errors (the connection is beyond repair): a length past the limit, an unknown
  // type or flag.
  Result<std::optional<Frame>> Next();

 private:
  std::string buffer_;
  size_t begin_ = 0;  // of what has not been handed out
};

}  // namespace caisson::ttrpc
