// SPDX-License-Identifier: Apache-2.0
//
// Decompressor: gzip (several members), zstd (several frames, skippable ones passed over) or plain bytes, told apart by
// their first bytes, not by what a media type says. A pull stream; one thread. Output is as long as the input makes it:
// whoever reads bounds it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace caisson::image {

class Decompressor {
 public:
  // Gives the next compressed bytes, empty at the end.
  using Source = std::function<Result<std::string>()>;

  explicit Decompressor(Source source);
  ~Decompressor();

  // The next decompressed bytes, valid until the next call; empty at the end. kDataLoss for input that is broken or cut.
  Result<std::string_view> Next();

 private:
  struct State;
  Result<> Begin();
  Result<bool> Refill();
  Result<std::string_view> NextGzip();
  Result<std::string_view> NextZstd();

  Source source_;
  std::string input_;
  size_t used_ = 0;
  bool input_ended_ = false;
  std::unique_ptr<State> state_;
};

}  // namespace caisson::image
