// SPDX-License-Identifier: Apache-2.0
#include "image/challenge.h"

#include <algorithm>
#include <cctype>

namespace caisson::image {
namespace {

constexpr size_t kMaxChallenges = 8;
constexpr size_t kMaxParams = 16;
constexpr size_t kMaxHeader = 16 << 10;

// RFC 9110, 5.6.2.
bool IsTokenChar(char c) {
  constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~";
  return std::isalnum(static_cast<unsigned char>(c)) || kOthers.find(c) != std::string_view::npos;
}

class Parser {
 public:
  explicit Parser(std::string_view text) : rest_(text.substr(0, kMaxHeader)) {}

  void Run(std::vector<Challenge>* out) {
    for (;;) {
      SkipCommas();
      std::string word = Token();
      if (word.empty()) return;  // the end, or something that is no challenge
      // "name = value" belongs to the challenge before; anything else starts the next one.
      std::string_view before = rest_;
      SkipSpace();
      if (Take('=') && !out->empty() && IsValueNext()) {
        std::string value;
        if (!Value(&value)) return;
        auto& params = out->back().params;
        if (params.size() < kMaxParams) params.emplace(std::move(word), std::move(value));
        continue;
      }
      rest_ = before;
      if (out->size() == kMaxChallenges) return;
      out->push_back({std::move(word), {}});
      SkipSpace();
      SkipToken68();
    }
  }

 private:
  void SkipSpace() {
    while (!rest_.empty() && (rest_[0] == ' ' || rest_[0] == '\t')) rest_.remove_prefix(1);
  }
  void SkipCommas() {
    while (!rest_.empty() && (rest_[0] == ' ' || rest_[0] == '\t' || rest_[0] == ',')) rest_.remove_prefix(1);
  }
  bool Take(char c) {
    if (rest_.empty() || rest_[0] != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  std::string Token() {
    size_t end = 0;
    while (end < rest_.size() && IsTokenChar(rest_[end])) ++end;
    std::string token(rest_.substr(0, end));
    std::transform(token.begin(), token.end(), token.begin(), [](unsigned char c) { return std::tolower(c); });
    rest_.remove_prefix(end);
    return token;
  }
  bool IsValueNext() {
    SkipSpace();
    return !rest_.empty() && (rest_[0] == '"' || IsTokenChar(rest_[0]));
  }
  bool Value(std::string* value) {
    if (!Take('"')) {
      size_t end = std::min(rest_.find_first_of(" \t,"), rest_.size());
      *value = rest_.substr(0, end);
      rest_.remove_prefix(end);
      return true;
    }
    while (!rest_.empty()) {
      char c = rest_[0];
      rest_.remove_prefix(1);
      if (c == '"') return true;
      if (c == '\\') {
        if (rest_.empty()) return false;
        c = rest_[0];
        rest_.remove_prefix(1);
      }
      value->push_back(c);
    }
    return false;  // the quote is never closed
  }
  // "Negotiate YII…=": credentials in place of parameters. They end at a comma and hold no '=' but at the end.
  void SkipToken68() {
    size_t end = 0;
    while (end < rest_.size() && (IsTokenChar(rest_[end]) || rest_[end] == '/')) ++end;
    size_t after = end;
    while (after < rest_.size() && rest_[after] == '=') ++after;
    size_t stop = rest_.find_first_not_of(" \t", after);
    if (end > 0 && (stop == std::string_view::npos || rest_[stop] == ',')) rest_.remove_prefix(after);
  }

  std::string_view rest_;
};

}  // namespace

std::string Challenge::Param(const std::string& name) const {
  auto at = params.find(name);
  return at == params.end() ? "" : at->second;
}

void ParseChallenges(std::string_view header, std::vector<Challenge>* out) {
  std::vector<Challenge> found;
  Parser(header).Run(&found);
  for (Challenge& challenge : found) {
    if (out->size() < kMaxChallenges) out->push_back(std::move(challenge));
  }
}

}  // namespace caisson::image
