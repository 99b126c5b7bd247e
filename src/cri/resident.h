// SPDX-License-Identifier: Apache-2.0
//
// What of the daemon stays in memory while it has nothing to do. ReleaseUnused gives back the free part of the heap, and
// the pages of the program and its libraries that were touched on the way (relocations, static initialisers, code that an
// RPC ran through). The latter leave this process only: what is used again is mapped again from the page cache, without a
// read. Quiet says when that is worth its while.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace caisson::cri {

struct AddressRange {
  uintptr_t begin = 0, end = 0;
};

// The segments of the program and of the libraries that it has loaded by now that nobody may write to
// (dl_iterate_phdr(3)).
std::vector<AddressRange> LoadedReadOnly();

// Only mappings inside `ranges` are released: in what is mapped later, another thread's loader may just be relocating.
// Returns how many bytes of mapped files it let go of. Any thread, beside any other; nothing that was ever written is
// dropped. Never fails: what cannot be released stays.
size_t ReleaseUnused(const std::vector<AddressRange>& ranges);

// Asked once in kTickMillis with the number of RPCs so far. One thread.
class Quiet {
 public:
  static constexpr int64_t kTickMillis = 1000;
  static constexpr int kTicks = 30;  // a client that asks all the time does not put it off for longer

  // True when there were RPCs since the last release, and none of late.
  bool Due(uint64_t rpcs) {
    bool quiet = rpcs == seen_;
    seen_ = rpcs;
    ++ticks_;
    if (rpcs == released_ || (!quiet && ticks_ < kTicks)) return false;
    released_ = rpcs;
    ticks_ = 0;
    return true;
  }

 private:
  uint64_t seen_ = 0, released_ = 0;
  int ticks_ = 0;
};

}  // namespace caisson::cri
