// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/early_init.h"
#include "agent/launcher.h"
#include "agent/process_message.h"
#include "base/id.h"
#include "base/limits.h"
#include "caisson/guest/v1/launch.pb.h"
#include "caisson/wkt/wkt.pb.h"
#include "oci/clone.h"
#include "oci/container.h"
#include "sys/new_file.h"
#include "sys/path.h"
#include "task/process_tree.h"

namespace caisson::agent {
namespace {

namespace v1 = guest::v1;

constexpr int64_t kGroupMillis = 10'000;

// Root's, as pipes of a container are; its init hands them on to the user that it becomes.
Result<UniqueFd> TakeStdio(bool has, Descriptors* fds) {
  if (!has) return UniqueFd();
  UniqueFd fd = TRY(fds->Take());
  struct stat info {};
  if (fstat(fd.get(), &info) == 0 && S_ISFIFO(info.st_mode) && fchown(fd.get(), 0, 0) != 0) return ErrnoError("own a pipe of stdio");
  return fd;
}

template <class Request>
Result<oci::Stdio> TakeStdios(const Request& request, Descriptors* fds) {
  oci::Stdio stdio;
  stdio.in = TRY(TakeStdio(request.has_stdin(), fds));
  stdio.out = TRY(TakeStdio(request.has_stdout(), fds));
  stdio.err = TRY(TakeStdio(request.has_stderr(), fds));
  return stdio;
}

void GiveProcess(oci::Process* process, Descriptors* fds) {
  fds->go.push_back(std::move(process->pidfd));
  if (process->console) fds->go.push_back(std::move(process->console));
}

Result<> CheckBundle(const std::string& id, const std::string& bundle) {
  if (!IsSafeName(id)) return MakeError(Code::kInvalidArgument, "'{}' cannot be a container's id", id.substr(0, 128));
  if (bundle.starts_with(std::string(kRunDir) + "/") && bundle.find("..") == std::string::npos) return {};
  return MakeError(Code::kInvalidArgument, "container '{}': '{}' is no bundle", id, bundle.substr(0, 256));
}

Result<oci::Spec> ReadSpec(const std::string& bundle) {
  std::string path = bundle + "/config.json";
  auto spec = oci::ParseSpec(TRY(sys::ReadFile(path, limits::kJsonBytes)));
  if (!spec) return std::move(spec.error()).Within(path);
  return spec;
}

Result<> WriteRecord(oci::Container* container, const std::string& bundle) {
  oci::ExecTarget target = TRY(container->MakeExecTarget());
  if (!target.id_maps.empty()) return MakeError(Code::kUnimplemented, "container '{}': there are no user namespaces in a VM", container->id());
  v1::ExecRecord record;
  record.set_namespace_flags(target.namespace_flags);
  if (target.personality) record.set_personality(*target.personality);
  if (target.filter) {
    record.mutable_filter()->set_bpf(target.filter->bpf);
    record.mutable_filter()->set_flags(target.filter->flags);
  }
  return sys::ReplaceFile(RecordPath(bundle), record.SerializeAsString());
}

Result<oci::ExecTarget> ReadRecord(const std::string& bundle) {
  v1::ExecRecord record;
  std::string path = RecordPath(bundle);
  if (!record.ParseFromString(TRY(sys::ReadFile(path, limits::kJsonBytes)))) return MakeError(Code::kDataLoss, "'{}' does not parse", path);
  oci::ExecTarget target;
  target.namespace_flags = record.namespace_flags();
  if (record.has_personality()) target.personality = record.personality();
  if (record.has_filter()) target.filter = oci::SeccompFilter{record.filter().bpf(), record.filter().flags()};
  return target;
}

Result<v1::CreateContainerResponse> CreateContainer(const v1::CreateContainerRequest& request, Descriptors* fds) {
  TRY(CheckBundle(request.id(), request.bundle()));
  oci::CreateOptions options;
  options.spec = TRY(ReadSpec(request.bundle()));
  options.spec.cgroups_path = request.cgroups_path();
  options.spec.process.terminal = request.terminal();
  options.id = request.id();
  options.bundle = request.bundle();
  for (const auto& mount : request.rootfs()) options.rootfs.push_back({mount.type(), mount.source(), {mount.options().begin(), mount.options().end()}});
  options.stdio = TRY(TakeStdios(request, fds));
  options.gate = TRY(fds->Take());
  if (access(RecordPath(request.bundle()).c_str(), F_OK) == 0) options.filter = TRY(ReadRecord(request.bundle())).filter;
  options.die_with_parent = false;
  UniqueFd shm(open(kShmDir, O_PATH | O_DIRECTORY | O_CLOEXEC));
  options.shm_fd = shm.get();
  auto container = TRY(oci::Container::Create(std::move(options)));
  auto released = WriteRecord(container.get(), request.bundle());
  if (released) released = container->Release();
  if (!released) {
    oci::KillAndReap(container->init().pidfd.get());
    (void)container->Delete(kGroupMillis);
    return std::move(released.error());
  }
  v1::CreateContainerResponse response;
  response.set_pid(container->init().pid);
  const oci::ProcessSpec& process = container->spec().process;
  response.set_uid(process.uid);
  response.set_gid(process.gid);
  for (uint32_t gid : process.additional_gids) response.add_additional_gids(gid);
  GiveProcess(container->mutable_init(), fds);
  return response;
}

// What goes wrong from here on is told by the control pair.
struct Becoming {
  oci::ExecTarget target;
  oci::ExecOptions exec;
  UniqueFd control, init;
};

Result<wkt::Empty> ExecProcess(const v1::ExecProcessRequest& request, Descriptors* fds) {
  TRY(CheckBundle(request.id(), request.bundle()));
  auto becoming = std::make_shared<Becoming>();
  becoming->control = TRY(fds->Take());
  becoming->init = TRY(fds->Take());
  becoming->target = TRY(ReadRecord(request.bundle()));
  becoming->exec.process = ProcessOf(request.process());
  if (becoming->exec.process.args.empty()) return MakeError(Code::kInvalidArgument, "container '{}': a process without arguments", request.id());
  becoming->exec.stdio = TRY(TakeStdios(request, fds));
  UniqueFd self(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!self) return ErrnoError("open our own process");
  fds->go.push_back(std::move(self));
  fds->then = [becoming] { oci::BecomeExec(becoming->target, becoming->exec, becoming->init.get(), std::move(becoming->control)); };
  return wkt::Empty();
}

Result<wkt::Empty> SignalProcess(const v1::SignalProcessRequest& request, Descriptors* fds) {
  UniqueFd pidfd = TRY(fds->Take());
  if (syscall(SYS_pidfd_send_signal, pidfd.get(), request.signal(), nullptr, 0) != 0 && errno != ESRCH) {
    return ErrnoError("send signal {} to a process", request.signal());
  }
  return wkt::Empty();
}

Result<std::unique_ptr<oci::Cgroup>> OpenGroup(const std::string& path) { return oci::Cgroup::Open({path, false, {}, true}); }

Result<wkt::Empty> KillTree(const v1::KillTreeRequest& request, Descriptors* fds) {
  auto cgroup = TRY(OpenGroup(request.cgroups_path()));
  int root = request.root();
  if (root != 0) {
    // PID 1 may have reaped it, and the number be another's. One that is stopped stays itself.
    UniqueFd pidfd = TRY(fds->Take());
    if (syscall(SYS_pidfd_send_signal, pidfd.get(), SIGSTOP, nullptr, 0) != 0) root = 0;
  }
  (void)task::KillTree(root, request.init(), {request.pipes().begin(), request.pipes().end()}, [&] { return cgroup->Pids(); });
  return wkt::Empty();
}

Result<wkt::Empty> ChangeGroup(const v1::GroupRequest& request, Descriptors*) {
  auto cgroup = TRY(OpenGroup(request.cgroups_path()));
  Deadline deadline = Deadline::After(request.deadline_millis() > 0 ? std::min(request.deadline_millis(), kGroupMillis) : kGroupMillis);
  switch (request.verb()) {
    case v1::GroupRequest::SIGNAL: TRY(cgroup->Signal(request.signal())); break;
    case v1::GroupRequest::KILL: TRY(cgroup->Kill(deadline)); break;
    case v1::GroupRequest::FREEZE: TRY(cgroup->Freeze(deadline)); break;
    case v1::GroupRequest::THAW: TRY(cgroup->Thaw()); break;
    case v1::GroupRequest::UPDATE: TRY(cgroup->Apply(TRY(oci::ParseResources(request.resources())))); break;
    case v1::GroupRequest::DELETE: TRY(cgroup->Delete(deadline)); break;
    default: return MakeError(Code::kInvalidArgument, "cgroup '{}': nothing is to be done", request.cgroups_path());
  }
  return wkt::Empty();
}

}  // namespace

std::span<const LauncherCall> ContainerCalls() {
  static constexpr LauncherCall kCalls[] = {
      {"CreateContainer", &ServeCall<&CreateContainer>}, {"ExecProcess", &ServeCall<&ExecProcess>}, {"SignalProcess", &ServeCall<&SignalProcess>},
      {"KillTree", &ServeCall<&KillTree>},               {"ChangeGroup", &ServeCall<&ChangeGroup>},
  };
  return kCalls;
}

}  // namespace caisson::agent
