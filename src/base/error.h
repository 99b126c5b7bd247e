// SPDX-License-Identifier: Apache-2.0
//
// Error: the one error value of Caisson. It names the object and the reason, carries a code that an RPC edge can send
// as it is, and the errno behind it where there was one. A plain value: copyable, no ownership, any thread.
#pragma once

#include <cstring>
#include <string>
#include <utility>

#include <fmt/format.h>

namespace caisson {

// Numerically the status codes of gRPC (grpc/status.h) and so of ttRPC.
enum class Code : int {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

struct [[nodiscard]] Error {
  Code code = Code::kUnknown;
  int sys_errno = 0;  // 0 where no system call failed
  std::string message;

  // The same error with `context: ` before its message.
  Error Within(std::string_view context) && {
    message = fmt::format("{}: {}", context, message);
    return std::move(*this);
  }
};

// The code that describes errno value `err` best.
Code CodeOfErrno(int err);

// An error of system call failure `err` (an errno value): message is "<what>: <strerror>".
Error SysError(int err, std::string_view what);

// An error with a formatted message and no errno. The message names the object and the reason.
template <class... Args>
Error MakeError(Code code, fmt::format_string<Args...> format, Args&&... args) {
  return Error{code, 0, fmt::format(format, std::forward<Args>(args)...)};
}

// SysError(errno, …) with a formatted subject; call it right after the failing call.
template <class... Args>
Error ErrnoError(fmt::format_string<Args...> format, Args&&... args) {
  int err = errno;
  return SysError(err, fmt::format(format, std::forward<Args>(args)...));
}

// The message with a system's error as Go's programs write it ("permission denied"), which clients such as Docker and podman look for to tell
// what has failed.
std::string MessageForClients(const Error& error);

}  // namespace caisson
