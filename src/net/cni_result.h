// SPDX-License-Identifier: Apache-2.0
//
// What a CNI plugin prints: the result of an ADD (CNI spec 0.3.0 to 1.1.0, "Success") or an error object. A plugin is a
// foreign program: its output is bounded and every field that Caisson uses is checked. Pure; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace caisson::net {

struct CniResult {
  std::vector<std::string> ips;  // of interfaces inside the pod, canonical, without prefix length
  std::string mac;               // of `if_name` inside the pod, or empty
  std::string json;              // the result in the form of the wanted version: the next plugin's prevResult
};

// `version`: of the configuration; a result of another known version is converted. Errors: kInvalidArgument.
Result<CniResult> ParseCniResult(std::string_view text, std::string_view version, std::string_view if_name);

// The error object of a failed plugin; false if `text` is none.
struct CniError {
  int code = 0;
  std::string message;  // msg and details on one line, bounded, without control characters
};
bool ParseCniError(std::string_view text, CniError* error);

// "10.1.2.3/24" or "fd00::1/64", of a stranger.
struct AddressPrefix {
  std::string ip;  // canonical, without the prefix length
  bool v6 = false;
};
std::optional<AddressPrefix> ParseAddressPrefix(const std::string& text);

// Text of a stranger for an error message: at most `limit` bytes of it, control characters as spaces.
std::string Printable(std::string_view text, size_t limit);

}  // namespace caisson::net
