// SPDX-License-Identifier: Apache-2.0
//
// Seccomp: linux.seccomp of the runtime-spec, compiled to the kernel's BPF (seccomp(2)) and loaded in the child.
//
// Compiling is dear (milliseconds, hundreds of KiB in libseccomp), so a compiled filter is kept in a directory, named by
// the SHA-256 of the profile in canonical form, the architecture and the libseccomp version. On a hit libseccomp is
// never called. Compile runs in the parent; LoadSeccomp runs in the child between clone and exec: no allocation, no
// locks, one system call.
//
// A profile that names syscalls unknown to this libseccomp is accepted without them (runtime-spec: "unknown names are
// ignored"); a filter is never made weaker otherwise. SCMP_ACT_NOTIFY and listenerPath are refused: no agent is served.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace caisson::oci {

struct SeccompArg {
  uint32_t index = 0;  // 0 to 5
  uint64_t value = 0, value_two = 0;
  std::string op;  // "SCMP_CMP_EQ", …; SCMP_CMP_MASKED_EQ: (arg & value) == value_two
};

struct SeccompSyscall {
  std::vector<std::string> names;
  std::string action;
  std::optional<uint32_t> errno_ret;
  std::vector<SeccompArg> args;
};

struct SeccompSpec {
  std::string default_action;  // "SCMP_ACT_ERRNO", …
  std::optional<uint32_t> default_errno_ret;
  std::vector<std::string> architectures;  // "SCMP_ARCH_X86_64", …; the native one is always included
  std::vector<std::string> flags;          // "SECCOMP_FILTER_FLAG_LOG", …
  std::string listener_path, listener_metadata;
  std::vector<SeccompSyscall> syscalls;
};

// What LoadSeccomp needs: an array of struct sock_filter and the flags of seccomp(2).
struct SeccompFilter {
  std::string bpf;
  uint32_t flags = 0;
};

// Reads linux.seccomp. Errors: kInvalidArgument naming the member; unknown actions, operators, flags, architectures.
Result<SeccompSpec> ParseSeccomp(const Json& seccomp);

// The filter of `spec`, from `cache_dir` or newly compiled and put there; an empty `cache_dir` keeps nothing. The
// directory is made (0700) if its parent exists. A cached file that is not ours (owner, mode) or not whole is compiled
// anew. A cache that cannot be written is not an error.
Result<SeccompFilter> CompileSeccomp(const SeccompSpec& spec, const std::string& cache_dir);

// Loads `filter` for the calling thread; async-signal-safe. The caller has no_new_privs set or CAP_SYS_ADMIN. Returns 0
// or an errno value.
int LoadSeccomp(const SeccompFilter& filter) noexcept;

}  // namespace caisson::oci
