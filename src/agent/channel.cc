// SPDX-License-Identifier: Apache-2.0
#include "agent/channel.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>

#include <cerrno>

#include "base/log.h"
#include "base/strings.h"
#include "sys/path.h"

namespace caisson::agent {
namespace {
constexpr int kPortLookMillis = 1;
constexpr int64_t kAgainMillis = 10;
}  // namespace

Result<std::string> FindPort(const std::string& name, const std::string& ports) {
  std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(ports.c_str()), closedir);
  while (dirent* entry = dir ? readdir(dir.get()) : nullptr) {
    if (entry->d_name[0] == '.') continue;
    auto text = sys::ReadFile(ports + "/" + entry->d_name + "/name", 256);
    if (text && Trim(*text) == name) return "/dev/" + std::string(entry->d_name);
  }
  errno = ENOENT;
  return ErrnoError("find the virtio port '{}' of this machine", name);
}

Result<std::string> AwaitPort(const std::string& name, const Deadline& deadline, const std::string& ports) {
  for (;;) {
    auto found = FindPort(name, ports);
    if (found || deadline.Passed()) return found;
    poll(nullptr, 0, kPortLookMillis);
  }
}

Result<> Channel::Open() {
  path_ = TRY(FindPort(kPortName));
  return Listen();
}

Result<> Channel::Listen() {
  UniqueFd fd(open(path_.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd) return ErrnoError("open '{}'", path_);
  greeting_ = ttrpc::Greeting::AsServer(loop_, std::move(fd), [this](Result<UniqueFd> stream) { OnGreeted(std::move(stream)); });
  return {};
}

void Channel::OnGreeted(Result<UniqueFd> stream) {
  Result<> served;
  if (stream) {
    served = server_->Serve(std::move(*stream), [this] { Again(); });
  } else {
    served = std::move(stream.error());
  }
  if (served) return;
  log::Error("the channel: {}", served.error().message);
  Again();
}

void Channel::Again() {
  loop_->After(kAgainMillis, [this] {
    auto listens = Listen();
    if (listens) return;
    log::Error("the channel: {}", listens.error().message);
    Again();
  });
}

}  // namespace caisson::agent
