// SPDX-License-Identifier: Apache-2.0
#include "stream/spdy_frame.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "base/bad.h"
#include "base/check.h"
#include "base/limits.h"
#include "stream/spdy_dictionary.h"

namespace caisson::stream {
namespace {

constexpr size_t kFrameHeaderBytes = 8;
constexpr uint32_t kVersion = 3;
constexpr uint32_t kStreamIdMask = 0x7fffffff;
constexpr uint8_t kFlagFin = 1, kFlagUnidirectional = 2;
constexpr int kDeflateWindowBits = 9, kDeflateMemLevel = 1;  // our blocks hold next to nothing

enum Type : uint16_t {
  kSynStream = 1,
  kSynReply = 2,
  kRstStream = 3,
  kSettings = 4,
  kPing = 6,
  kGoAway = 7,
  kHeaders = 8,
  kWindowUpdate = 9,
};

uint32_t GetU32(std::string_view bytes, size_t at = 0) {
  auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(bytes[at + i])); };
  return byte(0) << 24 | byte(1) << 16 | byte(2) << 8 | byte(3);
}

void PutU32(uint32_t value, std::string* out) {
  for (int shift : {24, 16, 8, 0}) out->push_back(static_cast<char>(value >> shift & 0xff));
}

std::string ControlFrame(Type type, uint8_t flags, std::string_view payload) {
  CHECK(payload.size() < 1 << 24);
  std::string frame;
  frame.reserve(kFrameHeaderBytes + payload.size());
  PutU32(0x80000000u | kVersion << 16 | type, &frame);
  PutU32(static_cast<uint32_t>(flags) << 24 | static_cast<uint32_t>(payload.size()), &frame);
  frame.append(payload);
  return frame;
}

// Cuts a length and as many bytes off the front of a header block.
bool TakeString(std::string_view* block, std::string_view* text) {
  if (block->size() < 4) return false;
  uint32_t size = GetU32(*block);
  if (size > block->size() - 4) return false;
  *text = block->substr(4, size);
  block->remove_prefix(4 + size);
  return true;
}

Result<SpdyHeaders> SplitBlock(std::string_view block) {
  if (block.size() < 4) return Bad("header block of {} bytes", block.size());
  uint32_t count = GetU32(block);
  block.remove_prefix(4);
  if (count > limits::kSpdyHeaders) return Bad("{} headers, at most {}", count, limits::kSpdyHeaders);
  SpdyHeaders headers;
  for (uint32_t i = 0; i < count; ++i) {
    std::string_view name, value;
    if (!TakeString(&block, &name) || !TakeString(&block, &value)) return Bad("header block ends early");
    // Section 2.6.10: an empty, repeated or upper case name is a protocol error.
    bool lower = std::none_of(name.begin(), name.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
    if (name.empty() || !lower) return Bad("header name is empty or not lower case");
    for (const auto& [other, unused] : headers) {
      if (other == name) return Bad("header occurs twice");
    }
    headers.emplace_back(name, value);
  }
  if (!block.empty()) return Bad("header block has {} bytes too many", block.size());
  return headers;
}

}  // namespace

std::string_view SpdyHeader(const SpdyHeaders& headers, std::string_view name) {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return {};
}

// One zlib stream for all header blocks of a direction, flushed after each (section 2.6.10.1).
struct SpdyParser::Inflater {
  z_stream stream = {};
  Inflater() { CHECK(inflateInit(&stream) == Z_OK); }
  ~Inflater() { inflateEnd(&stream); }

  Result<std::string> Run(std::string_view block) {
    // One byte more than is allowed tells "full" from "too much" without inflating a bomb any further.
    std::string out(limits::kSpdyHeaderBytes + 1, '\0');
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(block.data()));
    stream.avail_in = static_cast<uInt>(block.size());
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = static_cast<uInt>(out.size());
    int result = inflate(&stream, Z_SYNC_FLUSH);
    if (result == Z_NEED_DICT) {
      const std::string& words = SpdyDictionary();
      // Fails if the peer's zlib names another dictionary.
      if (inflateSetDictionary(&stream, reinterpret_cast<const Bytef*>(words.data()),
                               static_cast<uInt>(words.size())) != Z_OK) {
        return Bad("header block is not compressed with SPDY's dictionary");
      }
      result = inflate(&stream, Z_SYNC_FLUSH);
    }
    if (stream.avail_out == 0) return Bad("header block inflates to more than {} bytes", limits::kSpdyHeaderBytes);
    // Z_BUF_ERROR: an empty block, or nothing more to do.
    if ((result != Z_OK && result != Z_BUF_ERROR) || stream.avail_in != 0) return Bad("header block is corrupt");
    out.resize(out.size() - stream.avail_out);
    return out;
  }
};

