// SPDX-License-Identifier: Apache-2.0
#include "shim/template_keeper.h"

#include <malloc.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "caisson/guest/v1/guest.pb.h"
#include "shim/guest_client.h"
#include "shim/vm_machine.h"
#include "sys/path.h"
#include "sys/socket.h"

namespace caisson::shim {
namespace {

constexpr int64_t kSaveMillis = 30'000;
constexpr int64_t kHelloMillis = 10'000;
constexpr int64_t kAskMillis = 100;
constexpr int64_t kSettledMillis = 30'000;  // then the template is what the guest is by now
// The agent hears of our leaving within this; one that does not listens when the clone is there.
constexpr int64_t kLeaveMillis = 200;
constexpr int64_t kLastWordsMillis = 200;
constexpr size_t kConsoleBytes = 600;
// Pods come first.
constexpr int kNice = 5;  // setpriority(2): behind pods, but not last: until it is made, each pod of the kind boots

uint64_t BytesOf(int fd) {
  struct stat info {};
  if (fd < 0 || fstat(fd, &info) != 0) return 0;
  return static_cast<uint64_t>(info.st_blocks) * 512;
}

}  // namespace

TemplateKeeper::TemplateKeeper(std::string id, std::string folder, sys::EventLoop* loop, std::function<void()> on_end)
    : id_(std::move(id)), folder_(std::move(folder)), run_dir_(folder_ + "/vm"), loop_(loop), on_end_(std::move(on_end)) {}

TemplateKeeper::~TemplateKeeper() {
  DropVm();
  loop_->CancelTimer(std::exchange(step_timer_, 0));
  loop_->CancelTimer(std::exchange(idle_timer_, 0));
  if (!listener_) return;
  loop_->Unwatch(listener_.get());
  unlink((folder_ + "/" + kTemplateSocket).c_str());
}

void TemplateKeeper::Register(ttrpc::Server* server) {
  constexpr char kService[] = "caisson.keeper.v1.Keeper";
  server->HandleTyped<keeper::v1::MakeRequest, keeper::v1::MakeResponse>(
      kService, "Make", [this](const auto& request, auto respond) { Make(request, std::move(respond)); });
  server->HandleTyped<keeper::v1::StatusRequest, keeper::v1::StatusResponse>(
      kService, "Status", [this](const auto&, auto respond) { respond(Status()); });
}

void TemplateKeeper::Make(const keeper::v1::MakeRequest& request, Made respond) {
  if (begun_) return respond(MakeError(Code::kFailedPrecondition, "template '{}' has been made or failed already", id_));
  begun_ = true;
  request_ = request;
  respond_ = std::move(respond);
  auto begun = Begin();
  if (!begun) Finish(std::move(begun));
}

Result<> TemplateKeeper::Begin() {
  TRY(CheckVmOptions(request_.vm()));
  if (mkdir(run_dir_.c_str(), 0700) != 0 && errno != EEXIST) return ErrnoError("make '{}'", run_dir_);
  vmm::VmConfig config = VmConfigOf(id_, run_dir_, request_.vm());
  files_.state = TRY(vmm::MakeStateFile());
  if (request_.share_memory()) {
    files_.memory = TRY(vmm::MakeMemoryFile(config.memory_bytes));
    config.memory = {sys::FdPath(files_.memory.get()), true};
  }
  // The VMM inherits it.
  int nice = getpriority(PRIO_PROCESS, 0);
  setpriority(PRIO_PROCESS, 0, std::max(nice, kNice));
  auto started = StartVm(std::move(config));
  setpriority(PRIO_PROCESS, 0, nice);
  return started;
}

Result<> TemplateKeeper::StartVm(vmm::VmConfig config) {
  auto [ours, files_of_vm] = TRY(MakeFilesPort());
  config.files_fd = files_of_vm.get();
  port_ = std::move(ours);
  vm_ = TRY(vmm::CreateQemu(std::move(config), loop_));
  TRY(vm_->Start(kVmmMillis));
  TRY(loop_->Watch(vm_->pidfd(), EPOLLIN, [this](uint32_t) { Finish(MakeError(Code::kInternal, "the VMM ended: {}", vm_->EndReason())); }));
  greeting_ = ttrpc::Greeting::AsClient(loop_, TRY(vm_->OpenChannel(kVmmMillis)), kBootMillis,
                                        [this](Result<UniqueFd> stream) { OnGreeted(std::move(stream)); });
  return {};
}

void TemplateKeeper::OnGreeted(Result<UniqueFd> stream) {
  if (!stream) return Finish(std::move(stream.error()));
  auto client = ttrpc::Client::Create(loop_, std::move(*stream));
  if (!client) return Finish(std::move(client.error()));
  client_ = std::move(*client);
  settle_by_ = MonotonicNanos() + kSettledMillis * kNanosPerMilli;
  Ask();
}

void TemplateKeeper::Ask() {
  client_->Call(guest_service::kGuest, "Hello", "", kHelloMillis, [this](Result<std::string> payload) {
    if (!respond_ || !vm_) return;
    guest::v1::HelloResponse hello;
    if (!payload) return Finish(std::move(payload.error()));
    if (!hello.ParseFromString(*payload)) return Finish(MakeError(Code::kInternal, "the guest's answer to Hello does not parse"));
    if (hello.settled() || MonotonicNanos() > settle_by_) return Leave();
    step_timer_ = loop_->After(kAskMillis, [this] {
      step_timer_ = 0;
      Ask();
    });
  });
}

void TemplateKeeper::Leave() {
  step_timer_ = loop_->After(kLeaveMillis, [this] {
    step_timer_ = 0;
    auto saved = Save();
    if (saved) saved = Publish();
    Finish(std::move(saved));
  });
  client_->Close();
}

Result<> TemplateKeeper::Save() {
  loop_->Unwatch(vm_->pidfd());
  TRY(vm_->Pause(kVmmMillis));
  TRY(vm_->Save(files_.state.get(), kSaveMillis));
  DropVm();
  TRY(vmm::SealMemoryFile(files_.state.get()));
  if (files_.memory) TRY(vmm::SealMemoryFile(files_.memory.get()));
  return {};
}

// The last step: whoever finds the socket finds all of it.
Result<> TemplateKeeper::Publish() {
  listener_ = TRY(sys::ListenUnixAnew(folder_ + "/" + kTemplateSocket));
  return loop_->Watch(listener_.get(), EPOLLIN, [this](uint32_t) { OnClient(); });
}

void TemplateKeeper::OnClient() {
  UniqueFd client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!client) return;
  auto peer = sys::PeerOf(client.get());
  if (!peer || peer->uid != geteuid()) return log::Warn("template {}: user {} asked for it", id_, peer ? peer->uid : 0);
  auto sent = SendTemplate(client.get(), files_);
  if (!sent) return log::Warn("template {}: {}", id_, sent.error().message);
  ++uses_;
  used_at_ = NowNanos();
  RestartIdleTimer();
}

