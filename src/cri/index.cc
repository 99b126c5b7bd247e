// SPDX-License-Identifier: Apache-2.0
#include "cri/index.h"

#include <algorithm>

#include "cri/container_index.h"
#include "cri/pod_index.h"

namespace caisson::cri {

template <class Object>
typename Index<Object>::Reservation Index<Object>::Reserve(const std::string& name, const std::string& fingerprint) {
  std::unique_lock lock(mutex_);
  if (auto taken = names_.find(name); taken != names_.end()) return {false, true, taken->second};
  auto [at, fresh] = pending_.try_emplace(name);
  if (fresh) {
    at->second = std::make_shared<Pending>();
    at->second->fingerprint = fingerprint;
    return {true, false, {}};
  }
  std::shared_ptr<Pending> pending = at->second;
  if (pending->fingerprint != fingerprint) {
    return {false, false,
            MakeError(Code::kAlreadyExists, "{} name '{}' is being created with another configuration", noun_, name)};
  }
  // The owner's steps all have deadlines, so this ends.
  finished_.wait(lock, [&] { return pending->done; });
  return {false, false, pending->outcome};
}

template <class Object>
void Index<Object>::Finish(const std::string& name, const Result<std::string>& outcome) {
  std::lock_guard lock(mutex_);
  auto at = pending_.find(name);
  if (at == pending_.end()) return;
  at->second->outcome = outcome;
  at->second->done = true;
  pending_.erase(at);
  finished_.notify_all();
}

template <class Object>
Result<> Index<Object>::Announce(const Record& record) {
  return store_->Put(table_, record.id(), record.SerializeAsString(), Store::Room::kFree);
}

template <class Object>
Result<> Index<Object>::Withdraw(const std::string& id) {
  return store_->Delete(table_, id);
}

template <class Object>
Result<> Index<Object>::Insert(const Ptr& object, const std::string& name) {
  TRY(store_->Put(table_, object->id(), object->Get()->SerializeAsString(), Store::Room::kFree));
  std::lock_guard one_at_a_time(object->update_);
  {
    std::lock_guard lock(mutex_);
    objects_[object->id()] = object;
    names_[name] = object->id();
    names_by_id_[object->id()] = name;
  }
  if (observer_) observer_(nullptr, object->Get().get());
  return {};
}

template <class Object>
Result<std::vector<typename Index<Object>::Record>> Index<Object>::Load(
    const std::function<std::string(const Record&)>& name_of) {
  std::vector<Record> unfinished;
  for (auto& [id, bytes] : TRY(store_->Load(table_))) {
    Record record;
    if (!record.ParseFromString(bytes) || record.id() != id) {
      return MakeError(Code::kDataLoss, "the index's record of {} '{}' is damaged", noun_, id);
    }
    if (record.creating()) {
      unfinished.push_back(std::move(record));
      continue;
    }
    auto object = std::make_shared<Object>(std::move(record));
    std::string name = name_of(*object->Get());
    std::lock_guard lock(mutex_);
    objects_[id] = object;
    names_[name] = id;
    names_by_id_[id] = name;
  }
  return unfinished;
}

template <class Object>
Result<> Index<Object>::Change(const Ptr& object, const std::function<void(Record&)>& change, bool even_unwritten) {
  std::lock_guard one_at_a_time(object->update_);
  {
    // An object that Remove has taken out must not come back on disk.
    std::lock_guard lock(mutex_);
    if (!objects_.contains(object->id())) {
      return MakeError(Code::kNotFound, "{} '{}' has been removed", noun_, object->id());
    }
  }
  auto before = object->Get();
  auto next = std::make_shared<Record>(*before);
  change(*next);
  auto written = store_->Put(table_, object->id(), next->SerializeAsString(), Store::Room::kReserve);
  if (!written && !even_unwritten) return written;
  {
    std::lock_guard lock(object->mutex_);
    object->record_ = next;
  }
  if (observer_) observer_(before.get(), next.get());
  return written;
}

template <class Object>
Result<> Index<Object>::Remove(const std::string& id) {
  Ptr object;
  {
    std::lock_guard lock(mutex_);
    auto at = objects_.find(id);
    if (at == objects_.end()) return {};
    object = at->second;
  }
  std::lock_guard one_at_a_time(object->update_);
  TRY(store_->Delete(table_, id));
  {
    std::lock_guard lock(mutex_);
    objects_.erase(id);
    if (auto name = names_by_id_.find(id); name != names_by_id_.end()) {
      if (auto taken = names_.find(name->second); taken != names_.end() && taken->second == id) names_.erase(taken);
      names_by_id_.erase(name);
    }
  }
  if (observer_) observer_(object->Get().get(), nullptr);
  return {};
}

template <class Object>
Result<typename Index<Object>::Ptr> Index<Object>::Find(const std::string& id_or_prefix) const {
  if (id_or_prefix.empty()) return MakeError(Code::kInvalidArgument, "the {} id is empty", noun_);
  std::lock_guard lock(mutex_);
  auto at = objects_.lower_bound(id_or_prefix);
  if (at == objects_.end() || !at->first.starts_with(id_or_prefix)) {
    return MakeError(Code::kNotFound, "{} '{}' does not exist", noun_, id_or_prefix.substr(0, 128));
  }
  if (at->first == id_or_prefix) return at->second;
  auto next = std::next(at);
  if (next != objects_.end() && next->first.starts_with(id_or_prefix)) {
    return MakeError(Code::kInvalidArgument, "'{}' begins the id of more than one {}", id_or_prefix, noun_);
  }
  return at->second;
}

template <class Object>
std::vector<typename Index<Object>::Ptr> Index<Object>::List() const {
  std::vector<Ptr> all;
  {
    std::lock_guard lock(mutex_);
    all.reserve(objects_.size());
    for (const auto& [id, object] : objects_) all.push_back(object);
  }
  std::sort(all.begin(), all.end(),
            [](const Ptr& a, const Ptr& b) { return a->created_at_nanos() < b->created_at_nanos(); });
  return all;
}

template class Index<Pod>;
template class Index<Container>;

}  // namespace caisson::cri
