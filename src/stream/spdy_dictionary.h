// SPDX-License-Identifier: Apache-2.0
//
// The dictionary that both ends of a SPDY/3 connection give to zlib before the first header block.
#pragma once

#include <string>

namespace caisson::stream {

const std::string& SpdyDictionary();
inline constexpr unsigned long kSpdyDictionaryAdler = 0xe3c6a7c2;  // what the peer's zlib header names it by

}  // namespace caisson::stream
