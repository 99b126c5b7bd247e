# SPDX-License-Identifier: Apache-2.0
"""Checkpoints, in a guest whose kernel Debian's criu knows: the host's may be newer, and its cgroups v1."""
from suite import PROGRAMS, PYTEST, boot


def test_checkpoints(folder):
    boot(folder, "guest_init=/caisson/repo/test/guest/run.sh", [("checkpoint", f"{PYTEST} test/guest/checkpoint")], PROGRAMS)
