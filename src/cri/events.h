// SPDX-License-Identifier: Apache-2.0
//
// Events: what GetContainerEvents tells (the kubelet's evented PLEG): that a container, or the sandbox of a pod, was
// created, started, has stopped, was removed. They come from the changes of the indexes, so that every way in which a
// record changes tells it, recovery after a restart included.
//
// What happens while nobody listens is kept, the newest limits::kEvents of it, for the next who asks: a client that was
// away for a moment, or that comes back after the daemon's restart, learns of it. What a client has not taken when it
// goes is kept in the same way. A client that takes nothing is cut off when limits::kEvents wait for it: it must list
// then, as after any break. Thread-safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/result.h"
#include "cri/container_index.h"
#include "cri/pod_index.h"
#include "cri/v1/api.pb.h"

namespace caisson::cri {

class Events {
 public:
  using Message = runtime::v1::ContainerEventResponse;
  // Sets the statuses of the pod and of its containers.
  using Describe = std::function<void(const std::string& pod_id, Message* event)>;

  explicit Events(Describe describe) : describe_(std::move(describe)) {}

  // `id`: the container, or the pod itself.
  void Add(runtime::v1::ContainerEventType type, const std::string& id, const std::string& pod_id);

  class Client {
   public:
    explicit Client(Events& events) : events_(events) {}
    ~Client() { events_.Leave(*this); }
    // The next event, which stays the client's until the call after: what it was given last is taken then. None when
    // `millis` have passed. kResourceExhausted: it was too slow; kUnavailable: the daemon ends.
    Result<std::optional<Message>> Next(int64_t millis);

   private:
    friend class Events;
    Events& events_;
    std::deque<Message> queue_;  // the first is given out already if `given_`
    bool given_ = false, lost_ = false;
  };
  // kResourceExhausted when limits::kEventClients listen already. Outlived by this.
  Result<std::unique_ptr<Client>> Listen();
  // No more events: Next answers kUnavailable.
  void Close();

 private:
  void Leave(Client& client);
  void Keep(Message event);  // with mutex_ held

  const Describe describe_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Client*> clients_;
  std::deque<Message> kept_;  // with the pod's id, without statuses
  bool closed_ = false;
};

// Makes the indexes' changes events. Before anything changes.
void TellChanges(PodIndex& pods, ContainerIndex& containers, Events& events);
// The Describe of the daemon.
void DescribePod(const PodIndex& pods, const ContainerIndex& containers, const std::string& pod_id, Events::Message* event);

}  // namespace caisson::cri
