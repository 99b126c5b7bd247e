// SPDX-License-Identifier: Apache-2.0
//
// The flags of one command, as other OCI runtimes take them: "--name VALUE", "--name=VALUE", "-n VALUE", "-name VALUE",
// "--switch", "--switch=false". Pure.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"

namespace caisson::ocicli {

struct Flag {
  enum class Kind { kSwitch, kText, kList };
  const char* name;        // without dashes
  const char* short_name;  // one letter, or ""
  Kind kind;
  const char* help;
};

class Flags {
 public:
  // `words`: what follows the command. After `free_words` of them that are no flags (or after "--") all others are no flags
  // either: the words of a program. Errors: kInvalidArgument naming the flag.
  static Result<Flags> Parse(const std::vector<Flag>& known, const std::vector<std::string>& words, size_t free_words);

  bool On(const std::string& name) const;
  bool Given(const std::string& name) const { return values_.count(name) != 0; }
  // The last that was given; empty: none.
  std::string Text(const std::string& name) const;
  std::vector<std::string> List(const std::string& name) const;
  const std::vector<std::string>& words() const { return words_; }

 private:
  Result<bool> TakeOne(const std::vector<Flag>& known, const std::vector<std::string>& words, size_t* at);

  std::map<std::string, std::vector<std::string>> values_;
  std::vector<std::string> words_;
};

// "1m30s", "500ms", "5s" in milliseconds: what --interval takes. Errors: kInvalidArgument.
Result<int64_t> ParseDuration(const std::string& text);

}  // namespace caisson::ocicli