SpdyParser::SpdyParser() : inflater_(std::make_unique<Inflater>()) {}
SpdyParser::~SpdyParser() = default;

Result<> SpdyParser::Feed(std::string_view bytes, SpdyVisitor& visitor) {
  while (!bytes.empty() || (in_data_ && data_left_ == 0)) {
    if (in_data_) {
      std::string_view piece = bytes.substr(0, data_left_);
      bytes.remove_prefix(piece.size());
      data_left_ -= static_cast<uint32_t>(piece.size());
      in_data_ = data_left_ > 0;
      visitor.OnData(data_stream_, piece, data_fin_ && !in_data_);
      continue;
    }
    size_t wanted = kFrameHeaderBytes;
    if (control_.size() >= kFrameHeaderBytes) wanted += GetU32(control_, 4) & 0xffffff;
    std::string_view part = bytes.substr(0, wanted - control_.size());
    control_.append(part);
    bytes.remove_prefix(part.size());
    if (control_.size() < kFrameHeaderBytes) return {};
    uint32_t first = GetU32(control_), length = GetU32(control_, 4) & 0xffffff;
    if ((first & 0x80000000u) == 0) {
      data_stream_ = first & kStreamIdMask;
      data_left_ = length;
      data_fin_ = static_cast<uint8_t>(control_[4]) & kFlagFin;
      in_data_ = true;
      control_.clear();
      continue;
    }
    if ((first >> 16 & 0x7fff) != kVersion) return Bad("frame of SPDY version {}", first >> 16 & 0x7fff);
    if (length > limits::kSpdyControlBytes) return Bad("control frame of {} bytes", length);
    if (control_.size() < kFrameHeaderBytes + length) continue;
    auto done = Control(visitor);
    control_.clear();
    if (control_.capacity() > 4096) control_.shrink_to_fit();
    TRY(std::move(done));
  }
  return {};
}

Result<SpdyHeaders> SpdyParser::Headers(std::string_view block) {
  std::string text = TRY(inflater_->Run(block));
  return SplitBlock(text);
}

Result<> SpdyParser::Settings(std::string_view payload, SpdyVisitor& visitor) {
  uint32_t count = GetU32(payload);
  payload.remove_prefix(4);
  if (payload.size() != uint64_t{count} * 8) return Bad("settings frame of wrong length");
  for (; !payload.empty(); payload.remove_prefix(8)) visitor.OnSetting(GetU32(payload) & 0xffffff, GetU32(payload, 4));
  return {};
}

Result<> SpdyParser::Control(SpdyVisitor& visitor) {
  auto type = static_cast<uint16_t>(GetU32(control_) & 0xffff);
  auto flags = static_cast<uint8_t>(control_[4]);
  std::string_view payload = std::string_view(control_).substr(kFrameHeaderBytes);
  // The fixed part of each type's payload (section 2.6); types with a header block go on after it.
  size_t fixed = type == kSynStream ? 10 : type == kRstStream || type == kGoAway || type == kWindowUpdate ? 8 : 4;
  bool known = type >= kSynStream && type <= kWindowUpdate && type != 5;
  // Section 2.2: a control frame of an unknown type is ignored.
  if (!known) return {};
  bool exact = type == kRstStream || type == kPing || type == kGoAway || type == kWindowUpdate;
  if (payload.size() < fixed || (exact && payload.size() != fixed)) {
    return Bad("control frame of type {} has {} bytes", type, payload.size());
  }
  if (type == kSettings) return Settings(payload, visitor);
  uint32_t stream = GetU32(payload) & kStreamIdMask;
  bool fin = flags & kFlagFin;
  SpdyHeaders headers;
  if (type == kSynStream || type == kSynReply || type == kHeaders) headers = TRY(Headers(payload.substr(fixed)));
  switch (type) {
    case kSynStream:
      visitor.OnSynStream(stream, fin, flags & kFlagUnidirectional, std::move(headers));
      break;
    case kSynReply:
      visitor.OnSynReply(stream, fin);
      break;
    case kHeaders:
      visitor.OnHeaders(stream, fin);
      break;
    case kRstStream:
      visitor.OnRstStream(stream, GetU32(payload, 4));
      break;
    case kPing:
      visitor.OnPing(GetU32(payload));
      break;
    case kGoAway:
      visitor.OnGoAway(stream);
      break;
    case kWindowUpdate:
      visitor.OnWindowUpdate(stream, GetU32(payload, 4) & kStreamIdMask);
      break;
  }
  return {};
}

