// SPDX-License-Identifier: Apache-2.0
#include <sys/socket.h>

#include <cstddef>
#include <cstdint>

#include <nlohmann/json.hpp>

#include "vmm/qmp.h"

using caisson::Deadline;
using caisson::UniqueFd;
using caisson::vmm::Qmp;

// What a QEMU that the guest has taken over may say: alone, and as all that comes over the socket.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  if (auto message = caisson::vmm::ParseQmpMessage(text)) {
    for (char c : message->event.detail + message->error.message) {
      if (static_cast<unsigned char>(c) >= 0x7f) __builtin_trap();
    }
  }
  int ends[2];
  if (size > 4096 || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return 0;
  UniqueFd ours(ends[0]), theirs(ends[1]);
  if (send(theirs.get(), data, size, MSG_NOSIGNAL | MSG_DONTWAIT) != static_cast<ssize_t>(size)) return 0;
  shutdown(theirs.get(), SHUT_WR);
  if (auto qmp = Qmp::Connect(std::move(ours), Deadline::After(1000))) {
    (void)(*qmp)->Execute("stop", caisson::Json::object(), Deadline::After(1000));
    (void)(*qmp)->WaitFor("MIGRATION", Deadline::After(1000));
    (*qmp)->Drain();
  }
  return 0;
}
