# SPDX-License-Identifier: Apache-2.0
"""Templates: the first pod of a kind boots, the next are clones; and what happens when a template is in a bad way."""
import array
import concurrent.futures
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import threading
import time
import urllib.request

import pytest

from harness.daemon import cli
from harness.registry import wait_for
from harness.vm import (BOOT_SECONDS, GUEST, VmPods, await_template, children_of, info_of, need_guest, templates_of, vm_daemon_of)

F_ADD_SEALS, SEALS = 1033, 0xF


def vm(daemon, pod):
    return info_of(daemon, pod)["vm"]


def folders(daemon):
    return os.listdir(f"{daemon.state}/templates")


@pytest.fixture
def own(make_daemon, registry):
    """own(config) -> (daemon, pods): a daemon of the test's own."""
    need_guest()
    with contextlib.ExitStack() as stack:
        def make(config="", args=()):
            daemon = vm_daemon_of(lambda config: make_daemon(config=config, args=args), registry, config)
            return daemon, stack.enter_context(VmPods(daemon))
        yield make


@pytest.fixture
def template(vm_daemon, vm_pods):
    """A template that is ready, of the daemon that the file's tests share."""
    ready = [one for one in templates_of(vm_daemon) if one["state"] == "ready"]
    if not ready:
        assert cli(vm_daemon, "template", "rm", "--all").returncode == 0
        vm_pods.run_pod()
        ready = await_template(vm_daemon)
    return ready[0]


# What a process sees first, in one line.
FIRST = ("head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo; cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid "
         "/sys/class/net/eth0/address /proc/sys/kernel/hostname; exec sleep 1000")


def test_the_first_boots_and_the_next_are_clones_that_differ(own):
    daemon, pods = own()
    first = pods.run_pod()
    assert vm(daemon, first)["start"] == "boot"
    made, = await_template(daemon)
    assert made["handler"] == "caisson-vm" and made["sharesMemory"] and int(made["memoryBytes"]) == 512 << 20
    with concurrent.futures.ThreadPoolExecutor() as several:
        clones = list(several.map(lambda _: pods.run_pod(), range(2)))
    seen, container_of = [], {}
    for pod in [first, *clones]:
        assert vm(daemon, pod)["start"] == ("boot" if pod == first else "clone") and not vm(daemon, pod)["templateError"]
        container = container_of[pod[0]] = pods.start(pod, ["sh", "-c", FIRST])
        path = pods.status(container).log_path
        wait_for("it has said all", lambda path=path: os.path.exists(path) and len(pods.log(path)) >= 5, BOOT_SECONDS)
        random, boot_id, uuid, mac, hostname = [line.text for line in pods.log(path)][:5]
        assert len(random) == 32 and hostname == pod[1]["hostname"]
        assert mac in json.dumps(info_of(daemon, pod)["cniResult"]["interfaces"])
        seen.append((random, boot_id, uuid, mac))
        before = time.time()
        guests = float(pods.exec(container, ["date", "+%s"])[1])
        assert before - 2 < guests < time.time() + 1  # date cuts off what is less than a second
        assert pods.exec(container, ["ls", "/sys/class/net"])[1].split() == ["eth0", "lo"]
        assert pods.exec(container, ["uname", "-r"])[1].strip() == vm(daemon, pod)["kernel"]
    # A clone's size changes as another's does; its memory is the template's, and stays.
    daemon.client.UpdatePodSandboxResources(pod_sandbox_id=clones[0][0], resources={"cpu_quota": 200_000, "cpu_period": 100_000, "memory_limit_in_bytes": 256 << 20})
    assert pods.exec(container_of[clones[0][0]], ["nproc"])[1] == f"{min(2, os.cpu_count())}\n"
    assert vm(daemon, clones[0])["memoryBytes"] == 512 << 20
    for values in zip(*seen):
        assert len(set(values)) == 3, values
    assert int(templates_of(daemon)[0]["uses"]) == 2
    # A guest cannot tell that it is a clone by how long it has been there.
    assert "vm_restore" in cli(daemon, "explain", clones[0][0]).stdout
    assert "vm_boot" in cli(daemon, "explain", first[0]).stdout


def test_explain_shows_where_the_time_of_a_vm_went(vm_daemon, vm_pods, template):
    pod = vm_pods.run_pod()
    assert vm_pods.out(pod, ["echo", "x"]) == "x\n"
    text = cli(vm_daemon, "explain", pod[0]).stdout
    for phase in ("vm_restore", "vm_wake", "vm_agent", "vm_network", "vm_configure", "vm_disks", "vm_rootfs", "vm_container"):
        assert phase in text, text


