# SPDX-License-Identifier: Apache-2.0
"""Pods whose guest turns against its host (test/payload/hostile_init.c in the agent's place): they end, with that reason, and nothing stays."""
import os
import subprocess

import grpc
import pytest

from harness.daemon import BUILD
from harness.registry import wait_for
from harness.vm import BOOT_SECONDS, VmPods, children_of, info_of, need_guest, vm_daemon_of

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
INIT = f"{BUILD}/test/hostile-init"
READY, NOT_READY = 0, 1


@pytest.fixture(scope="module")
def daemon(make_module_daemon, registry, tmp_path_factory):
    need_guest()
    if not os.path.exists(INIT):
        pytest.skip("this build has no VMM driver, hence no payload for it")
    folder = tmp_path_factory.mktemp("hostile")
    made = subprocess.run([f"{ROOT}/tools/build-guest", "--agent", INIT, "--output", folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    if made.returncode == 77:
        pytest.skip(made.stdout)
    assert made.returncode == 0, made.stdout
    return vm_daemon_of(make_module_daemon, registry, f"""
[handlers.caisson-vm]
kernel = "{folder}/kernel"
initrd = "{folder}/initramfs"
templates = false
""", tables=False)


def state_of(daemon, pod):
    return daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state


@pytest.mark.parametrize("mode", ["garbage", "request", "endless", "closed", "silent"])
def test_a_guest_that_turns(daemon, mode):
    with VmPods(daemon) as pods:
        pod = pods.run_pod(name=f"mode-{mode}")
        companion = info_of(daemon, pod)["companionPid"]
        vmm, = children_of(companion)
        assert state_of(daemon, pod) == READY
        with pytest.raises(grpc.RpcError) as error:
            pods.create(pod, ["true"])
        if mode in ("closed", "silent"):
            # Nobody can tell it from one that is busy; the call has an end, and so has the pod, without its help.
            assert "no answer within" in error.value.details() and state_of(daemon, pod) == READY
        else:
            wait_for("the pod is not ready", lambda: state_of(daemon, pod) == NOT_READY, BOOT_SECONDS)
            assert "the channel to the agent in the pod's VM broke" in info_of(daemon, pod)["reason"]
            assert f"the guest turns: {mode}" in info_of(daemon, pod)["reason"]
            assert not os.path.exists(f"/proc/{vmm}")
        assert not daemon.client.ListContainers().containers
        daemon.client.StopPodSandbox(pod_sandbox_id=pod[0], deadline=20)
        assert not os.path.exists(f"/proc/{vmm}")
    assert daemon.leaks_of_pods() == []
