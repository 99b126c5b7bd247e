# SPDX-License-Identifier: Apache-2.0
"""The daemon, a pod's companion, its VMM or the server of its shared folders is killed at a random moment of a VM pod's life. Whatever
it was at: no call hangs, each that fails says why, all of it can be removed, and nothing stays. CAISSON_KILL_SEED repeats a run,
CAISSON_VM_KILLS makes it longer."""
import os
import random
import signal
import threading
import time

import grpc
import pytest

from harness.registry import wait_for
from harness.vm import BOOT_SECONDS, GUEST, VmPods, need_guest, vm_daemon_of

KILLS = int(os.environ.get("CAISSON_VM_KILLS", "8"))


@pytest.fixture(scope="module")
def daemon(make_module_daemon, registry):
    need_guest()
    return vm_daemon_of(make_module_daemon, registry, f"""
[handlers.caisson-vm]
kernel = "{GUEST}/kernel"
initrd = "{GUEST}/initramfs"
templates = false
""", tables=False)


def processes(daemon):
    """{pid: command} of what runs for the daemon's pods."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as f:
                command = f.read().split("\0")
        except OSError:
            continue
        if int(pid) != daemon.process.pid and daemon.state in " ".join(command):
            found[int(pid)] = " ".join(command)
    return found


class Life(threading.Thread):
    """A pod from its start to its removal, with a shared folder."""

    def __init__(self, daemon):
        super().__init__()
        self.daemon, self.client, self.error, self.at = daemon, daemon.client, None, "the start"
        self.begun = time.monotonic()
        self.start()

    def run(self):
        pods = VmPods(self.daemon)
        pods.client = self.client
        try:
            self.at = "RunPodSandbox"
            pod = pods.run_pod()
            self.at = "CreateContainer"
            container = pods.create(pod, ["sh", "-c", "echo started > /shared/x; exec sleep 4711"],
                                    mounts=[{"container_path": "/shared", "host_path": self.daemon.folder + "/shared"}])
            self.at = "StartContainer"
            self.client.StartContainer(container_id=container)
            self.at = "ExecSync"
            pods.exec(container, ["true"])
            self.at = "StopContainer"
            self.client.StopContainer(container_id=container, timeout=0)
            self.at = "RemoveContainer"
            self.client.RemoveContainer(container_id=container)
            self.at = "StopPodSandbox"
            self.client.StopPodSandbox(pod_sandbox_id=pod[0])
            self.at = "RemovePodSandbox"
            self.client.RemovePodSandbox(pod_sandbox_id=pod[0])
            self.at = "the end"
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed with the daemon
            self.error = error


def kill(daemon, dice):
    """Ends one process; its command."""
    running = processes(daemon)
    victim = dice.choice([daemon.process.pid, *running])
    if victim == daemon.process.pid:
        daemon.kill()
        return "caissond"
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return "nobody: it had just ended"
    return running[victim]


def test_killed_at_random_moments(daemon):
    seed = int(os.environ.get("CAISSON_KILL_SEED", time.time_ns() % 1_000_000))
    dice = random.Random(seed)
    os.makedirs(daemon.folder + "/shared", exist_ok=True)
    whole = Life(daemon)
    whole.join(BOOT_SECONDS)
    assert whole.error is None and whole.at == "the end", whole.error
    lasts = time.monotonic() - whole.begun
    assert daemon.leaks_of_pods() == []
    for turn in range(KILLS):
        life = Life(daemon)
        life.join(dice.uniform(0, lasts))
        at, victim = life.at, kill(daemon, dice)
        story = f"CAISSON_KILL_SEED={seed}, turn {turn}, during {at}: {victim}"
        print(story)
        life.join(BOOT_SECONDS)
        assert not life.is_alive(), story
        if isinstance(life.error, grpc.RpcError):
            assert life.error.details() and life.error.code() not in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN), (story, life.error)
        if victim == "caissond":
            daemon.start()
        daemon.remove_all()
        wait_for(f"nothing is left ({story})", lambda: daemon.leaks_of_pods() == [], BOOT_SECONDS)
