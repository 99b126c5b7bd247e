// SPDX-License-Identifier: Apache-2.0
//
// Saving a machine and starting from what was saved: QEMU's migration, to and from a file of ours that it gets opened. Memory
// that is in a shared memory file does not go with it (x-ignore-shared): it is that file.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/bad.h"
#include "vmm/qemu.h"

namespace caisson::vmm {

Result<> Qemu::Migrate(const char* command, int fd, Deadline deadline) {
  // The end is told by an event rather than asked for again and again.
  Json capabilities = Json::array();
  for (const char* name : {"x-ignore-shared", "events"}) capabilities.push_back({{"capability", name}, {"state", true}});
  TRY(qmp_->Execute("migrate-set-capabilities", {{"capabilities", capabilities}}, deadline));
  TRY(qmp_->Execute("getfd", {{"fdname", "state"}}, deadline, fd));
  qmp_->Forget("MIGRATION");
  TRY(qmp_->Execute(command, {{"uri", "fd:state"}}, deadline));
  for (;;) {
    QmpEvent event = TRY(qmp_->WaitFor("MIGRATION", deadline));
    if (event.detail == "completed") return {};
    if (event.detail == "failed" || event.detail == "cancelled") return MakeError(Code::kInternal, "{} {}", command, event.detail);
  }
}

Result<> Qemu::Save(int file, int64_t deadline_millis) {
  TRY(Monitor());
  Deadline deadline = Deadline::After(deadline_millis);
  // As fast as it goes; the default is 128 MiB/s, waited for in steps of 100 ms.
  auto saved = qmp_->Execute("migrate-set-parameters", {{"max-bandwidth", int64_t{1} << 40}}, deadline);
  if (!saved) return Explain(std::move(saved.error()));
  auto done = Migrate("migrate", file, deadline);
  if (!done) return Explain(std::move(done.error()).Within(fmt::format("save VM '{}'", config_.name)));
  return {};
}

Result<> Qemu::Restore(Deadline deadline) {
  UniqueFd file(open(config_.restore_from.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return ErrnoError("open the saved state '{}'", config_.restore_from);
  auto restored = Migrate("migrate-incoming", file.get(), deadline);
  if (!restored) return std::move(restored.error()).Within(fmt::format("restore '{}'", config_.restore_from));
  TRY(qmp_->Execute("cont", Json::object(), deadline));
  return {};
}

}  // namespace caisson::vmm
