// SPDX-License-Identifier: Apache-2.0
//
// What a companion that drives another project's shim leaves behind for whoever must clean up after its sudden death, in
// <bundle>/foreign-shim: the shim's program, and its containers, each with the socket of the shim process that was started for it. Its cgroups, and so its processes, are in
// cgroup_record.h's file. Written before the thing itself is made.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace caisson::shim {

class ForeignRecord {
 public:
  // Nothing is written yet. `bundle`: the pod's.
  explicit ForeignRecord(std::string bundle) : bundle_(std::move(bundle)) {}

  Result<> Begin(const std::string& program, const std::string& events);
  Result<> Add(const std::string& id, const std::string& bundle);
  // Of a container that has been added.
  Result<> SetSocket(const std::string& id, const std::string& socket);
  // It has been deleted. Not known: success.
  Result<> Remove(const std::string& id);

 private:
  struct Container {
    std::string id, bundle, socket;
  };

  Result<> Write() const;

  const std::string bundle_;
  std::string program_, events_;
  std::vector<Container> containers_;
};

// What is no socket stays.
void RemoveShimSocket(const std::string& path);

// Removes what is on record in the pod's bundle, by the shim's `delete` and, where that fails, without it: mounts and the socket. Its
// processes must have been killed. Idempotent; nothing recorded is success.
Result<> CleanUpForeign(const std::string& bundle);

}  // namespace caisson::shim
