# SPDX-License-Identifier: Apache-2.0
"""How pods that are virtual machines end when nobody asked for it, and that the reason is told."""
import os
import signal

import pytest

from harness.registry import wait_for
from harness.vm import BOOT_SECONDS, alive, info_of, vmm_of

PRIVILEGED = {"linux": {"security_context": {"privileged": True}}}
NOT_READY = 1


def state_of(daemon, pod):
    return daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state


def privileged_pod(pods):
    return pods.run_pod(linux={"security_context": {"privileged": True}})


def assert_ended(daemon, pods, pod, container, reason, *words):
    status = pods.wait_exit(container, BOOT_SECONDS)
    assert (status.reason, status.exit_code) == (reason, 137), (status.message, pods.log(status.log_path) and [line.text for line in pods.log(status.log_path)])
    wait_for("the pod is not ready", lambda: state_of(daemon, pod) == NOT_READY, BOOT_SECONDS)
    for text in (status.message, info_of(daemon, pod)["reason"]):
        for word in words:
            assert word in text, (word, text)


# SysRq (Documentation/admin-guide/sysrq.rst): "c" crashes the kernel, "i" kills everybody but PID 1, thus the agent.
@pytest.mark.parametrize("key, reason, words", [
    ("c", "GuestPanic", ["console ends with", "panicked - not syncing: sysrq triggered crash"]),
    ("i", "AgentDied", ["console ends with", "the agent was killed by signal 9"]),
])
def test_the_guest_ends_itself(vm_daemon, vm_pods, key, reason, words):
    pod = privileged_pod(vm_pods)
    other = vm_pods.start(pod, ["sleep", "1000"])
    container = vm_pods.start(pod, ["sh", "-c", f"echo {key} > /proc/sysrq-trigger; exec sleep 1000"], **PRIVILEGED)
    assert_ended(vm_daemon, vm_pods, pod, container, reason, *words)
    assert_ended(vm_daemon, vm_pods, pod, other, reason, *words)


def test_the_agents_port_is_not_for_the_taking(vm_pods):
    """Nobody in the guest, however privileged its container, gets between the agent and the host."""
    pod = privileged_pod(vm_pods)
    container = vm_pods.start(pod, ["sleep", "1000"], **PRIVILEGED)
    squat = ("for port in /sys/class/virtio-ports/*; do grep -q caisson.agent.0 $port/name || continue; IFS=: read major minor < $port/dev; "
             "mknod /port c $major $minor; echo found; echo garbage > /port; done")
    _, out, err = vm_pods.exec(container, ["sh", "-c", squat])
    assert out == "found\n" and "busy" in err, (out, err)
    assert vm_pods.exec(container, ["echo", "alive"])[1] == "alive\n"


def test_a_killed_vmm(vm_daemon, vm_pods):
    pod = vm_pods.run_pod()
    container = vm_pods.start(pod, ["sleep", "1000"])
    os.kill(vmm_of(vm_daemon, pod), signal.SIGKILL)
    assert_ended(vm_daemon, vm_pods, pod, container, "VmmKilled", "was killed by signal 9")


def test_a_vmm_killed_while_the_daemon_is_away(vm_daemon, vm_pods):
    pod = vm_pods.run_pod()
    container = vm_pods.start(pod, ["sleep", "1000"])
    vmm, companion = vmm_of(vm_daemon, pod), info_of(vm_daemon, pod)["companionPid"]
    vm_daemon.stop()
    os.kill(vmm, signal.SIGKILL)
    wait_for("the companion has ended", lambda: not alive(companion), BOOT_SECONDS)
    vm_daemon.start()
    vm_pods.client = vm_daemon.client
    status = vm_pods.wait_exit(container)
    assert status.reason == "VmmKilled" and "was killed by signal 9" in status.message
    assert "was killed by signal 9" in info_of(vm_daemon, pod)["reason"]


def test_a_container_out_of_memory(vm_pods):
    pod = vm_pods.run_pod()
    status, _ = vm_pods.run(pod, ["sh", "-c", "x=x; while :; do x=$x$x; done"], linux={"resources": {"memory_limit_in_bytes": 24 << 20}})
    assert status.reason == "OOMKilled" and status.exit_code == 137, status
    # The others in there do not notice.
    assert vm_pods.out(pod, ["echo", "x"]) == "x\n"


def test_a_guest_out_of_memory(vm_pods):
    """No limit but the machine's: who takes it all ends, however much the kubelet wants the pod to live, and the agent stays."""
    pod = vm_pods.run_pod()
    kept = {"linux": {"resources": {"oom_score_adj": -997}}}
    other = vm_pods.start(pod, ["sleep", "1000"], **kept)
    # One buffer of almost all that there is, filled by one call.
    script = 'set -- $(grep MemTotal /proc/meminfo); exec dd if=/dev/zero of=/dev/null count=1 bs=$(($2 / 1024 - 16))M'
    greedy = vm_pods.start(pod, ["sh", "-c", script], **kept)
    status = vm_pods.wait_exit(greedy, BOOT_SECONDS)
    assert status.reason == "OOMKilled" and status.exit_code == 137, status
    assert vm_pods.exec(other, ["echo", "alive"])[1] == "alive\n"


def memory_group(pod, parent):
    for path in (f"/sys/fs/cgroup/memory{parent}/{pod[0]}", f"/sys/fs/cgroup{parent}/{pod[0]}"):
        if os.path.isdir(path):
            return path
    return None


def test_the_hosts_cgroup_out_of_memory(vm_daemon, vm_pods):
    pod = vm_pods.run_pod()
    group = memory_group(pod, vm_daemon.cgroup_parent)
    if group is None:
        pytest.skip("no memory cgroup of the pod's VMM here")
    v1 = os.path.exists(f"{group}/memory.limit_in_bytes")
    with open(f"{group}/memory.usage_in_bytes" if v1 else f"{group}/memory.current") as f:
        used = int(f.read())
    container = vm_pods.start(pod, ["sleep", "1000"])
    with open(f"{group}/memory.limit_in_bytes" if v1 else f"{group}/memory.max", "w") as f:
        f.write(str(used + (48 << 20)))
    # Written into the guest's memory until the host has none for it.
    with pytest.raises(Exception):
        vm_pods.exec(container, ["sh", "-c", "dd if=/dev/zero of=/big bs=1M count=300"])
    assert_ended(vm_daemon, vm_pods, pod, container, "VmOutOfMemory", "no memory left")


def test_a_frozen_guest_is_not_waited_for(vm_daemon, vm_pods):
    pod = vm_pods.run_pod()
    container = vm_pods.start(pod, ["sleep", "1000"])
    vmm = vmm_of(vm_daemon, pod)
    os.kill(vmm, signal.SIGSTOP)
    # Not longer than a native pod's processes would be.
    vm_daemon.client.StopPodSandbox(pod_sandbox_id=pod[0], deadline=20)
    assert not alive(vmm)
    assert vm_pods.wait_exit(container).exit_code in (137, 255)


def test_a_frozen_guest_does_not_hold_up_a_container_that_is_stopped(vm_daemon, vm_pods):
    pod = vm_pods.run_pod()
    container = vm_pods.start(pod, ["sleep", "1000"])
    os.kill(vmm_of(vm_daemon, pod), signal.SIGSTOP)
    with pytest.raises(Exception):
        vm_daemon.client.StopContainer(container_id=container, timeout=1, deadline=60)
    vm_daemon.client.StopPodSandbox(pod_sandbox_id=pod[0], deadline=20)
    assert vm_pods.wait_exit(container).exit_code in (137, 255)
