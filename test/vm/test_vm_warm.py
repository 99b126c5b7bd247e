# SPDX-License-Identifier: Apache-2.0
"""Machines that wait for pods: clones that have run a container already. What a pod of such a machine is like, and what becomes of machines that nobody takes."""
import contextlib
import os
import signal
import time
import urllib.request

import grpc
import pytest

from harness.daemon import cli
from harness.registry import wait_for
from harness.vm import BOOT_SECONDS, VmPods, alive, await_template, await_warm, children_of, info_of, need_guest, vm_daemon_of, warm_of


def how(daemon, pod):
    return info_of(daemon, pod)["vm"]["start"]


def folders(daemon):
    return [name for name in os.listdir(f"{daemon.state}/templates") if name.startswith("warm-")]


def companion_of(daemon, folder):
    with open(f"{daemon.state}/templates/{folder}/shim.pid") as f:
        return int(f.read().split()[0])


@pytest.fixture
def own(make_daemon, registry):
    """own(config) -> (daemon, pods) with a template that is ready."""
    need_guest()
    with contextlib.ExitStack() as stack:
        def make(config="warm_count = 1\n", args=()):
            daemon = vm_daemon_of(lambda config: make_daemon(config=config, args=args), registry, "[templates]\n" + config)
            pods = stack.enter_context(VmPods(daemon))
            pods.run_pod()
            await_template(daemon)
            pods.remove_all()
            return daemon, pods
        yield make


@pytest.fixture
def warm(own):
    """(daemon, pods), and one machine waits."""
    daemon, pods = own()
    assert how(daemon, pods.run_pod()) == "clone"
    await_warm(daemon)
    return daemon, pods


# What a process sees first, in one line each.
FIRST = ("head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; cat /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address "
         "/proc/sys/kernel/hostname; ls /sys/class/net | tr '\\n' ' '; echo; wc -l </proc/mounts; exec sleep 1000")


def test_a_pod_has_the_machine_that_waited(warm):
    daemon, pods = warm
    folder, = folders(daemon)
    companion = companion_of(daemon, folder)
    machine, = children_of(companion)
    seen = []
    for expected in ("warm", "warm", "clone"):
        if expected == "warm":
            await_warm(daemon)
        pod = pods.run_pod()
        assert how(daemon, pod) == expected
        container = pods.start(pod, ["sh", "-c", FIRST])
        path = pods.status(container).log_path
        wait_for("it has said all", lambda path=path: os.path.exists(path) and len(pods.log(path)) >= 6, BOOT_SECONDS)
        random, boot_id, mac, hostname, links, mounts = [line.text.strip() for line in pods.log(path)][:6]
        assert hostname == pod[1]["hostname"] and links == "eth0 lo"
        seen.append((random, boot_id, mac))
        before = time.time()
        assert before - 2 < float(pods.exec(container, ["date", "+%s"])[1]) < time.time() + 1
        if expected == "clone":
            assert mounts == former, "what the machine did before the pod has left a mount"
        former = mounts
        if not seen[1:]:
            # It is the one that waited, under the pod's id and in the pod's cgroup; nothing of it is where it waited.
            assert f"warm-{pod[0]}" == folder and folder not in folders(daemon)
            assert info_of(daemon, pod)["companionPid"] == companion and children_of(companion) == [machine]
            with open(f"/proc/{machine}/cgroup") as f:
                assert all(daemon.marker in line for line in f.read().splitlines() if ":memory:" in line or ":pids:" in line)
            phases = cli(daemon, "explain", pod[0]).stdout
            assert "vm_take" in phases and "vm_restore" not in phases
    for values in zip(*seen):
        assert len(set(values)) == 3, values
    pods.remove_all()
    wait_for("it has ended with its pod", lambda: not alive(machine) and not alive(companion), 30)


