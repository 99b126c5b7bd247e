// SPDX-License-Identifier: Apache-2.0
#include "cri/stream_session.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "base/json.h"
#include "base/limits.h"
#include "caisson/pod/v1/pod.pb.h"
#include "containerd/task_v3.pb.h"
#include "cri/capabilities.h"
#include "cri/exec_request.h"
#include "sys/path.h"

namespace caisson::cri {
namespace {

namespace task = containerd::task::v3;

constexpr const char* kFifoNames[] = {"in", "out", "err", "life"};
constexpr int64_t kReapMillis = 30'000;  // from SIGKILL until the process is given up
constexpr const char* kProcessType = "types.containerd.io/opencontainers/runtime-spec/1/Process";

// The container's own process with another command, as JSON of the OCI type.
Result<std::string> ProcessSpec(const std::string& bundle, const stream::ExecTarget& target) {
  Json config = TRY(ParseJson(TRY(sys::ReadFile(bundle + "/config.json", limits::kJsonBytes))));
  if (!config.is_object() || !config.contains("process") || !config["process"].is_object()) {
    return MakeError(Code::kInternal, "the bundle '{}' has no process", bundle);
  }
  Json process = std::move(config["process"]);
  process["args"] = target.args;
  process["terminal"] = target.tty;
  if (target.tty) {
    // Programs that draw need to know for what; the container's own word comes first.
    Json& env = process["env"];
    bool has_term = false;
    for (const Json& entry : env) {
      has_term = has_term || (entry.is_string() && entry.get_ref<const std::string&>().starts_with("TERM="));
    }
    if (!has_term) env.push_back("TERM=xterm");
  }
  return DumpJson(process);
}

// One in the guest itself: root, with all that the guest's kernel lets it do.
std::string GuestProcessSpec(const stream::ExecTarget& target) {
  Json process = {{"user", {{"uid", 0}, {"gid", 0}}}, {"args", target.args}, {"cwd", "/"}, {"terminal", target.tty}};
  process["env"] = {"PATH=/bin", "HOME=/"};
  if (target.tty) process["env"].push_back("TERM=xterm");
  Json all = Json::array();
  for (std::string_view name : KnownCapabilities()) all.push_back(name);
  for (const char* set : {"bounding", "effective", "permitted"}) process["capabilities"][set] = all;
  return DumpJson(process);
}

class ExecSession : public StreamSession {
 public:
  explicit ExecSession(Setup setup) : StreamSession(std::move(setup)) {}

 private:
  std::shared_ptr<ExecSession> Self() { return std::static_pointer_cast<ExecSession>(shared_from_this()); }
  std::string exec_id() const override { return setup_.id; }

  template <class Request>
  Request For() const {
    return ExecRequest<Request>(container_id(), setup_.id);
  }

  Result<> Open() override {
    const stream::ExecTarget& target = setup_.target;
    auto request = For<task::ExecProcessRequest>();
    request.set_terminal(target.tty);
    request.mutable_spec()->set_type_url(kProcessType);
    request.mutable_spec()->set_value(setup_.container ? TRY(ProcessSpec(setup_.context.config.ContainerDir(container_id()), target))
                                                       : GuestProcessSpec(target));
    if (target.in) TRY(MakeFifo(kIn)), request.set_stdin(PathOf(kIn));
    // A terminal has one output, and somebody has to take it.
    if (target.out || target.tty) TRY(MakeFifo(kOut)), request.set_stdout(PathOf(kOut));
    if (target.err && !target.tty) TRY(MakeFifo(kErr)), request.set_stderr(PathOf(kErr));
    Call<wkt::Empty>(service::kTask, "Exec", request, 0, [self = Self()](Result<wkt::Empty> done) {
      if (!done) return self->Fail(std::move(done.error()));
      self->StartProcess();
    });
    return {};
  }

  void StartProcess() {
    Call<task::StartResponse>(service::kTask, "Start", For<task::StartRequest>(), 0, [self = Self()](Result<task::StartResponse> done) {
      if (!done) return self->Undo(std::move(done.error()));
      self->AwaitExit();
      self->Give(self->setup_.target.in);
    });
  }

  // It may run although the answer says otherwise (a deadline).
  void Undo(Error error) {
    Call<wkt::Empty>(service::kTask, "Kill", KillRequest(), 0, [self = Self(), error](Result<wkt::Empty>) {
      self->Call<task::DeleteResponse>(service::kTask, "Delete", self->For<task::DeleteRequest>(), 0,
                                       [self, error](Result<task::DeleteResponse>) { self->Fail(error); });
    });
  }

  void AwaitExit() {
    Call<task::WaitResponse>(service::kTask, "Wait", For<task::WaitRequest>(), ttrpc::Client::kNoTimeout,
                             [self = Self()](Result<task::WaitResponse> waited) {
                               self->exited_ = waited.has_value();
                               if (waited) return self->OnExit(static_cast<int>(waited->exit_status()));
                               // The container's end has taken it along.
                               if (waited.error().code == Code::kNotFound) return self->OnExit(128 + SIGKILL);
                               self->SetOutcome(std::move(waited.error()));
                             });
  }

