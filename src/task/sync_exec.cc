// SPDX-License-Identifier: Apache-2.0
#include "task/sync_exec.h"

#include <utility>

#include "base/clock.h"
#include "base/limits.h"

namespace caisson::task {
namespace {

namespace v1 = pod::v1;

// How long output is awaited that a grandchild may still write after the process itself has ended.
constexpr int64_t kDrainMillis = 500;
// From SIGKILL to an answer even though the process is stuck in the kernel.
constexpr int64_t kStuckMillis = 2000;
// From a part of the output until the next is asked for.
constexpr int64_t kAbandonedMillis = 30'000;

}  // namespace

// One ExecSync from its start to its last answer.
class SyncExec : public std::enable_shared_from_this<SyncExec> {
 public:
  SyncExec(SyncExecs* all, const v1::ExecSyncRequest& request, std::string exec_id, SyncExecs::Respond respond)
      : all_(all), host_(all->host_), container_id_(request.container_id()), exec_id_(std::move(exec_id)),
        timeout_nanos_(request.timeout_nanos()), respond_(std::move(respond)) {
    uint64_t limit = request.limit_bytes() == 0 ? limits::kExecSyncBytes : request.limit_bytes();
    out_room_ = err_room_ = std::min<uint64_t>(limit, limits::kExecSyncBytes);
  }

  void Start(const v1::ExecSyncRequest& request) {
    std::vector<std::string> args(request.args().begin(), request.args().end());
    if (args.empty()) return Refuse(MakeError(Code::kInvalidArgument, "exec in container '{}': no command", container_id_));
    StdioRequest stdio;
    auto self = shared_from_this();
    stdio.out_sink = [self](std::string_view bytes) { self->Collect(self->response_.mutable_stdout(), &self->out_room_, bytes); };
    stdio.err_sink = [self](std::string_view bytes) { self->Collect(self->response_.mutable_stderr(), &self->err_room_, bytes); };
    stdio.on_out_end = stdio.on_err_end = [self] { self->FinishIfDone(); };
    host_->StartExec(container_id_, exec_id_, std::move(args), std::move(stdio), [self](Result<> started) {
      started ? self->OnStarted() : self->Refuse(std::move(started.error()));
    });
  }

  void More(SyncExecs::Respond respond) {
    if (respond_) return respond(MakeError(Code::kFailedPrecondition, "the output of '{}' is awaited already", exec_id_));
    host_->loop()->CancelTimer(std::exchange(abandoned_timer_, 0));
    respond_ = std::move(respond);
    if (finished_) return Answer();
    Pause(false);
    Process* process = Find();
    if (process == nullptr) return Finish();  // its container has gone
    if (!exited_) return;
    if (process->out) process->out->Drain();
    if (process->err) process->err->Drain();
    AwaitOutputs(*process);
  }

 private:
  Process* Find() { return host_->FindExec(container_id_, exec_id_); }

  void Refuse(Error why) { std::exchange(respond_, nullptr)(std::move(why)); }

  void OnStarted() {
    Process* process = Find();
    if (process == nullptr) return Refuse(MakeError(Code::kNotFound, "container '{}' has gone", container_id_));
    auto self = shared_from_this();
    all_->running_[{container_id_, exec_id_}] = weak_from_this();
    if (timeout_nanos_ > 0) {
      timer_ = host_->loop()->After((timeout_nanos_ + kNanosPerMilli - 1) / kNanosPerMilli, [self] { self->OnTimeout(); });
    }
    host_->WaitExec(process, [self](const Process& ended) { self->OnExit(ended); });
  }

  void Collect(std::string* into, uint64_t* room, std::string_view bytes) {
    if (bytes.size() > *room) truncated_ = true;
    bytes = bytes.substr(0, *room);
    *room -= bytes.size();
    into->append(bytes);
    if (response_.stdout().size() + response_.stderr().size() < limits::kExecSyncChunkBytes) return;
    Pause(true);
    if (!respond_) return;
    v1::ExecSyncResponse part = std::exchange(response_, {});
    part.set_more(true);
    abandoned_timer_ = host_->loop()->After(kAbandonedMillis, [self = shared_from_this()] { self->OnAbandoned(); });
    std::exchange(respond_, nullptr)(std::move(part));
  }