def test_the_network_of_such_a_pod(warm):
    daemon, pods = warm
    pod = pods.run_pod()
    assert how(daemon, pod) == "warm"
    serve = pods.start(pod, ["sh", "-c", "echo hello >/tmp/f; httpd -f -p 8080 -h /tmp"])
    address = daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.network.ip
    wait_for("it serves", lambda: pods.exec(serve, ["wget", "-qO-", "http://127.0.0.1:8080/f"])[1] == "hello\n", BOOT_SECONDS)
    with urllib.request.urlopen(f"http://{address}:8080/f", timeout=20) as answer:
        assert answer.read() == b"hello\n"
    gateway = address.rsplit(".", 1)[0] + ".1"
    assert pods.exec(serve, ["ping", "-c", "1", "-W", "20", gateway])[0] == 0


def test_pods_that_it_does_not_fit(warm):
    daemon, pods = warm
    assert how(daemon, pods.run_pod(linux={"resources": {"memory_limit_in_bytes": 256 << 20}})) == "boot"
    assert how(daemon, pods.run_pod(linux={"resources": {"cpu_quota": 150_000, "cpu_period": 100_000}})) == "boot"
    assert warm_of(daemon) == 1
    assert how(daemon, pods.run_pod()) == "warm"


@pytest.mark.parametrize("victim", ["machine", "companion"])
def test_one_that_dies_is_made_again(warm, victim):
    daemon, pods = warm
    folder, = folders(daemon)
    companion = companion_of(daemon, folder)
    machine, = children_of(companion)
    os.kill(machine if victim == "machine" else companion, signal.SIGKILL)
    wait_for("nothing of it is left", lambda: not alive(companion) and not alive(machine) and folder not in folders(daemon), 30)
    assert how(daemon, pods.run_pod()) == "clone"
    await_warm(daemon)


def test_one_that_does_not_move_costs_a_clone(warm):
    daemon, pods = warm
    folder, = folders(daemon)
    machine, = children_of(companion_of(daemon, folder))
    os.kill(machine, signal.SIGSTOP)
    pod = pods.run_pod()
    assert how(daemon, pod) == "clone" and not alive(machine)
    assert pods.out(pod, ["echo", "x"]) == "x\n"


def test_the_daemon_ends_with_and_without_a_word(warm):
    daemon, pods = warm
    for end in (daemon.stop, daemon.kill):
        folder, = folders(daemon)
        companion = companion_of(daemon, folder)
        machine, = children_of(companion)
        end()
        daemon.start()
        pods.client = daemon.client
        assert not alive(companion) and not alive(machine) and not folders(daemon)
        pods.run_pod()
        await_warm(daemon)


def test_one_that_is_not_wanted_any_more(own):
    daemon, pods = own("warm_count = 1\nidle_seconds = 5\n")
    pods.run_pod()
    await_warm(daemon)
    wait_for("nobody took it", lambda: not folders(daemon), 60)
    pods.run_pod()
    await_template(daemon)
    pods.run_pod()
    await_warm(daemon)
    assert cli(daemon, "template", "rm", "--all").returncode == 0
    wait_for("it has gone with its template", lambda: not folders(daemon), 30)


def test_one_that_cannot_be_made(own):
    daemon, pods = own(args=("--fault", "warm_pool.make"))
    for _ in range(2):
        assert how(daemon, pods.run_pod()) == "clone"
        wait_for("it was tried, once", lambda: daemon.log_text().count("no machine is warmed up") == 1, BOOT_SECONDS)
        wait_for("nothing of it is left", lambda: not folders(daemon), 30)


def test_a_pod_that_fails_takes_the_machine_along(warm):
    daemon, pods = warm
    pods.remove_all()
    folder, = folders(daemon)
    companion = companion_of(daemon, folder)
    machine, = children_of(companion)
    daemon.write_cni({"cniVersion": "1.0.0", "name": "broken", "plugins": [{"type": "loopback-that-is-not-there"}]}, "00-broken.conflist")
    with pytest.raises(grpc.RpcError, match="loopback-that-is-not-there"):
        pods.run_pod()
    assert not alive(companion) and not alive(machine) and not folders(daemon)
    os.unlink(f"{daemon.cni_dir}/00-broken.conflist")
    wait_for("nothing is left", lambda: not daemon.leaks_of_pods(), 30)
    assert how(daemon, pods.run_pod()) == "clone"
