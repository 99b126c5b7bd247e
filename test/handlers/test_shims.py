# SPDX-License-Identifier: Apache-2.0
"""Shims of containerd's protocol as handlers (test_matrix.py has what their containers get): both versions of the protocol, and what becomes
of a pod whose shim dies, stands still or is no shim at all."""
import os
import signal
import stat
import tempfile

import grpc
import pytest
from harness.daemon import BIN, remove_tree
from harness.pods import Pods
from harness.registry import wait_for

pytestmark = pytest.mark.native("handlers of pods of processes")

CONFIG = f"""
[handlers.runc-shim]
runtime_type = "io.containerd.runc.v2"

[handlers.runc-shim-1]
runtime_type = "io.containerd.runc.v1"

[handlers.our-shim]
runtime_type = "io.containerd.caisson.v2"
runtime_path = "{BIN}/containerd-shim-caisson-v2"
"""
BROKEN = {
    "garbage": ("#!/bin/sh\nhead -c 200 /dev/zero | tr '\\0' x; echo; echo '{{{'", "no path of a unix socket"),
    "quits": ("#!/bin/sh\necho no such luck >&2; exit 3", "ended with status 3: no such luck"),
    "mute": ("#!/bin/sh\nexit 0", "answers nothing"),
    "newer": ("#!/bin/sh\necho '{\"version\":9,\"address\":\"/run/x\"}'", "version 9"),
    "nowhere": ("#!/bin/sh\necho unix:///run/no-such-shim", "no such file"),
    "babbler": ("""#!/usr/bin/python3
import os, socket, sys
if "start" not in sys.argv:
    sys.exit(0)
path = os.getcwd() + "/s"  # too long to be bound as it is
server = socket.socket(socket.AF_UNIX)
server.bind("s")
server.listen()
if os.fork():
    print(path)
    sys.exit(0)
null = os.open("/dev/null", os.O_RDWR)
for fd in (0, 1, 2):
    os.dup2(null, fd)
connection = server.accept()[0]
connection.recv(10)
connection.sendall(b"\\xff" * 4096)
connection.recv(1 << 20)
server.accept()
""", "ttRPC frame of 4294967295 bytes"),
}


def processes(*words):
    """Pids of the processes whose command has all these words."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                command = f.read().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if all(word in command for word in words):
            found.append(int(pid))
    return found


@pytest.fixture(scope="module")
def broken():
    folder = tempfile.mkdtemp(prefix="caisson-shims-")
    for name, (text, _) in BROKEN.items():
        with open(f"{folder}/{name}", "w") as f:
            f.write(text)
        os.chmod(f"{folder}/{name}", stat.S_IRWXU)
    yield folder
    remove_tree(folder)


def probed(daemon):
    """Until each handler's probe pod has run, or could not."""
    wait_for("every handler is probed", lambda: "has not run yet" not in str(daemon.client.Status(verbose=True).info), 60)
    return daemon


@pytest.fixture(scope="module")
def daemon(make_module_daemon, registry):
    daemon = make_module_daemon(config=CONFIG)
    daemon.pull_busybox(registry)
    return probed(daemon)


@pytest.fixture
def pods(daemon):
    with Pods(daemon) as pods:
        yield pods
    assert not daemon.leaks_of_pods()


def sleeper(pods, handler="runc-shim"):
    """A pod with a container that runs, and the pids of its shim."""
    pod = pods.run_pod(handler=handler)
    container = pods.start(pod, ["sh", "-c", "echo ready; exec sleep 1000"])
    pods.wait_line(container, "ready")
    shims = processes("containerd-shim-runc-v2", "-id", pod[0])
    assert len(shims) == 1
    return pod, container, shims[0]


def wait_not_ready(daemon, pod):
    wait_for("the pod is not ready", lambda: daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state == 1, 30)


# The second wants a process of its own for each container, as gVisor's. The third answers in version 3 of the protocol, and serves Task in version 3.
@pytest.mark.parametrize("handler", ["runc-shim", "runc-shim-1", "our-shim"])
def test_containers_of_a_shim(daemon, pods, handler):
    pod = pods.run_pod(handler=handler, name=f"of-{handler}")
    status, log = pods.run(pod, ["sh", "-c", "echo out; echo err >&2; hostname; exit 7"])
    assert (status.exit_code, status.reason) == (7, "Error")
    assert sorted((line.stream, line.text) for line in log) == [("stderr", "err"), ("stdout", f"of-{handler}"), ("stdout", "out")]
    container = pods.start(pod, ["sleep", "1000"], linux={"resources": {"memory_limit_in_bytes": 64 << 20}})
    assert pods.exec(container, ["sh", "-c", "echo out; echo err >&2; exit 3"]) == (3, "out\n", "err\n")
    stats = daemon.client.ContainerStats(container_id=container).stats
    assert stats.cpu.usage_core_nano_seconds.value > 0 and 0 < stats.memory.working_set_bytes.value < 64 << 20
    with pytest.raises(grpc.RpcError) as error:
        pods.exec(container, ["sleep", "1000"], timeout=1)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    status, _ = pods.run(pod, ["sh", "-c", "tail /dev/zero"], linux={"resources": {"memory_limit_in_bytes": 32 << 20, "memory_swap_limit_in_bytes": 32 << 20}})
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
    # By another daemon too.
    daemon.kill()
    daemon.start()
    probed(daemon)
    pods.client = daemon.client
    assert pods.exec(container, ["echo", "again"])[1] == "again\n"
    daemon.client.StopContainer(container_id=container, timeout=0)
    assert pods.status(container).exit_code == 137


