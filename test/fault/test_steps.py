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


def test_every_step_has_a_test():
    # test/vm/test_vm_templates.py has that of templates, test_vm_warm.py that of machines that wait.
    tested = {step for prefix in ("run_pod_sandbox.", "create_container.", "start_container.", "pull_image.", "template.", "warm_pool.")
              for step in steps(prefix)}
    assert tested == set(steps(""))


def test_the_leak_check_sees_a_pod(daemon, pods):
    pods.start(pods.run_pod(), ["sleep", "12345"])
    seen = daemon.leaks_of_pods()
    for kind in ("process ", "mount ", "cgroup ", "link ", "lease ", f"file {daemon.state}/pods",
                 f"file {daemon.state}/containers", f"file {daemon.root}/images/s/", "row pods", "row containers"):
        assert any(item.startswith(kind) for item in seen), (kind, seen)
    assert any("sleep 12345" in item for item in seen)


@pytest.mark.parametrize("step", steps("run_pod_sandbox."))
def test_run_pod_sandbox(make_daemon, step):
    daemon = make_daemon(args=["--fault", step])
    pods = Pods(daemon)
    config = pods.pod_config()
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.RunPodSandbox(config=config)
    assert step in error.value.details()
    assert len(daemon.client.ListPodSandbox().items) == 0 and daemon.leaks_of_pods() == []
    daemon.restart_with()
    Pods(daemon).run_pod(config)


@pytest.mark.parametrize("step", steps("create_container."))
def test_create_container(make_daemon, registry, step):
    daemon = make_daemon(args=["--fault", step])
    daemon.client.PullImage(image={"image": registry.busybox})
    pods = Pods(daemon, registry.busybox)
    pod = pods.run_pod()
    before = daemon.leaks_of_pods()
    with pytest.raises(grpc.RpcError) as error:
        pods.create(pod, ["true"], name="same")
    assert step in error.value.details() and len(daemon.client.ListContainers().containers) == 0
    assert daemon.leaks_of_pods() == before
    daemon.restart_with()
    assert Pods(daemon, registry.busybox).out(pod, ["echo", "again"], name="same") == "again\n"
    daemon.remove_all()
    assert daemon.leaks_of_pods() == []


@pytest.mark.parametrize("step", steps("start_container."))
def test_start_container(make_daemon, registry, step):
    daemon = make_daemon(args=["--fault", step])
    daemon.client.PullImage(image={"image": registry.busybox})
    pods = Pods(daemon, registry.busybox)
    pod = pods.run_pod()
    before = daemon.leaks_of_pods()
    container = pods.create(pod, ["sleep", "1000"])
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.StartContainer(container_id=container)
    assert step in error.value.details()
    status = pods.status(container)
    assert (status.state, status.reason, status.exit_code) == (2, "StartError", 128) and step in status.message
    # Its process is gone before the answer, not with the container.
    assert not any("sleep 1000" in item for item in daemon.leaks_of_pods())
    daemon.client.RemoveContainer(container_id=container)
    assert daemon.leaks_of_pods() == before


@pytest.mark.parametrize("step", steps("pull_image."))
def test_pull_image(make_daemon, registry, step):
    """The step fails after its work, so the image may be there: then all of it is, and it goes as any other."""
    daemon = make_daemon(args=["--fault", step])
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.PullImage(image={"image": registry.busybox})
    assert step in error.value.details()
    daemon.restart_with()
    if daemon.client.ListImages().images:
        pods = Pods(daemon, registry.busybox)
        assert pods.out(pods.run_pod(), ["echo", "whole"]) == "whole\n"
        daemon.remove_all()
        daemon.client.RemoveImage(image={"image": registry.busybox})
    assert len(daemon.client.ListImages().images) == 0
    daemon.client.PullImage(image={"image": registry.busybox})
