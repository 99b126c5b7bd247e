// SPDX-License-Identifier: Apache-2.0
#include "files/fuse_request.h"

#include <utility>

namespace caisson::files {

char* FuseReader::Room(size_t bytes) {
  if (begin_ == end_) begin_ = end_ = 0;
  if (buffer_.size() - end_ < bytes && begin_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= std::exchange(begin_, 0);
  }
  if (buffer_.size() - end_ < bytes) buffer_.resize(end_ + bytes);
  return buffer_.data() + end_;
}

Result<std::optional<FuseRequest>> FuseReader::Next() {
  FuseRequest request;
  size_t there = end_ - begin_;
  if (there < sizeof request.header) return std::optional<FuseRequest>();
  std::memcpy(&request.header, buffer_.data() + begin_, sizeof request.header);
  size_t length = request.header.len;
  if (length < sizeof request.header || length > limits::kSharedMessageBytes) {
    return MakeError(Code::kInvalidArgument, "the guest's file system sent a request of {} bytes", length);
  }
  if (there < length) return std::optional<FuseRequest>();
  request.body = std::string_view(buffer_.data() + begin_ + sizeof request.header, length - sizeof request.header);
  begin_ += length;
  return std::optional(request);
}

std::string FuseBody::TakeText(size_t max) {
  size_t end = error_ == 0 ? rest_.find('\0') : rest_.npos;
  if (end == rest_.npos || end > max) {
    int why = end == rest_.npos ? EINVAL : ENAMETOOLONG;
    error_ = error_ != 0 ? error_ : why;
    return "";
  }
  std::string text(rest_.substr(0, end));
  rest_.remove_prefix(end + 1);
  return text;
}

std::string FuseBody::TakeName() {
  std::string name = TakeText(kNameBytes);
  if (error_ == 0 && (name.empty() || name == "." || name == ".." || name.find('/') != name.npos)) error_ = EINVAL;
  return error_ == 0 ? name : "";
}

}  // namespace caisson::files
