# SPDX-License-Identifier: Apache-2.0
"""Our companion as a runtime of a real Docker that takes shims (23.0 and later), where there is one (CAISSON_TEST_DOCKER): docs/containerd.md."""
import json
import os
import tempfile

import pytest
from harness.clients import NAME, containerd, docker, docker_archive
from harness.daemon import BUILD, remove_tree
from harness.handler import GUEST, missing_for_vms
from harness.leaks import Leaks
from harness.registry import wait_for

PROGRAMS = os.environ.get("CAISSON_TEST_DOCKER", "")
pytestmark = [pytest.mark.skipif(not os.path.exists(f"{PROGRAMS}/dockerd"),
                                 reason="Debian 12's Docker takes no shims: CAISSON_TEST_DOCKER names the folder of a later one (dockerd, docker-proxy, docker)"),
              pytest.mark.native("names its own runtimes")]
RUNTIMES = ["io.containerd.caisson.v2", "caisson"] + ([] if missing_for_vms() else ["caisson-vm"])


@pytest.fixture(scope="module")
def dock():
    folder = tempfile.mkdtemp(prefix="caisson-clients-")
    os.chmod(folder, 0o755)
    leaks = Leaks(os.path.basename(folder))
    docker_archive(f"{folder}/image.tar")
    os.mkdir(f"{folder}/shims")
    for name in ("containerd-shim-caisson-v2", "containerd-shim-caisson-vm-v2"):
        os.symlink(f"{BUILD}/bin/containerd-shim-caisson-v2", f"{folder}/shims/{name}")
    with open(f"{folder}/shim.json", "w") as f:
        json.dump({"kernel": f"{GUEST}/kernel", "initrd": f"{GUEST}/initramfs"}, f)
    runtimes = {"caisson": {"runtimeType": "io.containerd.caisson.v2"},
                "caisson-vm": {"runtimeType": "io.containerd.caisson-vm.v2", "options": {"ConfigPath": f"{folder}/shim.json"}}}
    before = os.environ["PATH"]
    os.environ["PATH"] = ":".join(filter(None, [f"{folder}/shims", os.environ.get("CAISSON_TEST_CONTAINERD"), before]))
    try:
        with containerd(folder) as (address, _), docker(folder, address, runtimes, "caisson", PROGRAMS) as client:
            client.ok("load", "--input", f"{folder}/image.tar")
            yield client
            client.run("system", "prune", "--force", "--all")
    finally:
        os.environ["PATH"] = before
    for base in ("/sys/fs/cgroup", *(f"/sys/fs/cgroup/{name}" for name in os.listdir("/sys/fs/cgroup"))):
        if os.path.isdir(f"{base}/{os.path.basename(folder)}"):
            os.rmdir(f"{base}/{os.path.basename(folder)}")  # the parent that Docker was told
    assert leaks.check() == []
    remove_tree(folder)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_run(dock, runtime):
    once = ("run", "--rm", "--runtime", runtime)
    done = dock.run(*once, NAME, "sh", "-c", "echo out; echo err >&2; exit 5")
    assert (done.returncode, done.stdout, done.stderr) == (5, "out\n", "err\n")
    # docker-run(1), "Exit Status": 127 not found, 126 cannot be invoked.
    assert [dock.run(*once, NAME, program).returncode for program in ("nosuch", "/nosuch", "/etc")] == [127, 127, 126]
    assert (os.uname().release in dock.ok(*once, NAME, "uname", "-r")) == (runtime != "caisson-vm")


@pytest.mark.parametrize("runtime", RUNTIMES[1:])
def test_life(dock, runtime):
    dock.ok("run", "--detach", "--runtime", runtime, "--name", "d1", "--memory", "256m", NAME, "sh", "-c",
            "trap 'echo bye; exit 3' TERM; echo started; while :; do sleep 0.05; done")
    wait_for("it has started", lambda: dock.ok("logs", "d1") == "started\n")
    done = dock.run("exec", "--user", "1000:6", "--env", "A=b", "--workdir", "/tmp", "d1", "sh", "-c", "id -u; echo $A; pwd; exit 9")
    assert (done.returncode, done.stdout) == (9, "1000\nb\n/tmp\n")
    assert "MiB" in dock.ok("stats", "--no-stream", "--format", "{{.MemUsage}}", "d1")
    dock.ok("pause", "d1")
    assert "(Paused)" in dock.ok("ps", "--format", "{{.Status}}")
    dock.ok("unpause", "d1")
    dock.ok("update", "--memory", "200m", "--memory-swap", "-1", "d1")
    dock.ok("stop", "--time", "30", "d1")
    assert dock.ok("logs", "d1") == "started\nbye\n" and dock.ok("inspect", "--format", "{{.State.ExitCode}}", "d1") == "3\n"
    dock.ok("start", "d1")
    dock.ok("restart", "--time", "30", "d1")
    dock.ok("kill", "d1")
    assert dock.ok("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "d1") == "exited 137\n"
    dock.ok("rm", "d1")


def test_out_of_memory(dock):
    dock.run("run", "--name", "oom", "--memory", "16m", NAME, "sh", "-c", "exec tail /dev/zero")
    assert dock.ok("inspect", "--format", "{{.State.OOMKilled}} {{.State.ExitCode}}", "oom") == "true 137\n"
    dock.ok("rm", "oom")


def test_the_bridge(dock):
    dock.ok("run", "--detach", "--name", "web", NAME, "sh", "-c", "mkdir -p /w && echo here > /w/it && exec httpd -f -p 80 -h /w")
    address = dock.ok("inspect", "--format", "{{.NetworkSettings.IPAddress}}", "web").strip()
    wait_for("it serves", lambda: dock.run("run", "--rm", NAME, "timeout", "9", "wget", "-qO-", f"http://{address}/it").stdout == "here\n")
    dock.ok("rm", "--force", "web")