  void OnExit(int code) {
    exited_ = true;
    SetOutcome(code);
  }

  void OnInputEnd() override {
    auto request = For<task::CloseIORequest>();
    request.set_stdin(true);
    Call<wkt::Empty>(service::kTask, "CloseIO", request, 0, [](Result<wkt::Empty>) {});
  }

  task::KillRequest KillRequest() const { return KillExec(container_id(), setup_.id); }

  void End() override {
    if (exited_) return Delete();
    // The connection may have been lost and made anew since.
    if (auto shim = setup_.pod->shim()) shim_ = shim;
    Call<wkt::Empty>(service::kTask, "Kill", KillRequest(), kReapMillis, [self = Self()](Result<wkt::Empty>) {
      self->Call<task::WaitResponse>(service::kTask, "Wait", self->For<task::WaitRequest>(), kReapMillis,
                                     [self](Result<task::WaitResponse>) { self->Delete(); });
    });
  }

  void Delete() {
    Call<task::DeleteResponse>(service::kTask, "Delete", For<task::DeleteRequest>(), kReapMillis,
                               [self = Self()](Result<task::DeleteResponse>) { self->Close(); });
  }

  bool exited_ = false;
};

class AttachSession : public StreamSession {
 public:
  explicit AttachSession(Setup setup) : StreamSession(std::move(setup)) {}

 private:
  std::shared_ptr<AttachSession> Self() { return std::static_pointer_cast<AttachSession>(shared_from_this()); }

  Result<> Open() override {
    const stream::ExecTarget& target = setup_.target;
    pod::v1::AttachRequest request;
    request.set_container_id(setup_.container->id());
    request.set_attach_id(setup_.id);
    TRY(MakeFifo(kLife));
    request.set_life_path(PathOf(kLife));
    if (target.in) TRY(MakeFifo(kIn)), request.set_stdin_path(PathOf(kIn));
    if (target.out) TRY(MakeFifo(kOut)), request.set_stdout_path(PathOf(kOut));
    if (target.err && !target.tty) TRY(MakeFifo(kErr)), request.set_stderr_path(PathOf(kErr));
    Call<pod::v1::AttachResponse>(service::kPod, "Attach", request, 0, [self = Self()](Result<pod::v1::AttachResponse> done) {
      if (!done) return self->Fail(std::move(done.error()));
      self->has_stdin_ = done->stdin();
      self->AwaitEnd();
      self->Give(done->stdin());
    });
    return {};
  }

  void AwaitEnd() {
    pod::v1::WaitAttachRequest request;
    request.set_container_id(setup_.container->id());
    request.set_attach_id(setup_.id);
    Call<pod::v1::WaitAttachResponse>(
        service::kPod, "WaitAttach", request, ttrpc::Client::kNoTimeout,
        [self = Self()](Result<pod::v1::WaitAttachResponse> waited) {
          if (waited && waited->too_slow()) {
            return self->SetOutcome(MakeError(Code::kResourceExhausted,
                                              "detached: the client is more than {} bytes behind with the container's output",
                                              limits::kAttachBacklogBytes));
          }
          // Not found: the container has ended and gone already. How it ended is not attach's to say.
          if (waited || waited.error().code == Code::kNotFound) return self->SetOutcome(0);
          self->SetOutcome(std::move(waited.error()));
        });
  }

  void OnInputEnd() override { EndStdinOnce(); }

  // Closing is what tells the companion.
  void End() override {
    if (!*setup_.daemon_ends) EndStdinOnce();
    Close();
  }

  // CRI, ContainerConfig.stdin_once: the container's stdin ends with the first client's, which has closed its FIFO by now.
  // With a terminal it is for the program in there to end. A client of a later daemon's finds the stdin of a container
  // whose client was cut off by the daemon's end as it was.
  void EndStdinOnce() {
    const auto record = setup_.container->Get();
    if (!std::exchange(has_stdin_, false) || !record->config().stdin_once() || record->config().tty()) return;
    task::CloseIORequest request;
    request.set_id(setup_.container->id());
    request.set_stdin(true);
    Call<wkt::Empty>(service::kTask, "CloseIO", request, 0, [](Result<wkt::Empty>) {});
  }

