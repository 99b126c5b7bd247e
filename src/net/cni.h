// SPDX-License-Identifier: Apache-2.0
//
// Cni: attaches a pod's network namespace to the networks of a CNI conflist (CNI spec 0.3.1 to 1.1.0) by running the
// plugins. The configuration folder is re-read when it changes. Thread-safe; a run of plugins blocks its caller, under
// a deadline, and kills the plugin's process group when it passes. Plugin output is hostile: bounded and checked.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace caisson::net {

struct PortMapping {
  std::string protocol;  // "tcp", "udp", "sctp"
  int host_port = 0, container_port = 0;
  std::string host_ip;
};

struct Attachment {
  std::string container_id;  // the pod sandbox's id: CNI_CONTAINERID
  std::string netns_path;    // empty for a DEL after the namespace is gone
  std::string if_name = "eth0";
  std::map<std::string, std::string> args;  // CNI_ARGS: K8S_POD_NAMESPACE, …
  std::vector<PortMapping> port_mappings;
  std::optional<std::string> bandwidth_json;  // the `bandwidth` capability, as JSON
  std::vector<std::string> dns_servers, dns_searches, dns_options;
  std::vector<std::string> ip_ranges;
};

struct NetworkResult {
  std::vector<std::string> ips;  // without prefix length, in the plugin's order; v4 and v6
  std::string mac;
  std::string raw_json;       // the last plugin's result: given back to CHECK and DEL as prevResult
  std::string config_json;    // the conflist that was used: DEL uses it even if the folder changed
};

struct Options {
  std::string conf_dir = "/etc/cni/net.d";
  std::vector<std::string> bin_dirs = {"/opt/cni/bin", "/usr/lib/cni"};
  int max_conf_files = 1;  // the first conflist in lexical order
  int64_t add_deadline_millis = 60'000, del_deadline_millis = 60'000;
};

class Cni {
 public:
  static Result<std::unique_ptr<Cni>> Create(Options options);
  virtual ~Cni() = default;

  // Ready, or why not ("no network configuration in /etc/cni/net.d"): NetworkReady of Status.
  virtual Result<> Ready() = 0;
  // Name of the network in use, or empty.
  virtual std::string NetworkName() = 0;
  // Runs ADD of each plugin; on failure runs DEL of those that ran and returns the plugin's own message and code.
  virtual Result<NetworkResult> Add(const Attachment& attachment) = 0;
  // Runs DEL in reverse with `added` as prevResult (may be empty after a crash). Already gone: success.
  virtual Result<> Del(const Attachment& attachment, const NetworkResult& added) = 0;
  virtual Result<> Check(const Attachment& attachment, const NetworkResult& added) = 0;
  // CNI 1.1: STATUS of each plugin; older configurations: success.
  virtual Result<> Status() = 0;
  // CNI 1.1: GC, with the attachments that are still valid.
  virtual Result<> Gc(const std::vector<Attachment>& valid) = 0;
};

}  // namespace caisson::net
