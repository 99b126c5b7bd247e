// SPDX-License-Identifier: Apache-2.0
#include "net/conf_template.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/limits.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "net/cni_result.h"
#include "net/conflist.h"
#include "sys/path.h"

namespace caisson::net {
namespace {

struct Values {
  Json cidr, ranges = Json::array(), routes = Json::array();
};

Result<Values> ValuesOf(std::string_view pod_cidrs) {
  Values values;
  int families[2] = {0, 0};
  for (std::string_view piece : Split(pod_cidrs, ',')) {
    const std::string cidr(Trim(piece));
    auto address = ParseAddressPrefix(cidr);
    if (!address) return MakeError(Code::kInvalidArgument, "pod CIDR '{}' is not an address with a prefix length", Printable(cidr, 64));
    const bool v6 = address->v6;
    if (++families[v6] > 1) return MakeError(Code::kInvalidArgument, "pod CIDRs '{}': more than one of a family", Printable(pod_cidrs, 128));
    if (values.cidr.is_null()) values.cidr = cidr;
    Json range = Json::object(), route = Json::object();
    range["subnet"] = cidr;
    route["dst"] = v6 ? "::/0" : "0.0.0.0/0";
    values.ranges.push_back(Json::array({std::move(range)}));
    values.routes.push_back(std::move(route));
  }
  return values;
}

// ParseJson bounds the depth.
void PutIn(const Values& values, Json* node) {
  if (node->is_structured()) {
    for (Json& child : *node) PutIn(values, &child);
  } else if (*node == "@POD_CIDR@") {
    *node = values.cidr;
  } else if (*node == "@POD_CIDR_RANGES@") {
    *node = values.ranges;
  } else if (*node == "@DEFAULT_ROUTES@") {
    *node = values.routes;
  }
}

Result<> WriteAndRename(int dir, const std::string& partial, const std::string& name, std::string_view text) {
  UniqueFd file(openat(dir, partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
  if (!file) return ErrnoError("make '{}'", partial);
  if (write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) return ErrnoError("write '{}'", partial);
  if (fsync(file.get()) != 0) return ErrnoError("write '{}'", partial);
  if (renameat(dir, partial.c_str(), dir, name.c_str()) != 0) return ErrnoError("rename '{}' to '{}'", partial, name);
  return {};
}

}  // namespace

Result<std::string> RenderConfTemplate(std::string_view text, std::string_view pod_cidrs) {
  const Values values = TRY(ValuesOf(pod_cidrs));
  Json document = TRY(ParseJson(text, limits::kConfigFileBytes));
  PutIn(values, &document);
  std::string rendered = DumpJson(document);
  TRY(ParseConflist(rendered, ConfForm::kList));
  return rendered;
}

Result<> WriteConfTemplate(const std::string& template_path, const std::string& conf_dir, std::string_view pod_cidrs) {
  const std::string text = TRY(sys::ReadFile(template_path, limits::kConfigFileBytes));
  auto rendered = RenderConfTemplate(text, pod_cidrs);
  if (!rendered) return std::move(rendered.error()).Within(fmt::format("CNI template '{}'", template_path));
  auto present = sys::ReadFile(conf_dir + "/" + kTemplateFile, limits::kConfigFileBytes);
  if (present && *present == *rendered) return {};
  if (mkdir(conf_dir.c_str(), 0755) != 0 && errno != EEXIST) return ErrnoError("make directory '{}'", conf_dir);
  UniqueFd dir(open(conf_dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir) return ErrnoError("open directory '{}'", conf_dir);
  // Another call would take this one's unfinished file for a dead daemon's.
  if (flock(dir.get(), LOCK_EX | LOCK_NB) != 0) return ErrnoError("lock '{}'", conf_dir);
  // What reads the folder takes files by the ends of their names. One that a killed daemon left goes.
  const std::string partial = fmt::format(".{}.partial", kTemplateFile);
  unlinkat(dir.get(), partial.c_str(), 0);
  auto written = WriteAndRename(dir.get(), partial, kTemplateFile, *rendered);
  if (written) return {};
  unlinkat(dir.get(), partial.c_str(), 0);
  return std::move(written.error()).Within(conf_dir);
}

}  // namespace caisson::net
