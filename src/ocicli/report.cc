// SPDX-License-Identifier: Apache-2.0
#include "ocicli/report.h"

#include <fcntl.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/json.h"
#include "base/unique_fd.h"

namespace caisson::ocicli {
namespace {

UniqueFd OpenLog(const std::string& path) {
  return UniqueFd(open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644));
}

// Without the fraction: what all readers of RFC 3339 take.
std::string Time() {
  std::string time = FormatRfc3339Nano(NowNanos());
  return time.substr(0, time.find('.')) + "Z";
}

}  // namespace

Result<Report> Report::Open(const std::string& path, const std::string& format, bool debug) {
  if (!format.empty() && format != "text" && format != "json")
    return MakeError(Code::kInvalidArgument, "--log-format '{}' is neither text nor json", format.substr(0, 64));
  if (!path.empty() && !OpenLog(path)) return ErrnoError("open log file '{}'", path);
  Report report;
  report.path_ = path;
  report.json_ = format == "json";
  report.debug_ = debug;
  return report;
}

void Report::Write(const char* level, std::string_view text) const {
  std::string plain = fmt::format("caisson-oci: {}{}\n", std::string_view(level) == "error" ? "" : fmt::format("{}: ", level), text);
  (void)!write(2, plain.data(), plain.size());
  if (path_.empty()) return;
  std::string line = json_ ? DumpJson(Json{{"level", level}, {"msg", text}, {"time", Time()}})
                           : fmt::format("time=\"{}\" level={} msg={}", Time(), level, DumpJson(Json(text)));
  line += "\n";
  // Opened anew each time: no descriptor of it is ever in a container's process.
  UniqueFd file = OpenLog(path_);
  if (file) (void)!write(file.get(), line.data(), line.size());
}

}  // namespace caisson::ocicli
