// SPDX-License-Identifier: Apache-2.0
//
// The leaves of other runtimes' TOML files, for `caisson migrate`. Pure but for ReadSettings.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"

namespace caisson::cli {

struct Setting {
  std::vector<std::string> path;  // {"plugins", "io.containerd.grpc.v1.cri", "sandbox_image"}
  // A list has the strings of an array; other arrays, dates and floating point numbers are text.
  std::variant<std::string, int64_t, bool, std::vector<std::string>> value;

  std::string Name() const;  // as it would be written: plugins."io.containerd.grpc.v1.cri".sandbox_image
  // "", 0, false or an empty list: what these files say where they say nothing.
  bool Empty() const;
};

// Depth first, tables before the keys beside them. `origin` names the text in errors, with the line. At most
// limits::kConfigFileBytes of text.
Result<std::vector<Setting>> ParseSettings(std::string_view text, const std::string& origin);

// Of a file and of what it takes in: the files that its "imports" name (containerd's), or those of the folder `<path>.d` (CRI-O's),
// in the order of their names. What comes later counts. kNotFound: neither the file nor the folder is there.
Result<std::vector<Setting>> ReadSettings(const std::string& path);

}  // namespace caisson::cli
