// SPDX-License-Identifier: Apache-2.0
#include "shim/root_tree.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include "base/scope_exit.h"
#include "oci/bind.h"
#include "oci/clone.h"
#include "oci/control.h"
#include "oci/mounts.h"
#include "oci/overlay.h"

namespace caisson::shim {
namespace {

constexpr int64_t kRootMillis = 20'000;  // for layers on a storage that is slow

Result<UniqueFd> MountRootTree(const std::vector<oci::MountPlan>& plans, const std::string& at) {
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return ErrnoError("make mounts private");
  for (const auto& plan : plans) TRY(oci::MountLayers(plan, -1));
  return oci::CloneTree(AT_FDCWD, at, true);
}

[[noreturn]] void RunMounter(const std::vector<oci::MountPlan>& plans, const std::string& at, int control) {
  auto tree = MountRootTree(plans, at);
  auto sent = tree ? oci::SendSignal(control, oci::Signal::kChild, tree->get()) : oci::SendFailure(control, tree.error());
  _exit(sent ? 0 : 1);
}

}  // namespace

Result<UniqueFd> OpenRootTree(const std::vector<containerd::types::Mount>& mounts, const std::string& at) {
  if (mounts.empty()) return oci::CloneTree(AT_FDCWD, at, true);
  std::vector<oci::MountPlan> plans;
  for (const auto& mount : mounts) {
    if (!mount.target().empty()) return MakeError(Code::kUnimplemented, "a rootfs mount on '{}', not on the root itself", mount.target().substr(0, 256));
    plans.push_back(TRY(oci::PlanMount(at, mount.type(), mount.source(), {mount.options().begin(), mount.options().end()})));
  }
  auto control = TRY(oci::MakeControlPair());
  auto child = TRY(oci::Clone(CLONE_NEWNS, -1));
  if (child.pid == 0) RunMounter(plans, at, control.child.get());
  ScopeExit reap([&] { oci::KillAndReap(child.pidfd.get()); });
  control.child.Reset();
  auto received = oci::Receive(control.parent.get(), Deadline::After(kRootMillis));
  if (!received) return std::move(received.error()).Within(fmt::format("mount the root file system '{}'", at));
  if (!received->fd) return MakeError(Code::kInternal, "mount the root file system '{}': its process ended", at);
  return std::move(received->fd);
}

}  // namespace caisson::shim
