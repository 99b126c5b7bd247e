// SPDX-License-Identifier: Apache-2.0
#include "sys/socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

namespace caisson::sys {
namespace {

struct Address {
  sockaddr_un value{};
  UniqueFd dir;  // keeps a path of the form /proc/self/fd/N/name valid
  socklen_t length = sizeof(sockaddr_un);
};

Result<Address> MakeAddress(const std::string& path) {
  Address address;
  address.value.sun_family = AF_UNIX;
  std::string shown = path;
  if (path.empty() || path.front() == '\0' || path.find('\0') != std::string::npos) {
    return MakeError(Code::kInvalidArgument, "a socket path is empty or holds a NUL");
  }
  if (shown.size() >= sizeof address.value.sun_path) {
    size_t slash = path.rfind('/');
    if (slash == std::string::npos) return MakeError(Code::kInvalidArgument, "the socket path '{}' is too long", path);
    address.dir = UniqueFd(open(path.substr(0, slash + 1).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!address.dir) return ErrnoError("open the folder of socket '{}'", path);
    shown = fmt::format("/proc/self/fd/{}/{}", address.dir.get(), path.substr(slash + 1));
    if (shown.size() >= sizeof address.value.sun_path) {
      return MakeError(Code::kInvalidArgument, "the socket name of '{}' is too long", path);
    }
  }
  memcpy(address.value.sun_path, shown.c_str(), shown.size() + 1);
  return address;
}

Result<UniqueFd> NewSocket() {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return ErrnoError("make a unix socket");
  return fd;
}

}  // namespace

Result<UniqueFd> ListenUnix(const std::string& path, mode_t mode, int backlog) {
  Address address = TRY(MakeAddress(path));
  UniqueFd fd = TRY(NewSocket());
  // The file gets its mode from the socket's inode (unix(7)): there is no moment at which it is wider.
  if (fchmod(fd.get(), mode) != 0) return ErrnoError("set the mode of socket '{}'", path);
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address.value), address.length) != 0) {
    if (errno == EADDRINUSE) return MakeError(Code::kAlreadyExists, "socket '{}' exists already", path);
    return ErrnoError("bind socket '{}'", path);
  }
  if (listen(fd.get(), backlog) != 0) {
    Error error = ErrnoError("listen on socket '{}'", path);
    unlink(path.c_str());
    return error;
  }
  return fd;
}

Result<UniqueFd> ListenUnixAnew(const std::string& path, mode_t mode, int backlog) {
  auto listening = ListenUnix(path, mode, backlog);
  if (listening || listening.error().code != Code::kAlreadyExists) return listening;
  struct stat info;
  if (lstat(path.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode)) return listening;
  auto other = ConnectUnix(path);
  if (other || other.error().sys_errno != ECONNREFUSED) return listening;
  if (unlink(path.c_str()) != 0) return ErrnoError("remove the stale socket '{}'", path);
  return ListenUnix(path, mode, backlog);
}

Result<UniqueFd> ConnectUnix(const std::string& path) {
  Address address = TRY(MakeAddress(path));
  UniqueFd fd = TRY(NewSocket());
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address.value), address.length) != 0) {
    return ErrnoError("connect to socket '{}'", path);
  }
  return fd;
}

Result<PeerCredentials> PeerOf(int socket) {
  ucred found{};
  socklen_t length = sizeof found;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &found, &length) != 0) return ErrnoError("ask for a socket's peer");
  return PeerCredentials{found.pid, found.uid, found.gid};
}

}  // namespace caisson::sys
