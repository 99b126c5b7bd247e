// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <cerrno>

namespace caisson {
namespace {

std::string TextOfErrno(int err) {
  char buffer[128];
  return strerror_r(err, buffer, sizeof buffer);  // the GNU variant, _GNU_SOURCE
}

}  // namespace

Code CodeOfErrno(int err) {
  switch (err) {
    case 0: return Code::kOk;
    case ENOENT:
    case ESRCH:
    case ENODEV:
    case ENXIO: return Code::kNotFound;
    case EEXIST: return Code::kAlreadyExists;
    case EPERM:
    case EACCES:
    case EROFS: return Code::kPermissionDenied;
    case EINVAL:
    case ENAMETOOLONG:
    case ENOTDIR:
    case EISDIR:
    case ELOOP: return Code::kInvalidArgument;
    case ERANGE:
    case EDOM: return Code::kOutOfRange;
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOMEM: return Code::kResourceExhausted;
    case EAGAIN:
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE: return Code::kUnavailable;
    case EBUSY:
    case ENOTEMPTY: return Code::kFailedPrecondition;
    case ETIMEDOUT: return Code::kDeadlineExceeded;
    case ENOSYS:
    case EOPNOTSUPP: return Code::kUnimplemented;
    case ECANCELED: return Code::kCancelled;
    default: return Code::kInternal;
  }
}

Error SysError(int err, std::string_view what) { return Error{CodeOfErrno(err), err, fmt::format("{}: {}", what, TextOfErrno(err))}; }

std::string MessageForClients(const Error& error) {
  std::string message = error.message;
  const std::string reason = error.sys_errno == 0 ? "" : TextOfErrno(error.sys_errno);
  if (reason.empty() || !message.ends_with(reason)) return message;
  char& first = message[message.size() - reason.size()];
  if (first >= 'A' && first <= 'Z') first = static_cast<char>(first - 'A' + 'a');
  return message;
}

}  // namespace caisson
