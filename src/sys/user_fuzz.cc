// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "sys/user.h"

// First line: the request; up to a NUL: passwd; the rest: group.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  caisson::sys::UserRequest request;
  request.user = text.substr(0, text.find('\n'));
  text.remove_prefix(std::min(text.size(), request.user.size() + 1));
  size_t middle = std::min(text.size(), text.find('\0'));
  auto user = caisson::sys::ResolveUserIn(text.substr(0, middle), text.substr(middle), request);
  if (user) CHECK(user->uid <= 2147483647u && user->gid <= 2147483647u && user->home.starts_with('/'));
  return 0;
}
