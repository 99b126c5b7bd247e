// SPDX-License-Identifier: Apache-2.0
//
// How an exec or attach ended, in the words of the error channel: a metav1.Status of Kubernetes as JSON (v4 and v5 of
// the remotecommand protocol), or a bare message, empty for success (before). Pure.
#pragma once

#include <string>

#include "base/result.h"

namespace caisson::stream {

std::string StatusJson(const Result<int>& exit_code);
std::string StatusText(const Result<int>& exit_code);

struct TerminalSize {
  uint16_t width = 0, height = 0;
};
// Terminal sizes come as JSON objects one after the other, {"Width":80,"Height":24}, not aligned with frames. Takes
// whole ones off the front of `*text` and returns the last; what cannot become one is dropped.
bool TakeTerminalSize(std::string* text, TerminalSize* size);

}  // namespace caisson::stream