  void Pause(bool paused) {
    paused_ = paused;
    Process* process = Find();
    if (process == nullptr) return;
    if (process->out) process->out->Pause(paused);
    if (process->err) process->err->Pause(paused);
  }

  void Kill() { host_->KillExec(container_id_, exec_id_); }

  void OnTimeout() {
    timer_ = 0;
    timed_out_ = true;
    Kill();
    // If it is stuck in the kernel the answer does not wait for it.
    drain_timer_ = host_->loop()->After(kStuckMillis, [self = shared_from_this()] { self->Finish(); });
  }

  void OnAbandoned() {
    abandoned_timer_ = 0;
    if (!exited_) Kill();
    Finish();
    Forget();
  }

  void OnExit(const Process& ended) {
    exited_ = true;
    host_->loop()->CancelTimer(std::exchange(timer_, 0));
    exit_code_ = static_cast<int32_t>(ended.exit_status);
    if (timed_out_) return Finish();
    if (!paused_) AwaitOutputs(ended);  // else with the next part
  }

  void AwaitOutputs(const Process& ended) {
    if (ended.outputs_ended()) return Finish();
    if (drain_timer_ == 0 && !paused_) {
      drain_timer_ = host_->loop()->After(kDrainMillis, [self = shared_from_this()] { self->OnDrained(); });
    }
  }

  void OnDrained() {
    drain_timer_ = 0;
    if (!paused_) Finish();
  }

  void FinishIfDone() {
    Process* process = Find();
    if (exited_ && !paused_ && process != nullptr && process->outputs_ended()) Finish();
  }

  void Finish() {
    finished_ = true;
    if (respond_) Answer();
  }

  void Answer() {
    auto respond = std::exchange(respond_, nullptr);
    response_.set_exit_code(exit_code_);
    response_.set_timed_out(timed_out_);
    response_.set_truncated(truncated_);
    respond(std::move(response_));
    Forget();
  }

  void Forget() {
    for (auto* timer : {&timer_, &drain_timer_, &abandoned_timer_}) host_->loop()->CancelTimer(std::exchange(*timer, 0));
    all_->running_.erase({container_id_, exec_id_});
    // Its Process holds this object's callbacks and may be on the stack.
    host_->loop()->Post([self = shared_from_this()] { self->host_->ForgetExec(self->container_id_, self->exec_id_); });
  }

  SyncExecs* all_;
  std::shared_ptr<ExecHost> host_;
  const std::string container_id_, exec_id_;
  const int64_t timeout_nanos_;
  SyncExecs::Respond respond_;  // null between a part and the request for the next
  uint64_t out_room_ = 0, err_room_ = 0;
  v1::ExecSyncResponse response_;
  int32_t exit_code_ = 0;
  bool exited_ = false, timed_out_ = false, truncated_ = false, paused_ = false, finished_ = false;
  sys::EventLoop::TimerId timer_ = 0, drain_timer_ = 0, abandoned_timer_ = 0;
};

void SyncExecs::Start(const v1::ExecSyncRequest& request, Respond respond) {
  std::string exec_id = request.exec_id().empty() ? fmt::format("sync-{}", ++count_) : request.exec_id();
  std::make_shared<SyncExec>(this, request, std::move(exec_id), std::move(respond))->Start(request);
}

void SyncExecs::More(const v1::ExecSyncMoreRequest& request, Respond respond) {
  auto found = running_.find({request.container_id(), request.exec_id()});
  auto exec = found == running_.end() ? nullptr : found->second.lock();
  if (!exec) return respond(MakeError(Code::kNotFound, "no process '{}' whose output is awaited", request.exec_id().substr(0, 128)));
  exec->More(std::move(respond));
}

}  // namespace caisson::task
