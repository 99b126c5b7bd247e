// SPDX-License-Identifier: Apache-2.0
//
// ContainerTest runs real containers from a root file system of busybox alone, in this process, and checks after each
// test that the host is as it was: no child, mount, cgroup or descriptor more. For *_root_test.cc.
#pragma once

#include <gmock/gmock.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "oci/container.h"

namespace caisson::oci {

// Why these tests cannot run here, or empty.
std::string WhyNoContainers();

// A configuration as a CRI daemon would write it: own mount, PID, IPC, UTS, network and cgroup namespaces.
nlohmann::json DefaultSpec(const std::vector<std::string>& args);
// sh -c `script`.
nlohmann::json ShellSpec(const std::string& script);

struct Ended {
  int code = -1;    // 128 + signal
  std::string out;  // stdout and stderr
};

class ContainerTest : public ::testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // The options of a container "c<n>" of `spec`, its cgroup below the test's own; output goes to a pipe that Output
  // reads.
  CreateOptions Options(const nlohmann::json& spec);
  Result<std::unique_ptr<Container>> Create(const nlohmann::json& spec) { return Container::Create(Options(spec)); }
  // Creates, starts, waits, deletes. A failure to create or start is a failure of the test.
  Ended Run(const nlohmann::json& spec) { return Run(Options(spec)); }
  Ended Run(CreateOptions options);
  // A failure of Create or Start, which must come; nothing may be left.
  Error RunFails(const nlohmann::json& spec) { return RunFails(Options(spec)); }
  Error RunFails(CreateOptions options);
  // Runs a process in `container` to its end.
  Ended Exec(Container* container, const nlohmann::json& process);

  // A new pipe whose read end Output drains; the write end is the container's stdout and stderr.
  Stdio MakeStdio();
  std::string Output();
  static int Wait(const Process& process);
  static std::string ReadAllOf(int fd);
  static std::string Mounts();

  std::string bundle_, rootfs_;
  std::string cgroup_;  // cgroupsPath of all containers of the test, without a leading "/"

 private:
  static size_t Descriptors();
  static std::vector<std::string> Cgroups(const std::string& path);
  UniqueFd output_;
  int made_ = 0;
  std::string mounts_before_;
  size_t descriptors_before_ = 0;
};

}  // namespace caisson::oci
