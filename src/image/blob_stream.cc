// SPDX-License-Identifier: Apache-2.0
#include "image/blob_stream.h"

#include <algorithm>

#include "base/strings.h"

namespace caisson::image {
namespace {

struct Range {
  uint64_t first = 0;
  std::optional<uint64_t> total;
};

// "bytes 5-99/100" or "bytes 5-99/*" (RFC 9110, 14.4).
std::optional<Range> ParseContentRange(std::string_view value) {
  if (!value.starts_with("bytes ")) return std::nullopt;
  value = Trim(value.substr(6));
  size_t dash = value.find('-');
  size_t slash = value.find('/');
  if (dash == std::string_view::npos || slash == std::string_view::npos || slash < dash) return std::nullopt;
  auto first = ParseUint64(value.substr(0, dash));
  if (!first) return std::nullopt;
  Range range{*first, std::nullopt};
  std::string_view total = value.substr(slash + 1);
  if (total == "*") return range;
  auto number = ParseUint64(total);
  if (!number) return std::nullopt;
  range.total = *number;
  return range;
}

}  // namespace

Result<> BlobStream::CheckHead(const HttpResponse& head) {
  skip_ = 0;
  if (head.status == 206) {
    auto range = ParseContentRange(head.Header("content-range"));
    if (!range || range->first != position_) {
      return MakeError(Code::kDataLoss, "the answer is another range than the one asked for (from {})", position_);
    }
    if (range->total && *range->total != size_) {
      return MakeError(Code::kDataLoss, "the blob has {} bytes, the manifest says {}", *range->total, size_);
    }
    return {};
  }
  skip_ = position_;
  auto length = ParseUint64(head.Header("content-length"));
  if (length && *length != size_) {
    return MakeError(Code::kDataLoss, "the blob has {} bytes, the manifest says {}", *length, size_);
  }
  return {};
}

Result<> BlobStream::Take(const HttpResponse& head, std::string_view chunk) {
  if (!began_) {
    TRY(CheckHead(head));
    began_ = true;
  }
  size_t skipped = static_cast<size_t>(std::min<uint64_t>(skip_, chunk.size()));
  skip_ -= skipped;
  chunk.remove_prefix(skipped);
  if (chunk.size() > size_ - position_) {
    return MakeError(Code::kDataLoss, "the blob has more than the {} bytes that the manifest says", size_);
  }
  if (chunk.empty()) return {};
  auto taken = sink_(chunk);
  if (!taken) {
    sink_error_ = taken.error();
    return std::move(taken.error());
  }
  position_ += chunk.size();
  return {};
}

Error BlobStream::Short(const HttpResponse& head, const std::string& origin) {
  // An empty body never came to Take.
  if (!began_) {
    auto fits = CheckHead(head);
    if (!fits) return std::move(fits.error());
  }
  return MakeError(Code::kUnavailable, "{}: the transfer ended after {} of {} bytes", origin, position_, size_);
}

}  // namespace caisson::image
