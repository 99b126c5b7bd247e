// SPDX-License-Identifier: Apache-2.0
//
// KeptOutput: a process's output that is kept until somebody asks for it (Pod.ReadOutput): to a bound, at which the process
// has to wait, its pipe being full. One reader at a time. One thread, the loop's.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "task/output.h"

namespace caisson::task {

class KeptOutput {
 public:
  struct Part {
    std::string data;
    bool ended = false;  // nothing comes after it
  };
  using Reader = std::function<void(Result<Part>)>;

  KeptOutput() = default;
  KeptOutput(const KeptOutput&) = delete;
  KeptOutput& operator=(const KeptOutput&) = delete;
  // Whoever waits hears of the end.
  ~KeptOutput();

  // Where it comes from, once that is there; it goes before this does. Append is its sink, End its on_end.
  void SetSource(Output* source) { source_ = source; }
  void Append(std::string_view bytes);
  void End();
  // At most `max` bytes of what is there; else, unless `no_wait`, when something comes. kFailedPrecondition while another reader
  // waits.
  void Read(size_t max, bool no_wait, Reader reader);
  // The process has ended (others may still hold its pipe): whoever waits gets what is there, if only nothing.
  void OnExit();

 private:
  Part Take(size_t max);

  Output* source_ = nullptr;
  std::string bytes_;
  bool ended_ = false;
  Reader waiting_;
  size_t waiting_max_ = 0;
};

}  // namespace caisson::task
