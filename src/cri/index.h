// SPDX-License-Identifier: Apache-2.0
//
// Index<Object>: the daemon's memory of its pods or of its containers, backed by a table of the Store. An object is
// found by id (or an unambiguous prefix of it), and its metadata name is reserved while its creation is under way.
//
// Object derives from Entry<Record>: the record is an immutable snapshot that is replaced as a whole, so that readers
// never wait and never see half a change. A change is on disk before it can be seen. Thread-safe.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "cri/store.h"

namespace caisson::cri {

template <class RecordType>
class Entry {
 public:
  using Record = RecordType;
  explicit Entry(Record record) : record_(std::make_shared<const Record>(std::move(record))) {}
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;

  std::shared_ptr<const Record> Get() const {
    std::lock_guard lock(mutex_);
    return record_;
  }
  const std::string& id() const { return id_; }
  int64_t created_at_nanos() const { return created_at_nanos_; }

  // Held by whoever starts, stops or removes the object, so that these follow each other.
  std::mutex operation;

 private:
  template <class>
  friend class Index;
  std::mutex update_;  // one change at a time; never held by readers
  mutable std::mutex mutex_;
  std::shared_ptr<const Record> record_;
  const std::string id_ = record_->id();
  const int64_t created_at_nanos_ = record_->created_at_nanos();
};

template <class Object>
class Index {
 public:
  using Record = typename Object::Record;
  using Ptr = std::shared_ptr<Object>;

  // `noun`: "pod sandbox" or "container", for messages. `store` outlives the index.
  Index(Store* store, Store::Table table, std::string noun)
      : store_(store), table_(table), noun_(std::move(noun)) {}

  // A name being created. The first to ask owns it and must call Finish.
  struct Reservation {
    bool owner = false;
    bool exists = false;          // an object of that name is in the index already; outcome is its id
    Result<std::string> outcome;  // meaningful when !owner: the id, or why the owner failed
  };
  // If the name's creation is under way with the same `fingerprint`, waits for it and returns its outcome; with another
  // fingerprint the outcome is kAlreadyExists.
  Reservation Reserve(const std::string& name, const std::string& fingerprint);
  // The owner's last word: the id on success. After an error the name is free again.
  void Finish(const std::string& name, const Result<std::string>& outcome);

  // Puts a record that says `creating` on disk only, so that a daemon that dies now leaves a trace to undo.
  Result<> Announce(const Record& record);
  // Takes the trace back, after the undo.
  Result<> Withdraw(const std::string& id);
  // Puts a finished object on disk and then into the index. Its name stays taken until Remove.
  Result<> Insert(const Ptr& object, const std::string& name);
  // Called after each change of an object: with null for what was not there before, or is not there any more. It may read
  // the index, and change nothing. Set before the first change.
  using Observer = std::function<void(const Record* before, const Record* after)>;
  void OnChange(Observer observer) { observer_ = std::move(observer); }
  // Reads the table back at start. `name_of` gives the metadata name of a record. Returns the records that say
  // `creating`: they are not in the index.
  Result<std::vector<Record>> Load(const std::function<std::string(const Record&)>& name_of);
  // Changes the record; on disk first. Errors: the store's; then nothing has changed.
  Result<> Update(const Ptr& object, const std::function<void(Record&)>& change) {
    return Change(object, change, false);
  }
  // The same for what has happened whether the disk takes it or not (an exit): seen also when writing failed.
  Result<> Observe(const Ptr& object, const std::function<void(Record&)>& change) {
    return Change(object, change, true);
  }
  // Forgets the object, on disk and here. Absent: success.
  Result<> Remove(const std::string& id);

  // By id or unambiguous prefix. kNotFound names the id.
  Result<Ptr> Find(const std::string& id_or_prefix) const;
  std::vector<Ptr> List() const;  // oldest first

 private:
  Result<> Change(const Ptr& object, const std::function<void(Record&)>& change, bool even_unwritten);

  struct Pending {
    std::string fingerprint;
    bool done = false;
    Result<std::string> outcome;
  };

  Store* store_;
  const Store::Table table_;
  const std::string noun_;
  Observer observer_;
  mutable std::mutex mutex_;
  std::condition_variable finished_;
  std::map<std::string, Ptr> objects_;                               // by id
  std::map<std::string, std::string> names_;                         // name -> id
  std::map<std::string, std::string> names_by_id_;                   // id -> name
  std::map<std::string, std::shared_ptr<Pending>> pending_;          // by name
};

}  // namespace caisson::cri
