// SPDX-License-Identifier: Apache-2.0
//
// Tail: the last bytes that a process wrote into a pipe. The writer is never made to wait for us: its end is non-blocking, so
// that what a full pipe cannot take is lost (to QEMU's serial port: comes again until the guest gives up). The reader
// takes as much as the pipe holds at a time and keeps the end of it.
//
// Owns both ends until the writer's is given away. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::vmm {

class Tail {
 public:
  // Keeps the last `bytes` bytes.
  static Result<Tail> Create(size_t bytes);

  // For the process that writes; gives it up.
  UniqueFd TakeWriter() { return std::move(writer_); }
  int fd() const { return reader_.get(); }
  // Takes in what is there. False: the writer has closed its end, and all of it has been taken.
  bool Drain();
  // The last `limit` bytes, as they came.
  std::string_view Last(size_t limit) const;
  // How many bytes have been taken in, ever.
  uint64_t total() const { return total_; }
  // What came after the first `from` of them, as far as it is kept.
  std::string_view From(uint64_t from) const { return from >= total_ ? std::string_view() : Last(total_ - from); }
  // Nothing is taken in from now on; what there is stays.
  void Close() { reader_.Reset(); }

 private:
  UniqueFd reader_, writer_;
  size_t bytes_ = 0;
  uint64_t total_ = 0;
  std::string text_;
};

// Printable ASCII, tabs and line feeds as they are; "\r\n" as a line feed; any other byte as \xNN: what a stranger wrote moves
// nobody's terminal.
std::string Printable(std::string_view text);

}  // namespace caisson::vmm
