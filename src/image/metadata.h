// SPDX-License-Identifier: Apache-2.0
//
// Metadata: what the image store remembers, as JSON records in one SQLite file (WAL, synchronous=NORMAL: a record
// survives the daemon's death at once). Deleting works on a full disk too: a reserve beside the file keeps room for it.
// The store keeps everything in memory too and reads this only when it opens.
// Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace caisson::image {

class Metadata {
 public:
  static constexpr int kSchemaVersion = 1;

  // Errors name the file: damaged, not ours, of a newer schema.
  static Result<std::unique_ptr<Metadata>> Open(const std::string& path);
  virtual ~Metadata() = default;

  virtual Result<> Put(const char* kind, const std::string& id, const Json& record) = 0;
  struct Row {
    const char* kind;
    std::string id;
    std::string json;
  };
  // All of them or, on an error, none.
  virtual Result<> PutAll(const std::vector<Row>& rows) = 0;
  // Absent: success.
  virtual Result<> Delete(const char* kind, const std::string& id) = 0;
  virtual Result<> ForEach(const char* kind, const std::function<Result<>(const std::string& id, const Json& record)>& visit) = 0;
};

}  // namespace caisson::image
