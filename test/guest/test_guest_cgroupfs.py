# SPDX-License-Identifier: Apache-2.0
"""The cgroupfs driver on cgroup v2 with all controllers, in a guest whose PID 1 does nothing of its own."""
from suite import OCI, PYTEST, boot

# An emulated processor is slow: what never looks at a cgroup, and a fault in each call of each way into a container, are for the host.
FILTERS = {"oci_root_test": "*-LaunchFault.*User*:LaunchFault.*AClone*:LaunchFault.*AJoin",
           "shim_root_test": "Containers.*-*Lines*:*Log*:*Stdin*:*Terminal*:*Fifos*:*Environment*"}
ROOT_TESTS = [(name, f"$CAISSON_BUILD/bin/{name} --gtest_brief=1 --gtest_color=no --gtest_filter='{wanted}'") for name, wanted in FILTERS.items()]


def test_cgroupfs_driver(folder):
    boot(folder, "guest_init=/caisson/repo/test/guest/run.sh",
         ROOT_TESTS + [("pods", f"{PYTEST} test/guest/inside"),
                       # Of the kernel and of cgroup v2: id-mapped layers, a /sys that is the host's.
                       ("user-namespaces", f"{PYTEST} test/cri/test_userns.py -k 'test_ids or host_network or cgroup or volume_with'"),
                       ("oci", f"{PYTEST} test/oci/test_oci.py -k '{OCI}'"),
                       # The clock in there is the test's own.
                       ("clock", "CAISSON_OWN_CLOCK=1 $CAISSON_BUILD/bin/shim_test --gtest_brief=1 --gtest_color=no --gtest_filter='GuestClockTest.*'"),
                       # Debian's criu knows this kernel; the host's may be newer, and its cgroups v1.
                       ("checkpoint", f"{PYTEST} test/guest/checkpoint")])
