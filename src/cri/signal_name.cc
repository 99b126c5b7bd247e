// SPDX-License-Identifier: Apache-2.0
#include "cri/signal_name.h"

#include <algorithm>
#include <cctype>

#include "base/strings.h"

namespace caisson::cri {
namespace {

// signal(7), x86 and ARM. The numbers a container sees: the kernel's, whatever this libc keeps for itself.
constexpr std::string_view kNames[] = {"",       "HUP",  "INT",  "QUIT", "ILL",    "TRAP", "ABRT",   "BUS",
                                       "FPE",    "KILL", "USR1", "SEGV", "USR2",   "PIPE", "ALRM",   "TERM",
                                       "STKFLT", "CHLD", "CONT", "STOP", "TSTP",   "TTIN", "TTOU",   "URG",
                                       "XCPU",   "XFSZ", "VTALRM", "PROF", "WINCH", "IO",  "PWR",    "SYS"};
constexpr int kRtMin = 34, kRtMax = 64;

}  // namespace

Result<int> SignalNumber(std::string_view word) {
  std::string name(word.substr(0, 32));
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  auto unknown = [&] { return MakeError(Code::kInvalidArgument, "'{}' is not a signal", word.substr(0, 32)); };
  if (!name.empty() && std::isdigit(static_cast<unsigned char>(name[0]))) {
    auto number = ParseInt64(name);
    if (!number || *number < 1 || *number > kRtMax) return unknown();
    return static_cast<int>(*number);
  }
  if (name.starts_with("SIG")) name.erase(0, 3);
  if (name == "CLD") name = "CHLD";
  if (name == "IOT") name = "ABRT";
  if (name == "POLL") name = "IO";
  if (name.empty()) return unknown();
  for (int i = 1; i < 32; ++i) {
    if (name == kNames[i]) return i;
  }
  int base = name.starts_with("RTMIN") ? kRtMin : name.starts_with("RTMAX") ? kRtMax : 0;
  if (base == 0) return unknown();
  std::string_view rest = std::string_view(name).substr(5);
  if (rest.empty()) return base;
  std::string_view sign = base == kRtMin ? "+" : "-", sign_word = base == kRtMin ? "PLUS" : "MINUS";
  if (rest.starts_with(sign)) {
    rest.remove_prefix(1);
  } else if (rest.starts_with(sign_word)) {
    rest.remove_prefix(sign_word.size());
  } else {
    return unknown();
  }
  auto offset = ParseUint64(rest);
  if (!offset || *offset > kRtMax - kRtMin) return unknown();
  return base == kRtMin ? base + static_cast<int>(*offset) : base - static_cast<int>(*offset);
}

std::string SignalName(int number) {
  if (number >= 1 && number < 32) return fmt::format("SIG{}", kNames[number]);
  if (number == kRtMin) return "SIGRTMIN";
  if (number == kRtMax) return "SIGRTMAX";
  if (number > kRtMin && number <= kRtMin + 15) return fmt::format("SIGRTMINPLUS{}", number - kRtMin);
  if (number > kRtMin && number < kRtMax) return fmt::format("SIGRTMAXMINUS{}", kRtMax - number);
  return "";
}

}  // namespace caisson::cri
