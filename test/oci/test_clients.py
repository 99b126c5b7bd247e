# SPDX-License-Identifier: Apache-2.0
"""containerd, Docker and podman, Debian's, run their containers by caisson-oci."""
import contextlib
import glob
import os
import subprocess
import tempfile

import pytest
from harness.bundle import PROGRAM
from harness.clients import NAME, Client, containerd, docker, docker_archive, missing, storage_driver
from harness.daemon import remove_tree
from harness.leaks import Leaks
from harness.registry import wait_for
from harness.terminal import Terminal

UNTIL_TOLD = "trap 'echo bye; exit 3' TERM; echo started; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def place():
    folder = tempfile.mkdtemp(prefix="caisson-clients-")
    os.chmod(folder, 0o755)
    docker_archive(f"{folder}/image.tar")
    leaks = Leaks(os.path.basename(folder))
    yield folder
    # The parent that Docker was told, and BuildKit's in it.
    for base in ("/sys/fs/cgroup", *(f"/sys/fs/cgroup/{name}" for name in os.listdir("/sys/fs/cgroup"))):
        for name in ("/buildkit", ""):
            if os.path.isdir(f"{base}/{os.path.basename(folder)}{name}"):
                os.rmdir(f"{base}/{os.path.basename(folder)}{name}")
    assert leaks.check() == []
    remove_tree(folder)


@pytest.fixture(scope="module")
def daemon(place):
    if missing("containerd", "ctr"):
        pytest.skip(f"not installed: {missing('containerd', 'ctr')}")
    with containerd(place) as (address, ctr):
        ctr.ok("images", "import", f"{place}/image.tar")
        yield address, ctr


@pytest.fixture
def ctr(daemon, place):
    """`ctr` and the flags that make it use our runtime."""
    return daemon[1], ["--runc-binary", PROGRAM, "--runc-root", f"{place}/runc-root"]


@pytest.fixture(scope="module")
def dock(place, daemon):
    if missing("docker", "dockerd"):
        pytest.skip(f"not installed: {missing('docker', 'dockerd')}")
    with docker(place, daemon[0]) as client:
        client.ok("load", "--input", f"{place}/image.tar")
        yield client
        client.run("system", "prune", "--force", "--all")


@pytest.fixture(scope="module")
def podman(place):
    if missing("podman", "conmon"):
        pytest.skip(f"not installed: {missing('podman', 'conmon')}")
    client = Client("podman", "--root", f"{place}/podman", "--runroot", f"{place}/podman-run", "--tmpdir", f"{place}/podman-tmp",
                    "--storage-driver", storage_driver(place).replace("overlay2", "overlay"), "--cgroup-manager", "cgroupfs", "--events-backend", "file",
                    "--runtime", PROGRAM)
    client.ok("load", "--input", f"{place}/image.tar")
    yield client
    client.run("rm", "--all", "--force")
    client.run("rmi", "--all", "--force")
    # Its storage is mounted on itself; and the group above all its containers, if no other podman has any.
    with open("/proc/self/mountinfo") as f:
        for path in reversed([line.split()[4] for line in f if f" {place}/podman" in line]):
            subprocess.run(["umount", path], check=True)
    for parent in glob.glob("/sys/fs/cgroup/libpod_parent") + glob.glob("/sys/fs/cgroup/*/libpod_parent"):
        with contextlib.suppress(OSError):
            if os.path.isdir(f"{parent}/conmon"):
                os.rmdir(f"{parent}/conmon")
            os.rmdir(parent)


