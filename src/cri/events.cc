// SPDX-License-Identifier: Apache-2.0
#include "cri/events.h"

#include <chrono>

#include "base/clock.h"
#include "base/limits.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {

namespace v1 = runtime::v1;

void Events::Add(v1::ContainerEventType type, const std::string& id, const std::string& pod_id) {
  Message event;
  event.set_container_id(id);
  event.set_container_event_type(type);
  event.set_created_at(NowNanos());
  event.mutable_pod_sandbox_status()->set_id(pod_id);
  std::unique_lock lock(mutex_);
  if (closed_) return;
  if (clients_.empty()) return Keep(std::move(event));
  // It reads the indexes, whose observers may be waiting here.
  lock.unlock();
  describe_(pod_id, &event);
  lock.lock();
  if (clients_.empty()) return Keep(std::move(event));
  for (Client* client : clients_) {
    client->lost_ = client->lost_ || client->queue_.size() == limits::kEvents;
    if (!client->lost_) client->queue_.push_back(event);
  }
  changed_.notify_all();
}

void Events::Keep(Message event) {
  std::string pod_id = event.pod_sandbox_status().id();
  event.clear_containers_statuses();
  event.mutable_pod_sandbox_status()->Clear();
  event.mutable_pod_sandbox_status()->set_id(pod_id);
  if (kept_.size() == limits::kEvents) kept_.pop_front();
  kept_.push_back(std::move(event));
}

Result<std::unique_ptr<Events::Client>> Events::Listen() {
  std::deque<Message> kept;
  auto client = std::make_unique<Client>(*this);
  {
    std::lock_guard lock(mutex_);
    if (clients_.size() == limits::kEventClients) {
      return MakeError(Code::kResourceExhausted, "{} clients listen to events already", clients_.size());
    }
    kept.swap(kept_);
    clients_.push_back(client.get());
  }
  for (Message& event : kept) {
    std::string pod_id = event.pod_sandbox_status().id();  // which is replaced
    describe_(pod_id, &event);
  }
  std::lock_guard lock(mutex_);
  client->queue_.insert(client->queue_.begin(), std::make_move_iterator(kept.begin()), std::make_move_iterator(kept.end()));
  return client;
}

Result<std::optional<Events::Message>> Events::Client::Next(int64_t millis) {
  std::unique_lock lock(events_.mutex_);
  if (given_) queue_.pop_front();
  given_ = false;
  events_.changed_.wait_for(lock, std::chrono::milliseconds(millis),
                            [&] { return events_.closed_ || lost_ || !queue_.empty(); });
  if (events_.closed_) return MakeError(Code::kUnavailable, "caissond is about to end");
  if (lost_) return MakeError(Code::kResourceExhausted, "the client did not take {} events", limits::kEvents);
  if (queue_.empty()) return std::optional<Message>();
  given_ = true;
  return std::optional<Message>(queue_.front());
}

void Events::Leave(Client& client) {
  std::lock_guard lock(mutex_);
  clients_.remove(&client);
  if (!clients_.empty() || client.lost_) return;
  for (Message& event : client.queue_) Keep(std::move(event));
}

void Events::Close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

void TellChanges(PodIndex& pods, ContainerIndex& containers, Events& events) {
  pods.OnChange([&events](const PodRecord* before, const PodRecord* after) {
    const std::string& id = after ? after->id() : before->id();
    bool was_ready = before && before->state() == v1::SANDBOX_READY;
    bool is_ready = after && after->state() == v1::SANDBOX_READY;
    if (!before) events.Add(v1::CONTAINER_CREATED_EVENT, id, id);
    if (!was_ready && is_ready) events.Add(v1::CONTAINER_STARTED_EVENT, id, id);
    if (was_ready && !is_ready) events.Add(v1::CONTAINER_STOPPED_EVENT, id, id);
    if (!after) events.Add(v1::CONTAINER_DELETED_EVENT, id, id);
  });
  containers.OnChange([&events](const ContainerRecord* before, const ContainerRecord* after) {
    const ContainerRecord& any = after ? *after : *before;
    auto tell = [&](v1::ContainerEventType type) { events.Add(type, any.id(), any.pod_id()); };
    if (!before) tell(v1::CONTAINER_CREATED_EVENT);
    if (!after) return tell(v1::CONTAINER_DELETED_EVENT);
    v1::ContainerState from = before ? before->state() : v1::CONTAINER_CREATED;
    // One that ended at once may be seen running never.
    bool started = after->state() == v1::CONTAINER_RUNNING || (after->state() == v1::CONTAINER_EXITED && after->started_at_nanos() != 0);
    if (from == v1::CONTAINER_CREATED && started) tell(v1::CONTAINER_STARTED_EVENT);
    if (from != v1::CONTAINER_EXITED && after->state() == v1::CONTAINER_EXITED) tell(v1::CONTAINER_STOPPED_EVENT);
  });
}

void DescribePod(const PodIndex& pods, const ContainerIndex& containers, const std::string& pod_id, Events::Message* event) {
  if (auto pod = pods.Find(pod_id)) *event->mutable_pod_sandbox_status() = PodStatusOf(*(*pod)->Get());
  for (const ContainerPtr& container : containers.List()) {
    auto record = container->Get();
    if (record->pod_id() == pod_id) *event->add_containers_statuses() = ContainerStatusOf(*record);
  }
}

}  // namespace caisson::cri
