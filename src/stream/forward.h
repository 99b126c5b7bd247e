// SPDX-License-Identifier: Apache-2.0
//
// Forward: one connection to a port inside a pod. Owned by the protocol's half, which calls Stop when it drops it;
// after that nothing is called. On the loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "stream/fd_io.h"
#include "stream/loop.h"

namespace caisson::stream {

class Forward : public std::enable_shared_from_this<Forward> {
 public:
  struct Events {
    std::function<void(std::string_view)> data;       // from the pod
    std::function<void()> end;                        // the pod sends no more
    std::function<void(const std::string&)> failure;  // no connection: why, for the client
    std::function<void(size_t)> taken;                // bytes that had been queued are with the pod now
  };

  Forward(const Loop& loop, Events events) : loop_(loop), events_(std::move(events)) {}
  // `slot` is let go when the backend has answered, be this still here or not.
  void Start(const std::string& pod_id, uint16_t port, std::shared_ptr<void> slot);
  void Stop();

  // True if the pod has taken all of it at once; else `taken` says when it has.
  bool Write(std::string_view data);
  void WriteEnd();
  bool stopped() const { return stopped_; }
  size_t queued() const { return writer_ ? writer_->queued() : early_.size(); }
  void PauseReading(bool paused) {
    if (reader_) reader_->Pause(paused);
  }

 private:
  Result<> Begin(UniqueFd fd);
  void Taken() {
    if (taken_late_ > 0 && events_.taken) events_.taken(std::exchange(taken_late_, 0));
  }

  Loop loop_;
  Events events_;
  std::shared_ptr<FdReader> reader_;
  std::shared_ptr<FdWriter> writer_;
  std::string early_;  // came before the connection
  bool early_end_ = false, stopped_ = false;
  size_t taken_late_ = 0;
};

}  // namespace caisson::stream
