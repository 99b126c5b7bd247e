// SPDX-License-Identifier: Apache-2.0
#include "task/tasks.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "base/strings.h"
#include "sys/path.h"

namespace caisson::task {
namespace {

constexpr int64_t kKillMillis = 10'000;

uint32_t StatusOf(const siginfo_t& info) {
  return static_cast<uint32_t>(info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status);
}

struct ProcStat {
  int parent = 0, session = 0;
};

// proc(5): "pid (comm) state ppid pgrp session …"; comm may hold anything, so the last ')' counts.
bool ReadStat(int pid, ProcStat* stat) {
  auto text = sys::ReadFile(fmt::format("/proc/{}/stat", pid), 4096);
  if (!text) return false;
  size_t end = text->rfind(')');
  if (end == std::string::npos || end + 2 >= text->size()) return false;
  auto fields = Split(std::string_view(*text).substr(end + 2), ' ');
  if (fields.size() < 4) return false;
  auto parent = ParseInt64(fields[1]), session = ParseInt64(fields[3]);
  if (!parent || !session) return false;
  stat->parent = static_cast<int>(*parent);
  stat->session = static_cast<int>(*session);
  return true;
}

}  // namespace

Result<std::unique_ptr<Tasks>> Tasks::Create(sys::EventLoop* loop) {
  std::unique_ptr<Tasks> tasks(new Tasks(loop));
  if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0) return ErrnoError("become a child subreaper");
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  if (sigprocmask(SIG_BLOCK, &children, nullptr) != 0) return ErrnoError("block SIGCHLD");
  tasks->signals_ = UniqueFd(signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!tasks->signals_) return ErrnoError("signalfd");
  TRY(loop->Watch(tasks->signals_.get(), EPOLLIN, [tasks = tasks.get()](uint32_t) { tasks->OnChild(); }));
  return tasks;
}

Tasks::~Tasks() {
  loop_->Unwatch(signals_.get());
  for (auto& [id, task] : tasks_) {
    if (task->oom_events) loop_->Unwatch(task->oom_events.get());
  }
}

void Tasks::OnChild() {
  signalfd_siginfo ignored[8];
  while (read(signals_.get(), ignored, sizeof ignored) > 0) {
  }
  for (;;) {
    siginfo_t info{};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) != 0 || info.si_pid == 0) return;
    int64_t now = NowNanos();
    Task* task = nullptr;
    Process* process = FindByPid(info.si_pid, &task);
    if (process == nullptr) continue;  // an orphan that came to us
    if (process == &task->init) OnInitExit(task);
    process->End(StatusOf(info), now);
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
  if (own == nullptr || !own->path.empty()) (void)task->container->cgroup()->Kill(Deadline::After(kKillMillis));
}

bool Tasks::OomKilled(Task* task) {
  if (task->oom_killed) return true;
  auto kills = task->container->cgroup()->OomKills();
  task->oom_killed = kills && *kills > 0;
  return task->oom_killed;
}

void Tasks::WatchOom(Task* task) {
  auto events = task->container->cgroup()->OomEvents();
  if (!events) return;  // the counter is asked at the end all the same
  task->oom_events = std::move(*events);
  (void)loop_->Watch(task->oom_events.get(), EPOLLIN, [this, task](uint32_t) {
    char bytes[4096];
    if (read(task->oom_events.get(), bytes, sizeof bytes) <= 0) {
      loop_->Unwatch(task->oom_events.get());
      return;
    }
    OomKilled(task);
  });
}