def test_a_template_is_listed_and_removed(vm_daemon, vm_pods, template):
    clone = vm_pods.run_pod()
    container = vm_pods.start(clone, ["sleep", "1000"])
    assert vm(vm_daemon, clone)["start"] == "clone"
    table = cli(vm_daemon, "template", "ls").stdout
    assert template["id"] in table and "ready" in table and "512.0 MiB" in table
    listed, = templates_of(vm_daemon)
    # What the guest has not touched costs nothing.
    assert 8 << 20 < int(listed["bytes"]) < 300 << 20 and int(listed["uses"]) >= 1
    keeper = vm_daemon.keepers()[template["id"]]
    assert not children_of(keeper)
    refused = cli(vm_daemon, "template", "rm", "nothing-of-that-name")
    assert refused.returncode != 0 and "no template" in refused.stderr
    assert cli(vm_daemon, "template", "rm").returncode != 0
    removed = cli(vm_daemon, "template", "rm", template["id"][:20])
    assert removed.returncode == 0 and removed.stdout.split() == [template["id"]]
    assert not templates_of(vm_daemon) and not folders(vm_daemon) and not vm_daemon.keepers()
    # Clones live on; the next pod boots, and there is a template again.
    assert vm_pods.exec(container, ["echo", "alive"])[1] == "alive\n"
    assert vm(vm_daemon, vm_pods.run_pod())["start"] == "boot"
    again, = await_template(vm_daemon)
    assert again["id"] != template["id"]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_templates_outlive_the_daemon(vm_daemon, vm_pods, template, end):
    keeper = vm_daemon.keepers()[template["id"]]
    getattr(vm_daemon, end)()
    assert vm_daemon.keepers() == {template["id"]: keeper}
    vm_daemon.start()
    vm_pods.client = vm_daemon.client
    assert [one["id"] for one in templates_of(vm_daemon)] == [template["id"]]
    assert vm(vm_daemon, vm_pods.run_pod())["start"] == "clone"


def test_what_is_no_template_any_more_is_removed_at_the_daemons_start(vm_daemon, vm_pods, template):
    vm_daemon.stop()
    os.kill(vm_daemon.keepers()[template["id"]], signal.SIGKILL)
    # What a daemon leaves that dies between two steps.
    for name, files in (("template-empty-1", {}), ("template-pid-2", {"shim.pid": "1 1\n"}), ("template-bad-3", {"shim.pid": "x"})):
        os.mkdir(f"{vm_daemon.state}/templates/{name}")
        for file, text in files.items():
            with open(f"{vm_daemon.state}/templates/{name}/{file}", "w") as f:
                f.write(text)
    wait_for("the keeper is gone", lambda: not vm_daemon.keepers(), 30)
    vm_daemon.start()
    vm_pods.client = vm_daemon.client
    assert not templates_of(vm_daemon) and not folders(vm_daemon)


def test_a_killed_keeper_costs_a_boot(vm_daemon, vm_pods, template):
    clone = vm_pods.run_pod()
    container = vm_pods.start(clone, ["sleep", "1000"])
    os.kill(vm_daemon.keepers()[template["id"]], signal.SIGKILL)
    wait_for("the template is gone", lambda: not templates_of(vm_daemon) and not folders(vm_daemon), 30)
    assert vm_pods.exec(container, ["echo", "alive"])[1] == "alive\n"
    assert vm(vm_daemon, vm_pods.run_pod())["start"] == "boot"


def test_a_frozen_keeper_costs_a_boot(vm_daemon, vm_pods, template):
    keeper = vm_daemon.keepers()[template["id"]]
    os.kill(keeper, signal.SIGSTOP)
    pod = vm_pods.run_pod()
    assert vm(vm_daemon, pod)["start"] == "boot" and "does not answer" in vm(vm_daemon, pod)["templateError"]
    wait_for("the keeper is gone", lambda: not vm_daemon.keepers() and not folders(vm_daemon), 30)
    failed, = templates_of(vm_daemon)
    assert failed["state"] == "failed" and "does not answer" in failed["error"]
    assert vm_pods.out(pod, ["echo", "x"]) == "x\n"


