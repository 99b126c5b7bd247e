// SPDX-License-Identifier: Apache-2.0
//
// toml++ without exceptions: parse errors are values. The distribution's shared library has only the throwing kind, so the code
// is compiled where this is included, whatever its package's flags say. Heavy: for source files, not for headers.
#pragma once

#undef TOML_SHARED_LIB
#undef TOML_HEADER_ONLY
#define TOML_HEADER_ONLY 1
#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 1
#include <toml++/toml.h>
