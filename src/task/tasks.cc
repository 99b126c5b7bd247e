// SPDX-License-Identifier: Apache-2.0
#include "task/tasks.h"

#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "base/clock.h"
#include "base/id.h"
#include "base/limits.h"
#include "oci/cgroup_systemd.h"
#include "oci/clone.h"
#include "sys/path.h"
#include "task/checkpoint.h"
#include "task/criu.h"
#include "task/process_tree.h"

namespace caisson::task {
namespace {

constexpr int64_t kDeleteMillis = 10'000;
constexpr int64_t kKillRestMillis = 2'000;
// What a shell answers for a program it cannot start, and containerd for a failed start.
constexpr uint32_t kStartErrorStatus = 128;
constexpr int64_t kTrimMillis = 1'000;  // from a start until free memory is given back
constexpr uint32_t kKilledStatus = 128 + SIGKILL;

// `systemd`: of all the pod's.
Result<oci::CreateOptions> ReadBundle(const CreateRequest& request, bool systemd) {
  if (!IsSafeName(request.id)) return MakeError(Code::kInvalidArgument, "'{}' cannot be a container's id", request.id.substr(0, 128));
  if (!request.bundle.starts_with('/')) return MakeError(Code::kInvalidArgument, "the bundle '{}' is not absolute", request.bundle.substr(0, 256));
  oci::CreateOptions options;
  options.id = request.id;
  options.bundle = request.bundle;
  std::string config = TRY(sys::ReadFile(request.bundle + "/config.json", limits::kJsonBytes));
  auto spec = oci::ParseSpec(config);
  if (!spec) return std::move(spec.error()).Within(request.bundle + "/config.json");
  options.spec = std::move(*spec);
  options.spec.process.terminal = request.stdio.terminal;
  options.systemd_cgroup = systemd || request.systemd_cgroup.value_or(oci::IsSystemdPath(options.spec.cgroups_path) && oci::IsSystemdThere());
  if (options.spec.cgroups_path.empty()) {
    options.spec.cgroups_path = (options.systemd_cgroup ? "system.slice:caisson:" : "/caisson/") + request.id;
  }
  return options;
}

}  // namespace

Result<std::unique_ptr<Tasks>> Tasks::Create(sys::EventLoop* loop, EndedProcesses* ended) {
  std::unique_ptr<Tasks> tasks(new Tasks(loop));
  if (ended == nullptr) tasks->children_ = TRY(OwnChildren());
  tasks->ended_ = ended != nullptr ? ended : tasks->children_.get();
  TRY(loop->Watch(tasks->ended_->fd(), EPOLLIN, [tasks = tasks.get()](uint32_t) { tasks->TakeEnds(); }));
  return tasks;
}

Tasks::~Tasks() {
  loop_->Unwatch(ended_->fd());
  for (auto& [id, task] : tasks_) UnwatchOom(task.get());
}

void Tasks::TakeEnds() {
  while (auto ended = ended_->Next()) {
    Task* task = nullptr;
    Process* process = FindByPid(ended->pid, &task);
    if (process == nullptr) continue;  // an orphan that came to us
    if (process == &task->init) OnInitExit(task);
    process->End(ended->status, ended->at_nanos);
    if (process == &task->init && options_.on_ended) options_.on_ended(*task);
    Publish(&ExitedEvent, *task, *process);
  }
}

Process* Tasks::FindByPid(int pid, Task** found) {
  for (auto& [id, task] : tasks_) {
    *found = task.get();
    if (task->init.oci.pid == pid && !task->init.exited) return &task->init;
    for (auto& [exec_id, process] : task->execs) {
      if (process->oci.pid == pid && !process->exited) return process.get();
    }
  }
  return nullptr;
}

void Tasks::OnInitExit(Task* task) {
  OomKilled(task);
  // Without a PID namespace of its own the kernel does not end the others with init; a container without its init is no
  // container (as runc and containerd have it).
  const auto* own = task->container->spec().FindNamespace(CLONE_NEWPID);
  if (own == nullptr || !own->path.empty()) (void)task->container->EndAll(kKillRestMillis);
}

bool Tasks::OomKilled(Task* task) {
  if (task->oom_killed) return true;
  auto kills = task->container->cgroup()->OomKills();
  task->oom_killed = kills && *kills > 0;
  if (task->oom_killed) Publish(&OomEvent, *task);
  return task->oom_killed;
}

void Tasks::WatchOom(Task* task) {
  auto events = task->container->cgroup()->OomEvents();
  if (!events) return;  // the counter is asked at the end all the same
  task->oom_events = std::move(*events);
  (void)loop_->Watch(task->oom_events.get(), EPOLLIN, [this, task](uint32_t) {
    char bytes[4096];
    if (read(task->oom_events.get(), bytes, sizeof bytes) <= 0) return UnwatchOom(task);
    OomKilled(task);
  });
}

void Tasks::UnwatchOom(Task* task) {
  if (!task->oom_events) return;
  loop_->Unwatch(task->oom_events.get());
  task->oom_events.Reset();
}

Result<> Tasks::OpenLog(const CreateRequest& request, Task* task) {
  StdioRequest& stdio = task->init.stdio;
  if (!request.own_stdio) return {};
  task->own_stdio = true;
  if (!request.log_path.empty()) task->log = TRY(LogFile::Open(request.log_path, request.log_max_line_bytes, &scratch_));
  // Without a log too somebody has to read, or the container would stand still when its pipe is full.
  auto sink = [task](LogFile::Stream stream) {
    return [task, stream](std::string_view bytes) {
      if (task->log) task->log->Write(stream, bytes);
      if (task->attachments) task->attachments->Write(stream, bytes);
    };
  };
  auto on_end = [task](LogFile::Stream stream) {
    return [task, stream] {
      if (task->log) task->log->End(stream);
    };
  };
  stdio.out_sink = sink(LogFile::kStdout);
  stdio.err_sink = sink(LogFile::kStderr);
  stdio.on_out_end = on_end(LogFile::kStdout);
  stdio.on_err_end = on_end(LogFile::kStderr);
  return {};
}

Result<Task*> Tasks::Create(CreateRequest request) {
  if (closed_) return MakeError(Code::kFailedPrecondition, "container '{}': the pod has been stopped", request.id);
  if (tasks_.contains(request.id)) return MakeError(Code::kAlreadyExists, "container '{}' exists already", request.id);
  auto task = std::make_unique<Task>();
  task->id = request.id;
  task->bundle = request.bundle;
  oci::CreateOptions options = TRY(ReadBundle(request, options_.systemd_cgroup));
  options.rootfs = request.rootfs;
  options.seccomp_cache_dir = options_.seccomp_cache_dir;
  options.shm_fd = options_.shm_fd;
  task->init.stdio = std::move(request.stdio);
  TRY(OpenLog(request, task.get()));
  TRY(PrepareStdio(loop_, &scratch_, &options.stdio, &task->init));
  if (options_.on_cgroup) TRY(options_.on_cgroup(request.bundle, options.spec.cgroups_path, options.systemd_cgroup));
  TRY(PrepareRestorer(request, &options.restorer, task.get()));
  task->container = TRY(options_.make_container ? options_.make_container(std::move(options)) : oci::Container::Create(std::move(options)));
  task->init.oci.pid = task->container->init().pid;  // its pidfd is the container's
  task->init.oci.console = std::move(task->container->mutable_init()->console);
  Task* made = task.get();
  tasks_[request.id] = std::move(task);
  made->created_at_nanos = NowNanos();
  auto attached = AttachTerminal(loop_, &scratch_, &made->init);
  if (attached && options_.on_created) attached = options_.on_created(*made);
  if (!attached) {
    (void)Delete(made);
    return std::move(attached.error());
  }
  WatchOom(made);
  Publish(&CreatedEvent, *made, request.rootfs);
  return made;
}

Result<Task*> Tasks::Find(const std::string& id) {
  auto found = tasks_.find(id);
  if (found == tasks_.end()) return MakeError(Code::kNotFound, "no container '{}' in this pod", id.substr(0, 128));
  return found->second.get();
}

Result<Process*> Tasks::FindProcess(const std::string& id, const std::string& exec_id) {
  Task* task = TRY(Find(id));
  if (exec_id.empty()) return &task->init;
  auto found = task->execs.find(exec_id);
  if (found == task->execs.end()) return MakeError(Code::kNotFound, "no process '{}' in container '{}'", exec_id.substr(0, 128), id);
  return found->second.get();
}

void Tasks::Start(Task* task, std::function<void(Result<>)> done) {
  if (closed_) return done(MakeError(Code::kFailedPrecondition, "container '{}': the pod has been stopped", task->id));
  if (task->init.exited) return done(MakeError(Code::kFailedPrecondition, "container '{}' has ended", task->id));
  int64_t now = NowNanos();
  auto started = task->container->Start();
  if (started && task->init.stdio.terminal && !task->init.oci.console) {
    task->init.oci.console = std::move(task->container->mutable_init()->console);
    started = AttachTerminal(loop_, &scratch_, &task->init);
  }
  if (!started) return done(std::move(started.error()));
  if (task->checkpoint.empty()) {
    Started(task, now);
    return done({});
  }
  Restore(this, loop_, task, [this, id = task->id, done = std::move(done)](Result<> restored) {
    auto found = Find(id);
    if (restored && !found) restored = std::move(found.error());
    if (restored) Started(*found, NowNanos());
    done(std::move(restored));
  });
}

void Tasks::Started(Task* task, int64_t at_nanos) {
  task->init.started_at_nanos = at_nanos;
  Publish(&StartedEvent, *task);
  // What parsing the spec needed is scattered over the heap. It goes back when nobody waits for us.
  loop_->After(kTrimMillis, [] { malloc_trim(0); });
}

Result<> Tasks::PrepareRestorer(const CreateRequest& request, oci::Restorer* restorer, Task* task) {
  if (request.checkpoint.empty()) return {};
  TRY(CheckImages(request.checkpoint));
  auto sockets = TRY(MakeCriuSockets());
  restorer->program = TRY(FindCriu(request.criu_path));
  restorer->socket = std::move(sockets.criu);
  task->restorer = std::move(sockets.ours);
  task->checkpoint = request.checkpoint;
  return {};
}

Result<Process*> Tasks::AddExec(Task* task, const std::string& exec_id, oci::ExecOptions options, StdioRequest stdio) {
  if (closed_ || task->init.exited) return MakeError(Code::kFailedPrecondition, "container '{}' is not running", task->id);
  if (task->execs.contains(exec_id)) {
    return MakeError(Code::kAlreadyExists, "process '{}' exists already in container '{}'", exec_id.substr(0, 128), task->id);
  }
  auto process = std::make_unique<Process>();
  process->exec_id = exec_id;
  process->stdio = std::move(stdio);
  process->prepared = std::make_unique<oci::ExecOptions>(std::move(options));
  Process* added = process.get();
  task->execs[exec_id] = std::move(process);
  Publish(&ExecAddedEvent, *task, *added);
  return added;
}

Result<> Tasks::StartExec(Task* task, Process* process) {
  if (!process->prepared) return MakeError(Code::kFailedPrecondition, "process '{}' was started already", process->exec_id);
  auto options = std::move(process->prepared);
  auto start = [&]() -> Result<> {
    if (closed_ || task->init.exited || task->init.started_at_nanos == 0) {
      return MakeError(Code::kFailedPrecondition, "container '{}' is not running", task->id);
    }
    if (task->paused) return MakeError(Code::kFailedPrecondition, "container '{}' is paused", task->id);
    options->process.terminal = process->stdio.terminal;
    TRY(PrepareStdio(loop_, &scratch_, &options->stdio, process));
    int64_t now = NowNanos();
    process->oci = TRY(task->container->Exec(std::move(*options)));
    process->started_at_nanos = now;
    auto attached = AttachTerminal(loop_, &scratch_, process);
    if (!attached) (void)task->container->Signal(process->oci, SIGKILL);
    return attached;
  };
  auto started = start();
  if (!started && process->oci.pid == 0) process->End(kStartErrorStatus, NowNanos());
  if (started) Publish(&ExecStartedEvent, *task, *process);
  return started;
}

void Tasks::Wait(Process* process, Process::Waiter waiter) {
  if (process->exited) return waiter(*process);
  process->waiters.push_back(std::move(waiter));
}

Result<> Tasks::Kill(Task* task, const std::string& exec_id, int signal, bool all) {
  if (signal < 0 || signal >= NSIG) return MakeError(Code::kInvalidArgument, "{} is no signal", signal);
  if (!exec_id.empty()) {
    Process* process = TRY(FindProcess(task->id, exec_id));
    if (process->exited) return {};
    if (process->oci.pid == 0) return MakeError(Code::kFailedPrecondition, "process '{}' is not started", exec_id);
    if (signal == SIGKILL && all) return KillTree(task, *process), Result<>();
    return task->container->Signal(process->oci, signal);
  }
  if (task->init.exited && !all) return {};
  TRY(task->container->Kill(signal, all));
  // A frozen process dies only when it is thawed (cgroup v1, freezer-subsystem.rst).
  if (signal == SIGKILL && task->paused) return Resume(task);
  return {};
}

void Tasks::KillTree(Task* task, const Process& process) {
  if (!task->container->HasHostProcesses()) {
    if (!process.exited) (void)task->container->Signal(process.oci, SIGKILL);
    return;
  }
  std::vector<ino_t> pipes;
  for (const Output* output : {process.out.get(), process.err.get()}) {
    struct stat info {};
    if (output != nullptr && !output->ended() && fstat(output->source(), &info) == 0) pipes.push_back(info.st_ino);
  }
  for (const Pump* pump : {process.out_pump.get(), process.err_pump.get()}) {
    struct stat info {};
    if (pump == nullptr || pump->ended() || fstat(pump->source(), &info) != 0 || !S_ISFIFO(info.st_mode)) continue;
    pipes.push_back(info.st_ino);
  }
  if (options_.kill_tree) return options_.kill_tree(*task, process, pipes);
  task::KillTree(process.exited ? 0 : process.oci.pid, task->init.oci.pid, pipes, [task] { return task->container->Pids(); });
}

Result<bool> Tasks::Attach(Task* task, const std::string& attach_id, const Attachments::Paths& paths) {
  if (!task->own_stdio) return MakeError(Code::kFailedPrecondition, "the stdio of container '{}' is another's", task->id);
  if (task->init.exited || task->init.started_at_nanos == 0) return MakeError(Code::kFailedPrecondition, "container '{}' is not running", task->id);
  if (!task->attachments) {
    task->attachments = std::make_unique<Attachments>(loop_, &scratch_);
    Wait(&task->init, [task](const Process&) { task->attachments->Finish(); });
  }
  UniqueFd writer;
  if (task->init.stdin_writer && !paths.in.empty()) {
    writer = UniqueFd(fcntl(task->init.stdin_writer.get(), F_DUPFD_CLOEXEC, 3));
    if (!writer) return ErrnoError("duplicate the stdin of container '{}'", task->id);
  }
  bool has_stdin = writer.valid();
  TRY(task->attachments->Add(attach_id, paths, std::move(writer)));
  return has_stdin;
}

Result<> Tasks::Pause(Task* task) {
  if (task->init.exited || task->init.started_at_nanos == 0) return MakeError(Code::kFailedPrecondition, "container '{}' is not running", task->id);
  TRY(task->container->Pause());
  task->paused = true;
  Publish(&PausedEvent, *task);
  return {};
}

Result<> Tasks::Resume(Task* task) {
  TRY(task->container->Resume());
  task->paused = false;
  Publish(&ResumedEvent, *task);
  return {};
}

// One that was never started, or could not be: its init waits, or is just ending.
Result<> Tasks::EndCreated(Task* task) {
  TRY(task->container->Kill(SIGKILL, false));
  TRY(oci::AwaitEnd(task->container->init().pidfd.get(), kDeleteMillis));
  TakeEnds();
  if (task->init.exited) return {};
  // Whoever reaps it has not said so yet.
  task->init.End(kKilledStatus, NowNanos());
  Publish(&ExitedEvent, *task, task->init);
  return {};
}

Result<> Tasks::Delete(Task* task) {
  TakeEnds();  // its end may not have been seen yet
  if (!task->init.exited) {
    if (task->init.started_at_nanos != 0) return MakeError(Code::kFailedPrecondition, "container '{}' is running", task->id);
    TRY(EndCreated(task));
  }
  UnwatchOom(task);
  TRY(task->container->Delete(kDeleteMillis));
  TakeEnds();  // exec'd processes that the end of init has ended
  for (auto& [id, process] : task->execs) process->End(kKilledStatus, NowNanos());
  // Nobody is left who could write.
  if (task->init.out) task->init.out->Drain();
  if (task->init.err) task->init.err->Drain();
  if (options_.on_deleted) options_.on_deleted(*task);
  Publish(&DeletedEvent, *task, task->init);
  // A waiter may be on the stack.
  auto node = tasks_.extract(task->id);
  loop_->Post([keep = std::shared_ptr<Task>(std::move(node.mapped()))] {});
  return {};
}

Result<> Tasks::DestroyAll(int64_t deadline_millis) {
  Close();
  Deadline deadline = Deadline::After(deadline_millis);
  Result<> first;
  for (auto& [id, task] : tasks_) {
    (void)task->container->cgroup()->Signal(SIGKILL);
    if (std::exchange(task->paused, false)) (void)task->container->Resume();
  }
  for (auto& [id, task] : tasks_) {
    auto killed = task->container->cgroup()->Kill(deadline);
    if (!killed && first) first = std::move(killed);
  }
  TakeEnds();
  for (auto& [id, task] : tasks_) {
    UnwatchOom(task.get());
    OomKilled(task.get());
    auto deleted = task->container->Delete(deadline.RemainingMillis());
    if (!deleted && first) first = std::move(deleted);
  }
  TakeEnds();
  TRY(std::move(first));
  for (auto& [id, task] : tasks_) {
    for (auto& [exec_id, process] : task->execs) process->End(kKilledStatus, NowNanos());
    task->init.End(kKilledStatus, NowNanos());
  }
  return {};
}

}  // namespace caisson::task
