// SPDX-License-Identifier: Apache-2.0
#include "shim/foreign_tasks.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/id.h"
#include "base/limits.h"
#include "base/log.h"
#include "containerd/events.pb.h"
#include "oci/cgroup.h"
#include "shim/cgroup_record.h"
#include "shim/foreign_spec.h"
#include "sys/new_file.h"
#include "sys/path.h"
#include "task/process_tree.h"
#include "task/timestamp.h"

namespace caisson::shim {
namespace {

namespace v3 = containerd::task::v3;

constexpr char kOptionsOfCaissond[] = "caisson.pod.v1.CreateOptions";
constexpr char kProcessOfSpec[] = "types.containerd.io/opencontainers/runtime-spec/1/Process";
// A runtime's program has to be loaded and do its work in these.
constexpr int64_t kShimMakeMillis = 30'000, kShimAnswerMillis = 10'000;
// From SIGKILL until the cgroups are asked instead of the shim, and from then on until the shim must have told the end.
constexpr int64_t kShimKillMillis = 3'000, kShimToldMillis = 2'000;
// How long output is awaited that is on its way, or that a grandchild may still write, when a process has ended.
constexpr int64_t kSettleMillis = 1'500;
constexpr uint32_t kShimKilled = 128 + SIGKILL, kShimStartError = 128, kShimMostStatus = 255;

// What a shim says of an end: no time to come, no status that is none (wait(2)).
int64_t TimeOfShim(const wkt::Timestamp& time) {
  const int64_t now = NowNanos();
  bool sane = time.seconds() > 0 && time.seconds() <= now / kNanosPerSecond && time.nanos() >= 0 && time.nanos() < kNanosPerSecond;
  return sane ? std::min(now, time.seconds() * kNanosPerSecond + time.nanos()) : now;
}

void RemoveFifos(const task::FifoPaths& paths) {
  for (const std::string* path : {&paths.in, &paths.out, &paths.err}) {
    if (!path->empty()) unlink(path->c_str());
  }
}

// The inodes of the pipes that a process writes to. None: it has ended, or writes elsewhere.
std::vector<ino_t> PipesOf(int pid) {
  std::vector<ino_t> pipes;
  for (int fd : {1, 2}) {
    struct stat info {};
    if (stat(fmt::format("/proc/{}/fd/{}", pid, fd).c_str(), &info) == 0 && S_ISFIFO(info.st_mode)) pipes.push_back(info.st_ino);
  }
  return pipes;
}

// Nothing flows any more, and no one waits.
void DropStdio(ForeignProcess* process) {
  RemoveFifos(process->fifos);
  process->process.stdio = {};
}

}  // namespace

Result<ForeignTasks::ContainerPtr> ForeignTasks::Find(const std::string& id) {
  auto found = containers_.find(id);
  if (found == containers_.end() || !found->second->created) return MakeError(Code::kNotFound, "no container '{}' in this pod", id.substr(0, 128));
  return found->second;
}

Result<ForeignTasks::ProcessPtr> ForeignTasks::FindProcess(const std::string& id, const std::string& exec_id) {
  ContainerPtr container = TRY(Find(id));
  if (exec_id.empty()) return container->init;
  auto found = container->execs.find(exec_id);
  if (found == container->execs.end()) return MakeError(Code::kNotFound, "no process '{}' in container '{}'", exec_id.substr(0, 128), id);
  return found->second;
}

Result<std::unique_ptr<oci::Cgroup>> ForeignTasks::GroupOf(const ForeignContainer& container) const {
  oci::CgroupOptions options;
  options.path = container.cgroup_path;
  options.systemd = pod_.systemd_cgroup;
  return oci::Cgroup::Open(options);
}

void ForeignTasks::HearOfEnds(const ContainerPtr& container, const ProcessPtr& process) {
  auto hear = [this, container = std::weak_ptr(container), process = std::weak_ptr(process)](std::function<void()> then) {
    return [this, container, process, then = std::move(then)] {
      if (then) then();
      // The Output whose end this is must not be destroyed from here.
      loop_->Post([this, container, process] {
        auto held = container.lock();
        auto ended = process.lock();
        if (held && ended && ended->exiting) Settle(held, ended);
      });
    };
  };
  task::StdioRequest& stdio = process->process.stdio;
  stdio.on_out_end = hear(std::move(stdio.on_out_end));
  stdio.on_err_end = hear(std::move(stdio.on_err_end));
}

Result<> ForeignTasks::OpenStdio(const wkt::Any& any, const ContainerPtr& container) {
  task::StdioRequest& stdio = container->init->process.stdio;
  if (any.type_url().ends_with(kOptionsOfCaissond)) {
    pod::v1::CreateOptions options;
    if (!options.ParseFromString(any.value())) return MakeError(Code::kInvalidArgument, "container '{}': its CreateOptions do not parse", container->id);
    container->own_stdio = true;
    stdio.terminal = options.terminal();
    stdio.keep_stdin = options.stdin();
    stdio.in_path = stdio.out_path = stdio.err_path = "";
    if (!options.log_path().empty()) {
      container->log = TRY(task::LogFile::Open(options.log_path(), static_cast<size_t>(std::max<int64_t>(0, options.log_max_line_bytes())), &scratch_));
    }
    // The container outlives its stdio.
    auto sink = [container = container.get()](task::LogFile::Stream stream) {
      return [container, stream](std::string_view bytes) { container->Write(stream, bytes); };
    };
    auto on_end = [container = container.get()](task::LogFile::Stream stream) {
      return [container, stream] {
        if (container->log) container->log->End(stream);
      };
    };
    stdio.out_sink = sink(task::LogFile::kStdout);
    stdio.err_sink = sink(task::LogFile::kStderr);
    stdio.on_out_end = on_end(task::LogFile::kStdout);
    stdio.on_err_end = on_end(task::LogFile::kStderr);
  }
  HearOfEnds(container, container->init);
  container->init->fifos = TRY(task::PrepareFifos(loop_, &scratch_, NextFifos(), &container->init->process));
  return {};
}

// Everything up to the shim's own part. On record before it is made.
Result<ForeignTasks::ContainerPtr> ForeignTasks::Prepare(const v3::CreateTaskRequest& request) {
  const std::string& id = request.id();
  if (closed_) return MakeError(Code::kFailedPrecondition, "container '{}': the pod has been stopped", id);
  if (!IsSafeName(id)) return MakeError(Code::kInvalidArgument, "'{}' cannot be a container's id", id.substr(0, 128));
  if (!request.bundle().starts_with('/')) return MakeError(Code::kInvalidArgument, "the bundle '{}' is not absolute", request.bundle().substr(0, 256));
  if (!request.checkpoint().empty()) return MakeError(Code::kUnimplemented, "container '{}': a checkpoint is not restored by a shim of another project's", id);
  if (containers_.contains(id)) return MakeError(Code::kAlreadyExists, "container '{}' exists already", id);
  const std::string file = request.bundle() + "/config.json";
  auto spec = MakeForeignSpec(TRY(sys::ReadFile(file, limits::kJsonBytes)), pod_.shm);
  if (!spec) return std::move(spec.error()).Within(file);
  TRY(sys::ReplaceFile(file, spec->json));
  auto container = std::make_shared<ForeignContainer>();
  container->id = id;
  container->bundle = request.bundle();
  container->cgroup_path = spec->cgroup_path;
  container->process_json = std::move(spec->process);
  task::StdioRequest& stdio = container->init->process.stdio;
  stdio.terminal = request.terminal();
  stdio.in_path = request.stdin();
  stdio.out_path = request.stdout();
  stdio.err_path = request.stderr();
  auto opened = OpenStdio(request.options(), container);
  if (opened) opened = RecordCgroup(pod_.bundle, container->cgroup_path, pod_.systemd_cgroup);
  if (opened) opened = pod_.record->Add(id, container->bundle);
  if (opened) {
    auto shim = shims_->StartFor(id, container->bundle);
    if (shim) container->shim = std::move(*shim);
    if (!shim) opened = std::move(shim.error());
  }
  if (!opened) DropStdio(container->init.get());
  TRY(std::move(opened));
  return container;
}

void ForeignTasks::Create(const v3::CreateTaskRequest& request, Respond<v3::CreateTaskResponse> respond) {
  auto prepared = Prepare(request);
  if (!prepared) return respond(std::move(prepared.error()));
  ContainerPtr container = *prepared;
  v3::CreateTaskRequest create;
  create.set_id(container->id);
  create.set_bundle(container->bundle);
  *create.mutable_rootfs() = request.rootfs();
  create.set_terminal(container->init->process.stdio.terminal);
  create.set_stdin(container->init->fifos.in);
  create.set_stdout(container->init->fifos.out);
  create.set_stderr(container->init->fifos.err);
  CreateInShim(container, std::move(create), std::move(respond));
}

void ForeignTasks::CreateInShim(const ContainerPtr& container, v3::CreateTaskRequest request, Respond<v3::CreateTaskResponse> respond) {
  if (!pod_.options.type_url().empty()) *request.mutable_options() = pod_.options;
  containers_[container->id] = container;
  container->shim->Call<v3::CreateTaskResponse>("Create", request, kShimMakeMillis, [this, container, respond](Result<v3::CreateTaskResponse> created) {
    if (created && closed_) created = MakeError(Code::kCancelled, "container '{}': the pod has been stopped", container->id);
    if (!created) {
      DropStdio(container->init.get());
      shims_->Release(container->id, container->shim);
      containers_.erase(container->id);
      return respond(std::move(created.error()).Within(fmt::format("container '{}'", container->id)));
    }
    container->created = true;
    container->created_at_nanos = NowNanos();
    container->init->process.oci.pid = static_cast<int>(std::min<uint32_t>(created->pid(), INT32_MAX));
    Watch(container, container->init);
    respond(std::move(created));
  });
}

void ForeignTasks::RunSandboxContainer(const std::string& id, const std::string& bundle, std::shared_ptr<ForeignClient> shim, std::function<void(Result<>)> done, Ended ended) {
  auto container = std::make_shared<ForeignContainer>();
  container->id = id;
  container->bundle = bundle;
  container->shim = std::move(shim);
  auto spec = sys::ReadFile(bundle + "/config.json", limits::kJsonBytes);
  auto made = spec ? MakeForeignSpec(*spec, pod_.shm) : Result<ForeignSpec>(std::move(spec.error()));
  if (!made) return done(std::move(made.error()));
  container->cgroup_path = made->cgroup_path;
  auto recorded = RecordCgroup(pod_.bundle, container->cgroup_path, pod_.systemd_cgroup);
  if (!recorded) return done(std::move(recorded));
  v3::CreateTaskRequest create;
  create.set_id(id);
  create.set_bundle(bundle);
  CreateInShim(container, std::move(create), [this, container, done, ended](Result<v3::CreateTaskResponse> created) {
    if (!created) return done(std::move(created.error()));
    container->init->process.waiters.push_back([ended](const task::Process& process) { ended(process.exit_status); });
    StartProcess(container, container->init, done);
  });
}

void ForeignTasks::StartProcess(const ContainerPtr& container, const ProcessPtr& process, std::function<void(Result<>)> done) {
  if (closed_ || process->exiting) return done(MakeError(Code::kFailedPrecondition, "container '{}' has ended", container->id));
  if (process->started) return done(MakeError(Code::kFailedPrecondition, "a process of container '{}' was started already", container->id));
  v3::StartRequest request;
  request.set_id(container->id);
  request.set_exec_id(process->process.exec_id);
  const int64_t now = NowNanos();
  container->shim->Call<v3::StartResponse>("Start", request, kShimMakeMillis, [this, container, process, done, now](Result<v3::StartResponse> started) {
    if (!started) {
      if (process != container->init) OnExit(container, process, kShimStartError, NowNanos());
      return done(std::move(started.error()).Within(fmt::format("container '{}'", container->id)));
    }
    process->started = true;
    process->process.started_at_nanos = now;
    process->process.oci.pid = static_cast<int>(std::min<uint32_t>(started->pid(), INT32_MAX));
    if (process != container->init) {
      process->pipes = PipesOf(process->process.oci.pid);
      Watch(container, process);
    }
    done({});
  });
}

void ForeignTasks::Start(const v3::StartRequest& request, Respond<v3::StartResponse> respond) {
  auto container = Find(request.id());
  auto process = FindProcess(request.id(), request.exec_id());
  if (!process) return respond(std::move(process.error()));
  StartProcess(*container, *process, [container = *container, process = *process, respond](Result<> started) {
    if (!started) return respond(std::move(started.error()));
    v3::StartResponse response;
    response.set_pid(static_cast<uint32_t>(process->process.oci.pid));
    respond(std::move(response));
  });
}

void ForeignTasks::AddExec(const ContainerPtr& container, const ProcessPtr& process, const std::string& spec, Respond<wkt::Empty> respond) {
  task::Process& added = process->process;
  if (closed_ || container->init->exiting || !container->init->started) {
    return respond(MakeError(Code::kFailedPrecondition, "container '{}' is not running", container->id));
  }
  if (container->execs.contains(added.exec_id)) {
    return respond(MakeError(Code::kAlreadyExists, "process '{}' exists already in container '{}'", added.exec_id.substr(0, 128), container->id));
  }
  HearOfEnds(container, process);
  auto fifos = task::PrepareFifos(loop_, &scratch_, NextFifos(), &added);
  if (!fifos) return respond(std::move(fifos.error()));
  process->fifos = std::move(*fifos);
  v3::ExecProcessRequest request;
  request.set_id(container->id);
  request.set_exec_id(added.exec_id);
  request.set_terminal(added.stdio.terminal);
  request.set_stdin(process->fifos.in);
  request.set_stdout(process->fifos.out);
  request.set_stderr(process->fifos.err);
  request.mutable_spec()->set_type_url(kProcessOfSpec);
  request.mutable_spec()->set_value(spec);
  container->execs[added.exec_id] = process;
  container->shim->Call<wkt::Empty>("Exec", request, kShimAnswerMillis, [this, container, process, respond](Result<wkt::Empty> answer) {
    if (!answer) Forget(container, process);
    respond(std::move(answer));
  });
}

void ForeignTasks::Exec(v3::ExecProcessRequest request, Respond<wkt::Empty> respond) {
  auto container = Find(request.id());
  if (!container) return respond(std::move(container.error()));
  if (request.exec_id().empty()) return respond(MakeError(Code::kInvalidArgument, "the exec has no id"));
  auto spec = MakeForeignProcess(request.spec().value());
  if (!spec) return respond(std::move(spec.error()));
  auto process = std::make_shared<ForeignProcess>();
  process->process.exec_id = request.exec_id();
  task::StdioRequest& stdio = process->process.stdio;
  stdio.terminal = request.terminal();
  stdio.in_path = request.stdin();
  stdio.out_path = request.stdout();
  stdio.err_path = request.stderr();
  AddExec(*container, process, *spec, std::move(respond));
}

void ForeignTasks::Watch(const ContainerPtr& container, const ProcessPtr& process) {
  v3::WaitRequest request;
  request.set_id(container->id);
  request.set_exec_id(process->process.exec_id);
  container->shim->Ask<v3::WaitResponse>("Wait", request, ttrpc::Client::kNoTimeout, [this, container, process](Result<v3::WaitResponse> ended) {
    if (ended) return OnExit(container, process, std::min(ended->exit_status(), kShimMostStatus), TimeOfShim(ended->exited_at()));
    // When the shim itself has ended OnShimEnd tells. It may not know the process any more.
    if (!container->shim->ended() && ended.error().code == Code::kNotFound) OnExit(container, process, kShimKilled, NowNanos());
  });
}

void ForeignTasks::SeeOom(const ContainerPtr& container) {
  if (container->oom_killed) return;
  auto cgroup = GroupOf(*container);
  auto kills = cgroup ? (*cgroup)->OomKills() : Result<uint64_t>(std::move(cgroup.error()));
  container->oom_killed = kills && *kills > 0;
}

void ForeignTasks::OnExit(const ContainerPtr& container, const ProcessPtr& process, uint32_t status, int64_t at_nanos) {
  if (process->exiting) return;
  process->exiting = true;
  process->status = status;
  process->ended_at_nanos = at_nanos;
  if (process == container->init) SeeOom(container);
  Settle(container, process);
  if (process->process.exited) return;
  loop_->After(kSettleMillis, [this, container, process] { End(container, process); });
}

void ForeignTasks::Settle(const ContainerPtr& container, const ProcessPtr& process) {
  if (process->process.outputs_ended()) End(container, process);
}

void ForeignTasks::End(const ContainerPtr& container, const ProcessPtr& process) {
  if (process->process.exited) return;
  process->process.End(process->status, process->ended_at_nanos);
  RemoveFifos(process->fifos);
  if (process == container->init && container->attachments) container->attachments->Finish();
}

void ForeignTasks::Wait(const v3::WaitRequest& request, Respond<v3::WaitResponse> respond) {
  auto process = FindProcess(request.id(), request.exec_id());
  if (!process) return respond(std::move(process.error()));
  auto answer = [respond](const task::Process& ended) {
    v3::WaitResponse response;
    response.set_exit_status(ended.exit_status);
    task::SetTime(ended.exited_at_nanos, response.mutable_exited_at());
    respond(std::move(response));
  };
  if ((*process)->process.exited) return answer((*process)->process);
  (*process)->process.waiters.push_back(answer);
}

void ForeignTasks::Kill(const v3::KillRequest& request, Respond<wkt::Empty> respond) {
  auto container = Find(request.id());
  auto process = FindProcess(request.id(), request.exec_id());
  if (!process) return respond(std::move(process.error()));
  if (request.signal() >= static_cast<uint32_t>(NSIG)) return respond(MakeError(Code::kInvalidArgument, "{} is no signal", request.signal()));
  if ((*process)->exiting && (*process != (*container)->init || !request.all())) return respond(wkt::Empty());
  if (*process == (*container)->init) return KillContainer(*container, request, std::move(respond));
  if (!(*process)->started) return respond(MakeError(Code::kFailedPrecondition, "process '{}' is not started", request.exec_id().substr(0, 128)));
  if (request.signal() == SIGKILL && request.all()) {
    KillExec(*container, *process);
    return respond(wkt::Empty());
  }
  (*container)->shim->Call<wkt::Empty>("Kill", request, kShimAnswerMillis, [container = *container, process = *process, respond](Result<wkt::Empty> killed) {
    if (!killed && (process->exiting || killed.error().code == Code::kNotFound)) return respond(wkt::Empty());
    respond(std::move(killed));
  });
}

void ForeignTasks::KillContainer(const ContainerPtr& container, const v3::KillRequest& request, Respond<wkt::Empty> respond) {
  if (container->shim->ended()) return respond(wkt::Empty());  // with its shim
  if (request.signal() != SIGKILL) {
    return container->shim->Call<wkt::Empty>("Kill", request, kShimAnswerMillis, [container, respond](Result<wkt::Empty> killed) {
      if (!killed && (container->init->exiting || killed.error().code == Code::kNotFound)) return respond(wkt::Empty());
      respond(std::move(killed));
    });
  }
  container->shim->Ask<wkt::Empty>("Kill", request, kShimKillMillis, [this, container, respond](Result<wkt::Empty> killed) {
    // A frozen process dies only when it is thawed (cgroup v1, freezer-subsystem.rst).
    if (killed && std::exchange(container->paused, false)) {
      v3::ResumeRequest resume;
      resume.set_id(container->id);
      container->shim->Ask<wkt::Empty>("Resume", resume, kShimAnswerMillis, [](Result<wkt::Empty>) {});
    }
    if (killed || container->init->exiting) return respond(wkt::Empty());
    auto cgroup = GroupOf(*container);
    auto forced = cgroup ? (*cgroup)->Kill(Deadline::After(kShimKillMillis)) : Result<>(std::move(cgroup.error()));
    if (!forced && forced.error().code == Code::kNotFound) forced = {};
    if (!forced) return respond(std::move(forced.error()));
    // Who is dead and not told of is in the hands of a shim that does not work.
    v3::StateRequest state;
    state.set_id(container->id);
    container->shim->Call<v3::StateResponse>("State", state, kShimToldMillis, [respond](Result<v3::StateResponse>) { respond(wkt::Empty()); });
  });
}

// By its pid on the host where it has one there, and by the shim.
void ForeignTasks::KillExec(const ContainerPtr& container, const ProcessPtr& process) {
  auto cgroup = GroupOf(*container);
  if (cgroup) {
    std::shared_ptr<oci::Cgroup> group = std::move(*cgroup);
    int root = process->exiting ? 0 : process->process.oci.pid;
    // The shim reaps it: the number may be another's by now, but none of the container's.
    auto pids = group->Pids();
    if (!pids || std::find(pids->begin(), pids->end(), root) == pids->end()) root = 0;
    task::KillTree(root, container->init->process.oci.pid, process->pipes, [group] { return group->Pids(); });
  }
  v3::KillRequest request;
  request.set_id(container->id);
  request.set_exec_id(process->process.exec_id);
  request.set_signal(SIGKILL);
  container->shim->Ask<wkt::Empty>("Kill", request, kShimAnswerMillis, [](Result<wkt::Empty>) {});
}

void ForeignTasks::Forget(const ContainerPtr& container, const ProcessPtr& process) {
  DropStdio(process.get());
  container->execs.erase(process->process.exec_id);
}

void ForeignTasks::Delete(const v3::DeleteRequest& request, Respond<v3::DeleteResponse> respond) {
  auto container = Find(request.id());
  auto process = FindProcess(request.id(), request.exec_id());
  if (!process) return respond(std::move(process.error()));
  if ((*process)->started && !(*process)->exiting) {
    return respond(MakeError(Code::kFailedPrecondition, "{} '{}' is running", request.exec_id().empty() ? "container" : "process",
                             request.exec_id().empty() ? request.id() : request.exec_id().substr(0, 128)));
  }
  (*container)->shim->Call<v3::DeleteResponse>("Delete", request, kShimMakeMillis, [this, container = *container, process = *process, respond](Result<v3::DeleteResponse> deleted) {
    if (!deleted && !container->shim->ended() && deleted.error().code != Code::kNotFound) return respond(std::move(deleted));
    v3::DeleteResponse response;
    if (!process->exiting) OnExit(container, process, kShimKilled, NowNanos());
    End(container, process);
    response.set_pid(static_cast<uint32_t>(process->process.oci.pid));
    response.set_exit_status(process->process.exit_status);
    task::SetTime(process->process.exited_at_nanos, response.mutable_exited_at());
    if (process != container->init) {
      Forget(container, process);
      return respond(std::move(response));
    }
    for (auto& [id, exec] : container->execs) {
      OnExit(container, exec, kShimKilled, NowNanos());
      End(container, exec);
    }
    // Without a shim the record is what the clean-up goes by.
    auto written = container->shim->ended() ? Result<>() : pod_.record->Remove(container->id);
    if (!written) log::Warn("{}", written.error().message);
    shims_->Release(container->id, container->shim);
    containers_.erase(container->id);
    respond(std::move(response));
  });
}

void ForeignTasks::OnEvent(const std::string& topic, const wkt::Any& event) {
  namespace ev = containerd::events;
  if (topic == "/tasks/oom") {
    ev::TaskOOM oom;
    if (!oom.ParseFromString(event.value())) return;
    if (auto container = Find(oom.container_id())) (*container)->oom_killed = true;
  } else if (topic == "/tasks/exit") {
    ev::TaskExit exit;
    if (!exit.ParseFromString(event.value())) return;
    auto container = Find(exit.container_id());
    // The init's process id is the container's own.
    auto process = FindProcess(exit.container_id(), exit.id() == exit.container_id() ? "" : exit.id());
    if (process) OnExit(*container, *process, std::min(exit.exit_status(), kShimMostStatus), TimeOfShim(exit.exited_at()));
  }
}

Result<> ForeignTasks::KillAll(const Deadline& deadline) {
  closed_ = true;
  Result<> first;
  for (const auto& [id, container] : containers_) {
    auto cgroup = GroupOf(*container);
    if (!cgroup) continue;
    auto killed = (*cgroup)->Kill(deadline);
    if (!killed && first) first = std::move(killed);
  }
  return first;
}

void ForeignTasks::OnShimEnd(VmEnd end) {
  closed_ = true;
  end_ = std::move(end);
  const int64_t now = NowNanos();
  auto lose = [&](const ContainerPtr& container, const ProcessPtr& process) {
    process->ended_with_shim = !process->exiting && end_.happened();
    OnExit(container, process, kShimKilled, now);
    End(container, process);
  };
  for (const auto& [id, container] : std::map<std::string, ContainerPtr>(containers_)) {
    for (const auto& [exec_id, exec] : std::map<std::string, ProcessPtr>(container->execs)) lose(container, exec);
    lose(container, container->init);
  }
}

}  // namespace caisson::shim