def test_containerd_runs_a_container(ctr):
    client, ours = ctr
    done = client.run("run", "--rm", *ours, NAME, "caisson-1", "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (done.returncode, done.stdout) == (5, "out\n") and "err\n" in done.stderr
    done = client.run("run", "--rm", *ours, NAME, "caisson-1", "nosuch")
    assert done.returncode != 0 and "executable file not found in PATH" in done.stderr
    terminal = Terminal(["/usr/bin/ctr", *client.say[1:], "run", "--rm", "--tty", *ours, NAME, "caisson-1", "sh", "-c", "tty; exit 6"])
    terminal.until(b"/dev/pts/0")
    assert terminal.finish() == 6
    assert client.ok("containers", "ls", "-q") == "" and client.ok("tasks", "ls", "-q") == ""


def test_containerd_life(ctr, place):
    client, ours = ctr
    client.ok("run", "--detach", *ours, NAME, "caisson-2", "sh", "-c", UNTIL_TOLD)
    # Only its status: this ctr stops copying as soon as the process has ended, whatever is still in the pipe.
    assert client.run("tasks", "exec", "--exec-id", "e", "caisson-2", "sh", "-c", "echo in; exit 4").returncode == 4
    client.ok("tasks", "pause", "caisson-2")
    assert "PAUSED" in client.ok("tasks", "ls")
    client.ok("tasks", "resume", "caisson-2")
    assert "RUNNING" in client.ok("tasks", "ls")
    assert "memory.usage_in_bytes" in client.ok("tasks", "metrics", "caisson-2") or "memory.usage" in client.ok("tasks", "metrics", "caisson-2")
    assert len(client.ok("tasks", "ps", "caisson-2").splitlines()) >= 2
    client.ok("tasks", "kill", "caisson-2")
    wait_for("the task has stopped", lambda: "STOPPED" in client.ok("tasks", "ls"))
    assert "exit code 3" in client.run("tasks", "delete", "caisson-2").stderr
    client.ok("containers", "delete", "caisson-2")
    assert [name for name in os.listdir(f"{place}/runc-root/default") if not name.startswith(".")] == []


def test_containers_live_on_without_containerd(folder, place):
    if missing("containerd", "ctr"):
        pytest.skip("not installed: containerd")
    with containerd(folder) as (_, client):
        client.ok("images", "import", f"{place}/image.tar")
        client.ok("run", "--detach", "--runc-binary", PROGRAM, "--runc-root", f"{folder}/runc-root", NAME, "caisson-3", "sh", "-c", UNTIL_TOLD)
    with containerd(folder) as (_, client):
        assert "RUNNING" in client.ok("tasks", "ls")
        assert client.run("tasks", "exec", "--exec-id", "e", "caisson-3", "sh", "-c", "exit 4").returncode == 4
        client.ok("tasks", "kill", "-s", "KILL", "caisson-3")
        wait_for("the task has stopped", lambda: "STOPPED" in client.ok("tasks", "ls"))
        assert "exit code 137" in client.run("tasks", "delete", "caisson-3").stderr
        client.ok("containers", "delete", "caisson-3")


def test_docker_life(dock):
    assert "Default Runtime: caisson" in dock.ok("info")
    dock.ok("run", "--detach", "--network", "none", "--name", "d1", "--memory", "64m", NAME, "sh", "-c", UNTIL_TOLD)
    wait_for("it has started", lambda: dock.ok("logs", "d1") == "started\n")
    done = dock.run("exec", "--user", "1000:6", "--env", "A=b", "--workdir", "/tmp", "d1", "sh", "-c", "id -u; id -g; echo $A; pwd; exit 9")
    assert (done.returncode, done.stdout) == (9, "1000\n6\nb\n/tmp\n")
    assert "64MiB" in dock.ok("stats", "--no-stream", "--format", "{{.MemUsage}}", "d1")
    assert "sleep" in dock.ok("top", "d1")
    dock.ok("pause", "d1")
    assert "(Paused)" in dock.ok("ps", "--format", "{{.Status}}")
    dock.ok("unpause", "d1")
    dock.ok("update", "--memory", "96m", "--memory-swap", "-1", "d1")
    limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"
    assert dock.ok("exec", "d1", "sh", "-c", limit) == f"{96 << 20}\n"
    dock.ok("stop", "--time", "30", "d1")
    assert dock.ok("logs", "d1") == "started\nbye\n" and dock.ok("inspect", "--format", "{{.State.ExitCode}}", "d1") == "3\n"
    dock.ok("start", "d1")
    dock.ok("restart", "--time", "30", "d1")
    dock.ok("kill", "d1")
    assert dock.ok("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "d1") == "exited 137\n"
    dock.ok("rm", "d1")
    assert dock.ok("ps", "--all", "--quiet") == ""


def test_docker_run_says_how_it_ended(dock):
    once = ("run", "--rm", "--network", "none")
    done = dock.run(*once, NAME, "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (done.returncode, done.stdout, done.stderr) == (5, "out\n", "err\n")
    # docker-run(1), "Exit Status": 127 not found, 126 cannot be invoked.
    assert dock.run(*once, NAME, "nosuch").returncode == 127
    assert dock.run(*once, NAME, "/nosuch").returncode == 127
    assert dock.run(*once, NAME, "/etc").returncode == 126
    dock.run("run", "--network", "none", "--name", "oom", "--memory", "16m", NAME, "sh", "-c", "exec tail /dev/zero")
    assert dock.ok("inspect", "--format", "{{.State.OOMKilled}} {{.State.ExitCode}}", "oom") == "true 137\n"
    dock.ok("rm", "oom")


def test_docker_terminal(dock):
    terminal = Terminal(["/usr/bin/docker", *dock.say[1:], "run", "--rm", "-it", "--network", "none", NAME, "sh"])
    terminal.write(b"tty; until stty size 2>&1 | grep -w 111; do sleep 0.05; done; exit $((2+2))\r")
    terminal.until(b"/dev/pts/0")
    terminal.until(b"31 111")
    assert terminal.finish() == 4


def test_docker_kinds_of_containers(dock, place):
    once = ("run", "--rm", "--network", "none")
    out = dock.ok(*once, "--read-only", "--tmpfs", "/run", "--volume", f"{place}:/x:ro", "--ulimit", "nofile=100", "--user", "1000", "--cap-drop", "all",
                  "--security-opt", "no-new-privileges", "--hostname", "there", NAME, "sh", "-c",
                  "id -u; ulimit -n; hostname; test -e /x/image.tar && echo seen; touch /y 2>/dev/null || echo read-only; grep Seccomp: /proc/self/status")
    assert out.split("\n")[:5] == ["1000", "100", "there", "seen", "read-only"] and "2" in out.split("\n")[5]
    assert int(dock.ok(*once, "--privileged", NAME, "sh", "-c", "ls /dev | wc -l")) > 20
    assert dock.ok(*once, "--pid", "host", NAME, "sh", "-c", "test $$ -gt 1 && echo host") == "host\n"
    assert dock.ok(*once, "--init=false", "--ipc", "host", "--uts", "host", NAME, "hostname").strip() == os.uname().nodename


def serve(dock, name, *options):
    """A container that serves its name, once it does."""
    dock.ok("run", "--detach", "--name", name, *options, NAME, "sh", "-c", f"mkdir -p /w && echo {name} > /w/name && exec httpd -f -p 80 -h /w")
    wait_for(f"{name} serves", lambda: dock.run("exec", name, "timeout", "9", "wget", "-qO-", "http://127.0.0.1/name").stdout == f"{name}\n")


# Docker makes a container's network by a hook of the runtime specification, which is handed the container's state.
def test_docker_networks(dock):
    serve(dock, "web", "--publish", "8080:80")
    address = dock.ok("inspect", "--format", "{{.NetworkSettings.IPAddress}}", "web").strip()
    own = dock.ok("run", "--rm", NAME, "sh", "-c", f"timeout 9 wget -qO- http://{address}/name; ip -o -4 address show eth0")
    assert own.startswith("web\n") and "10.88.7." in own
    for place in ("127.0.0.1", "10.88.7.1"):
        done = subprocess.run([*dock.net, "busybox", "wget", "-qO-", f"http://{place}:8080/name"], stdout=subprocess.PIPE, text=True, timeout=60)
        assert done.stdout == "web\n"
    assert dock.ok("run", "--rm", "--network", "container:web", NAME, "timeout", "9", "wget", "-qO-", "http://127.0.0.1/name") == "web\n"
    dock.ok("network", "create", "--ipv6=false", "inner")
    serve(dock, "named", "--network", "inner")
    assert dock.ok("run", "--rm", "--network", "inner", NAME, "timeout", "9", "wget", "-qO-", "http://named/name") == "named\n"
    assert dock.run("run", "--rm", NAME, "timeout", "9", "wget", "-qO-", "http://named/name").returncode != 0
    dock.ok("network", "connect", "inner", "web")
    assert dock.ok("exec", "web", "timeout", "9", "wget", "-qO-", "http://named/name") == "named\n"
    # Anew after an end.
    dock.ok("restart", "--time", "0", "named")
    wait_for("it serves again", lambda: dock.run("exec", "web", "timeout", "9", "wget", "-qO-", "http://named/name").stdout == "named\n")
    dock.ok("rm", "--force", "web", "named")
    dock.ok("network", "rm", "inner")


@pytest.mark.parametrize("network", ["none", "default"])
@pytest.mark.parametrize("buildkit", ["0", "1"])
def test_docker_builds(dock, folder, buildkit, network):
    with open(f"{folder}/Dockerfile", "w") as f:
        f.write(f"FROM {NAME}\nRUN echo {buildkit}{network} > /file\nRUN test $(cat /file) = {buildkit}{network}\nCMD cat /file\n")
    dock.ok("build", "--no-cache", "--network", network, "--tag", "caisson.test/built:1", folder, env={**os.environ, "DOCKER_BUILDKIT": buildkit})
    assert dock.ok("run", "--rm", "--network", "none", "caisson.test/built:1") == f"{buildkit}{network}\n"


def test_podman_life(podman):
    done = podman.run("run", "--rm", "--network", "none", NAME, "sh", "-c", "echo out; exit 5")
    assert (done.returncode, done.stdout) == (5, "out\n")
    podman.ok("run", "--detach", "--network", "none", "--name", "p1", NAME, "sh", "-c", UNTIL_TOLD)
    wait_for("it has started", lambda: podman.ok("logs", "p1") == "started\n")
    done = podman.run("exec", "--user", "1000", "p1", "sh", "-c", "id -u; exit 4")
    assert (done.returncode, done.stdout) == (4, "1000\n")
    podman.ok("pause", "p1")
    assert "paused" in podman.ok("inspect", "--format", "{{.State.Status}}", "p1")
    podman.ok("unpause", "p1")
    assert "p1" in podman.ok("stats", "--no-stream", "p1") and "sleep" in podman.ok("top", "p1")
    podman.ok("stop", "--time", "30", "p1")
    assert podman.ok("inspect", "--format", "{{.State.ExitCode}}", "p1") == "3\n"
    podman.ok("start", "p1")
    podman.ok("kill", "p1")
    podman.ok("rm", "--force", "p1")
    assert podman.ok("ps", "--all", "--quiet") == ""


def test_podman_kinds_of_containers(podman):
    once = ("run", "--rm", "--network", "none")
    assert podman.run(*once, NAME, "nosuch").returncode == 127
    assert podman.run(*once, NAME, "/etc").returncode == 126
    # Its /tmp and /run are tmpfs with what the image has there.
    assert podman.ok(*once, "--read-only", NAME, "sh", "-c", "touch /tmp/x && touch /y 2>/dev/null || echo read-only") == "read-only\n"
    assert podman.ok(*once, "--uidmap", "0:100000:2000", NAME, "sh", "-c", "id -u; cat /proc/self/uid_map").split() == ["0", "0", "100000", "2000"]
    terminal = Terminal(["/usr/bin/podman", *podman.say[1:], *once, "-it", NAME, "sh"])
    terminal.write(b"tty; exit 4\r")
    terminal.until(b"/dev/pts/0")
    assert terminal.finish() == 4