void TemplateKeeper::Finish(Result<> result) {
  Made respond = std::exchange(respond_, nullptr);
  if (!respond) return;
  loop_->CancelTimer(std::exchange(step_timer_, 0));
  if (result) {
    made_at_ = NowNanos();
    RestartIdleTimer();
    malloc_trim(0);
    return respond(keeper::v1::MakeResponse());
  }
  std::string tail = vm_ ? vm_->ConsoleTail(kConsoleBytes) : "";
  DropVm();
  files_ = {};
  Error error = MakeError(result.error().code, "{}{}{}", result.error().message, tail.empty() ? "" : "; its console ends with: ", tail);
  log::Error("template {}: {}", id_, error.message);
  respond(std::move(error));
  loop_->After(kLastWordsMillis, on_end_);
}

void TemplateKeeper::DropVm() {
  greeting_.reset();
  if (client_) {
    client_->Close();
    // We may be called by it.
    loop_->Post([client = std::move(client_)] {});
  }
  if (!vm_) return;
  if (vm_->pidfd() >= 0) loop_->Unwatch(vm_->pidfd());
  vm_.reset();
  port_.Reset();
  rmdir(run_dir_.c_str());
}

void TemplateKeeper::RestartIdleTimer() {
  loop_->CancelTimer(std::exchange(idle_timer_, 0));
  if (request_.idle_millis() <= 0) return;
  idle_timer_ = loop_->After(request_.idle_millis(), [this] {
    idle_timer_ = 0;
    log::Info("template {}: unused for {} s", id_, request_.idle_millis() / 1000);
    on_end_();
  });
}

keeper::v1::StatusResponse TemplateKeeper::Status() const {
  keeper::v1::StatusResponse status;
  status.set_ready(listener_.valid());
  if (begun_) *status.mutable_made() = request_;
  status.set_bytes(BytesOf(files_.state.get()) + BytesOf(files_.memory.get()));
  status.set_made_at_nanos(made_at_);
  status.set_used_at_nanos(used_at_);
  status.set_uses(uses_);
  return status;
}

}  // namespace caisson::shim