struct SpdyWriter::Deflater {
  z_stream stream = {};
  Deflater() {
    CHECK(deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, kDeflateWindowBits, kDeflateMemLevel, Z_DEFAULT_STRATEGY) ==
          Z_OK);
    const std::string& words = SpdyDictionary();
    CHECK(deflateSetDictionary(&stream, reinterpret_cast<const Bytef*>(words.data()),
                               static_cast<uInt>(words.size())) == Z_OK);
  }
  ~Deflater() { deflateEnd(&stream); }

  std::string Run(std::string_view text) {
    std::string out(deflateBound(&stream, text.size()) + 64, '\0');
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
    stream.avail_in = static_cast<uInt>(text.size());
    stream.next_out = reinterpret_cast<Bytef*>(out.data());
    stream.avail_out = static_cast<uInt>(out.size());
    CHECK(deflate(&stream, Z_SYNC_FLUSH) == Z_OK && stream.avail_in == 0 && stream.avail_out > 0);
    out.resize(out.size() - stream.avail_out);
    return out;
  }
};

SpdyWriter::SpdyWriter() : deflater_(std::make_unique<Deflater>()) {}
SpdyWriter::~SpdyWriter() = default;

std::string SpdyWriter::Block(const SpdyHeaders& headers) {
  std::string text;
  PutU32(static_cast<uint32_t>(headers.size()), &text);
  for (const auto& [name, value] : headers) {
    PutU32(static_cast<uint32_t>(name.size()), &text);
    text += name;
    PutU32(static_cast<uint32_t>(value.size()), &text);
    text += value;
  }
  return deflater_->Run(text);
}

std::string SpdyWriter::SynStream(uint32_t stream, const SpdyHeaders& headers) {
  std::string payload;
  PutU32(stream, &payload);
  PutU32(0, &payload);
  payload.append(2, '\0');  // priority and slot
  return ControlFrame(kSynStream, 0, payload + Block(headers));
}

std::string SpdyWriter::SynReply(uint32_t stream, const SpdyHeaders& headers) {
  std::string payload;
  PutU32(stream, &payload);
  return ControlFrame(kSynReply, 0, payload + Block(headers));
}

std::string SpdyWriter::RstStream(uint32_t stream, SpdyReset status) {
  std::string payload;
  PutU32(stream, &payload);
  PutU32(static_cast<uint32_t>(status), &payload);
  return ControlFrame(kRstStream, 0, payload);
}

std::string SpdyWriter::Ping(uint32_t id) {
  std::string payload;
  PutU32(id, &payload);
  return ControlFrame(kPing, 0, payload);
}

std::string SpdyWriter::GoAway(uint32_t last_good_stream, SpdyGoAway status) {
  std::string payload;
  PutU32(last_good_stream, &payload);
  PutU32(static_cast<uint32_t>(status), &payload);
  return ControlFrame(kGoAway, 0, payload);
}

std::string SpdyWriter::WindowUpdate(uint32_t stream, uint32_t delta) {
  std::string payload;
  PutU32(stream, &payload);
  PutU32(delta & kStreamIdMask, &payload);
  return ControlFrame(kWindowUpdate, 0, payload);
}

std::string SpdyWriter::Settings(const std::vector<std::pair<uint32_t, uint32_t>>& settings) {
  std::string payload;
  PutU32(static_cast<uint32_t>(settings.size()), &payload);
  for (const auto& [id, value] : settings) {
    PutU32(id, &payload);
    PutU32(value, &payload);
  }
  return ControlFrame(kSettings, 0, payload);
}

std::string SpdyWriter::DataHead(uint32_t stream, size_t size, bool fin) {
  CHECK(size < 1 << 24);
  std::string head;
  PutU32(stream & kStreamIdMask, &head);
  PutU32((fin ? uint32_t{kFlagFin} << 24 : 0) | static_cast<uint32_t>(size), &head);
  return head;
}

}  // namespace caisson::stream