Result<Task*> Tasks::Create(CreateRequest request) {
  if (tasks_.contains(request.id)) return MakeError(Code::kAlreadyExists, "container '{}' exists already", request.id);
  auto task = std::make_unique<Task>();
  task->id = request.id;
  task->bundle = request.bundle;
  oci::CreateOptions options;
  options.id = request.id;
  options.bundle = request.bundle;
  std::string config = TRY(sys::ReadFile(request.bundle + "/config.json", limits::kJsonBytes));
  options.spec = TRY(oci::ParseSpec(config));
  config = std::string();
  options.rootfs = std::move(request.rootfs);
  options.systemd_cgroup = options_.systemd_cgroup;
  options.seccomp_cache_dir = options_.seccomp_cache_dir;
  options.shm_fd = options_.shm_fd;
  if (!request.log_path.empty()) {
    task->log = TRY(LogFile::Open(request.log_path, request.log_max_line_bytes));
    LogFile* log = task->log.get();
    request.stdio.out_sink = [log](std::string_view bytes) { log->Write(LogFile::kStdout, bytes); };
    request.stdio.err_sink = [log](std::string_view bytes) { log->Write(LogFile::kStderr, bytes); };
    request.stdio.on_outputs_ended = [log] {
      log->End(LogFile::kStdout);
      log->End(LogFile::kStderr);
    };
  } else {
    // Somebody has to read, or the container would stand still when its pipe is full.
    request.stdio.out_sink = request.stdio.err_sink = [](std::string_view) {};
  }
  TRY(PrepareStdio(loop_, request.stdio, &options.stdio, &task->init));
  if (options_.on_cgroup) TRY(options_.on_cgroup(options.spec.cgroups_path, options.systemd_cgroup));
  task->container = TRY(oci::Container::Create(std::move(options)));
  task->init.oci = std::move(*task->container->mutable_init());
  *task->container->mutable_init() = oci::Process{task->init.oci.pid, UniqueFd(fcntl(task->init.oci.pidfd.get(), F_DUPFD_CLOEXEC, 3)), UniqueFd()};
  AttachTerminal(loop_, request.stdio, &task->init);
  task->created_at_nanos = NowNanos();
  Task* made = task.get();
  tasks_[request.id] = std::move(task);
  WatchOom(made);
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

Result<> Tasks::Start(Task* task) {
  if (task->init.exited) return MakeError(Code::kFailedPrecondition, "container '{}' has ended", task->id);
  int64_t now = NowNanos();
  TRY(task->container->Start());
  task->init.started_at_nanos = now;
  return {};
}

Result<Process*> Tasks::Exec(Task* task, const std::string& exec_id, oci::ExecOptions options, StdioRequest stdio) {
  if (task->init.exited || task->init.started_at_nanos == 0) return MakeError(Code::kFailedPrecondition, "container '{}' is not running", task->id);
  if (task->execs.contains(exec_id)) return MakeError(Code::kAlreadyExists, "process '{}' exists already", exec_id);
  auto process = std::make_unique<Process>();
  process->exec_id = exec_id;
  TRY(PrepareStdio(loop_, stdio, &options.stdio, process.get()));
  process->started_at_nanos = NowNanos();
  process->oci = TRY(task->container->Exec(std::move(options)));
  AttachTerminal(loop_, std::move(stdio), process.get());
  Process* made = process.get();
  task->execs[exec_id] = std::move(process);
  return made;
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
    // Not reaped yet, so the number is still its own.
    if (kill(process->oci.pid, signal) != 0 && errno != ESRCH) return ErrnoError("send signal {} to process '{}'", signal, exec_id);
    return {};
  }
  if (task->init.exited && !all) return {};
  if (all && signal == SIGKILL) return task->container->cgroup()->Kill(Deadline::After(kKillMillis));
  return task->container->Kill(signal, all);
}

void Tasks::KillTree(Task* task, const Process& process) {
  std::set<int> ours = {process.oci.pid};
  // What forks while we look is found in a later round; three rounds without a new one are not needed in practice.
  for (int round = 0; round < 5; ++round) {
    auto pids = task->container->Pids();
    if (!pids) break;
    size_t before = ours.size();
    bool grew = true;
    while (grew) {
      grew = false;
      for (int pid : *pids) {
        ProcStat stat;
        if (ours.contains(pid) || pid == task->init.oci.pid || !ReadStat(pid, &stat)) continue;
        if (stat.session == process.oci.pid || ours.contains(stat.parent)) grew = ours.insert(pid).second || grew;
      }
    }
    for (int pid : ours) {
      if (pid != process.oci.pid || !process.exited) kill(pid, SIGKILL);
    }
    if (round > 0 && ours.size() == before) break;
  }
}

Result<> Tasks::Delete(Task* task) {
  if (!task->init.exited) return MakeError(Code::kFailedPrecondition, "container '{}' is running", task->id);
  if (task->oom_events) loop_->Unwatch(task->oom_events.get());
  task->oom_events.Reset();
  OnChild();  // exec'd processes that the end of init has ended
  TRY(task->container->Delete(kKillMillis));
  // A waiter may be on the stack.
  auto node = tasks_.extract(task->id);
  for (auto& [id, process] : node.mapped()->execs) process->End(137, NowNanos());
  loop_->Post([keep = std::shared_ptr<Task>(std::move(node.mapped()))] {});
  return {};
}

Result<> Tasks::DestroyAll(int64_t deadline_millis) {
  Deadline deadline = Deadline::After(deadline_millis);
  Result<> first;
  for (auto& [id, task] : tasks_) (void)task->container->cgroup()->Signal(SIGKILL);
  for (auto& [id, task] : tasks_) {
    auto killed = task->container->cgroup()->Kill(deadline);
    if (!killed && first) first = std::move(killed);
  }
  OnChild();
  for (auto& [id, task] : tasks_) {
    // Reaped by us, but its death may not have been seen yet.
    if (!task->init.exited) task->init.End(137, NowNanos());
    for (auto& [exec_id, process] : task->execs) process->End(137, NowNanos());
    if (task->oom_events) loop_->Unwatch(task->oom_events.get());
    task->oom_events.Reset();
    auto deleted = task->container->Delete(deadline.RemainingMillis());
    if (!deleted && first) first = std::move(deleted);
  }
  return first;
}

}  // namespace caisson::task
