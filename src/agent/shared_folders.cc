// SPDX-License-Identifier: Apache-2.0
#include "agent/shared_folders.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/fuse.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "agent/channel.h"
#include "agent/rights.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/scope_exit.h"
#include "caisson/guest/v1/launch.pb.h"
#include "caisson/wkt/wkt.pb.h"
#include "oci/clone.h"

namespace caisson::agent {
namespace {

constexpr char kFilesPort[] = "caisson.files.0";
constexpr int64_t kFuseLookMillis = 20;

Result<> WriteAll(int to, const char* bytes, size_t size) {
  while (size > 0) {
    ssize_t put = write(to, bytes, size);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return ErrnoError("carry to the host");
    bytes += put;
    size -= static_cast<size_t>(put);
  }
  return {};
}

Result<> ReadAll(int from, char* bytes, size_t size) {
  while (size > 0) {
    ssize_t got = read(from, bytes, size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoError("carry from the host");
    if (got == 0) return MakeError(Code::kUnavailable, "the host has closed its port");
    bytes += got;
    size -= static_cast<size_t>(got);
  }
  return {};
}

// A request that was given up between its announcement and its reading (fuse_dev_do_read): the next one, please.
bool GivenUp(int error) { return error == EINTR || error == ENOENT || error == EAGAIN; }

Result<> CarryRequests(int fuse, int port, std::vector<char>* buffer) {
  for (;;) {
    ssize_t got = read(fuse, buffer->data(), buffer->size());
    if (got < 0 && GivenUp(errno)) continue;
    if (got <= 0) return ErrnoError("read the kernel's requests");
    TRY(WriteAll(port, buffer->data(), static_cast<size_t>(got)));
  }
}

Result<> CarryAnswers(int port, int fuse, std::vector<char>* buffer) {
  for (;;) {
    uint32_t size = 0;
    TRY(ReadAll(port, buffer->data(), sizeof size));
    std::memcpy(&size, buffer->data(), sizeof size);
    if (size < sizeof(fuse_out_header) || size > buffer->size()) return MakeError(Code::kDataLoss, "an answer of {} bytes from the host", size);
    TRY(ReadAll(port, buffer->data() + sizeof size, size - sizeof size));
    // ENOENT: nobody waits for it any more. What the kernel takes for no answer to its question is the asker's to bear.
    if (write(fuse, buffer->data(), size) < 0 && errno == ENODEV) return ErrnoError("answer the kernel");
  }
}

[[noreturn]] void RunCarrier(int from, int to, bool requests) {
  prctl(PR_SET_NAME, requests ? "files-to-host" : "files-from-host", 0, 0, 0);
  prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);  // memory it asks for must not wait for pages that it has to write itself
  SpareFromOom();
  // Nothing else of the launcher's, whose other ends would then not hear of its end.
  int low = std::min(from, to), high = std::max(from, to);
  syscall(SYS_close_range, 3U, static_cast<unsigned>(low - 1), 0);
  if (high - low > 1) syscall(SYS_close_range, static_cast<unsigned>(low + 1), static_cast<unsigned>(high - 1), 0);
  syscall(SYS_close_range, static_cast<unsigned>(high + 1), ~0U, 0);
  Result<> carried = DropRights();
  if (carried) carried = AllowCarrierCalls();
  if (carried) carried = CarryMessages(from, to, requests);
  log::Error("the shared folders: {}", carried ? "ended" : carried.error().message);
  _exit(1);
}

Result<UniqueFd> StartCarrier(int from, int to, bool requests) {
  auto cloned = TRY(oci::Clone(0, -1));
  if (cloned.pid == 0) RunCarrier(from, to, requests);
  return std::move(cloned.pidfd);
}

}  // namespace

Result<std::vector<UniqueFd>> MountSharedFolders() {
  UniqueFd fuse(open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!fuse) return ErrnoError("open /dev/fuse");
  std::string path = TRY(FindPort(kFilesPort));
  UniqueFd port(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!port) return ErrnoError("open '{}'", path);
  if (mkdir(kSharedDir, 0755) != 0 && errno != EEXIST) return ErrnoError("make '{}'", kSharedDir);
  std::string options = fmt::format("fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", fuse.get());
  // The first request is sent, not waited for. Devices in there are the host's.
  if (mount("caisson", kSharedDir, "fuse", MS_NODEV, options.c_str()) != 0) return ErrnoError("mount the shared folders");
  Rollback rollback;
  rollback.Add([] { umount2(kSharedDir, MNT_DETACH); });
  std::vector<UniqueFd> carriers;
  carriers.push_back(TRY(StartCarrier(fuse.get(), port.get(), true)));
  rollback.Add([&carriers] { oci::KillAndReap(carriers[0].get()); });
  carriers.push_back(TRY(StartCarrier(port.get(), fuse.get(), false)));
  rollback.Commit();
  return carriers;
}

Result<> CarryMessages(int from, int to, bool messages) {
  std::vector<char> buffer(limits::kSharedMessageBytes);
  return messages ? CarryRequests(from, to, &buffer) : CarryAnswers(from, to, &buffer);
}

void SharedFolders::Share(int64_t deadline_millis, Done done) {
  if (shared_) return done({});
  std::vector<UniqueFd> carriers;
  auto mounted = launches_->Call<wkt::Empty, wkt::Empty>("ShareFolders", {}, {}, &carriers);
  if (mounted) return done(Watch(std::move(carriers)));
  // ENXIO: the node of a module that is just being loaded. ENOENT: that, or a port that has no name yet.
  int error = mounted.error().sys_errno;
  if ((error != ENOENT && error != ENXIO && error != ENODEV) || deadline_millis <= 0) return done(std::move(mounted.error()));
  loop_->After(kFuseLookMillis, [this, deadline_millis, done = std::move(done)] { Share(deadline_millis - kFuseLookMillis, done); });
}

Result<> SharedFolders::Watch(std::vector<UniqueFd> carriers) {
  shared_ = true;
  for (UniqueFd& carrier : carriers) {
    auto pidfd = std::make_shared<UniqueFd>(std::move(carrier));
    TRY(loop_->Watch(pidfd->get(), EPOLLIN, [pidfd](uint32_t) {
      log::Error("the shared folders' carrier has ended");
      _exit(1);
    }));
  }
  return {};
}

}  // namespace caisson::agent
