// SPDX-License-Identifier: Apache-2.0
#include "cri/foreign_runtime.h"

#include <gtest/gtest.h>

namespace caisson::cri {
namespace {

TEST(ForeignRuntime, IsToldOfThePodAsByContainerd) {
  runtime::v1::PodSandboxConfig pod;
  pod.mutable_metadata()->set_name("p");
  pod.mutable_metadata()->set_namespace_("n");
  pod.mutable_metadata()->set_uid("u");
  pod.set_log_directory("/var/log/pods/n_p_u");
  (*pod.mutable_annotations())["io.kubernetes.cri.sandbox-id"] = "another's";
  (*pod.mutable_annotations())["dev.gvisor.spec"] = "x";
  pod::v1::ForeignRuntime runtime;
  AddSandboxAnnotations(pod, &runtime);
  EXPECT_EQ(runtime.annotations().at("io.kubernetes.cri.sandbox-log-directory"), "/var/log/pods/n_p_u");
  EXPECT_EQ(runtime.annotations().at("io.kubernetes.cri.sandbox-uid"), "u");
  EXPECT_EQ(runtime.annotations_size(), 4);
  pod.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(64 << 20);
  AddSandboxAnnotations(pod, &runtime);
  EXPECT_EQ(runtime.annotations().at("io.kubernetes.cri.sandbox-memory"), "67108864");
  EXPECT_EQ(runtime.annotations().at("io.kubernetes.cri.sandbox-cpu-quota"), "0");
}

}  // namespace
}  // namespace caisson::cri
