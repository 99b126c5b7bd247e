// SPDX-License-Identifier: Apache-2.0
//
// Disks that come and go. QEMU gets the open file (add-fd), never its path, and opens it again by the number of its set; so
// it can open it in no other way than we have.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/bad.h"
#include "base/limits.h"
#include "base/scope_exit.h"
#include "vmm/qemu.h"

namespace caisson::vmm {
namespace {

constexpr size_t kSerialBytes = 20;

Result<> CheckDisk(const Disk& disk, bool* is_device) {
  if (disk.serial.empty() || disk.serial.size() > kSerialBytes ||
      !std::all_of(disk.serial.begin(), disk.serial.end(), [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); })) {
    return Bad("a disk's serial number '{}' is not 1 to {} characters of [a-z0-9]", disk.serial, kSerialBytes);
  }
  struct stat info;
  if (fstat(disk.fd, &info) != 0) return ErrnoError("look at disk '{}'", disk.serial);
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) return Bad("disk '{}' is neither a file nor a block device", disk.serial);
  int flags = fcntl(disk.fd, F_GETFL);
  // fcntl(2): the access mode is not a bit set. QEMU takes of a set what has exactly the mode it wants.
  if (flags < 0 || (flags & O_ACCMODE) != (disk.read_only ? O_RDONLY : O_RDWR)) {
    return Bad("disk '{}' is not opened {}", disk.serial, disk.read_only ? "read-only" : "for reading and writing");
  }
  *is_device = S_ISBLK(info.st_mode);
  return {};
}

// The guest's disk has the device's blocks: what is on it (partitions, file systems) counts in them.
Result<> AddBlockSizes(const Disk& disk, Json* device) {
  int logical = 0;
  unsigned physical = 0;
  if (ioctl(disk.fd, BLKSSZGET, &logical) != 0 || ioctl(disk.fd, BLKPBSZGET, &physical) != 0) return ErrnoError("ask disk '{}' for its block sizes", disk.serial);
  (*device)["logical_block_size"] = logical;
  (*device)["physical_block_size"] = physical;
  return {};
}

}  // namespace

Result<> Qemu::Attach(const Disk& disk, int64_t deadline_millis) {
  TRY(Monitor());
  bool is_device = false;
  TRY(CheckDisk(disk, &is_device));
  if (disks_.contains(disk.serial)) return MakeError(Code::kAlreadyExists, "disk '{}' is attached already", disk.serial);
  if (disks_.size() >= limits::kVmDisks) return MakeError(Code::kResourceExhausted, "no more than {} disks", limits::kVmDisks);
  int set = ++last_set_;  // 0 is the console's
  auto plugged = PlugIn(disk, is_device, set, Deadline::After(deadline_millis));
  if (!plugged) return Explain(std::move(plugged.error()).Within(fmt::format("attach disk '{}'", disk.serial)));
  disks_[disk.serial] = set;
  return {};
}

Result<> Qemu::PlugIn(const Disk& disk, bool is_device, int set, Deadline deadline) {
  std::string file = "file-" + disk.serial, image = "image-" + disk.serial;
  Rollback rollback;
  TRY(qmp_->Execute("add-fd", {{"fdset-id", set}}, deadline, disk.fd));
  rollback.Add([&] { (void)qmp_->Execute("remove-fd", {{"fdset-id", set}}, deadline); });
  // No locks: many VMs read one layer, and who writes a disk of its own has it alone. The host's page cache is shared by all
  // VMs that read the disk; a guest's flush of what it wrote is obeyed.
  Json source{{"driver", is_device ? "host_device" : "file"},
              {"node-name", file},
              {"filename", fmt::format("/dev/fdset/{}", set)},
              {"read-only", disk.read_only},
              {"auto-read-only", false},
              {"locking", "off"},
              {"aio", "threads"},
              {"discard", disk.read_only ? "ignore" : "unmap"},
              {"cache", {{"direct", false}, {"no-flush", disk.read_only}}}};
  TRY(qmp_->Execute("blockdev-add", source, deadline));
  rollback.Add([&] { (void)qmp_->Execute("blockdev-del", {{"node-name", file}}, deadline); });
  // Raw, and said so: a guest that writes a header is not taken for another format.
  TRY(qmp_->Execute("blockdev-add", {{"driver", "raw"}, {"node-name", image}, {"file", file}, {"read-only", disk.read_only}}, deadline));
  rollback.Add([&] { (void)qmp_->Execute("blockdev-del", {{"node-name", image}}, deadline); });
  Json device{{"driver", "scsi-hd"}, {"id", "disk-" + disk.serial}, {"bus", kQemuDiskBus}, {"drive", image}, {"serial", disk.serial}};
  if (is_device) TRY(AddBlockSizes(disk, &device));
  TRY(qmp_->Execute("device_add", device, deadline));
  rollback.Commit();
  return {};
}

Result<> Qemu::Detach(const std::string& serial, int64_t deadline_millis) {
  TRY(Monitor());
  auto found = disks_.find(serial);
  if (found == disks_.end()) return {};
  auto plugged = PlugOut(serial, found->second, Deadline::After(deadline_millis));
  if (!plugged) return Explain(std::move(plugged.error()).Within(fmt::format("detach disk '{}'", serial)));
  disks_.erase(found);
  return {};
}

// Each step may have been done by an attempt that did not get further.
Result<> Qemu::PlugOut(const std::string& serial, int set, Deadline deadline) {
  qmp_->Forget("DEVICE_DELETED");
  auto removed = qmp_->Execute("device_del", {{"id", "disk-" + serial}}, deadline);
  if (!removed && removed.error().code != Code::kNotFound) return std::move(removed.error());
  while (removed) {
    QmpEvent event = TRY(qmp_->WaitFor("DEVICE_DELETED", deadline));
    if (event.detail == "disk-" + serial) break;
  }
  for (const char* node : {"image-", "file-"}) {
    Json listed = TRY(ParseJson(TRY(qmp_->Execute("query-named-block-nodes", {{"flat", true}}, deadline))));
    bool there = listed.is_array() && std::any_of(listed.begin(), listed.end(), [&](const Json& one) {
      return one.is_object() && one.contains("node-name") && one["node-name"] == node + serial;
    });
    if (there) TRY(qmp_->Execute("blockdev-del", {{"node-name", node + serial}}, deadline));
  }
  TRY(qmp_->Execute("remove-fd", {{"fdset-id", set}}, deadline));
  return {};
}

}  // namespace caisson::vmm
