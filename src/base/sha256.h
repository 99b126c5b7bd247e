// SPDX-License-Identifier: Apache-2.0
//
// SHA-256 (FIPS 180-4) for names of cached things in the small binaries, which link no OpenSSL. Image digests use
// image/digest.h, which is faster. Pure; any thread.
#pragma once

#include <string>
#include <string_view>

namespace caisson {

// 32 bytes.
std::string Sha256(std::string_view data);

}  // namespace caisson
