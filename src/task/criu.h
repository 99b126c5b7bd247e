// SPDX-License-Identifier: Apache-2.0
//
// CriuCall: one request to a criu(8) that runs as our child (`criu swrk`), on the event loop. criu asks back before it goes
// on (notifications) and answers at the end. Never unbounded: past its deadline criu is killed, by its pidfd.
//
// The call keeps itself alive until `done` has run, which it does exactly once, never from Start. One thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "criu/rpc.pb.h"
#include "sys/event_loop.h"

namespace caisson::task {

class CriuCall : public std::enable_shared_from_this<CriuCall> {
 public:
  struct Setup {
    sys::EventLoop* loop = nullptr;
    UniqueFd socket;      // ours of a SOCK_SEQPACKET pair
    UniqueFd pidfd;       // criu's
    int64_t deadline_millis = 0;
    std::string log_path; // what criu writes; its last words are part of an error
    // Of a notification, by its script's name; an error ends the call with that error.
    std::function<Result<>(const criu::Notification&)> on_notify;
    std::function<void(Result<criu::Response>)> done;
  };

  static void Start(Setup setup, const criu::Request& request);
  explicit CriuCall(Setup setup) : setup_(std::move(setup)) {}

 private:
  Result<> Send(const criu::Request& request);
  void OnReadable();
  void OnNotify(const criu::Notification& notification);
  void End(Result<criu::Response> outcome);
  Error Failure(const std::string& what) const;

  Setup setup_;
  sys::EventLoop::TimerId timer_ = 0;
  bool ended_ = false;
  Result<> refused_;  // by on_notify
};

// A SOCK_SEQPACKET pair for it.
struct CriuSockets {
  UniqueFd ours, criu;
};
Result<CriuSockets> MakeCriuSockets();

// Of criu's log, the lines that say what went wrong: the last few that begin so, bounded.
std::string LastWords(std::string_view log);

}  // namespace caisson::task
