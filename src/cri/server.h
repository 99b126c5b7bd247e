// SPDX-License-Identifier: Apache-2.0
//
// Server: the CRI's two gRPC services on unix sockets. It maps each verb to its function in rpc/ and an Error to a gRPC
// status, and logs what failed. A verb without a function answers Unimplemented with a sentence that names it.
//
// Start serves at once; Stop lets RPCs in work end until a deadline. Few threads while idle, at most
// Config::max_threads RPCs at once.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "cri/context.h"

namespace caisson::cri {

class Server {
 public:
  // `context` outlives the server. Errors: a socket that cannot be bound or is served by another process.
  static Result<std::unique_ptr<Server>> Start(Context& context);
  virtual ~Server() = default;
  // No new RPCs; those in work have `millis` to end. Blocks.
  virtual void Stop(int64_t millis) = 0;
  // How many RPCs there were so far. Thread-safe.
  virtual uint64_t rpcs() const = 0;
};

}  // namespace caisson::cri
