// SPDX-License-Identifier: Apache-2.0
//
// SystemdScope: the transient scope unit of a container under the systemd cgroup driver (systemd.scope(5),
// org.freedesktop.systemd1(5)), over systemd's private socket with a D-Bus client of our own that knows the three calls
// needed: StartTransientUnit, SetUnitProperties, StopUnit.
//
// A scope lives only while it has processes, so Start puts a placeholder (a child of ours that only sleeps) into it,
// which ReleasePlaceholder ends once the container's init is inside. Owner: the Cgroup. One thread. Every wait has a
// deadline.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/cgroup.h"

namespace caisson::oci {

// "slice:prefix:name" taken apart. `path` is where systemd puts the scope: "a.slice/a-b.slice/prefix-name.scope".
struct SystemdPath {
  std::string slice, scope, path;
};
// Errors: kInvalidArgument; "slice" empty is system.slice, "-" or "-.slice" the root slice.
Result<SystemdPath> ParseSystemdPath(std::string_view spec);
// Whether a cgroupsPath has that form, which no path of cgroupfs has: what is meant where nobody says who makes the cgroups.
bool IsSystemdPath(std::string_view path);
// Whether there is one to ask.
bool IsSystemdThere();

// A unit property: its name and a value of D-Bus type s, t (uint64), b, au (pids) or ay (bytes).
struct SystemdProperty {
  std::string name;
  std::variant<std::string, uint64_t, bool, std::vector<uint32_t>, std::vector<uint8_t>> value;
};
// The limits that systemd itself would otherwise set back when it touches the unit.
std::vector<SystemdProperty> SystemdProperties(const Resources& resources, bool v2);
// "0-2,8" as systemd's AllowedCPUs bit set. Errors: kInvalidArgument.
Result<std::vector<uint8_t>> CpuListBits(std::string_view list);

// Method call messages of the D-Bus specification, little endian, ready to send.
std::string StartTransientUnitMessage(uint32_t serial, const std::string& unit, const std::vector<SystemdProperty>& properties);
std::string SetUnitPropertiesMessage(uint32_t serial, const std::string& unit, const std::vector<SystemdProperty>& properties);
std::string StopUnitMessage(uint32_t serial, const std::string& unit);

// A reply taken from bytes that a peer sent. `size` is 0 while more bytes are needed.
struct DbusReply {
  size_t size = 0;
  uint8_t type = 0;  // 2 return, 3 error, 4 signal
  uint32_t reply_serial = 0;
  std::string error_name, text;  // of an error: its name and first string
};
// Errors: kInvalidArgument for what is no message, kResourceExhausted above 1 MiB.
Result<DbusReply> ParseDbusMessage(std::string_view bytes);

class SystemdScope {
 public:
  SystemdScope(SystemdPath path, bool v2) : path_(std::move(path)), v2_(v2) {}
  ~SystemdScope() { ReleasePlaceholder(); }
  SystemdScope(const SystemdScope&) = delete;
  SystemdScope& operator=(const SystemdScope&) = delete;

  // Starts the scope with the placeholder in it and waits until its cgroup is there. Nothing is left on failure.
  Result<> Start(const Resources& resources);
  Result<> SetProperties(const Resources& resources);
  // A unit that is not loaded: success.
  Result<> Stop(Deadline deadline);
  int placeholder() const { return placeholder_; }
  void ReleasePlaceholder();

 private:
  SystemdPath path_;
  bool v2_;
  int placeholder_ = -1;
};

}  // namespace caisson::oci
