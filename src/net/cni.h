// SPDX-License-Identifier: Apache-2.0
//
// Cni: attaches a pod's network namespace to the networks of a CNI conflist (CNI spec 0.3.0 to 1.1.0) by running the
// plugins. The configuration folder is re-read when it changes. Thread-safe; a run of plugins blocks its caller, under
// a deadline, and kills the plugin's process group when it passes. Plugin output is hostile: bounded and checked.
// Holds no state of attachments: what ADD returned is kept by the caller and given back to CHECK and DEL. The loopback
// interface is not its business (netns.h brings it up), so no `loopback` plugin is run.
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
  std::vector<std::string> ip_ranges;  // subnets, one set each: the `ipRanges` capability
  std::vector<std::string> ips;        // wanted, with prefix length: `ips`
  std::string mac;                     // wanted: `mac`
  std::vector<std::string> aliases;    // names of the pod on the network: `aliases`
};

struct NetworkResult {
  std::vector<std::string> ips;  // of the first network; without prefix length, in the plugin's order; v4 and v6
  std::string mac;
  std::string raw_json;     // the last plugin's result: given back to CHECK and DEL as prevResult
  std::string config_json;  // the conflist that was used: DEL uses it even if the folder changed
  // With several networks each of the two is a JSON array.
};

struct Options {
  std::string conf_dir = "/etc/cni/net.d";
  std::vector<std::string> bin_dirs = {"/opt/cni/bin", "/usr/lib/cni"};
  int max_conf_files = 1;  // the first in lexical order; each further one is a network on eth1, eth2, …
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
  // Runs ADD of each plugin; on failure runs DEL of all (spec 1.1, "DEL": also of those that ADD did not reach) and
  // returns the plugin's own message and code.
  virtual Result<NetworkResult> Add(const Attachment& attachment) = 0;
  // Runs DEL in reverse with `added` as prevResult. Already gone: success. One plugin's failure does not keep the
  // others from releasing what they hold; the first error is returned. `added` may be empty after a crash: then the
  // folder's configuration is used, and without one the error is kFailedPrecondition.
  virtual Result<> Del(const Attachment& attachment, const NetworkResult& added) = 0;
  // Spec 0.4.0 and later; kUnimplemented for older configurations, success where disableCheck says so. Within seconds.
  virtual Result<> Check(const Attachment& attachment, const NetworkResult& added) = 0;
  // CNI 1.1: STATUS of each plugin; older configurations have no such verb: success.
  virtual Result<> Status() = 0;
  // CNI 1.1: GC, with the attachments that are still valid. Success without a run for older configurations and where
  // disableGC says so.
  virtual Result<> Gc(const std::vector<Attachment>& valid) = 0;
};

}  // namespace caisson::net
