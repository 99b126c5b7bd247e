// SPDX-License-Identifier: Apache-2.0
#include "stream/status.h"

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/limits.h"

namespace caisson::stream {
namespace {

std::string ExitMessage(int code) { return fmt::format("command terminated with non-zero exit code: {}", code); }

// Go's decoder takes field names in any case.
bool ReadSide(const Json& object, const char* upper, const char* lower, uint16_t* side) {
  auto at = object.find(upper);
  if (at == object.end()) at = object.find(lower);
  if (at == object.end() || !at->is_number_unsigned() || at->get<uint64_t>() > UINT16_MAX) return false;
  *side = at->get<uint16_t>();
  return true;
}

}  // namespace

std::string StatusJson(const Result<int>& exit_code) {
  Json status = {{"metadata", Json::object()}};
  if (!exit_code) {
    status["status"] = "Failure";
    status["message"] = exit_code.error().message;
    status["reason"] = "InternalError";
    status["details"] = {{"causes", Json::array({{{"message", exit_code.error().message}}})}};
    status["code"] = 500;
  } else if (*exit_code != 0) {
    status["status"] = "Failure";
    status["message"] = ExitMessage(*exit_code);
    status["reason"] = "NonZeroExitCode";
    status["details"] = {{"causes", Json::array({{{"reason", "ExitCode"}, {"message", std::to_string(*exit_code)}}})}};
  } else {
    status["status"] = "Success";
  }
  return DumpJson(status);
}

std::string StatusText(const Result<int>& exit_code) {
  if (!exit_code) return exit_code.error().message;
  return *exit_code == 0 ? std::string() : ExitMessage(*exit_code);
}

bool TakeTerminalSize(std::string* text, TerminalSize* size) {
  bool found = false;
  for (size_t end; (end = text->find('}')) != text->npos; text->erase(0, end + 1)) {
    size_t begin = text->find('{');
    if (begin >= end) continue;
    auto object = ParseJson(std::string_view(*text).substr(begin, end + 1 - begin), limits::kStreamResizeBytes);
    TerminalSize read;
    if (!object || !ReadSide(*object, "Width", "width", &read.width) ||
        !ReadSide(*object, "Height", "height", &read.height)) {
      continue;
    }
    *size = read;
    found = true;
  }
  if (text->size() > limits::kStreamResizeBytes) text->clear();
  return found;
}

}  // namespace caisson::stream
