// SPDX-License-Identifier: Apache-2.0
//
// The commands of another project's shim as containerd gives them (containerd's core/runtime/v2/README.md): `start` leaves a process behind that serves
// the Task API for a pod and says where, `delete` removes what a dead one has left of a container. Both block their caller, under
// a deadline, and what they print is bounded. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "caisson/pod/v1/pod.pb.h"
#include "caisson/wkt/wkt.pb.h"

namespace caisson::shim {

// containerd's namespace that its shims are told.
inline constexpr char kForeignNamespace[] = "caisson";
inline constexpr int64_t kForeignStartMillis = 15'000;

struct ForeignAddress {
  int version = 2;     // of the Task service
  std::string socket;  // path of a unix socket
};

// What `start` has printed: an address alone (version 2), or a JSON object. kInvalidArgument for what is neither, kUnimplemented
// for an address or a protocol that we do not speak.
Result<ForeignAddress> ParseShimAnswer(std::string_view answer);

// The options of a handler as the shim of that type understands them: containerd.runc.v1.Options for "…runc…" and our own, else
// runtimeoptions.v1.Options. kInvalidArgument names what is no option of these, or has no such value. Empty: there are none.
Result<wkt::Any> ShimOptionsOf(const pod::v1::ForeignRuntime& runtime, bool systemd_cgroup);

struct ForeignCommand {
  std::string program, id;
  std::string bundle;  // the folder it begins in
  std::string events;  // path of the unix socket that takes its events
};
// `start`, with `options` for its stdin. Errors hold what it said; what it has left running is a child of this process, which
// is a child subreaper, or below one.
Result<ForeignAddress> StartForeignShim(const ForeignCommand& command, const wkt::Any& options, int64_t deadline_millis);
Result<> DeleteForeignContainer(const ForeignCommand& command, int64_t deadline_millis);

// The processes whose parent is this one. Errors: /proc cannot be read.
Result<std::vector<int>> OwnChildren();

}  // namespace caisson::shim
