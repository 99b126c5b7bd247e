# SPDX-License-Identifier: Apache-2.0
# Toolchain file: for arm64 with Debian's cross compiler, against the libraries of tools/cross-arm64's folder CAISSON_SYSROOT.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CAISSON_SYSROOT "" CACHE PATH "arm64 libraries and headers")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES CAISSON_SYSROOT)
set(CMAKE_SYSROOT ${CAISSON_SYSROOT})
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)  # protoc and its plugin run here
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${CAISSON_SYSROOT})
set(ENV{PKG_CONFIG_LIBDIR} ${CAISSON_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig:${CAISSON_SYSROOT}/usr/share/pkgconfig)
