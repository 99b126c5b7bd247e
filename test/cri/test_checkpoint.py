# SPDX-License-Identifier: Apache-2.0
"""CheckpointContainer and CreateContainer from an archive, as far as every host goes: what they say where criu cannot work, and
what is refused before it is asked. That they work is shown in test/guest/checkpoint, where criu does."""
import json
import os

import grpc
import pytest
from harness.daemon import HAS_CLI, cli
from harness.pods import Pods

ABSENT = '[checkpoint]\ncriu = "/no/such/criu"\nrestore = true\n'
PURE_V2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def says(call, code):
    with pytest.raises(grpc.RpcError) as error:
        call()
    assert error.value.code() == code, error.value.details()
    return error.value.details()


def support(daemon):
    return json.loads(daemon.client.Status(verbose=True).info["checkpoint"])


@pytest.fixture(scope="module")
def without_criu(make_module_daemon, registry):
    daemon = make_module_daemon(config=ABSENT)
    daemon.pull_busybox(registry)
    return daemon


@pytest.fixture
def lone(without_criu):
    pods = Pods(without_criu)
    yield pods
    pods.remove_all()


def test_without_criu_the_reason_is_said_everywhere(lone, folder):
    daemon, where = lone.daemon, f"{folder}/checkpoint.tar"
    reason = "criu is not at '/no/such/criu'" if PURE_V2 else "cgroup v2"
    told = support(daemon)
    assert reason in told["checkpoint"] and reason in told["restore"]
    container = lone.start(lone.run_pod(host_network=True), ["sleep", "100"])
    said = says(lambda: lone.client.CheckpointContainer(container_id=container, location=where), grpc.StatusCode.FAILED_PRECONDITION)
    assert reason in said and not os.path.exists(where)
    assert reason in says(lambda: lone.create(lone.run_pod(host_network=True), ["true"], image=where), grpc.StatusCode.FAILED_PRECONDITION)
    if HAS_CLI:
        row = next(row for row in json.loads(cli(daemon, "doctor", "-o", "json").stdout) if row["name"] == "checkpoints")
        assert row["verdict"] == "warn" and reason in row["fact"] and "apt-get install criu" in row["remedy"]
    assert lone.exec(container, ["true"])[0] == 0


def test_requests_that_cannot_be(pods, folder):
    container = pods.create(pods.run_pod(host_network=True), ["sleep", "100"])
    call = pods.client.CheckpointContainer
    says(lambda: call(container_id="absent", location=f"{folder}/x"), grpc.StatusCode.NOT_FOUND)
    for location in ("", "x.tar", f"{folder}/", "/" + "x" * 5000, folder):
        says(lambda: call(container_id=container, location=location), grpc.StatusCode.INVALID_ARGUMENT)
    assert "running" in says(lambda: call(container_id=container, location=f"{folder}/x"), grpc.StatusCode.FAILED_PRECONDITION)


def test_restoring_is_off_by_default(pods, folder):
    """Whatever the path is: nothing of it is opened."""
    os.mkfifo(f"{folder}/fifo")
    for path in (f"{folder}/absent.tar", f"{folder}/fifo", "/etc/shadow"):
        said = says(lambda: pods.create(pods.run_pod(host_network=True), ["true"], image=path), grpc.StatusCode.FAILED_PRECONDITION)
        assert "checkpoint.restore" in said
    assert "checkpoint.restore" in support(pods.daemon)["restore"]
    # A path is no image's name.
    says(lambda: pods.client.PullImage(image={"image": "/etc/shadow"}), grpc.StatusCode.INVALID_ARGUMENT)


def test_what_a_killed_daemon_left_is_removed(make_daemon, registry):
    daemon = make_daemon()
    daemon.client.PullImage(image={"image": registry.busybox})
    pods = Pods(daemon, registry.busybox)
    container = pods.start(pods.run_pod(host_network=True), ["sleep", "100"])
    for name in (f"{container}-dump/checkpoint", "0" * 64, "stranger"):
        os.makedirs(f"{daemon.root}/checkpoints/{name}")
    daemon.kill()
    daemon.start()
    assert os.listdir(f"{daemon.root}/checkpoints") == []
    pods.client = daemon.client  # of the new one
    assert pods.exec(container, ["true"])[0] == 0
    pods.remove_all()
