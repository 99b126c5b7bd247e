// SPDX-License-Identifier: Apache-2.0
//
// Plan: everything that a container gets, decided from its spec alone before anything is made. The launcher and the
// child (oci/container.cc, oci/init.cc, oci/rootfs.cc) carry it out and decide nothing. Pure: no system call, so that a
// test can read it whole.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "oci/container.h"
#include "oci/mounts.h"

namespace caisson::oci {

struct SysctlPlan {
  std::string name;  // as the spec has it
  std::string path;  // "/proc/sys/net/ipv4/ip_forward"
  std::string value;
};

struct LinkPlan {
  std::string path, target;
};

struct Plan {
  // Namespaces.
  unsigned long clone_flags = 0;  // CLONE_NEW* of clone3; the cgroup namespace is not among them, nor what is joined
  bool new_cgroup_namespace = false;
  std::vector<NamespaceSpec> joins;           // all but user and PID, in the order of the spec
  std::string user_namespace, pid_namespace;  // paths; empty: new or the launcher's own
  bool new_user_namespace = false;
  IdMaps id_maps;  // of the user namespace, new or joined; a joined one's may not be known

  std::string hostname, domainname;  // to be set in the container's UTS namespace

  // File system, in order.
  std::string root_path;
  bool root_readonly = false;
  unsigned long host_propagation = 0;  // of all mounts, before anything is mounted
  unsigned long root_propagation = 0;  // of the new root, after pivot_root
  std::vector<MountPlan> root_mounts;  // empty: root_path is bound on itself
  std::vector<MountPlan> mounts;
  std::vector<DeviceNode> devices;
  std::vector<LinkPlan> links;
  bool console = false;
  std::vector<SysctlPlan> sysctls;
  std::string cwd;
  std::vector<std::string> readonly_paths, masked_paths;

  Resources resources;  // the spec's, with rules for the devices that every container has
};

// Errors: kInvalidArgument for what cannot be, kUnimplemented for what this runtime does not do; both name the member.
Result<Plan> MakePlan(const Spec& spec, const std::string& bundle, const std::vector<RootfsMount>& rootfs);

// Errors: kInvalidArgument unless `name` is a sysctl that belongs to a namespace which the container does not share
// with the host, and `value` one line of text (CVE-2022-0811).
Result<SysctlPlan> PlanSysctl(const Spec& spec, const std::string& name, const std::string& value);

// One step a line, for people and golden tests.
std::string Describe(const Plan& plan);

}  // namespace caisson::oci
