// SPDX-License-Identifier: Apache-2.0
//
// The greeting on a stream that has no connections, such as a virtio console's port: bytes that an earlier peer left in it
// may arrive late, and neither side hears of the other's coming. It is spoken before the first ttRPC frame:
//
//   client: "CAISSON HELLO <nonce>\n", again and again until it is answered
//   server: "CAISSON READY <nonce>\n" to each
//   client: "CAISSON GO <nonce>\n", once; what it still reads of the former is dropped
//   server: "CAISSON BEGIN <nonce>\n", and frames from here on, both ways
//
// Whatever else arrives is dropped, to a bound. The nonce is 32 hexadecimal digits, the client's. One thread, the loop's.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sys/event_loop.h"

namespace caisson::ttrpc {

class Greeting {
 public:
  // The stream, at the first byte of the first frame; or why there is none.
  using Done = std::function<void(Result<UniqueFd>)>;

  // Both take over a non-blocking descriptor. `done` runs once, from the loop, unless the Greeting is destroyed before.
  // kDeadlineExceeded when no server has answered in time.
  static std::unique_ptr<Greeting> AsClient(sys::EventLoop* loop, UniqueFd stream, int64_t deadline_millis, Done done);
  static std::unique_ptr<Greeting> AsServer(sys::EventLoop* loop, UniqueFd stream, Done done);
  virtual ~Greeting() = default;
};

}  // namespace caisson::ttrpc
