// SPDX-License-Identifier: Apache-2.0
//
// The command line that containerd and CRI-O start a shim with (containerd's docs of runtime v2, "Commands"): flags as Go's flag
// package has them, then an action. And what they are told on stdout. Pure.
#pragma once

#include <string>

#include "base/result.h"
#include "caisson/wkt/wkt.pb.h"

namespace caisson::shim {

struct ShimCommand {
  std::string program;         // argv[0]
  std::string action;          // "start", "delete" or empty
  std::string name_space;      // containerd's, of the container
  std::string id;              // the container's
  std::string address;         // of containerd's gRPC socket
  std::string publish_binary;  // not used: events go over ttRPC
  std::string bundle;          // empty: the working directory
  bool debug = false, version = false, info = false;

  // By the name io.containerd.caisson-vm.v2.
  bool vm() const;
};

// True if the arguments are such a command line and no verb of ours.
bool IsShimCommand(int argc, char** argv);
// Errors: kInvalidArgument naming the flag.
Result<ShimCommand> ParseShimCommand(int argc, char** argv);

// The file that runtime options (runtimeoptions.v1.Options) name as ConfigPath; empty: none, or they are other options.
Result<std::string> SettingsPathOf(const wkt::Any& options);

// What containerd writes to the stdin of `start`.
struct StartInput {
  bool bootstrap = false;     // BootstrapParams, as of containerd 2.3; before, the runtime options
  std::string ttrpc_address;  // of containerd, where events go
  std::string socket_dir;
  bool debug = false;
  std::string shim_cgroup;    // runc's option: where the companion is to be
  std::string settings_path;  // shim_settings.h; empty: not said
};
// `input`: at most a few MiB. Errors: kInvalidArgument for options that do not parse.
Result<StartInput> ParseStartInput(const std::string& input, const ShimCommand& command);

// What `start` prints for a companion on the unix socket `address` ("unix:///…"): BootstrapResult (version 3) for a client that has
// sent BootstrapParams; JSON of the version that it can take where it names one (MAX_SHIM_VERSION in the environment, containerd 1.7 and
// later); else the bare address (version 2).
std::string StartAnswer(const StartInput& input, const std::string& max_version, const std::string& address);

// The group whose containers share a companion, from the annotations of the OCI configuration: the pod sandbox's id, or the
// container's own.
Result<std::string> GroupOf(const std::string& config_json, const std::string& id);
// What the annotation io.caisson.sandbox says that its pod is to be: "native" or "vm"; empty: nothing. kInvalidArgument: something else.
Result<std::string> SandboxOf(const std::string& config_json);
// The companion's socket: its name says nothing but is the same for each container of a group, as is asked of it.
std::string SocketPath(const std::string& folder, const ShimCommand& command, const std::string& group);

}  // namespace caisson::shim
