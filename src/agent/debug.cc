// SPDX-License-Identifier: Apache-2.0
#include "agent/debug.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

#include "agent/early_init.h"
#include "base/guest_words.h"
#include "caisson/guest/v1/launch.pb.h"
#include "caisson/wkt/wkt.pb.h"
#include "sys/new_file.h"

namespace caisson::agent {
namespace {

// Its first process only keeps it there and has no rights; what is exec'd brings its own. All devices: the guest has none that is
// not the pod's.
constexpr char kConfig[] = R"({
  "ociVersion": "1.2.0",
  "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/busybox", "sh", "-c", "while :; do sleep 86400; done"], "env": ["PATH=/bin"], "cwd": "/"},
  "root": {"path": "rootfs"},
  "linux": {
    "namespaces": [{"type": "mount"}],
    "rootfsPropagation": "rslave",
    "cgroupsPath": "/caisson-debug",
    "resources": {"devices": [{"allow": true, "access": "rwm"}]}
  }
})";

Result<task::Task*> Create(task::Tasks* tasks, Launches* launches) {
  auto made = TRY((launches->Call<wkt::Empty, guest::v1::DebugBundleResponse>("MakeDebugBundle", {})));
  task::CreateRequest request;
  request.id = kGuestDebugContainer;
  request.bundle = made.bundle();
  request.rootfs.push_back({"bind", "/", {"rbind"}});
  request.own_stdio = true;
  return tasks->Create(std::move(request));
}

}  // namespace

Result<std::string> WriteDebugBundle() {
  if (!StartedForDebugging()) return MakeError(Code::kFailedPrecondition, "this machine was not started for debugging");
  const std::string bundle = std::string(kRunDir) + "/" + kGuestDebugContainer, config = bundle + "/config.json";
  for (const std::string& folder : {bundle, bundle + "/rootfs"}) {
    if (mkdir(folder.c_str(), 0711) != 0 && errno != EEXIST) return ErrnoError("make '{}'", folder);
  }
  unlink(config.c_str());
  TRY(sys::WriteNewFile(config, kConfig, 0644));
  return bundle;
}

void OpenDebugContainer(task::Tasks* tasks, Launches* launches, std::function<void(Result<>)> done) {
  if (auto there = tasks->Find(kGuestDebugContainer)) {
    if (!(*there)->init.exited) return done({});
    // Somebody has killed it.
    auto deleted = tasks->Delete(*there);
    if (!deleted) return done(std::move(deleted));
  }
  if (access(kDebugProgram, X_OK) != 0) {
    return done(MakeError(Code::kFailedPrecondition, "the guest's image has no programs for debugging: make it with `tools/build-guest --debug`"));
  }
  auto created = Create(tasks, launches);
  if (!created) return done(std::move(created.error()));
  tasks->Start(*created, [tasks, task = *created, done = std::move(done)](Result<> started) {
    if (!started) (void)tasks->Delete(task);
    done(std::move(started));
  });
}

}  // namespace caisson::agent
