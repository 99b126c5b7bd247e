// SPDX-License-Identifier: Apache-2.0
//
// EventPublisher tells containerd of the events of a companion's tasks (containerd.services.events.ttrpc.v1.Events/Forward on the
// socket that containerd names in TTRPC_ADDRESS): one at a time, in the order in which they came. While containerd is away they are
// kept and tried again; past kMaxEvents the oldest goes. One that was on its way when the connection broke is told again, so
// containerd may hear of it twice. One thread, the loop's.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "sys/event_loop.h"
#include "task/events.h"
#include "ttrpc/client.h"

namespace caisson::shim {

class EventPublisher {
 public:
  static constexpr size_t kMaxEvents = 4096;  // that wait
  static constexpr int64_t kCallMillis = 5'000;  // until containerd has taken one

  // `address`: the path of containerd's socket. `containerd_namespace` goes with every event. `loop` outlives it.
  EventPublisher(sys::EventLoop* loop, std::string address, std::string containerd_namespace);
  EventPublisher(const EventPublisher&) = delete;
  EventPublisher& operator=(const EventPublisher&) = delete;
  ~EventPublisher();

  void Publish(const task::Event& event);
  // `done` runs when nothing waits any more, or after `millis`; once. One at a time.
  void Flush(int64_t millis, std::function<void()> done);

 private:
  void SendNext();
  Result<> Connect();
  void OnAnswer(Result<std::string> answer);
  void RetryLater();
  void FinishFlush();

  sys::EventLoop* loop_;
  const std::string address_, namespace_;
  std::shared_ptr<ttrpc::Client> client_;
  std::deque<std::string> waiting_;  // ForwardRequests
  bool sending_ = false;             // the first of them
  sys::EventLoop::TimerId retry_ = 0, flush_ = 0;
  int64_t retry_millis_ = 0;
  uint64_t dropped_ = 0;
  std::function<void()> flushed_;
  std::shared_ptr<bool> alive_;  // answers may come after our end
};

}  // namespace caisson::shim
