// SPDX-License-Identifier: Apache-2.0
//
// Attachments: the clients that are attached to one container's stdio, besides its log. Each gets a copy of what the
// container writes, and may write to its stdin, by FIFOs of its own.
//
// A client never holds up the container, the log or another client: what it does not take is kept up to
// limits::kAttachBacklogBytes, then it is given up. One that goes away (nobody reads its `life_path` any more) is
// forgotten at once, whatever else is under way. That a client ends its input, or is gone, never ends the container's stdin:
// whether it does is for Task.CloseIO to say. One thread, the loop's.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sys/event_loop.h"
#include "task/log_file.h"
#include "task/pump.h"

namespace caisson::task {

class AttachedOutput;

class Attachments {
 public:
  // The client's FIFOs; it has all of them open. Empty: not wanted.
  struct Paths {
    std::string life, in, out, err;
  };
  using Waiter = std::function<void(bool too_slow)>;

  // Both outlive it.
  Attachments(sys::EventLoop* loop, Scratch* scratch);
  Attachments(const Attachments&) = delete;
  Attachments& operator=(const Attachments&) = delete;
  ~Attachments();

  // `stdin_writer`: the client's own descriptor of the container's stdin; invalid: there is none, and paths.in is not
  // opened. Errors: nothing has changed.
  Result<> Add(const std::string& id, const Paths& paths, UniqueFd stdin_writer);
  // Called when the attachment ends. kNotFound: it has.
  Result<> Wait(const std::string& id, Waiter waiter);
  void Write(LogFile::Stream stream, std::string_view bytes);
  // The container has ended: so have the attachments, but what is queued for a client that reads still reaches it.
  void Finish();

 private:
  struct Client;
  void Drop(const std::string& id, bool too_slow);

  sys::EventLoop* loop_;
  Scratch* scratch_;
  std::map<std::string, std::unique_ptr<Client>> clients_;
};

}  // namespace caisson::task
