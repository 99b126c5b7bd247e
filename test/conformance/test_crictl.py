# SPDX-License-Identifier: Apache-2.0
"""A client that is not ours: crictl pulls an image and takes a pod through its whole life."""
import json
import os
import subprocess
import sys
import urllib.request

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import tools  # noqa: E402
from harness.daemon import BUILD  # noqa: E402
from harness.registry import free_port, wait_for  # noqa: E402
from harness.terminal import Terminal  # noqa: E402


@pytest.fixture(scope="module")
def crictl(daemon):
    try:
        path = tools.build("crictl", BUILD)
    except tools.Unavailable as reason:
        pytest.skip(str(reason))
    endpoint = f"unix://{daemon.socket}"

    def run(*args, stdin=None):
        done = subprocess.run([*run.command, *args], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=120)
        assert done.returncode == 0, f"crictl {' '.join(args)}: {done.stderr}"
        return done.stdout.strip()

    run.command = [path, "--runtime-endpoint", endpoint, "--image-endpoint", endpoint]
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


@pytest.fixture
def running(crictl, pod_files, daemon):
    """(pod, container) of a shell that reads its stdin."""
    pod_file, container_file = pod_files
    with open(container_file) as f:
        config = json.load(f)
    config.update(command=["sh", "-c", "while read x; do echo \"got $x\"; done"], stdin=True, stdin_once=True)
    with open(container_file, "w") as f:
        json.dump(config, f)
    pod = crictl("runp", pod_file)
    container = crictl("create", pod, container_file, pod_file)
    crictl("start", container)
    yield pod, container
    crictl("rmp", "--force", pod)


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
def test_exec(crictl, running, transport):
    exec_ = ["exec", "--transport", transport]
    assert crictl(*exec_, running[1], "echo", "streamed") == "streamed"
    assert crictl(*exec_, "--interactive", running[1], "cat", stdin="in\nand out") == "in\nand out"
    failed = subprocess.run([*crictl.command, *exec_, running[1], "sh", "-c", "echo why >&2; exit 9"],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    assert failed.returncode != 0 and "why" in failed.stderr and "9" in failed.stderr
    terminal = Terminal([*crictl.command, *exec_, "--interactive", "--tty", running[1], "sh"])
    terminal.until(b"# ")
    terminal.write(b"stty size; echo te''rminal; exit\n")
    terminal.until(b"31 111")
    terminal.until(b"terminal")
    assert terminal.finish() == 0


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
def test_attach(crictl, running, transport):
    # Its stdin ends with this first client, and so does the container.
    out = crictl("attach", "--transport", transport, "--stdin", running[1], stdin="one\ntwo\n")
    assert out.split("\n") == ["got one", "got two"]


@pytest.mark.parametrize("transport", ["spdy", "websocket"])
def test_port_forward(crictl, running, transport):
    pod, container = running
    crictl("exec", "--sync", container, "sh", "-c", "echo page > /tmp/page; httpd -p 127.0.0.1:8099 -h /tmp")
    port = free_port()
    forward = subprocess.Popen([*crictl.command, "port-forward", "--transport", transport, pod, f"{port}:8099"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def page():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/page", timeout=10).read()
        except OSError:
            return None

    try:
        wait_for("the page comes through", lambda: page() == b"page\n")
        assert all(page() == b"page\n" for _ in range(20))
    finally:
        forward.terminate()
        forward.wait(30)


def test_the_daemon(crictl):
    assert "caisson" in crictl("version")
    conditions = json.loads(crictl("info"))["status"]["conditions"]
    assert {c["type"]: c["status"] for c in conditions} == {"RuntimeReady": True, "NetworkReady": True}
    assert "CGROUPFS" in crictl("runtime-config")
