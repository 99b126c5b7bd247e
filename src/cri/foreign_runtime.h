// SPDX-License-Identifier: Apache-2.0
//
// Handlers whose containers another project's program makes: an OCI runtime binary, or a shim of containerd's protocol. The pod
// itself is a native one of ours, and its companion drives that program.
#pragma once

#include "caisson/pod/v1/pod.pb.h"
#include "cri/config.h"
#include "cri/v1/api.pb.h"

namespace caisson::cri {

// What the companion is told, with the program found: as configured or, for a `runtime_type`, in PATH as containerd does it.
// `handler` is foreign. kFailedPrecondition naming the handler and the program: it is not there.
Result<pod::v1::ForeignRuntime> ForeignRuntimeOf(const std::string& name, const HandlerConfig& handler);

// What containerd's CRI plugin tells a runtime of a pod, by annotations of its sandbox container. The pod's own annotations are not among them.
void AddSandboxAnnotations(const runtime::v1::PodSandboxConfig& pod, pod::v1::ForeignRuntime* runtime);

// kUnimplemented with a sentence for what a pod of such a handler cannot have.
Result<> CheckForeignPod(const std::string& name, const runtime::v1::PodSandboxConfig& pod);

}  // namespace caisson::cri
