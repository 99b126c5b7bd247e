# SPDX-License-Identifier: Apache-2.0
# caisson_seccomp_default: a header-only target with "seccomp_default_profile.h", which holds share/seccomp/default.json as
# the constant caisson::kSeccompDefaultProfile, so that no file is needed at run time.
file(READ ${CMAKE_SOURCE_DIR}/share/seccomp/default.json text)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/share/seccomp/default.json)
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/seccomp_default_profile.h @ONLY CONTENT [[
// Made by cmake/seccomp.cmake of share/seccomp/default.json.
#pragma once

namespace caisson {
inline constexpr char kSeccompDefaultProfile[] = R"profile(@text@)profile";
}  // namespace caisson
]])
add_library(caisson_seccomp_default INTERFACE)
target_compile_options(caisson_seccomp_default INTERFACE "SHELL:-iquote ${CMAKE_BINARY_DIR}/generated")
