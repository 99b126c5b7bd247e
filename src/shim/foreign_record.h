// SPDX-License-Identifier: Apache-2.0
//
// What a companion that drives another project's shim leaves behind for whoever must clean up after its sudden death, in
// <bundle>/foreign-shim: the shim's program and socket, and the containers that it has. Its cgroups, and so its processes, are in
// cgroup_record.h's file. Written before the thing itself is made.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace caisson::shim {

class ForeignRecord {
 public:
  // Nothing is written yet. `bundle`: the pod's.
  explicit ForeignRecord(std::string bundle) : bundle_(std::move(bundle)) {}

  Result<> Begin(const std::string& program, const std::string& events);
  Result<> SetSocket(const std::string& socket);
  Result<> Add(const std::string& id, const std::string& bundle);
  // It has been deleted. Not known: success.
  Result<> Remove(const std::string& id);

 private:
  Result<> Write() const;

  const std::string bundle_;
  std::string program_, events_, socket_;
  std::vector<std::pair<std::string, std::string>> containers_;  // id and bundle
};

// Removes what is on record in the pod's bundle, by the shim's `delete` and, where that fails, without it: mounts and the socket. Its
// processes must have been killed. Idempotent; nothing recorded is success.
Result<> CleanUpForeign(const std::string& bundle);

}  // namespace caisson::shim
