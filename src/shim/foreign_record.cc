// SPDX-License-Identifier: Apache-2.0
#include "shim/foreign_record.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "shim/foreign_start.h"
#include "sys/new_file.h"
#include "sys/path.h"

namespace caisson::shim {
namespace {

constexpr int64_t kForeignAllMillis = 20'000, kForeignOneMillis = 10'000;

std::string ForeignFileOf(const std::string& bundle) { return bundle + "/foreign-shim"; }

void CleanUpContainer(const ForeignCommand& command, const Deadline& deadline) {
  struct stat info {};
  if (stat(command.bundle.c_str(), &info) == 0) {
    auto deleted = DeleteForeignContainer(command, std::min<int64_t>(kForeignOneMillis, deadline.RemainingMillis()));
    if (!deleted) log::Warn("container {}: {}", command.id, deleted.error().message);
  }
  while (umount2((command.bundle + "/rootfs").c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
  }
}

}  // namespace

void RemoveShimSocket(const std::string& path) {
  struct stat info {};
  if (lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) unlink(path.c_str());
}

Result<> ForeignRecord::Write() const {
  Json containers = Json::array();
  for (const Container& one : containers_) containers.push_back({{"id", one.id}, {"bundle", one.bundle}, {"socket", one.socket}});
  return sys::ReplaceFile(ForeignFileOf(bundle_), DumpJson({{"program", program_}, {"events", events_}, {"containers", std::move(containers)}}));
}

Result<> ForeignRecord::Begin(const std::string& program, const std::string& events) {
  program_ = program;
  events_ = events;
  return Write();
}

Result<> ForeignRecord::Add(const std::string& id, const std::string& bundle) {
  containers_.push_back({id, bundle, ""});
  return Write();
}

Result<> ForeignRecord::SetSocket(const std::string& id, const std::string& socket) {
  for (Container& one : containers_) {
    if (one.id == id) one.socket = socket;
  }
  return Write();
}

Result<> ForeignRecord::Remove(const std::string& id) {
  std::erase_if(containers_, [&](const auto& one) { return one.id == id; });
  return Write();
}

Result<> CleanUpForeign(const std::string& bundle) {
  auto text = sys::ReadFile(ForeignFileOf(bundle), limits::kJsonBytes);
  if (!text) return text.error().sys_errno == ENOENT ? Result<>() : Result<>(std::move(text.error()));
  auto record = ParseJson(*text);
  auto field = [](const Json& object, const char* name) {
    auto found = object.find(name);
    return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  if (record && record->is_object()) {
    Deadline deadline = Deadline::After(kForeignAllMillis);
    const Json containers = record->value("containers", Json::array());
    for (const auto& container : containers) {
      if (!container.is_object()) continue;
      CleanUpContainer({field(*record, "program"), field(container, "id"), field(container, "bundle"), field(*record, "events")}, deadline);
      RemoveShimSocket(field(container, "socket"));
    }
  }
  if (unlink(ForeignFileOf(bundle).c_str()) != 0 && errno != ENOENT) return ErrnoError("remove '{}'", ForeignFileOf(bundle));
  return {};
}

}  // namespace caisson::shim