def test_a_keeper_killed_while_a_companion_waits_for_it(vm_daemon, vm_pods, template):
    keeper = vm_daemon.keepers()[template["id"]]
    os.kill(keeper, signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor() as other:
        running = other.submit(vm_pods.run_pod)
        socket_path = f"{vm_daemon.state}/templates/{template['id']}/clone.sock"
        wait_for("a companion has asked", lambda: waiting(socket_path) or running.done(), BOOT_SECONDS)
        os.kill(keeper, signal.SIGKILL)
        pod = running.result()
    assert vm(vm_daemon, pod)["start"] == "boot" and vm(vm_daemon, pod)["templateError"]


def waiting(path):
    """Whether there is a connection to the socket beside its listener (unix(7): the server's end has its name)."""
    with open("/proc/net/unix") as f:
        return sum(line.endswith(f" {path}\n") for line in f) > 1


def sealed(content):
    fd = os.memfd_create("not-a-template", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, len(content)) if not content else os.write(fd, content)
    return fd


def hand_out(path, answer):
    """A keeper in place of the real one, which gives `answer(connection)` to each client."""
    listener = socket.socket(socket.AF_UNIX)
    os.chdir(os.path.dirname(path))  # the path may be longer than an address
    listener.bind("other.sock")
    listener.listen(8)
    os.rename("other.sock", os.path.basename(path))
    os.chdir("/")

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    answer(connection)
    threading.Thread(target=serve, daemon=True).start()
    return listener


def garbage(connection):
    state, memory = sealed(os.urandom(1 << 16)), sealed(b"")
    os.truncate(memory, 512 << 20)
    for fd in (state, memory):
        fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
    connection.sendmsg([b"2"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [state, memory]))])
    os.close(state), os.close(memory)


