// SPDX-License-Identifier: Apache-2.0
//
// A specification of the Container Device Interface (CDI, 0.3.0 to 1.1.0): what a vendor wants done to a container that
// gets one of its devices. Parsing is strict: members that are not known, or that the file's own version does not have,
// are errors. Nothing is looked up on the host. Pure, any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace caisson::cri {

struct CdiDeviceNode {
  std::string path, host_path;  // host_path: never empty
  std::string type;             // "", "b", "c", "u", "p"
  int64_t major = 0, minor = 0;
  std::optional<uint32_t> file_mode, uid, gid;
  std::string permissions;      // of "rwm"; empty: none
};

struct CdiMount {
  std::string host_path, container_path, type;
  std::vector<std::string> options;
};

struct CdiHook {
  std::string name;  // "createContainer", …
  std::string path;
  std::vector<std::string> args, env;
  int64_t timeout_seconds = 0;  // 0: none said
};

struct CdiEdits {
  std::vector<std::string> env;  // "NAME=value"
  std::vector<CdiDeviceNode> device_nodes;
  std::vector<CdiMount> mounts;
  std::vector<CdiHook> hooks;
  std::vector<uint32_t> additional_gids;  // without 0
  bool intel_rdt = false, net_devices = false;  // asked for; neither is supported

  void Append(const CdiEdits& more);
};

struct CdiDevice {
  std::string name;
  CdiEdits edits;
};

struct CdiSpec {
  std::string kind;  // "vendor.com/class"
  std::vector<CdiDevice> devices;
  CdiEdits edits;    // of every container that gets one of the devices

  const CdiDevice* Find(std::string_view name) const;
};

enum class CdiFormat { kJson, kYaml };

// Errors: kInvalidArgument naming the member, kResourceExhausted past a limit.
Result<CdiSpec> ParseCdiSpec(std::string_view text, CdiFormat format);

// "vendor.com/class=name" in its parts. kInvalidArgument for everything else.
struct CdiName {
  std::string kind, device;
};
Result<CdiName> ParseCdiName(const std::string& name);

}  // namespace caisson::cri
