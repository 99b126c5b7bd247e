// SPDX-License-Identifier: Apache-2.0
//
// SPDY/3.1 frames (the draft of the Chromium project, section 2): a parser that is fed bytes as they come and calls a
// visitor, and a writer that makes frames. No I/O, no streams: spdy_session.h has those. Everything that a peer sends
// is bounded: a control frame, its header block when inflated, the number of headers. The data of a data frame is
// passed on in the pieces in which it comes, never collected. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace caisson::stream {

enum class SpdyReset : uint32_t {
  kProtocolError = 1,
  kInvalidStream = 2,
  kRefusedStream = 3,
  kUnsupportedVersion = 4,
  kCancel = 5,
  kInternalError = 6,
  kFlowControlError = 7,
  kStreamInUse = 8,
  kStreamAlreadyClosed = 9,
};

enum class SpdyGoAway : uint32_t { kOk = 0, kProtocolError = 1, kInternalError = 2 };

inline constexpr uint32_t kSpdySettingsInitialWindow = 7;

// Names are lower case. A name occurs once; several values of it are separated by zero bytes.
using SpdyHeaders = std::vector<std::pair<std::string, std::string>>;
// The value of `name` (lower case), or empty.
std::string_view SpdyHeader(const SpdyHeaders& headers, std::string_view name);

// What the peer sent. The callbacks may not feed the parser.
class SpdyVisitor {
 public:
  virtual ~SpdyVisitor() = default;
  virtual void OnSynStream(uint32_t stream, bool fin, bool unidirectional, SpdyHeaders headers) = 0;
  virtual void OnSynReply(uint32_t stream, bool fin) = 0;
  virtual void OnHeaders(uint32_t stream, bool fin) = 0;
  virtual void OnRstStream(uint32_t stream, uint32_t status) = 0;
  virtual void OnSetting(uint32_t id, uint32_t value) = 0;
  virtual void OnPing(uint32_t id) = 0;
  virtual void OnGoAway(uint32_t last_good_stream) = 0;
  virtual void OnWindowUpdate(uint32_t stream, uint32_t delta) = 0;
  // A piece of a data frame; `fin` with the last piece of a frame that has the flag. May be empty then.
  virtual void OnData(uint32_t stream, std::string_view piece, bool fin) = 0;
};

class SpdyParser {
 public:
  SpdyParser();
  ~SpdyParser();
  SpdyParser(const SpdyParser&) = delete;
  SpdyParser& operator=(const SpdyParser&) = delete;

  // Errors: kInvalidArgument; the connection is of no more use, since header compression has lost its thread.
  Result<> Feed(std::string_view bytes, SpdyVisitor& visitor);

 private:
  struct Inflater;
  Result<> Control(SpdyVisitor& visitor);
  Result<> Settings(std::string_view payload, SpdyVisitor& visitor);
  Result<SpdyHeaders> Headers(std::string_view block);

  std::unique_ptr<Inflater> inflater_;
  std::string control_;       // header, then payload, of an incomplete control frame (or a header of either kind)
  uint32_t data_stream_ = 0;  // of the data frame that is under way
  uint32_t data_left_ = 0;
  bool data_fin_ = false, in_data_ = false;
};

class SpdyWriter {
 public:
  SpdyWriter();
  ~SpdyWriter();
  SpdyWriter(const SpdyWriter&) = delete;
  SpdyWriter& operator=(const SpdyWriter&) = delete;

  // The two with header blocks must be sent in the order in which they are made.
  std::string SynStream(uint32_t stream, const SpdyHeaders& headers);
  std::string SynReply(uint32_t stream, const SpdyHeaders& headers);

  static std::string RstStream(uint32_t stream, SpdyReset status);
  static std::string Ping(uint32_t id);
  static std::string GoAway(uint32_t last_good_stream, SpdyGoAway status);
  static std::string WindowUpdate(uint32_t stream, uint32_t delta);
  static std::string Settings(const std::vector<std::pair<uint32_t, uint32_t>>& settings);
  // What goes before `size` (less than 16 MiB) bytes of data.
  static std::string DataHead(uint32_t stream, size_t size, bool fin);

 private:
  struct Deflater;
  std::string Block(const SpdyHeaders& headers);
  std::unique_ptr<Deflater> deflater_;
};

}  // namespace caisson::stream
