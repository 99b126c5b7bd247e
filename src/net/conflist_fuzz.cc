// SPDX-License-Identifier: Apache-2.0
#include <cstddef>
#include <cstdint>

#include "net/conflist.h"

using caisson::net::ConfForm;
using caisson::net::ParseConflist;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  for (ConfForm form : {ConfForm::kList, ConfForm::kSinglePlugin}) {
    auto list = ParseConflist(text, form);
    if (!list) continue;
    // DEL reads back what ADD recorded.
    auto again = ParseConflist(list->json, ConfForm::kList);
    if (!again || again->name != list->name || again->plugins.size() != list->plugins.size()) __builtin_trap();
    for (const auto& plugin : list->plugins) {
      if (plugin.type.find('/') != plugin.type.npos) __builtin_trap();
    }
  }
  return 0;
}
