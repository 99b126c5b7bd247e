// SPDX-License-Identifier: Apache-2.0
//
// StreamSession: one exec or attach of the streaming server, between the server's descriptors and the container's
// companion, through FIFOs in a private folder. Exec is containerd's Task API and nothing else, so that any shim serves
// it; Attach is caisson.pod.v1.Pod's.
//
// Life cycle: Start; then `done` once, with the process or why there is none; when the server says that the session is
// over a process that still runs is killed with all that came of it, what the companion knows of it is deleted, the
// folder is removed, and `on_closed` runs, once. All on the loop's thread but what stream::Process's callbacks post to
// it. Nothing here blocks.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "base/guest_words.h"
#include "cri/context.h"
#include "stream/server.h"
#include "sys/event_loop.h"

namespace caisson::cri {

using StreamDone = std::function<void(Result<stream::Process>)>;

class StreamSession : public std::enable_shared_from_this<StreamSession> {
 public:
  struct Setup {
    Context& context;
    std::weak_ptr<sys::EventLoop> loop;  // not owned: the loop may hold what holds this
    ContainerPtr container;  // null: the process is in no container but in the guest of a VM pod (kGuestDebugContainer)
    PodPtr pod;
    stream::ExecTarget target;
    std::string id;      // also the folder's name
    std::string folder;  // does not exist yet
    std::shared_ptr<const std::atomic<bool>> daemon_ends;  // then containers are not to notice
  };
  static std::shared_ptr<StreamSession> MakeExec(Setup setup);
  static std::shared_ptr<StreamSession> MakeAttach(Setup setup);

  virtual ~StreamSession() = default;
  void Start(StreamDone done, std::function<void()> on_closed);

 protected:
  enum Fifo { kIn, kOut, kErr, kLife, kFifos };

  explicit StreamSession(Setup setup) : setup_(std::move(setup)) {}
  std::string container_id() const { return setup_.container ? setup_.container->id() : kGuestDebugContainer; }
  // Begins the calls to the companion.
  virtual Result<> Open() = 0;
  // The server is done with it; ends in Close.
  virtual void End() = 0;
  virtual std::string exec_id() const { return {}; }
  virtual void OnInputEnd() {}

  // Makes the FIFO and, for what comes from the companion, opens it.
  Result<> MakeFifo(Fifo which);
  std::string PathOf(Fifo which) const;
  // Hands the process over, with `in` if the companion reads it.
  void Give(bool has_input);
  // Before Give: there will be no process.
  void Fail(Error error);
  void SetOutcome(Result<int> outcome);
  void Close();

  // Calls the companion; `then` runs on the loop's thread.
  template <class Response, class Request>
  void Call(std::string_view service, const char* method, const Request& request, int64_t timeout_millis,
            std::function<void(Result<Response>)> then);

  Setup setup_;
  std::shared_ptr<ShimClient> shim_;
  UniqueFd fifos_[kFifos];

 private:
  // A function that runs `work` on the loop's thread if this is still there; of any thread.
  template <class... Args>
  std::function<void(Args...)> OnLoop(std::type_identity_t<std::function<void(StreamSession&, Args...)>> work);
  UniqueFd OpenInput();
  void Resize(uint16_t width, uint16_t height);

  StreamDone done_;
  std::function<void()> on_closed_;
  std::optional<Result<int>> outcome_;
  std::function<void(Result<int>)> waiting_;
  bool resizing_ = false;
  std::optional<std::pair<uint16_t, uint16_t>> next_size_;  // came while another is being set
};

}  // namespace caisson::cri
