// SPDX-License-Identifier: Apache-2.0
//
// Context: what the implementation of an RPC may use. A plain struct of references that main.cc wires; everything in it
// outlives every RPC and is thread-safe.
//
// An RPC is a function of its own file rpc/<verb>.cc, declared in rpc/rpc.h:
//   Result<runtime::v1::VersionResponse> Version(Context&, const runtime::v1::VersionRequest&);
// server.cc maps it to gRPC. It blocks its thread as long as it works, each wait under a deadline, and never logs
// (server.cc logs failures once).
#pragma once

#include "cri/background.h"
#include "cri/checkpoint_support.h"
#include "cri/config.h"
#include "cri/container_index.h"
#include "cri/cpu_rates.h"
#include "cri/exec_id.h"
#include "cri/fault.h"
#include "cri/pod_index.h"
#include "cri/sampler.h"
#include "cri/shim_client.h"
#include "cri/templates.h"
#include "cri/user_namespace.h"
#include "cri/vm_pod.h"
#include "cri/warm_pool.h"
#include "cri/writable_layers.h"
#include "image/image_store.h"
#include "net/cni.h"

namespace caisson::stream {
class Server;
}

namespace caisson::cri {

class DaemonMetrics;
class Events;
class HandlerProbes;
struct Context;

// Of all pods, read now (figures.h).
StatsSample TakeSample(Context& context, Ask ask);

struct Context {
  const Config& config;
  PodIndex& pods;
  ContainerIndex& containers;
  image::ImageStore& images;
  net::Cni& cni;
  Shims& shims;
  const FaultPoints& faults;
  Background& background;
  std::string boot_id;          // /proc/sys/kernel/random/boot_id
  bool systemd_cgroup = false;  // the driver in use, Config::cgroup_driver resolved
  // What the stats verbs remember.
  CpuRates cpu_rates = {};
  WritableLayers writable_layers{images, background};
  UserNamespaceSupport user_namespaces{config};
  VmAccelerators vm_accelerators{config};
  Templates templates{config, shims, background, faults};
  WarmPool warm_pool{config, shims, background, faults, templates};
  CheckpointSupport checkpoints{config};
  std::string instance = NewInstance();  // this run of the daemon, in the ids of processes it runs in containers
  stream::Server* streams = nullptr;     // set before the first RPC
  Events* events = nullptr;              // the same
  HandlerProbes* probes = nullptr;       // the same; null: handlers with foreign runtimes are taken as they are
  DaemonMetrics* metrics = nullptr;      // the same; null: nobody asked for any
  // The last, since its thread uses the others.
  Sampler sampler{config.stats.sample_seconds, [this](Ask ask) { return TakeSample(*this, ask); }};
};

}  // namespace caisson::cri
