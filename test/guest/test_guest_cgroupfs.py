# SPDX-License-Identifier: Apache-2.0
"""The cgroupfs driver on cgroup v2 with all controllers, in a guest whose PID 1 does nothing of its own."""
from suite import PYTEST, boot

ROOT_TESTS = [(name, f"$CAISSON_BUILD/bin/{name} --gtest_brief=1 --gtest_color=no")
              for name in ("oci_root_test", "shim_root_test", "sys_root_test")]


def test_cgroupfs_driver(folder):
    boot(folder, "guest_init=/caisson/repo/test/guest/run.sh",
         ROOT_TESTS + [("pods", f"{PYTEST} test/guest/inside"),
                       # Of the kernel and of cgroup v2: id-mapped layers, a /sys that is the host's.
                       ("user-namespaces", f"{PYTEST} test/cri/test_userns.py -k 'ids or host_network or cgroup or volume'"),
                       # Debian's criu knows this kernel; the host's may be newer, and its cgroups v1.
                       ("checkpoint", f"{PYTEST} test/guest/checkpoint")])
