# SPDX-License-Identifier: Apache-2.0
"""Pods whose guest turns against its host (test/payload/hostile_init.c in the agent's place): they end, with that reason, and nothing stays."""
import concurrent.futures
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
SILENCE_SECONDS = 180


def guest_of(init, folder):
    """A handler's table, for guests whose PID 1 is the program `init`."""
    made = subprocess.run([f"{ROOT}/tools/build-guest", "--agent", init, "--output", folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    if made.returncode == 77:
        pytest.skip(made.stdout)
    assert made.returncode == 0, made.stdout
    return f'sandbox = "vm"\nkernel = "{folder}/kernel"\ninitrd = "{folder}/initramfs"\ntemplates = false\n'


@pytest.fixture(scope="module")
def daemon(make_module_daemon, registry, tmp_path_factory):
    need_guest()
    if not os.path.exists(INIT):
        pytest.skip("this build has no VMM driver, hence no payload for it")
    folder = tmp_path_factory.mktemp("hostile")
    with open(INIT, "rb") as f:
        program = f.read()
    assert program.count(b"VERSION=0.") == 1
    with open(folder / "old-init", "wb") as f:
        f.write(program.replace(b"VERSION=0.", b"VERSION=9."))
    return vm_daemon_of(make_module_daemon, registry, f"""
[handlers.caisson-vm]
{guest_of(INIT, folder / "guest")}
[handlers.other-version]
{guest_of(folder / "old-init", folder / "other")}
""", tables=False)


def state_of(daemon, pod):
    return daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state


def turn(daemon, pods, mode):
    """A pod whose guest has turned, its VMM, and what was said of the container that was to be made."""
    pod = pods.run_pod(name=f"mode-{mode}")
    vmm, = children_of(info_of(daemon, pod)["companionPid"])
    assert state_of(daemon, pod) == READY
    with pytest.raises(grpc.RpcError) as error:
        pods.create(pod, ["true"])
    return pod, vmm, error.value.details()


def stop(daemon, pod, vmm):
    assert not daemon.client.ListContainers().containers
    daemon.client.StopPodSandbox(pod_sandbox_id=pod[0], deadline=20)
    assert not os.path.exists(f"/proc/{vmm}")


@pytest.mark.parametrize("mode", ["garbage", "request", "endless"])
def test_what_is_no_ttrpc_ends_the_pod(daemon, mode):
    with VmPods(daemon) as pods:
        pod, vmm, _ = turn(daemon, pods, mode)
        wait_for("the pod is not ready", lambda: state_of(daemon, pod) == NOT_READY, BOOT_SECONDS)
        reason = info_of(daemon, pod)["reason"]
        assert "the channel to the agent in the pod's VM broke" in reason and f"the guest turns: {mode}" in reason
        assert not os.path.exists(f"/proc/{vmm}")
        stop(daemon, pod, vmm)
    assert daemon.leaks_of_pods() == []


def test_silence_has_its_deadlines(daemon):
    """Nobody can tell it from a guest that is busy: first the call ends, then the pod, without the guest's help."""
    with VmPods(daemon) as pods, concurrent.futures.ThreadPoolExecutor() as several:
        turned = list(several.map(lambda mode: turn(daemon, pods, mode), ["closed", "silent"]))
        for pod, vmm, details in turned:
            assert "no answer within" in details and state_of(daemon, pod) == READY
        (closed, its_vmm, _), (silent, vmm, _) = turned
        stop(daemon, closed, its_vmm)
        wait_for("the silent one's pod is not ready", lambda: state_of(daemon, silent) == NOT_READY, SILENCE_SECONDS)
        reason = info_of(daemon, silent)["reason"]
        assert "has answered nothing for 90 s" in reason and "the guest turns: silent" in reason
        assert not os.path.exists(f"/proc/{vmm}")
        stop(daemon, silent, vmm)
    assert daemon.leaks_of_pods() == []


def test_an_agent_of_another_version_is_refused(daemon):
    with pytest.raises(grpc.RpcError, match="the agent in '.*/other/initramfs' is of version '9.*', and this is 0.*: install"):
        VmPods(daemon).run_pod(handler="other-version")
    assert daemon.leaks_of_pods() == []
