# SPDX-License-Identifier: Apache-2.0
"""Each step of the multi-step operations fails once: the error names the step, nothing is left, and the next try works.

`caissond --fault STEP` makes one step fail; `caissond --list-faults` lists the steps there are, so that a new step
without a test here cannot be.
"""
import subprocess

import grpc
import pytest
from harness.daemon import BIN
from harness.pods import Pods


def steps(prefix):
    out = subprocess.run([f"{BIN}/caissond", "--list-faults"], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = [line.strip() for line in out.splitlines() if line.startswith(prefix)]
    assert found, out
    return found


def left_over(daemon):
    """What the daemon still knows or keeps after the failed operation."""
    pods = [p.id for p in daemon.client.ListPodSandbox().items]
    containers = [c.id for c in daemon.client.ListContainers().containers]
    return pods, containers


@pytest.mark.parametrize("step", steps("run_pod_sandbox."))
def test_run_pod_sandbox(make_daemon, step):
    daemon = make_daemon(args=["--fault", step])
    pods = Pods(daemon)
    config = pods.pod_config()
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.RunPodSandbox(config=config)
    assert step in error.value.details()
    assert left_over(daemon) == ([], [])
    assert daemon.leaks_of_pods() == []
    daemon.stop()
    daemon.args = []
    daemon.start()
    Pods(daemon).run_pod(config)


@pytest.mark.parametrize("step", steps("create_container."))
def test_create_container(make_daemon, registry, step):
    daemon = make_daemon(args=["--fault", step])
    daemon.client.PullImage(image={"image": registry.busybox})
    pods = Pods(daemon, registry.busybox)
    pod = pods.run_pod()
    with pytest.raises(grpc.RpcError) as error:
        pods.create(pod, ["true"], name="same")
    assert step in error.value.details() and left_over(daemon)[1] == []


@pytest.mark.parametrize("step", steps("start_container."))
def test_start_container(make_daemon, registry, step):
    daemon = make_daemon(args=["--fault", step])
    daemon.client.PullImage(image={"image": registry.busybox})
    pods = Pods(daemon, registry.busybox)
    container = pods.create(pods.run_pod(), ["sleep", "1000"])
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.StartContainer(container_id=container)
    assert step in error.value.details()
    daemon.client.RemoveContainer(container_id=container)


@pytest.mark.parametrize("step", steps("pull_image."))
def test_pull_image(make_daemon, registry, step):
    daemon = make_daemon(args=["--fault", step])
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.PullImage(image={"image": registry.busybox})
    assert step in error.value.details()
    assert len(daemon.client.ListImages().images) == 0
