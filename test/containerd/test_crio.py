# SPDX-License-Identifier: Apache-2.0
"""Our companion and our OCI command line as runtimes of a real CRI-O, where there is one (CAISSON_TEST_CRIO): docs/containerd.md, docs/oci.md."""
import os
import tempfile

import grpc
import pytest

from harness.crio import PROGRAMS, Crio
from harness.daemon import remove_tree
from harness.handler import missing_for_vms
from harness.leaks import Leaks
from harness.pods import Pods
from harness.registry import wait_for
from harness.streams import STDOUT, WebSocket

pytestmark = [pytest.mark.skipif(not os.path.exists(f"{PROGRAMS}/crio"), reason="Debian 12 has no CRI-O: CAISSON_TEST_CRIO names the folder of one (crio, pinns)"),
              pytest.mark.native("names its own runtimes")]
RUNTIMES = ["caisson", "caisson-oci"] + ([] if missing_for_vms() else ["caisson-vm"])


@pytest.fixture(scope="module")
def crio(registry):
    folder = tempfile.mkdtemp(prefix="caisson-crio-")
    leaks = Leaks(os.path.basename(folder))
    crio = Crio(folder, registry)
    yield crio
    crio.destroy()
    left = leaks.check()
    remove_tree(folder)
    assert not left, left


class CrioPods(Pods):
    """What a kubelet says of each container: whose processes it sees."""

    def container_config(self, command=None, name=None, image=None, **extra):
        config = super().container_config(command, name, image, **extra)
        config["linux"].setdefault("security_context", {"namespace_options": {"pid": 1}})
        return config


@pytest.fixture
def pods(crio):
    with CrioPods(crio) as pods:
        yield pods


def sleeper(pods, pod, **extra):
    return pods.start(pod, ["sh", "-c", 'trap "exit 5" TERM; echo up; while :; do sleep 0.05; done'], **extra)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_pod_of_two_containers(crio, pods, runtime):
    pod = pods.run_pod(handler=runtime)
    one, two = sleeper(pods, pod), sleeper(pods, pod)
    for container in (one, two):
        pods.wait_line(container, "up", 60)
        assert pods.exec(container, ["hostname"]) == (0, pod[1]["hostname"] + "\n", "")
    kernel = pods.exec(one, ["uname", "-r"])[1].strip()
    assert (kernel != os.uname().release) == (runtime == "caisson-vm")
    address = pods.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.network.ip
    assert address and address in pods.exec(one, ["ip", "addr"])[1]
    pods.client.ExecSync(container_id=two, cmd=["sh", "-c", "nc -l -p 4711 -e echo seen >/dev/null 2>&1 &"], timeout=10)
    wait_for("the port answers", lambda: pods.exec(one, ["sh", "-c", "nc 127.0.0.1 4711 </dev/null"])[1] == "seen\n")
    pods.client.StopContainer(container_id=one, timeout=20)
    assert pods.wait_exit(one).exit_code == 5
    pods.client.RemoveContainer(container_id=one)
    assert pods.exec(two, ["echo", "still"]) == (0, "still\n", "")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_output_exit_codes_and_failed_starts(pods, runtime):
    pod = pods.run_pod(handler=runtime)
    status, log = pods.run(pod, ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert status.exit_code == 3
    assert sorted((line.stream, line.text) for line in log) == [("stderr", "err"), ("stdout", "out")]
    with pytest.raises(grpc.RpcError) as failed:
        container = pods.create(pod, ["/no/such/program"])
        pods.client.StartContainer(container_id=container)
    assert "/no/such/program" in failed.value.details()
    container = sleeper(pods, pod)
    assert pods.exec(container, ["sh", "-c", "echo e >&2; exit 7"]) == (7, "", "e\n")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_streaming_stats_limits_and_volumes(crio, pods, runtime):
    shared = f"{crio.folder}/shared-{runtime}"
    os.makedirs(shared)
    pod = pods.run_pod(handler=runtime)
    container = sleeper(pods, pod, linux={"resources": {"memory_limit_in_bytes": 64 << 20}}, mounts=[{"container_path": "/v", "host_path": shared}])
    stream = WebSocket(pods.client.Exec(container_id=container, cmd=["sh", "-c", "echo over the stream; exit 4"], stdout=True, stderr=True).url, protocol="v4.channel.k8s.io")
    seen = {}
    while (message := stream.receive()) is not None:
        if message:
            seen[message[0]] = seen.get(message[0], b"") + message[1:]
    assert seen[STDOUT] == b"over the stream\n" and b'"4"' in seen[3]
    pods.exec(container, ["sh", "-c", "echo from inside > /v/x"])
    with open(f"{shared}/x") as f:
        assert f.read() == "from inside\n"
    wait_for("its use of memory is told", lambda: pods.client.ContainerStats(container_id=container).stats.memory.working_set_bytes.value > 0)
    status, _ = pods.run(pod, ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1"], linux={"resources": {"memory_limit_in_bytes": 16 << 20}})
    # Of runtimes of the type "vm" CRI-O asks for the exit code only.
    assert (status.reason, status.exit_code) == ("OOMKilled" if runtime == "caisson-oci" else "Error", 137), status


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_it_starts_anew_under_a_live_pod(crio, pods, runtime):
    pod = pods.run_pod(handler=runtime)
    container = sleeper(pods, pod)
    crio.kill()
    crio.start()
    pods.client = crio.client
    assert pods.exec(container, ["echo", "alive"]) == (0, "alive\n", "")
    assert pods.run(pod, ["sh", "-c", "exit 9"])[0].exit_code == 9
