// SPDX-License-Identifier: Apache-2.0
#include "ocicli/flags.h"

#include <algorithm>

#include "base/strings.h"

namespace caisson::ocicli {

Result<bool> Flags::TakeOne(const std::vector<Flag>& known, const std::vector<std::string>& words, size_t* at) {
  const std::string& word = words[*at];
  // "-" alone is a word: a file's name for stdin.
  if (word.size() < 2 || word[0] != '-') return false;
  std::string name = word.substr(word[1] == '-' ? 2 : 1);
  size_t equals = name.find('=');
  std::string value = equals == std::string::npos ? "" : name.substr(equals + 1);
  if (equals != std::string::npos) name.resize(equals);
  auto flag = std::find_if(known.begin(), known.end(),
                           [&](const Flag& one) { return name == one.name || (!name.empty() && name == one.short_name); });
  if (flag == known.end()) return MakeError(Code::kInvalidArgument, "unknown flag '{}'", word.substr(0, 128));
  if (flag->kind == Flag::Kind::kSwitch) {
    if (equals == std::string::npos) value = "true";
    if (value != "true" && value != "false") return MakeError(Code::kInvalidArgument, "flag '{}' is true or false", word.substr(0, 128));
  } else if (equals == std::string::npos) {
    if (*at + 1 >= words.size()) return MakeError(Code::kInvalidArgument, "flag '{}' has no value", word);
    value = words[++*at];
  }
  values_[flag->name].push_back(std::move(value));
  return true;
}

Result<Flags> Flags::Parse(const std::vector<Flag>& known, const std::vector<std::string>& words, size_t free_words) {
  Flags flags;
  bool rest = false;
  for (size_t i = 0; i < words.size(); ++i) {
    if (!rest && words[i] == "--") {
      rest = true;
      continue;
    }
    if (!rest && TRY(flags.TakeOne(known, words, &i))) continue;
    flags.words_.push_back(words[i]);
    rest |= flags.words_.size() >= free_words;
  }
  return flags;
}

bool Flags::On(const std::string& name) const { return Text(name) == "true"; }

std::string Flags::Text(const std::string& name) const {
  auto found = values_.find(name);
  return found == values_.end() ? "" : found->second.back();
}

std::vector<std::string> Flags::List(const std::string& name) const {
  auto found = values_.find(name);
  return found == values_.end() ? std::vector<std::string>() : found->second;
}

Result<int64_t> ParseDuration(const std::string& text) {
  auto wrong = [&] { return MakeError(Code::kInvalidArgument, "'{}' is no duration, as 5s or 500ms", text.substr(0, 64)); };
  if (text.empty()) return wrong();
  int64_t total = 0;
  for (size_t at = 0; at < text.size();) {
    size_t end = text.find_first_not_of("0123456789", at);
    if (end == std::string::npos || end == at || end - at > 9) return wrong();
    int64_t number = TRY(ParseInt64(text.substr(at, end - at)));
    size_t next = std::min(text.find_first_of("0123456789", end), text.size());
    std::string unit = text.substr(end, next - end);
    int64_t factor = unit == "ms" ? 1 : unit == "s" ? 1000 : unit == "m" ? 60'000 : unit == "h" ? 3'600'000 : 0;
    if (factor == 0) return wrong();
    total += number * factor;
    at = next;
  }
  return total;
}

}  // namespace caisson::ocicli
