# SPDX-License-Identifier: Apache-2.0
"""The cgroupfs driver on cgroup v2 with all controllers, in a guest whose PID 1 does nothing of its own."""
from suite import LONG, OCI, PYTEST, boot

# An emulated processor is slow: always what is about cgroups and the kernel, the rest of what looks at them with tools/check --long,
# and what never does, and a fault in each call of each way into a container, on the host alone.
FILTERS = {"oci_root_test": "CgroupTest.*:ContainerMounts.Cgroup*:UserNamespace.*:ContainerRun.Seccomp",
           "shim_root_test": "GuestClockTest.*:Containers.PauseResume*:Containers.Oom*:Containers.UserNamespace*"}
if LONG:
    FILTERS = {"oci_root_test": "*-LaunchFault.*User*:LaunchFault.*AClone*:LaunchFault.*AJoin",
               "shim_root_test": "GuestClockTest.*:Containers.*-*Lines*:*Log*:*Stdin*:*Terminal*:*Fifos*:*Environment*"}
# The clock in there is the test's own.
ROOT_TESTS = [(name, f"CAISSON_OWN_CLOCK=1 $CAISSON_BUILD/bin/{name} --gtest_brief=1 --gtest_color=no --gtest_filter='{wanted}'") for name, wanted in FILTERS.items()]
# Other runtimes with cgroup v2 alone: crun refuses hosts that have both versions.
OTHERS = "crun or runc" if LONG else "crun and (exit_code or exec or limits or companion)"
USERS = "test_ids or host_network or cgroup or volume_with" if LONG else "test_ids or host_network"


def test_cgroupfs_driver(folder):
    boot(folder, "guest_init=/caisson/repo/test/guest/run.sh",
         ROOT_TESTS + [("pods", f"{PYTEST} test/guest/inside"),
                       # Of the kernel and of cgroup v2: id-mapped layers, a /sys that is the host's.
                       ("user-namespaces", f"{PYTEST} test/cri/test_userns.py -k '{USERS}'"),
                       ("other-runtimes", f"{PYTEST} test/handlers/test_matrix.py -k '{OTHERS}' -rs"),
                       ("oci", f"{PYTEST} test/oci/test_oci.py -k '{OCI}'"),
                       # Debian's criu knows this kernel; the host's may be newer, and its cgroups v1.
                       ("checkpoint", f"{PYTEST} test/guest/checkpoint")])
