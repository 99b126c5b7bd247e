// SPDX-License-Identifier: Apache-2.0
#include "agent/disks.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "agent/early_init.h"
#include "base/id.h"
#include "base/strings.h"
#include "sys/path.h"

namespace caisson::agent {
namespace {

constexpr char kBlock[] = "/sys/block";
// Uevents may be lost (ENOBUFS), and a disk's serial may be readable only a little after its event.
constexpr int64_t kLookMillis = 20;

// Of a SCSI disk: page 0x80 of its vital product data, after a header of four bytes (SPC-4, 7.8.13).
std::string SerialOf(const std::string& disk) {
  std::string base = std::string(kBlock) + "/" + disk;
  if (auto text = sys::ReadFile(base + "/serial", 256)) return std::string(Trim(*text));
  auto page = sys::ReadFile(base + "/device/vpd_pg80", 256);
  if (!page || page->size() <= 4) return "";
  return std::string(Trim(std::string_view(*page).substr(4)));
}

}  // namespace

std::string FindDisk(const std::string& serial) {
  std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(kBlock), closedir);
  while (dirent* entry = dir ? readdir(dir.get()) : nullptr) {
    if (entry->d_name[0] != '.' && SerialOf(entry->d_name) == serial) return "/dev/" + std::string(entry->d_name);
  }
  return "";
}

namespace {

// Of a disk that can be opened; empty: not yet. The node comes by devtmpfs a little later than the disk's folder in sysfs, and one that
// the driver has announced but not read yet cannot be opened.
Result<std::string> TryDisk(const std::string& serial) {
  std::string device = FindDisk(serial);
  if (device.empty() || UniqueFd(open(device.c_str(), O_RDONLY | O_CLOEXEC))) return device;
  if (errno == ENOENT || errno == ENXIO) return std::string();
  return ErrnoError("open disk '{}' ('{}')", serial, device);
}

}  // namespace

Disks::~Disks() {
  if (uevents_) loop_->Unwatch(uevents_.get());
}

Result<> Disks::Start() {
  uevents_ = UniqueFd(socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT));
  if (!uevents_) return ErrnoError("listen for uevents");
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = 1;  // the kernel's own
  if (bind(uevents_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return ErrnoError("listen for uevents");
  return loop_->Watch(uevents_.get(), EPOLLIN, [this](uint32_t) { OnUevent(); });
}

// What they say does not matter: that something has changed does.
void Disks::OnUevent() {
  char ignored[4096];
  while (recv(uevents_.get(), ignored, sizeof ignored, 0) > 0 || errno == ENOBUFS) {
  }
  TryAll();
}

void Disks::TryAll() {
  std::vector<uint64_t> ids;
  for (const auto& [id, waiting] : waiting_) ids.push_back(id);
  for (uint64_t id : ids) {
    auto found = waiting_.find(id);
    if (found == waiting_.end()) continue;
    std::vector<std::string> paths;
    auto all = TryOne(&found->second, &paths);
    if (!all) {
      Finish(id, std::move(all.error()));
    } else if (*all) {
      Finish(id, std::move(paths));
    }
  }
}

Result<> Disks::MountLayer(const std::string& serial, const std::string& device, Layer* layer) {
  std::string at = fmt::format("{}/layers/{}", kRunDir, serial);
  mkdir(fmt::format("{}/layers", kRunDir).c_str(), 0755);
  if (mkdir(at.c_str(), 0755) != 0 && errno != EEXIST) return ErrnoError("make '{}'", at);
  // Devices of an image are no devices of ours; set-user-id programs are for the container's own mount to judge.
  if (mount(device.c_str(), at.c_str(), "erofs", MS_RDONLY | MS_NODEV, "") != 0) {
    Error error = ErrnoError("mount layer '{}' of '{}'", serial, device);
    rmdir(at.c_str());
    return error;
  }
  layer->at = at;
  return {};
}

Result<std::string> Disks::TryLayer(const std::string& user, const std::string& serial) {
  Layer& layer = layers_[serial];
  layer.users.insert(user);
  if (!layer.at.empty()) return layer.at;
  std::string device = TRY(TryDisk(serial));
  if (!device.empty()) TRY(MountLayer(serial, device, &layer));
  return layer.at;
}

Result<bool> Disks::TryOne(Waiting* waiting, std::vector<std::string>* paths) {
  waiting->missing.clear();
  for (const std::string& serial : waiting->serials) {
    std::string path = waiting->user.empty() ? TRY(TryDisk(serial)) : TRY(TryLayer(waiting->user, serial));
    if (path.empty() && waiting->missing.empty()) waiting->missing = serial;
    paths->push_back(std::move(path));
  }
  return waiting->missing.empty();
}

void Disks::MountLayers(const std::string& user, std::vector<std::string> serials, int64_t deadline_millis, Paths done) {
  Wait({user, std::move(serials), std::move(done), "", 0}, deadline_millis);
}

void Disks::Await(std::vector<std::string> serials, int64_t deadline_millis, Paths done) {
  Wait({"", std::move(serials), std::move(done), "", 0}, deadline_millis);
}

void Disks::Wait(Waiting waiting, int64_t deadline_millis) {
  for (const std::string& serial : waiting.serials) {
    if (!IsSafeName(serial)) return waiting.done(MakeError(Code::kInvalidArgument, "'{}' is no disk's serial", serial.substr(0, 64)));
  }
  uint64_t id = next_++;
  waiting_[id] = std::move(waiting);
  TryAll();
  auto found = waiting_.find(id);
  if (found == waiting_.end()) return;
  found->second.timer = loop_->After(kLookMillis, [this, id, deadline_millis] { Look(id, deadline_millis); });
}

void Disks::Look(uint64_t id, int64_t left_millis) {
  TryAll();
  auto found = waiting_.find(id);
  if (found == waiting_.end()) return;
  Waiting& waiting = found->second;
  if (left_millis > 0) {
    waiting.timer = loop_->After(kLookMillis, [this, id, left_millis] { Look(id, left_millis - kLookMillis); });
    return;
  }
  Finish(id, MakeError(Code::kDeadlineExceeded, "the disk '{}' has not appeared in the guest", waiting.missing));
}

void Disks::Finish(uint64_t id, Result<std::vector<std::string>> result) {
  auto node = waiting_.extract(id);
  Waiting& waiting = node.mapped();
  loop_->CancelTimer(waiting.timer);
  if (!result && !waiting.user.empty()) Release(waiting.user);
  waiting.done(std::move(result));
}

std::vector<std::string> Disks::Release(const std::string& user) {
  std::vector<std::string> unused;
  for (auto layer = layers_.begin(); layer != layers_.end();) {
    if (layer->second.users.erase(user) == 0 || !layer->second.users.empty()) {
      ++layer;
      continue;
    }
    // A container's dead mount namespace may hold it for a moment still.
    if (!layer->second.at.empty()) {
      umount2(layer->second.at.c_str(), MNT_DETACH);
      rmdir(layer->second.at.c_str());
    }
    unused.push_back(layer->first);
    layer = layers_.erase(layer);
  }
  return unused;
}

}  // namespace caisson::agent
