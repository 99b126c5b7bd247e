// SPDX-License-Identifier: Apache-2.0
#include "shim/foreign_shims.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "base/log.h"
#include "base/scope_exit.h"
#include "containerd/task_v3.pb.h"
#include "shim/cgroup_record.h"
#include "sys/socket.h"
#include "task/process.h"
#include "ttrpc/client.h"

namespace caisson::shim {
namespace {

constexpr size_t kShimLogBytes = 256 << 10;  // of what a shim logs; the rest is dropped
constexpr int64_t kShimLeaveMillis = 5'000;

Result<UniqueFd> OwnNamespace(const char* name) {
  const std::string path = fmt::format("/proc/self/ns/{}", name);
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return ErrnoError("open '{}'", path);
  return fd;
}

Result<std::vector<int>> ChildrenSince(const std::vector<int>& before) {
  std::vector<int> children = TRY(OwnChildren());
  std::erase_if(children, [&](int child) { return std::find(before.begin(), before.end(), child) != before.end(); });
  return children;
}

}  // namespace

Result<> ForeignShims::Begin(Pod pod) {
  pod_ = std::move(pod);
  network_ = TRY(OwnNamespace("net"));
  ipc_ = TRY(OwnNamespace("ipc"));
  uts_ = TRY(OwnNamespace("uts"));
  TRY(RecordCgroup(pod_.bundle, pod_.cgroup_path, pod_.systemd_cgroup));
  cgroup_ = TRY(oci::Cgroup::Create({pod_.cgroup_path, pod_.systemd_cgroup, {}, false}));
  return {};
}

// On a thread that ends with it: setns(2) moves the calling thread alone, and what it starts begins where it is.
Result<ForeignAddress> ForeignShims::Run(const std::string& id, const std::string& bundle) {
  Result<ForeignAddress> address = MakeError(Code::kInternal, "the shim was not started");
  std::thread([&] {
    for (auto [fd, flag] : {std::pair(&network_, CLONE_NEWNET), {&ipc_, CLONE_NEWIPC}, {&uts_, CLONE_NEWUTS}}) {
      if (setns(fd->get(), flag) != 0) {
        address = ErrnoError("go to the host's namespaces");
        return;
      }
    }
    address = StartForeignShim({pod_.program, id, bundle, pod_.events}, pod_.options, kForeignStartMillis);
  }).join();
  return address;
}

Result<> ForeignShims::Place(const std::vector<int>& before) {
  Result<> first;
  for (int child : TRY(ChildrenSince(before))) {
    auto placed = cgroup_->Attach(child);
    if (!placed && first && kill(child, 0) == 0) first = std::move(placed);
  }
  return first;
}

// A shim opens it for writing and waits until someone reads.
Result<> ForeignShims::OpenLog(const std::string& path, Shim* shim) {
  if (mkfifo(path.c_str(), 0600) != 0) return ErrnoError("make the FIFO '{}'", path);
  shim->log = TRY(task::OpenFifo(path, O_RDWR));
  return loop_->Watch(shim->log.get(), EPOLLIN, [this, shim](uint32_t) { OnLog(shim); });
}

void ForeignShims::OnLog(Shim* shim) {
  char bytes[4096];
  ssize_t got = read(shim->log.get(), bytes, sizeof bytes);
  if (got <= 0 || shim->logged_bytes >= kShimLogBytes) return;
  shim->logged_bytes += static_cast<size_t>(got);
  log::Info("shim: {}{}", std::string_view(bytes, static_cast<size_t>(got)), shim->logged_bytes < kShimLogBytes ? "" : " (it is not listened to any more)");
}

void ForeignShims::CloseLog(Shim* shim) {
  if (shim->log) loop_->Unwatch(shim->log.get());
  shim->log.Reset();
}

Result<> ForeignShims::Connect(const ForeignAddress& address, const std::shared_ptr<Shim>& shim) {
  auto socket = sys::ConnectUnix(address.socket);
  if (!socket) return std::move(socket.error()).Within(fmt::format("the shim '{}'", pod_.program));
  auto connection = TRY(ttrpc::Client::Create(loop_, std::move(*socket)));
  // The connection is the shim's own.
  connection->OnClosed([this, weak = std::weak_ptr(shim)] {
    if (auto closed = weak.lock()) OnClosed(closed);
  });
  shim->socket = address.socket;
  shim->client = std::make_shared<ForeignClient>([this](const std::string& what) {
    loop_->Post([this, what] {
      if (!ended_) on_failure_({"ShimSilent", fmt::format("the pod's shim '{}' does not answer ({})", pod_.program, what)});
    });
  });
  shim->client->Connect(std::move(connection), address.version);
  return {};
}

void ForeignShims::OnClosed(const std::shared_ptr<Shim>& shim) {
  if (ended_) return;
  if (!shim->leaving) {
    loop_->Post([this] {
      if (!ended_) on_failure_({"ShimEnded", fmt::format("the pod's shim '{}' has ended, or does not speak its protocol any more", pod_.program)});
    });
    return;
  }
  RemoveShimSocket(shim->socket);
  // Those who wait for its answers hear of the end after this.
  loop_->Post([this, shim] {
    CloseLog(shim.get());
    std::erase(shims_, shim);
  });
}

Result<std::shared_ptr<ForeignClient>> ForeignShims::StartFor(const std::string& id, const std::string& bundle) {
  if (ended_) return MakeError(Code::kFailedPrecondition, "container '{}': the pod has been stopped", id);
  if (one_for_all_) return shims_.front()->client;
  const std::vector<int> before = TRY(OwnChildren());
  auto client = StartNew(id, bundle, before);
  if (client) return client;
  unlink((bundle + "/log").c_str());
  if (auto left = ChildrenSince(before)) {
    for (int child : *left) kill(child, SIGKILL);
  }
  return client;
}

Result<std::shared_ptr<ForeignClient>> ForeignShims::StartNew(const std::string& id, const std::string& bundle, const std::vector<int>& before) {
  auto shim = std::make_shared<Shim>();
  ScopeExit close([&] { CloseLog(shim.get()); });
  TRY(OpenLog(bundle + "/log", shim.get()));
  auto address = Run(id, bundle);
  // Also what one that failed has left.
  auto placed = Place(before);
  if (!address) return std::move(address.error());
  if (!shims_.empty() && address->socket == shims_.front()->socket) {
    one_for_all_ = true;
    unlink((bundle + "/log").c_str());
    return shims_.front()->client;
  }
  TRY(pod_.record->SetSocket(id, address->socket));
  TRY(std::move(placed));
  TRY(Connect(*address, shim));
  close.Dismiss();
  shims_.push_back(shim);
  return shim->client;
}

void ForeignShims::Release(const std::string& id, const std::shared_ptr<ForeignClient>& client) {
  auto found = std::find_if(shims_.begin(), shims_.end(), [&](const auto& shim) { return shim->client == client; });
  if (found == shims_.end() || found == shims_.begin()) return;
  (*found)->leaving = true;
  containerd::task::v3::ShutdownRequest request;
  request.set_id(id);
  client->Ask<wkt::Empty>("Shutdown", request, kShimLeaveMillis, [](Result<wkt::Empty>) {});
}

Result<> ForeignShims::Kill(const Deadline& deadline) { return cgroup_ ? cgroup_->Kill(deadline) : Result<>(); }

void ForeignShims::End(const std::string& why) {
  ended_ = true;
  for (const auto& shim : shims_) {
    shim->client->End(why);
    CloseLog(shim.get());
  }
}

}  // namespace caisson::shim
