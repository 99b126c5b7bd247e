// SPDX-License-Identifier: Apache-2.0
//
// Store: the index on disk, one SQLite file in WAL mode with synchronous=NORMAL: a change survives the death of the
// daemon at once, and a power failure up to the last checkpoint, which a background thread makes so that no RPC waits for
// a disk. Opening checks the schema version and the file's integrity; a file that is not ours or is damaged is an
// error that says so, never an empty index. Forgetting works on a full disk too: a reserve beside the file keeps room for
// it. Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace caisson::cri {

class Store {
 public:
  enum class Table { kPods, kContainers };
  static constexpr int kSchemaVersion = 1;

  // Creates the file if it does not exist.
  static Result<std::unique_ptr<Store>> Open(const std::string& path);
  virtual ~Store() = default;

  // The room on disk that a change may use: the reserve is for what makes room, or has happened anyway.
  enum class Room { kFree, kReserve };

  // Inserts or replaces the row.
  virtual Result<> Put(Table table, const std::string& id, const std::string& bytes, Room room) = 0;
  // Absent: success.
  virtual Result<> Delete(Table table, const std::string& id) = 0;
  // All rows of a table as {id, bytes}.
  virtual Result<std::vector<std::pair<std::string, std::string>>> Load(Table table) = 0;
  // A value kept beside the tables ("" if there is none).
  virtual Result<std::string> GetValue(const std::string& key) = 0;
  virtual Result<> PutValue(const std::string& key, const std::string& value) = 0;
};

}  // namespace caisson::cri
