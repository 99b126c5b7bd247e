// SPDX-License-Identifier: Apache-2.0
//
// What the keeper of a template hands to the companions of its clones, and how: over a unix socket in the template's folder,
// which none but its user may enter, one message with descriptors (unix(7), SCM_RIGHTS). The socket is there once the template
// is whole; who finds none, or hears nothing, boots its VM. The descriptors outlive the keeper. No state; any thread.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::shim {

inline constexpr char kTemplateSocket[] = "clone.sock";

struct TemplateFiles {
  UniqueFd state;   // what vmm::Vm::Save wrote, sealed
  UniqueFd memory;  // a vmm::MemoryFile, sealed; none: the memory is in `state`
};

// One message on a connected socket that nothing has been written to.
Result<> SendTemplate(int socket, const TemplateFiles& files);
// From the keeper in `folder`, a process of our own user. What is not sealed, or has not the memory's size, is refused:
// somebody could change it under us.
Result<TemplateFiles> TakeTemplate(const std::string& folder, uint64_t memory_bytes, int64_t deadline_millis);

}  // namespace caisson::shim
