// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "base/strings.h"
#include "ocicli/command.h"
#include "sys/path.h"

namespace caisson::ocicli {
namespace {

struct Limit {
  const char* flag;
  const char* object;
  const char* member;
  enum class Kind { kNumber, kBytes, kText } kind;
};

constexpr Limit kLimits[] = {{"blkio-weight", "blockIO", "weight", Limit::Kind::kNumber},
                             {"cpu-period", "cpu", "period", Limit::Kind::kNumber},
                             {"cpu-quota", "cpu", "quota", Limit::Kind::kNumber},
                             {"cpu-burst", "cpu", "burst", Limit::Kind::kNumber},
                             {"cpu-share", "cpu", "shares", Limit::Kind::kNumber},
                             {"cpu-rt-period", "cpu", "realtimePeriod", Limit::Kind::kNumber},
                             {"cpu-rt-runtime", "cpu", "realtimeRuntime", Limit::Kind::kNumber},
                             {"cpu-idle", "cpu", "idle", Limit::Kind::kNumber},
                             {"cpuset-cpus", "cpu", "cpus", Limit::Kind::kText},
                             {"cpuset-mems", "cpu", "mems", Limit::Kind::kText},
                             {"memory", "memory", "limit", Limit::Kind::kBytes},
                             {"memory-reservation", "memory", "reservation", Limit::Kind::kBytes},
                             {"memory-swap", "memory", "swap", Limit::Kind::kBytes},
                             {"pids-limit", "pids", "limit", Limit::Kind::kNumber}};

// "-1", or a number with k, m, g or t, in powers of 1024.
Result<int64_t> ParseBytes(const std::string& text, const char* flag) {
  auto wrong = [&] { return MakeError(Code::kInvalidArgument, "--{} '{}' is no number of bytes", flag, text.substr(0, 64)); };
  if (text == "-1") return -1;
  size_t end = text.find_first_not_of("0123456789");
  std::string unit = end == std::string::npos ? "" : text.substr(end);
  auto number = ParseInt64(text.substr(0, end));
  if (!number) return wrong();
  for (char& letter : unit) letter = static_cast<char>(letter >= 'A' && letter <= 'Z' ? letter - 'A' + 'a' : letter);
  int shift = unit.empty() || unit == "b" ? 0 : unit == "k" || unit == "kb" ? 10 : unit == "m" || unit == "mb" ? 20
              : unit == "g" || unit == "gb" ? 30 : unit == "t" || unit == "tb" ? 40 : -1;
  if (shift < 0 || *number > (INT64_MAX >> shift)) return wrong();
  return *number << shift;
}

Result<std::string> ResourcesOfFlags(const Flags& flags) {
  Json resources = Json::object();
  for (const Limit& limit : kLimits) {
    if (!flags.Given(limit.flag)) continue;
    std::string text = flags.Text(limit.flag);
    Json& value = resources[limit.object][limit.member];
    if (limit.kind == Limit::Kind::kText) {
      value = text;
    } else if (limit.kind == Limit::Kind::kBytes) {
      value = TRY(ParseBytes(text, limit.flag));
    } else {
      auto number = ParseInt64(text);
      if (!number) return MakeError(Code::kInvalidArgument, "--{} '{}' is no number", limit.flag, text.substr(0, 64));
      // The reader takes what is not negative for either kind of number.
      value = *number < 0 ? Json(*number) : Json(static_cast<uint64_t>(*number));
    }
    if (value.is_number_integer() && value.get<int64_t>() >= 0) value = static_cast<uint64_t>(value.get<int64_t>());
  }
  return DumpJson(resources);
}

Result<std::string> ReadResources(const Flags& flags) {
  if (!flags.Given("resources")) return ResourcesOfFlags(flags);
  std::string path = flags.Text("resources");
  if (path == "-") return sys::ReadAll(0, limits::kJsonBytes);
  return sys::ReadFile(path, limits::kJsonBytes);
}

Error NotNow(const Found& found, const char* what) {
  return MakeError(Code::kFailedPrecondition, "cannot {} container '{}': it is {}", what, found.record.id, NameOf(found.status));
}

}  // namespace

Result<int> Pause(const Context& context, const Flags& flags) {
  Found found = TRY(Find(context, flags.words()[0]));
  if (found.status != Status::kRunning && found.status != Status::kCreated) return NotNow(found, "pause");
  TRY(TRY(OpenCgroup(found.record))->Freeze(Deadline::After(kDeadlineMillis)));
  return 0;
}

Result<int> Resume(const Context& context, const Flags& flags) {
  Found found = TRY(Find(context, flags.words()[0]));
  if (found.status != Status::kPaused) return NotNow(found, "resume");
  TRY(TRY(OpenCgroup(found.record))->Thaw());
  return 0;
}

Result<int> Update(const Context& context, const Flags& flags) {
  Found found = TRY(Find(context, flags.words()[0]));
  if (found.status == Status::kStopped || found.status == Status::kCreating) return NotNow(found, "update");
  for (const char* flag : {"l3-cache-schema", "mem-bw-schema"}) {
    if (flags.Given(flag)) return MakeError(Code::kUnimplemented, "--{} is not supported: there is no Intel RDT", flag);
  }
  oci::Resources resources = TRY(oci::ParseResources(TRY(ReadResources(flags))));
  TRY(TRY(OpenCgroup(found.record))->Apply(resources));
  return 0;
}

}  // namespace caisson::ocicli
