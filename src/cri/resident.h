// SPDX-License-Identifier: Apache-2.0
//
// ReleaseUnused gives memory back that the start of the daemon needed and its work does not: the free part of the heap, and
// the pages of the program and its libraries that were touched on the way (relocations, static initialisers). The latter
// leave this process only: what is used again is mapped again from the page cache, without a read.
//
// Any thread, beside any other; nothing that was ever written is dropped. Never fails: what cannot be released stays.
#pragma once

#include <cstddef>

namespace caisson::cri {

// Returns how many bytes of mapped files it let go of.
size_t ReleaseUnused();

}  // namespace caisson::cri
