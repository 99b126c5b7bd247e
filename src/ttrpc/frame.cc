// SPDX-License-Identifier: Apache-2.0
#include "ttrpc/frame.h"

#include "base/limits.h"

namespace caisson::ttrpc {
namespace {

void AppendBigEndian(std::string* out, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out->push_back(static_cast<char>(value >> shift));
}

uint32_t ReadBigEndian(const char* bytes) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}

}  // namespace

Result<std::string> EncodeFrame(const Frame& frame) {
  if (frame.payload.size() > limits::kTtrpcMessageBytes) {
    return MakeError(Code::kResourceExhausted, "message of {} bytes is larger than ttRPC's limit of {}", frame.payload.size(),
                     limits::kTtrpcMessageBytes);
  }
  std::string bytes;
  bytes.reserve(kFrameHeaderBytes + frame.payload.size());
  AppendBigEndian(&bytes, static_cast<uint32_t>(frame.payload.size()));
  AppendBigEndian(&bytes, frame.stream);
  bytes.push_back(static_cast<char>(frame.type));
  bytes.push_back(static_cast<char>(frame.flags));
  bytes += frame.payload;
  return bytes;
}

Result<std::optional<Frame>> FrameReader::Next() {
  std::string_view rest = std::string_view(buffer_).substr(begin_);
  if (rest.size() < kFrameHeaderBytes) return std::optional<Frame>();
  uint32_t length = ReadBigEndian(rest.data());
  if (length > limits::kTtrpcMessageBytes) {
    return MakeError(Code::kResourceExhausted, "ttRPC frame of {} bytes is larger than the limit of {}", length,
                     limits::kTtrpcMessageBytes);
  }
  auto type = static_cast<uint8_t>(rest[8]);
  auto flags = static_cast<uint8_t>(rest[9]);
  if (type < 1 || type > 3) return MakeError(Code::kInvalidArgument, "ttRPC frame of unknown type {}", type);
  if (flags > (kFlagRemoteClosed | kFlagRemoteOpen | kFlagNoData)) {
    return MakeError(Code::kInvalidArgument, "ttRPC frame with unknown flags {:#x}", flags);
  }
  if (rest.size() < kFrameHeaderBytes + length) return std::optional<Frame>();
  Frame frame{ReadBigEndian(rest.data() + 4), static_cast<FrameType>(type), flags,
              std::string(rest.substr(kFrameHeaderBytes, length))};
  begin_ += kFrameHeaderBytes + length;
  if (begin_ == buffer_.size()) {
    // A companion lives long and idle: give a big message's memory back.
    if (buffer_.capacity() > (64 << 10)) buffer_ = std::string();
    buffer_.clear();
    begin_ = 0;
  } else if (begin_ > (64 << 10)) {
    buffer_.erase(0, begin_);
    begin_ = 0;
  }
  return std::optional<Frame>(std::move(frame));
}

}  // namespace caisson::ttrpc