  bool has_stdin_ = false;
};

}  // namespace

std::shared_ptr<StreamSession> StreamSession::MakeExec(Setup setup) { return std::make_shared<ExecSession>(std::move(setup)); }
std::shared_ptr<StreamSession> StreamSession::MakeAttach(Setup setup) { return std::make_shared<AttachSession>(std::move(setup)); }

template <class Response, class Request>
void StreamSession::Call(std::string_view service, const char* method, const Request& request, int64_t timeout_millis,
                         std::function<void(Result<Response>)> then) {
  if (timeout_millis == 0 && !std::is_same_v<Request, task::WaitRequest> && !std::is_same_v<Request, pod::v1::WaitAttachRequest>) {
    timeout_millis = setup_.context.config.shim_timeout_seconds * 1000;
  }
  shim_->ttrpc().Call(service, method, request.SerializeAsString(), timeout_millis,
                      [weak = setup_.loop, then = std::move(then)](Result<std::string> reply) {
                        auto loop = weak.lock();
                        if (!loop) return;
                        loop->Post([then, reply = std::make_shared<Result<std::string>>(std::move(reply))] {
                          if (!*reply) return then(std::move(reply->error()));
                          Response response;
                          if (!response.ParseFromString(**reply)) {
                            return then(MakeError(Code::kInternal, "the companion's response does not parse"));
                          }
                          then(std::move(response));
                        });
                      });
}

template <class... Args>
std::function<void(Args...)> StreamSession::OnLoop(std::type_identity_t<std::function<void(StreamSession&, Args...)>> work) {
  return [weak = weak_from_this(), weak_loop = setup_.loop, work = std::move(work)](Args... args) {
    auto loop = weak_loop.lock();
    if (!loop) return;
    loop->Post([weak, work, args...] {
      if (auto self = weak.lock()) work(*self, args...);
    });
  };
}

void StreamSession::Start(StreamDone done, std::function<void()> on_closed) {
  done_ = std::move(done);
  on_closed_ = std::move(on_closed);
  shim_ = setup_.pod->shim();
  if (!setup_.container && !shim_) return Fail(MakeError(Code::kFailedPrecondition, "pod sandbox '{}' is not running", setup_.pod->id()));
  if (setup_.container && (!shim_ || setup_.container->Get()->state() != runtime::v1::CONTAINER_RUNNING)) {
    return Fail(MakeError(Code::kFailedPrecondition, "container '{}' is not running", setup_.container->id()));
  }
  if (mkdir(setup_.folder.c_str(), 0700) != 0) return Fail(ErrnoError("make directory '{}'", setup_.folder));
  if (auto opened = Open(); !opened) Fail(std::move(opened.error()));
}

std::string StreamSession::PathOf(Fifo which) const { return setup_.folder + "/" + kFifoNames[which]; }

Result<> StreamSession::MakeFifo(Fifo which) {
  std::string path = PathOf(which);
  if (mkfifo(path.c_str(), 0600) != 0) return ErrnoError("make FIFO '{}'", path);
  if (which == kIn) return {};
  // Before its writer: then the end of file is seen only after the writer has come and gone (fifo(7), poll(2)).
  fifos_[which] = UniqueFd(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
  if (!fifos_[which]) return ErrnoError("open FIFO '{}'", path);
  return {};
}

UniqueFd StreamSession::OpenInput() {
  std::string path = PathOf(kIn);
  int flags = O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW;
  UniqueFd fd(open(path.c_str(), O_WRONLY | flags));
  // A shim that has not opened its end yet; what is written waits for it.
  if (!fd && errno == ENXIO) fd = UniqueFd(open(path.c_str(), O_RDWR | flags));
  return fd;
}

void StreamSession::Give(bool has_input) {
  stream::Process process;
  if (has_input) process.in = OpenInput();
  process.out = std::move(fifos_[kOut]);
  process.err = std::move(fifos_[kErr]);
  if (setup_.target.tty) process.resize = OnLoop<uint16_t, uint16_t>(&StreamSession::Resize);
  process.input_end = OnLoop<>([](StreamSession& self) { self.OnInputEnd(); });
  process.wait = OnLoop<std::function<void(Result<int>)>>([](StreamSession& self, std::function<void(Result<int>)> done) {
    if (self.outcome_) return done(*self.outcome_);
    self.waiting_ = std::move(done);
  });
  process.end = OnLoop<>([](StreamSession& self) { self.End(); });
  std::exchange(done_, nullptr)(std::move(process));
}

void StreamSession::Fail(Error error) {
  auto done = std::exchange(done_, nullptr);
  Close();
  done(std::move(error));
}

void StreamSession::SetOutcome(Result<int> outcome) {
  outcome_ = std::move(outcome);
  if (auto waiting = std::exchange(waiting_, nullptr)) waiting(*outcome_);
}

void StreamSession::Close() {
  for (int which = 0; which < kFifos; ++which) {
    fifos_[which].Reset();
    unlink(PathOf(static_cast<Fifo>(which)).c_str());
  }
  rmdir(setup_.folder.c_str());
  waiting_ = nullptr;
  if (auto on_closed = std::exchange(on_closed_, nullptr)) on_closed();
}

// One at a time, then the latest: a client that sends thousands must not fill the companion's queue.
void StreamSession::Resize(uint16_t width, uint16_t height) {
  if (resizing_) {
    next_size_ = {width, height};
    return;
  }
  resizing_ = true;
  task::ResizePtyRequest request;
  request.set_id(container_id());
  request.set_exec_id(exec_id());
  request.set_width(width);
  request.set_height(height);
  Call<wkt::Empty>(service::kTask, "ResizePty", request, 0, [self = shared_from_this()](Result<wkt::Empty>) {
    self->resizing_ = false;
    if (auto next = std::exchange(self->next_size_, std::nullopt)) self->Resize(next->first, next->second);
  });
}

}  // namespace caisson::cri
