# SPDX-License-Identifier: Apache-2.0
"""Our companion as a RuntimeClass's handler of containerd's CRI: docs/containerd.md."""
import os
import signal

import grpc
import pytest

from harness.containerd import PROGRAMS, Containerd, own_containerd
from harness.pods import Pods
from harness.registry import wait_for
from harness.streams import STDOUT, WebSocket

pytestmark = [pytest.mark.skipif(not os.path.exists(f"{PROGRAMS}/containerd"), reason="no containerd here: install Debian's containerd"),
              pytest.mark.native("containerd's containers are of processes")]

SHIM_SANDBOX = """[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.shim]
runtime_type = "io.containerd.caisson.v2"
sandboxer = "shim"
"""


@pytest.fixture(scope="module")
def containerd():
    with own_containerd(lambda folder: Containerd(folder, cri=True, config=SHIM_SANDBOX)) as containerd:
        yield containerd


@pytest.fixture
def pods(containerd):
    with Pods(containerd) as pods:
        yield pods
    wait_for("no companion is left", lambda: not containerd.companions())


def sleeper(pods, pod, **extra):
    return pods.start(pod, ["sh", "-c", 'trap "exit 0" TERM; echo up; while :; do sleep 0.05; done'], **extra)


def test_pod_of_two_containers_has_one_companion(containerd, pods):
    pod = pods.run_pod(handler="caisson")
    one, two = sleeper(pods, pod, labels={"n": "1"}), sleeper(pods, pod)
    assert len(containerd.companions()) == 1
    for container in (one, two):
        pods.wait_line(container, "up")
        assert pods.exec(container, ["hostname"]) == (0, pod[1]["hostname"] + "\n", "")
    address = pods.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.network.ip
    assert address and address in pods.exec(one, ["ip", "addr"])[1]
    # They share the network: a port of one is the other's.
    pods.client.ExecSync(container_id=two, cmd=["sh", "-c", "nc -l -p 4711 -e echo seen >/dev/null 2>&1 &"], timeout=10)
    wait_for("the port answers", lambda: pods.exec(one, ["sh", "-c", "nc 127.0.0.1 4711 </dev/null"])[1] == "seen\n")
    pods.client.StopContainer(container_id=one, timeout=10)
    status = pods.wait_exit(one)
    assert (status.exit_code, status.reason) == (0, "Completed")
    pods.client.RemoveContainer(container_id=one)
    assert pods.exec(two, ["echo", "still"]) == (0, "still\n", "")


def test_output_exit_code_and_failed_starts(pods):
    pod = pods.run_pod(handler="caisson", host_network=True)
    status, log = pods.run(pod, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (status.exit_code, status.reason) == (3, "Error")
    assert sorted((line.stream, line.text) for line in log) == [("stderr", "err"), ("stdout", "out")]
    container = pods.create(pod, ["/no/such/program"])
    with pytest.raises(grpc.RpcError) as failed:
        pods.client.StartContainer(container_id=container)
    assert "/no/such/program" in failed.value.details()


def test_stats_and_update(pods):
    pod = pods.run_pod(handler="caisson", host_network=True)
    container = sleeper(pods, pod, linux={"resources": {"memory_limit_in_bytes": 64 << 20}})

    def stats():
        return pods.client.ContainerStats(container_id=container).stats
    wait_for("its use of the processor is told", lambda: stats().cpu.usage_core_nano_seconds.value > 0)
    assert stats().memory.working_set_bytes.value > 0
    pods.client.UpdateContainerResources(container_id=container, linux={"memory_limit_in_bytes": 96 << 20})
    assert pods.status(container).resources.linux.memory_limit_in_bytes in (0, 96 << 20)


def test_streaming_exec(pods):
    pod = pods.run_pod(handler="caisson", host_network=True)
    container = sleeper(pods, pod)
    url = pods.client.Exec(container_id=container, cmd=["sh", "-c", "echo over the stream; exit 4"], stdout=True, stderr=True).url
    stream = WebSocket(url, protocol="v4.channel.k8s.io")
    seen = {}
    while (message := stream.receive()) is not None:
        if message:
            seen[message[0]] = seen.get(message[0], b"") + message[1:]
    assert seen[STDOUT] == b"over the stream\n"
    assert b'"4"' in seen[3] and b"NonZeroExitCode" in seen[3]


def test_memory_limit_is_an_oom_kill(pods):
    pod = pods.run_pod(handler="caisson", host_network=True)
    container = pods.start(pod, ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1"],
                           linux={"resources": {"memory_limit_in_bytes": 8 << 20}})
    status = pods.wait_exit(container)
    assert (status.reason, status.exit_code) == ("OOMKilled", 137)


def test_containerd_restarts_under_a_live_pod(containerd, pods):
    pod = pods.run_pod(handler="caisson")
    lives, ends = sleeper(pods, pod), pods.start(pod, ["sh", "-c", "read x < /gate/fifo; exit 6"], mounts=[
        {"container_path": "/gate", "host_path": gate_in(containerd.folder)}])
    containerd.kill()
    with open(f"{containerd.folder}/gate/fifo", "w") as f:
        f.write("go\n")
    containerd.start()
    pods.client = containerd.client
    assert pods.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state == 0
    assert pods.exec(lives, ["echo", "alive"]) == (0, "alive\n", "")
    assert pods.wait_exit(ends).exit_code in ((6,) if not containerd.is_two() else (6, 255))  # docs/containerd.md
    status, _ = pods.run(pod, ["true"])
    assert status.exit_code == 0 and len(containerd.companions()) == 1


def gate_in(folder):
    os.makedirs(f"{folder}/gate", exist_ok=True)
    if not os.path.exists(f"{folder}/gate/fifo"):
        os.mkfifo(f"{folder}/gate/fifo")
    return f"{folder}/gate"


def test_sandbox_without_a_pause_container(containerd, pods):
    """containerd 2.x with `sandboxer = "shim"`: the companion holds the pod's namespaces."""
    if not containerd.is_two():
        pytest.skip("containerd 1.x has the pause container only")
    pod = pods.run_pod(handler="shim")
    one, two = sleeper(pods, pod), sleeper(pods, pod)
    assert len(containerd.companions()) == 1
    assert pods.exec(one, ["hostname"]) == (0, pod[1]["hostname"] + "\n", "")
    seen = pods.exec(two, ["ps", "-o", "args"])[1]
    assert "caisson-init" in seen and "pytest" not in seen, seen
    status, _ = pods.run(pod, ["sh", "-c", "exit 3"])
    assert status.exit_code == 3


def test_companion_of_a_pod_is_killed(containerd, pods):
    """Everything of the pod ends, and containerd says so; it can be removed as any."""
    pod = pods.run_pod(handler="caisson")
    containers = [sleeper(pods, pod), sleeper(pods, pod)]
    os.kill(containerd.companion(pod[0]), signal.SIGKILL)
    for container in containers:
        assert pods.wait_exit(container).exit_code in (137, 255)
    wait_for("the pod is not ready", lambda: pods.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state == 1)
