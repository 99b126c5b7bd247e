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
#include "base/log.h"
#include "base/scope_exit.h"
#include "base/strings.h"
#include "caisson/wkt/wkt.pb.h"
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

// Of layers; a serial is a safe name.
std::string LayerDir(const std::string& serial) { return fmt::format("{}/layers/{}", kRunDir, serial); }

Result<bool> MountLayer(const std::string& serial, const std::string& device) {
  if (!TRY(CanOpenDisk(device))) return false;
  std::string at = LayerDir(serial);
  mkdir(fmt::format("{}/layers", kRunDir).c_str(), 0700);
  if (mkdir(at.c_str(), 0755) != 0 && errno != EEXIST) return ErrnoError("make '{}'", at);
  // Devices of an image are no devices of ours; set-user-id programs are for the container's own mount to judge.
  if (mount(device.c_str(), at.c_str(), "erofs", MS_RDONLY | MS_NODEV, "") != 0) {
    Error error = ErrnoError("mount layer '{}' of '{}'", serial, device);
    rmdir(at.c_str());
    return error;
  }
  return true;
}

}  // namespace

// The node comes by devtmpfs a little later than the disk's folder in sysfs, and one that the driver has announced but not read yet cannot
// be opened.
Result<bool> CanOpenDisk(const std::string& device) {
  if (!device.starts_with("/dev/") || !IsSafeName(device.substr(5))) return MakeError(Code::kInvalidArgument, "'{}' is no disk", device.substr(0, 64));
  if (UniqueFd(open(device.c_str(), O_RDONLY | O_CLOEXEC))) return true;
  if (errno == ENOENT || errno == ENXIO) return false;
  return ErrnoError("open disk '{}'", device);
}

Result<std::vector<bool>> MountLayerDisks(const guest::v1::MountLayersRequest& request) {
  std::vector<bool> mounted;
  Rollback rollback;
  for (const auto& layer : request.layers()) {
    if (!IsSafeName(layer.serial())) return MakeError(Code::kInvalidArgument, "'{}' is no disk's serial", layer.serial().substr(0, 64));
    mounted.push_back(TRY(MountLayer(layer.serial(), layer.device())));
    if (mounted.back()) rollback.Add([&layer] { UnmountLayerDisk(layer.serial()); });
  }
  rollback.Commit();
  return mounted;
}

// A container's dead mount namespace may hold it for a moment still.
void UnmountLayerDisk(const std::string& serial) {
  if (!IsSafeName(serial)) return;
  umount2(LayerDir(serial).c_str(), MNT_DETACH);
  rmdir(LayerDir(serial).c_str());
}

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

// One launcher for all, once each is there to be asked for.
Result<bool> Disks::TryOne(Waiting* waiting, std::vector<std::string>* paths) {
  waiting->missing.clear();
  guest::v1::MountLayersRequest mounts;
  std::set<std::string> asked;  // one may be a layer of the root and of a volume
  for (const std::string& serial : waiting->serials) {
    if (!waiting->user.empty()) {
      Layer& layer = layers_[serial];
      layer.users.insert(waiting->user);
      paths->push_back(LayerDir(serial));
      if (layer.mounted) continue;
    }
    std::string device = FindDisk(serial);
    if (device.empty() && waiting->missing.empty()) waiting->missing = serial;
    if (waiting->user.empty()) paths->push_back(device);
    if (!asked.insert(serial).second) continue;
    auto* one = mounts.add_layers();
    one->set_serial(serial);
    one->set_device(std::move(device));
  }
  if (!waiting->missing.empty()) return false;
  if (mounts.layers().empty()) return true;
  return waiting->user.empty() ? Probe(mounts, waiting) : Mount(mounts, waiting);
}

Result<bool> Disks::Probe(const guest::v1::MountLayersRequest& disks, Waiting* waiting) {
  guest::v1::ProbeDisksRequest request;
  for (const auto& disk : disks.layers()) request.add_devices(disk.device());
  auto probed = TRY((launches_->Call<guest::v1::ProbeDisksRequest, guest::v1::ProbeDisksResponse>("ProbeDisks", request)));
  for (int i = 0; i < disks.layers_size(); ++i) {
    if (i < probed.ready_size() && probed.ready(i)) continue;
    waiting->missing = disks.layers(i).serial();
    return false;
  }
  return true;
}

Result<bool> Disks::Mount(const guest::v1::MountLayersRequest& disks, Waiting* waiting) {
  auto done = TRY((launches_->Call<guest::v1::MountLayersRequest, guest::v1::MountLayersResponse>("MountLayers", disks)));
  for (int i = 0; i < disks.layers_size(); ++i) {
    Layer& layer = layers_[disks.layers(i).serial()];
    layer.mounted = layer.mounted || (i < done.mounted_size() && done.mounted(i));
    if (!layer.mounted && waiting->missing.empty()) waiting->missing = disks.layers(i).serial();
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
  guest::v1::UnmountLayersRequest request;
  for (auto layer = layers_.begin(); layer != layers_.end();) {
    if (layer->second.users.erase(user) == 0 || !layer->second.users.empty()) {
      ++layer;
      continue;
    }
    if (layer->second.mounted) request.add_serials(layer->first);
    unused.push_back(layer->first);
    layer = layers_.erase(layer);
  }
  if (request.serials().empty()) return unused;
  auto done = launches_->Call<guest::v1::UnmountLayersRequest, wkt::Empty>("UnmountLayers", request);
  if (!done) log::Error("unmount layers: {}", done.error().message);
  return unused;
}

}  // namespace caisson::agent
