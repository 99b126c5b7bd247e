// SPDX-License-Identifier: Apache-2.0
//
// BlobStream puts the answers of several attempts at one blob together into one stream: each byte reaches the sink
// once and in order, whether a server honours Range or starts from the beginning again, and never more than the blob's
// size. Belongs to one call and thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "image/registry.h"
#include "image/transport.h"

namespace caisson::image {

class BlobStream {
 public:
  BlobStream(uint64_t size, uint64_t offset, const BlobSink& sink) : size_(size), position_(offset), sink_(sink) {}

  // What has been passed on; the next attempt asks from here.
  uint64_t position() const { return position_; }
  bool complete() const { return position_ == size_; }
  // Set once the sink has refused bytes.
  const std::optional<Error>& sink_error() const { return sink_error_; }

  // Before each attempt.
  void Begin() { began_ = false; }
  // kDataLoss when the answer cannot be this blob: another length, another range, too many bytes.
  Result<> Take(const HttpResponse& head, std::string_view chunk);
  // Why an answer that ended in order does not complete the blob: kDataLoss if the server thinks it does.
  Error Short(const HttpResponse& head, const std::string& origin);

 private:
  Result<> CheckHead(const HttpResponse& head);

  const uint64_t size_;
  uint64_t position_;
  const BlobSink& sink_;
  std::optional<Error> sink_error_;
  bool began_ = false;
  uint64_t skip_ = 0;  // of an answer that started from 0 all the same
};

}  // namespace caisson::image
