// SPDX-License-Identifier: Apache-2.0
//
// YAML as far as it says what JSON can say, for documents that tools write either way: one document, mappings with
// distinct texts as keys, lists, scalars. Anchors, aliases and tags are refused, which also keeps small documents from
// becoming large. A plain scalar is null, a boolean or a whole number where YAML's core schema, or an old-style octal
// number, says so; everything else is text. Pure, any thread.
#pragma once

#include <string_view>

#include "base/json.h"

namespace caisson::cri {

// At most `max_bytes`, nested at most limits::kJsonDepth. Errors: kInvalidArgument with the line (never the text),
// kResourceExhausted past a bound.
Result<Json> ParseYaml(std::string_view text, size_t max_bytes);

}  // namespace caisson::cri
