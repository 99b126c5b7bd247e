// SPDX-License-Identifier: Apache-2.0
#include "vmm/tail.h"

#include <fcntl.h>

#include <cerrno>

namespace caisson::vmm {
namespace {

constexpr size_t kPipeBytes = 64 << 10;  // pipe(7), "Pipe capacity"

}  // namespace

Result<Tail> Tail::Create(size_t bytes) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return ErrnoError("make a pipe");
  Tail tail;
  tail.reader_ = UniqueFd(ends[0]);
  tail.writer_ = UniqueFd(ends[1]);
  tail.bytes_ = bytes;
  return tail;
}

bool Tail::Drain() {
  if (!reader_) return false;
  // One pipe's worth: a writer that never pauses does not keep us here.
  for (size_t taken = 0; taken < kPipeBytes;) {
    char chunk[4096];
    ssize_t got = read(reader_.get(), chunk, sizeof chunk);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return true;
    if (got == 0) return false;
    taken += static_cast<size_t>(got);
    total_ += static_cast<uint64_t>(got);
    text_.append(chunk, static_cast<size_t>(got));
    if (text_.size() > bytes_) text_.erase(0, text_.size() - bytes_);
  }
  return true;
}

std::string_view Tail::Last(size_t limit) const {
  std::string_view text = text_;
  return text.size() > limit ? text.substr(text.size() - limit) : text;
}

std::string Printable(std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string shown;
  shown.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    auto byte = static_cast<unsigned char>(text[i]);
    if (byte == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    if ((byte >= ' ' && byte < 0x7f) || byte == '\n' || byte == '\t') {
      shown += text[i];
    } else {
      shown += "\\x";
      shown += kHex[byte >> 4];
      shown += kHex[byte & 15];
    }
  }
  return shown;
}

}  // namespace caisson::vmm
