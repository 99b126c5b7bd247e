// SPDX-License-Identifier: Apache-2.0
//
// Parses the image config (image-spec config.md), which is foreign input: bounded, and a field of the wrong type is an
// error that names the field. Labels stay labels: nothing here reaches the runtime's own metadata. Pure, any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "image/image_store.h"

namespace caisson::image {

struct History {
  std::string created, created_by, author, comment;
  bool empty_layer = false;
};

struct ParsedImageConfig {
  ImageConfig config;
  std::vector<std::string> diff_ids;  // checked digests, the lowest layer first
  std::vector<History> history;
  std::string created;  // as written, RFC 3339; may be empty
  std::string author;
};

// kInvalidArgument "image config: config.Env[3]: …". The caller has verified the digest and compares the number of
// diff_ids with the manifest's layers.
Result<ParsedImageConfig> ParseImageConfig(std::string_view bytes);

}  // namespace caisson::image
