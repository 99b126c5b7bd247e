# SPDX-License-Identifier: Apache-2.0
"""The systemd driver, in a guest whose PID 1 is systemd, on cgroup v2 with all controllers."""
from suite import LONG, OCI, PYTEST, boot

# Of the tests of pods, those that start, measure, stop and lose containers: the others never look at a cgroup. Some always.
SOME = ["cri/test_pod.py::test_exec_sync_timeout_kills_the_tree", "cri/test_restart.py::test_sigkill_finds_everything_again"]
MORE = [f"cri/test_pod.py::test_{name}" for name in ("exit_code_reason_and_times", "stats", "update_resources", "stop_container_signal_then_kill",
                                                     "remove_is_idempotent_and_forceful", "pid_modes")] + ["cri/test_restart.py::test_companion_killed"]
PODS = " ".join(f"test/{name}" for name in SOME + (MORE if LONG else []))
# What a driver does with limits is the other guest's; whose group a container is in is this one's.
GROUPS = "" if LONG else "-k 'not (oom or devices or own_group or threaded or refused or parent)'"
COMMANDS = OCI if LONG else "life"  # of caisson-oci


def test_systemd_driver(folder):
    boot(folder, "guest_init=/lib/systemd/systemd systemd.unit=caisson-guest.service systemd.show_status=no "
         "systemd.unified_cgroup_hierarchy=1",
         [("pods", f"CAISSON_TEST_CGROUP_DRIVER=systemd {PYTEST} {GROUPS} test/guest/inside {PODS}"),
          ("shim", f"{PYTEST} test/containerd/test_shim_protocol.py -k whose_cgroup"),
          ("oci", f"CAISSON_TEST_CGROUP_DRIVER=systemd {PYTEST} test/oci/test_oci.py -k '{COMMANDS}'")])
