// SPDX-License-Identifier: Apache-2.0
//
// ForeignShims: the processes of another project's shim that serve a pod. As containerd does, `start` is asked for each container, in the namespaces that this
// process was in before it was the pod's, and says whose socket serves it: that of the pod's first shim (one shim for the pod, as runc's and Kata's; asked only once
// then) or a new one (a shim for each container, as gVisor's). What is started is put into a cgroup of its own and into the pod's record.
//
// A shim that ends, or does not answer, without having been told to go is a failure of the pod. One thread, the loop's.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "caisson/wkt/wkt.pb.h"
#include "oci/cgroup.h"
#include "shim/foreign_client.h"
#include "shim/foreign_record.h"
#include "shim/foreign_start.h"
#include "shim/vm_end.h"
#include "sys/event_loop.h"

namespace caisson::shim {

class ForeignShims {
 public:
  struct Pod {
    std::string program;
    std::string bundle;       // the pod's folder, where the cgroup is recorded
    std::string events;       // path of the unix socket that takes their events
    std::string cgroup_path;
    bool systemd_cgroup = false;
    wkt::Any options;         // of `start`
    ForeignRecord* record = nullptr;  // has the containers before their shims are started
  };
  using OnFailure = std::function<void(VmEnd)>;

  // `on_failure` does not run within a call.
  ForeignShims(sys::EventLoop* loop, OnFailure on_failure) : loop_(loop), on_failure_(std::move(on_failure)) {}
  ~ForeignShims() { End("the pod is gone"); }
  ForeignShims(const ForeignShims&) = delete;
  ForeignShims& operator=(const ForeignShims&) = delete;

  // Makes the cgroup. Shims begin in the namespaces that this process has now.
  Result<> Begin(Pod pod);
  // The shim that serves the container; the first is the pod's. Blocks until `start` has ended, kForeignStartMillis at most. `bundle`: the container's, which exists.
  Result<std::shared_ptr<ForeignClient>> StartFor(const std::string& id, const std::string& bundle);
  // The container has been deleted, or could not be created: a shim that is its alone is told to go.
  void Release(const std::string& id, const std::shared_ptr<ForeignClient>& client);
  // SIGKILL to all of them.
  Result<> Kill(const Deadline& deadline);
  // Every call fails with this reason from now on.
  void End(const std::string& why);
  const std::string& program() const { return pod_.program; }

 private:
  struct Shim {
    std::string socket;
    std::shared_ptr<ForeignClient> client;
    UniqueFd log;
    size_t logged_bytes = 0;
    bool leaving = false;
  };

  Result<ForeignAddress> Run(const std::string& id, const std::string& bundle);
  // `before`: the children that this process had before it; a shim's processes are those that it has got since.
  Result<std::shared_ptr<ForeignClient>> StartNew(const std::string& id, const std::string& bundle, const std::vector<int>& before);
  Result<> Place(const std::vector<int>& before);
  Result<> OpenLog(const std::string& path, Shim* shim);
  void OnLog(Shim* shim);
  Result<> Connect(const ForeignAddress& address, const std::shared_ptr<Shim>& shim);
  void OnClosed(const std::shared_ptr<Shim>& shim);
  void CloseLog(Shim* shim);

  sys::EventLoop* loop_;
  OnFailure on_failure_;
  Pod pod_;
  UniqueFd network_, ipc_, uts_;  // namespaces of the host
  std::unique_ptr<oci::Cgroup> cgroup_;
  bool one_for_all_ = false, ended_ = false;
  std::vector<std::shared_ptr<Shim>> shims_;
};

}  // namespace caisson::shim
