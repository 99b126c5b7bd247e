// SPDX-License-Identifier: Apache-2.0
//
// ProcessSession: one exec or attach, whatever its client speaks: asks the backend for the process, moves its streams,
// waits for its end and tells the client how it ended. The protocol's half is a ProcessClient, which owns the session
// and calls Stop in its destructor; after that the session calls nobody and has freed all. On the loop's thread.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "stream/fd_io.h"
#include "stream/loop.h"
#include "stream/tokens.h"

namespace caisson::stream {

enum class Output { kOut, kErr };

class ProcessClient {
 public:
  virtual ~ProcessClient() = default;
  virtual void SendOutput(Output which, std::string_view data) = 0;
  virtual bool OutputCongested(Output which) const = 0;
  // Input that had been queued is with the process now.
  virtual void OnInputTaken(size_t bytes) = 0;
  // The session is over; nothing else is called after this.
  virtual void OnOutcome(const Result<int>& exit_code) = 0;
};

class ProcessSession : public std::enable_shared_from_this<ProcessSession> {
 public:
  ProcessSession(const Loop& loop, ProcessClient& client, ExecTarget target, bool attach)
      : loop_(loop), client_(&client), target_(std::move(target)), attach_(attach), drain_(*loop.context) {}

  void Start();
  void Stop();

  // True if the process has taken all of it at once; else OnInputTaken says when it has.
  bool OnInput(std::string_view data);
  void OnInputEnd();
  void OnTerminalSize(std::string_view json);
  // Bytes of input that wait for the process.
  size_t input_queued() const { return input_ ? input_->queued() : early_input_.size(); }
  // The client takes output again.
  void OnWritable();

  const ExecTarget& target() const { return target_; }

 private:
  // What the backend brought, ended exactly once however the session goes.
  struct Owned {
    explicit Owned(Process given) : process(std::move(given)) {}
    ~Owned() {
      if (process.end) process.end();
    }
    Process process;
  };

  void Begin(std::shared_ptr<Owned> owned);
  Result<> OpenStreams();
  Result<std::shared_ptr<FdReader>> Read(UniqueFd fd, Output which);
  void OnOutputEnd();
  void OnExit(Result<int> exit_code);
  void OnQuiet();
  void Conclude(const Result<int>& exit_code);
  void ApplyTerminalSize();

  Loop loop_;
  ProcessClient* client_;  // null after Stop
  const ExecTarget target_;
  const bool attach_;
  std::shared_ptr<Owned> owned_;
  std::shared_ptr<FdWriter> input_;
  std::shared_ptr<FdReader> out_, err_;
  int outputs_open_ = 0;
  std::string early_input_, sizes_;  // what came before the process
  bool early_input_end_ = false, size_known_ = false;
  uint16_t width_ = 0, height_ = 0;
  size_t input_taken_late_ = 0;
  std::optional<Result<int>> exit_code_;
  boost::asio::steady_timer drain_;
  bool quiet_ = false, has_wait_ = false;
};

}  // namespace caisson::stream