def test_shims_of_single_containers_come_and_go_with_them(daemon, pods):
    pod = pods.run_pod(handler="runc-shim-1")
    one, two = (pods.start(pod, ["sh", "-c", "echo ready; exec sleep 1000"], name=name) for name in ("one", "two"))
    for container in (one, two):
        pods.wait_line(container, "ready")
        assert len(processes("containerd-shim-runc-v1", "-id", container)) == 1
    assert len(processes("containerd-shim-runc-v1", "-id", pod[0])) == 1
    with open(f"/proc/{processes('containerd-shim-runc-v1', '-id', two)[0]}/cgroup") as f:
        assert f"shim-{pod[0]}" in f.read()
    assert_in_namespaces_of_host("containerd-shim-runc-v1", two)
    daemon.client.StopContainer(container_id=one, timeout=0)
    daemon.client.RemoveContainer(container_id=one)
    wait_for("its shim is gone", lambda: not processes("containerd-shim-runc-v1", "-id", one), 30)
    assert pods.exec(two, ["echo", "here"])[1] == "here\n"
    with pytest.raises(grpc.RpcError):
        pods.start(pod, ["/no/such/program"])
    wait_for("that of one that cannot be made is gone", lambda: len(processes("containerd-shim-runc-v1", "-id")) == 2, 30)
    # Whose end was not asked for.
    os.kill(processes("containerd-shim-runc-v1", "-id", two)[0], signal.SIGKILL)
    assert pods.wait_exit(two).reason == "ShimEnded"
    wait_not_ready(daemon, pod)
    assert not processes("containerd-shim-runc-v1", "-id")


def assert_in_namespaces_of_host(*words):
    for name in ("net", "ipc", "uts"):
        assert os.readlink(f"/proc/{processes(*words)[0]}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")


def test_container_whose_shim_does_not_start_leaves_the_pod(make_daemon, registry, tmp_path):
    program = tmp_path / "shim"
    program.write_text("""#!/bin/sh
case "$*" in *" start") if [ -e "%s/refuse" ]; then sleep 7717 >/dev/null 2>&1 & echo not today >&2; exit 4; fi;; esac
exec /usr/bin/containerd-shim-runc-v1 "$@"
""" % tmp_path)
    program.chmod(0o755)
    daemon = make_daemon(config=f'[handlers.moody]\nruntime_type = "io.containerd.runc.v1"\nruntime_path = "{program}"\n')
    daemon.pull_busybox(registry)
    probed(daemon)
    with Pods(daemon) as pods:
        pod = pods.run_pod(handler="moody")
        (tmp_path / "refuse").write_text("")
        with pytest.raises(grpc.RpcError) as error:
            pods.start(pod, ["sleep", "1000"])
        assert "ended with status 4: not today" in error.value.details()
        assert not processes("sleep 7717 ")
        (tmp_path / "refuse").unlink()
        status, log = pods.run(pod, ["echo", "well"])
        assert (status.exit_code, log[0].text) == (0, "well")
    assert not daemon.leaks_of_pods()


def test_shim_that_is_killed_ends_its_pod(daemon, pods):
    pod, container, shim = sleeper(pods)
    os.kill(shim, signal.SIGKILL)
    status = pods.wait_exit(container)
    assert status.reason == "ShimEnded" and "containerd-shim-runc-v2" in status.message
    wait_not_ready(daemon, pod)
    assert not processes(pod[0], "containerd-shim-runc-v2")


def test_shim_that_stands_still_is_given_up(daemon, pods):
    pod, container, shim = sleeper(pods)
    os.kill(shim, signal.SIGSTOP)
    daemon.client.StopContainer(container_id=container, timeout=0)
    status = pods.wait_exit(container)
    assert (status.exit_code, status.reason) == (137, "ShimSilent")
    wait_not_ready(daemon, pod)
    assert not os.path.exists(f"/proc/{shim}")


def test_shim_goes_with_its_companion(daemon, pods):
    pod, container, shim = sleeper(pods)
    os.kill(processes("containerd-shim-caisson-v2", "serve", pod[0])[0], signal.SIGKILL)
    assert pods.wait_exit(container).reason == "CompanionDied"
    wait_not_ready(daemon, pod)
    wait_for("the shim is gone", lambda: not os.path.exists(f"/proc/{shim}"), 30)


def test_sandbox_container_that_is_killed_ends_its_pod(daemon, pods):
    pod, container, shim = sleeper(pods)
    os.kill(processes("/pause pause")[0] if len(processes("/pause pause")) == 1 else child_of(shim, "/pause pause"), signal.SIGKILL)
    assert pods.wait_exit(container).reason == "SandboxEnded"
    wait_not_ready(daemon, pod)


def child_of(parent, word):
    for pid in processes(word):
        with open(f"/proc/{pid}/stat") as f:
            if int(f.read().rpartition(")")[2].split()[1]) == parent:
                return pid
    raise AssertionError(f"no child '{word}' of {parent}")


def test_what_is_no_shim_is_not_ready_and_says_why(make_daemon, broken):
    daemon = make_daemon(config="".join(f'[handlers.{name}]\nruntime_type = "io.containerd.{name}.v2"\nruntime_path = "{broken}/{name}"\n' for name in BROKEN))
    probed(daemon)
    ready = [handler.name for handler in daemon.client.Status().runtime_handlers]
    for name, (_, reason) in BROKEN.items():
        with pytest.raises(grpc.RpcError) as error:
            Pods(daemon).run_pod(handler=name)
        assert reason in error.value.details()
        assert name not in ready
    # They are tried again.
    wait_for("nothing is left", lambda: not processes(f"{broken}/") and not daemon.leaks_of_pods(), 30)