def unsealed(connection):
    state = sealed(b"x")
    connection.sendmsg([b"1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [state]))])
    os.close(state)


@pytest.mark.parametrize("answer", [garbage, unsealed])
def test_what_is_not_a_template_is_made_up_for_by_a_boot(vm_daemon, vm_pods, template, answer):
    listener = hand_out(f"{vm_daemon.state}/templates/{template['id']}/clone.sock", answer)
    pod = vm_pods.run_pod()
    listener.close()
    assert vm(vm_daemon, pod)["start"] == "boot" and vm(vm_daemon, pod)["templateError"]
    assert vm_pods.out(pod, ["echo", "x"]) == "x\n"
    # Nobody tries it again.
    failed, = templates_of(vm_daemon)
    assert failed["state"] == "failed" and "a clone of it failed" in failed["error"]
    wait_for("nothing of it is left", lambda: not folders(vm_daemon) and not vm_daemon.keepers(), 30)


def test_nobody_can_change_a_template(vm_daemon, template):
    keeper = vm_daemon.keepers()[template["id"]]
    found = 0
    for name in os.listdir(f"/proc/{keeper}/fd"):
        path = f"/proc/{keeper}/fd/{name}"
        if not os.readlink(path).startswith("/memfd:caisson-guest-"):
            continue
        found += 1
        fd = os.open(path, os.O_RDWR)
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
        os.close(fd)
    assert found == 2
    folder = f"{vm_daemon.state}/templates/{template['id']}"
    assert os.stat(folder).st_mode & 0o777 == 0o700 and os.stat(f"{folder}/clone.sock").st_mode & 0o777 == 0o600


def test_a_pod_with_a_memory_limit_shares_no_memory(vm_daemon, vm_pods):
    limited = {"linux": {"resources": {"memory_limit_in_bytes": 192 << 20}, "overhead": {"memory_limit_in_bytes": 224 << 20}}}
    vm_pods.run_pod(**limited)
    made = wait_for("there is one", lambda: [one for one in templates_of(vm_daemon) if one["state"] == "ready" and not one["sharesMemory"]],
                    BOOT_SECONDS)
    assert int(made[0]["memoryBytes"]) == 288 << 20
    clone = vm_pods.run_pod(**limited)
    assert vm(vm_daemon, clone)["start"] == "clone", vm(vm_daemon, clone)
    assert vm_pods.out(clone, ["echo", "x"]) == "x\n"
    assert cli(vm_daemon, "template", "rm", made[0]["id"]).returncode == 0


def test_what_a_template_is_made_of_changes(own, folder):
    shutil.copy(f"{GUEST}/kernel", f"{folder}/kernel")
    daemon, pods = own()
    daemon.stop()
    with open(daemon.config) as f:
        text = f.read().replace(f"{GUEST}/kernel", f"{folder}/kernel")
    with open(daemon.config, "w") as f:
        f.write(text)
    daemon.start()
    pods.client = daemon.client
    pods.run_pod()
    first, = await_template(daemon)
    # A package's upgrade: another file of that name.
    shutil.copy(f"{GUEST}/kernel", f"{folder}/new")
    os.rename(f"{folder}/new", f"{folder}/kernel")
    assert vm(daemon, pods.run_pod())["start"] == "boot"
    second, = await_template(daemon)
    assert second["id"] != first["id"]
    wait_for("only the new one is there", lambda: folders(daemon) == [second["id"]] and list(daemon.keepers()) == [second["id"]], 30)
    # While the daemon is away, too.
    daemon.stop()
    os.utime(f"{folder}/kernel", (1, 1))
    daemon.start()
    pods.client = daemon.client
    assert not templates_of(daemon) and not folders(daemon) and not daemon.keepers()


def test_a_template_that_cannot_be_made_costs_nobody_anything(own):
    daemon, pods = own('[metrics]\naddress = "127.0.0.1:0"\n', ["--fault", "template.make"])
    assert vm(daemon, pods.run_pod())["start"] == "boot"
    failed, = await_template(daemon, "failed")
    assert "fault injected" in failed["error"] and "failed" in cli(daemon, "template", "ls").stdout
    wait_for("nothing of it is left", lambda: not folders(daemon) and not daemon.keepers(), 30)
    assert vm(daemon, pods.run_pod())["start"] == "boot"
    assert [one["id"] for one in templates_of(daemon)] == [failed["id"]]  # not tried again at once
    port = daemon.log_text().rpartition("metrics are served on port ")[2].split()[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'caisson_templates_total{outcome="failed"} 1' in text and 'caisson_vm_starts_total{how="boot"} 2' in text


@pytest.mark.parametrize("who", ["keeper", "vmm"])
def test_killed_while_it_is_being_made(own, who):
    daemon, pods = own()
    pods.run_pod()
    keeper = wait_for("a keeper is there", lambda: list(daemon.keepers().values()), BOOT_SECONDS)[0]
    # By then it has been told what to make.
    vmm = wait_for("its VMM is there", lambda: children_of(keeper), BOOT_SECONDS)[0]
    os.kill(vmm if who == "vmm" else keeper, signal.SIGKILL)
    failed, = await_template(daemon, "failed")
    # Its connection ends a moment before it does.
    words = ("keeper has died", "closed the connection") if who == "keeper" else ("killed by signal 9",)
    assert any(word in failed["error"] for word in words), failed["error"]
    wait_for("nothing of it is left", lambda: not folders(daemon) and not daemon.keepers(), 30)


def test_a_daemon_killed_while_a_template_is_being_made(own):
    daemon, pods = own()
    pods.run_pod()
    wait_for("a keeper is there", daemon.keepers, BOOT_SECONDS)
    daemon.kill()
    daemon.start()
    pods.client = daemon.client
    # Made to the end, it is taken over; else it is ended.
    assert all(one["state"] == "ready" for one in templates_of(daemon))
    assert set(folders(daemon)) == set(daemon.keepers()) == {one["id"] for one in templates_of(daemon)}


def test_how_many_there_are(own):
    daemon, pods = own("[templates]\nmax_count = 1\n")
    pods.run_pod()
    small, = await_template(daemon)
    pods.run_pod(linux={"resources": {"cpu_quota": 150_000, "cpu_period": 100_000}})
    large = wait_for("the other has taken its place", lambda: [one for one in templates_of(daemon)
                                                              if one["state"] == "ready" and one["id"] != small["id"]], BOOT_SECONDS)
    assert large[0]["vcpus"] == min(2, os.cpu_count())
    wait_for("the former is gone", lambda: folders(daemon) == [large[0]["id"]], 30)


def test_what_is_too_large_is_not_made(own):
    daemon, pods = own("[templates]\nmax_bytes = 100000000\n")
    assert vm(daemon, pods.run_pod())["start"] == "boot"
    assert vm(daemon, pods.run_pod())["start"] == "boot"
    assert not templates_of(daemon) and not folders(daemon)


def test_what_nobody_uses_ends(own):
    daemon, pods = own("[templates]\nidle_seconds = 1\n")
    pods.run_pod()
    wait_for("it is there", daemon.keepers, BOOT_SECONDS)
    wait_for("it has ended", lambda: "has ended" in daemon.log_text() and not folders(daemon) and not templates_of(daemon), BOOT_SECONDS)


def test_pods_that_come_at_once_make_one(own):
    daemon, pods = own()
    with concurrent.futures.ThreadPoolExecutor() as several:
        both = list(several.map(lambda _: pods.run_pod(), range(2)))
    assert [vm(daemon, pod)["start"] for pod in both] == ["boot", "boot"]
    await_template(daemon)
    assert len(folders(daemon)) == 1


def test_a_handler_without_templates(own):
    daemon, pods = own()
    daemon.stop()
    with open(daemon.config) as f:
        text = f.read().replace("[handlers.caisson-vm]", "[handlers.caisson-vm]\ntemplates = false")
    with open(daemon.config, "w") as f:
        f.write(text)
    daemon.start()
    pods.client = daemon.client
    assert vm(daemon, pods.run_pod())["start"] == "boot"
    assert vm(daemon, pods.run_pod())["start"] == "boot"
    assert not templates_of(daemon) and not folders(daemon)
