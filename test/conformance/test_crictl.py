# SPDX-License-Identifier: Apache-2.0
"""A client that is not ours: crictl pulls an image and takes a pod through its whole life."""
import json
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import tools  # noqa: E402
from harness.daemon import BUILD  # noqa: E402


@pytest.fixture(scope="module")
def crictl(daemon):
    try:
        path = tools.build("crictl", BUILD)
    except tools.Unavailable as reason:
        pytest.skip(str(reason))
    endpoint = f"unix://{daemon.socket}"

    def run(*args):
        done = subprocess.run([path, "--runtime-endpoint", endpoint, "--image-endpoint", endpoint, *args],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
        assert done.returncode == 0, f"crictl {' '.join(args)}: {done.stderr}"
        return done.stdout.strip()

    return run


@pytest.fixture
def pod_files(daemon):
    def write(name, value):
        with open(f"{daemon.folder}/{name}", "w") as f:
            json.dump(value, f)
        return f"{daemon.folder}/{name}"

    logs = f"{daemon.folder}/crictl-logs"
    os.makedirs(logs, exist_ok=True)
    pod = write("pod.json", {"metadata": {"name": "p", "uid": "u1", "namespace": "default", "attempt": 0},
                             "log_directory": logs, "linux": {"cgroup_parent": daemon.cgroup_parent}})
    container = write("container.json", {
        "metadata": {"name": "c"}, "image": {"image": daemon.image}, "log_path": "c.log", "linux": {},
        "command": ["sh", "-c", "echo first line; sleep 1000"]})
    return pod, container


def test_images(crictl, daemon):
    crictl("pull", daemon.image)
    assert daemon.image.rsplit(":", 1)[0] in crictl("images")
    status = json.loads(crictl("inspecti", daemon.image))["status"]
    assert status["repoTags"] == [daemon.image]
    assert json.loads(crictl("imagefsinfo"))["status"]["imageFilesystems"]


def test_a_pod_from_start_to_end(crictl, pod_files):
    pod_file, container_file = pod_files
    pod = crictl("runp", pod_file)
    container = crictl("create", pod, container_file, pod_file)
    crictl("start", container)
    assert pod[:13] in crictl("pods") and container[:13] in crictl("ps")
    assert crictl("exec", "--sync", container, "echo", "from exec") == "from exec"
    assert "first line" in crictl("logs", container)
    assert container[:13] in crictl("stats", "--output", "table", container)
    assert pod[:13] in crictl("statsp")
    assert json.loads(crictl("inspectp", pod))["status"]["network"]["ip"]
    crictl("update", "--cpu-share", "512", container)
    assert json.loads(crictl("inspect", container))["status"]["state"] == "CONTAINER_RUNNING"
    crictl("stop", "--timeout", "0", container)
    assert json.loads(crictl("inspect", container))["status"]["exitCode"] == 137
    crictl("rm", container)
    crictl("stopp", pod)
    crictl("rmp", pod)
    assert pod[:13] not in crictl("pods")


def test_the_daemon(crictl):
    assert "caisson" in crictl("version")
    conditions = json.loads(crictl("info"))["status"]["conditions"]
    assert {c["type"]: c["status"] for c in conditions} == {"RuntimeReady": True, "NetworkReady": True}
    assert "CGROUPFS" in crictl("runtime-config")
