# SPDX-License-Identifier: Apache-2.0
"""A reboot, as far as it can be had without one: all processes of the node's pods, their namespaces, cgroups, links and the
whole state folder (on /run in production) are gone, and the kernel has another boot id. What was on disk is there."""
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import uuid

import grpc
import pytest
from harness.cni import calls
from harness.daemon import Daemon
from harness.leaks import Leaks
from harness.pods import Pods, read_log
from harness.registry import wait_for

BOOT_ID = "/proc/sys/kernel/random/boot_id"
# Each call in a file of its own; ADD answers with an address.
RECORDER = """#!/bin/sh
d=$(dirname "$0"); n=$(ls "$d" | grep -c '^call-')
{ echo "$CNI_COMMAND"; echo "$CNI_NETNS"; cat; } > "$d/.new.$$"; mv "$d/.new.$$" "$d/call-$n"
test "$CNI_COMMAND" = ADD && test -e "$d/hang" && exec sleep 7654324
test "$CNI_COMMAND" = ADD && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.5/24"}]}'
exit 0
"""


def processes(daemon):
    """Ids of all processes of the daemon and of its pods."""
    return [int(item.split()[1].rstrip(":")) for item in Leaks(daemon.marker).before if item.startswith("process ")]


def reboot(daemon):
    """From SIGKILL to the moment before the new kernel starts caissond. The next start() is under the new boot id."""
    with contextlib.suppress(Exception):
        daemon.kill()
    while pids := processes(daemon):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for item in Leaks(daemon.marker).before:
        if item.startswith("mount "):
            subprocess.run(["umount", "-l", item[len("mount "):]], check=True)
    subprocess.run(["ip", "link", "del", daemon.bridge], stderr=subprocess.DEVNULL)
    for path in sorted((item[len("cgroup "):] for item in Leaks(daemon.marker).before if item.startswith("cgroup ")),
                       reverse=True):
        wait_for(f"{path} is gone", lambda path=path: removed(path))
    shutil.rmtree(daemon.state)
    new_boot(daemon)


def removed(path):
    with contextlib.suppress(OSError):
        os.rmdir(path)
    return not os.path.exists(path)


def new_boot(daemon):
    """The daemon sees another boot id: a file over the kernel's, in a mount namespace that only it and what it starts have.
    Mounts go on to be seen by it (and no other), as under one kernel."""
    with open(f"{daemon.folder}/boot_id", "w") as f:
        f.write(f"{uuid.uuid4()}\n")
    command = Daemon.command.__get__(daemon)
    shell = f'mount --bind "$0" {BOOT_ID} && exec "$@"'
    daemon.command = lambda *extra: ["unshare", "--mount", "--propagation", "private", "sh", "-c", shell,
                                     f"{daemon.folder}/boot_id", *command(*extra)]


def custom(make_daemon, registry):
    daemon = make_daemon(start=False, cni={"cniVersion": "1.0.0", "name": "t", "plugins": [{"type": "t"}]})
    with open(daemon.config, "w") as f:
        f.write(f'[cni]\nconf_dir = "{daemon.cni_dir}"\nbin_dirs = ["{daemon.folder}"]\n')
    with open(f"{daemon.folder}/t", "w") as f:
        f.write(RECORDER)
    os.chmod(f"{daemon.folder}/t", 0o755)
    daemon.image = registry.busybox
    daemon.start()
    return daemon


def test_pods_of_before(make_daemon, registry):
    daemon = make_daemon()
    daemon.pull_busybox(registry)
    pods = Pods(daemon)
    pod, host = pods.run_pod(), pods.run_pod(host_network=True)
    running = pods.start(pod, ["sh", "-c", "echo before; sleep 1000"])
    shared = pods.start(host, ["sleep", "1000"])
    created = pods.create(pod, ["true"])
    ended = pods.start(pod, ["sh", "-c", "exit 9"])
    was_ended, was_running = pods.wait_exit(ended), pods.status(running)
    wait_for("the log", lambda: read_log(was_running.log_path))
    assert len(daemon.leases()) == 1
    reboot(daemon)
    daemon.start()
    pods = Pods(daemon)
    for one in (pod, host):
        status = daemon.client.PodSandboxStatus(pod_sandbox_id=one[0]).status
        assert status.state == 1 and not status.network.ip
    for container in (running, shared):
        status = pods.status(container)
        assert (status.state, status.reason) == (2, "NodeRebooted") and status.exit_code != 0 and "boot" in status.message
        assert status.finished_at >= status.started_at > 0
    assert pods.status(created).state == 2
    # What had ended before has ended as it did.
    assert pods.status(ended) == was_ended
    assert pods.status(running).started_at == was_running.started_at
    assert [line.text for line in read_log(was_running.log_path)] == ["before"]
    # The address is free again before anybody stops the pod.
    wait_for("the lease's end", lambda: daemon.leases() == [])
    # What a kubelet does then: a new attempt of the pod, and the old one goes.
    config = {**pod[1], "metadata": {**pod[1]["metadata"], "attempt": 1}}
    again = pods.run_pod(config)
    assert pods.out(again, ["echo", "again"]) == "again\n"
    for one in (pod, host):
        for _ in range(2):
            daemon.client.StopPodSandbox(pod_sandbox_id=one[0])
        daemon.client.RemovePodSandbox(pod_sandbox_id=one[0])
    assert [p.id for p in daemon.client.ListPodSandbox().items] == [again[0]]
    daemon.remove_all()
    assert daemon.leaks_of_pods() == []


def test_del_has_the_recorded_result(make_daemon, registry):
    daemon = custom(make_daemon, registry)
    pod = Pods(daemon).run_pod()
    reboot(daemon)
    daemon.write_cni({"cniVersion": "1.0.0", "name": "another", "plugins": [{"type": "not-there"}]})
    daemon.start()
    wait_for("DEL", lambda: calls(daemon, "DEL"))
    (netns, told), = calls(daemon, "DEL")
    assert netns == "" and told["name"] == "t" and told["prevResult"]["ips"][0]["address"] == "10.99.0.5/24"
    daemon.client.StopPodSandbox(pod_sandbox_id=pod[0])
    daemon.client.RemovePodSandbox(pod_sandbox_id=pod[0])
    assert len(calls(daemon, "DEL")) == 1 and daemon.leaks_of_pods() == []


def test_in_the_middle_of_a_creation(make_daemon, registry):
    """The node died while a plugin was at work: nobody knows whether it has given out an address."""
    daemon = custom(make_daemon, registry)
    open(f"{daemon.folder}/hang", "w").close()
    config = Pods(daemon).pod_config()
    call = threading.Thread(target=lambda: pytest.raises((grpc.RpcError, ValueError), daemon.client.RunPodSandbox, config=config))
    call.start()
    wait_for("ADD", lambda: calls(daemon, "ADD"))
    adding = [int(pid) for pid in subprocess.run(["pgrep", "-f", "sleep 7654324"], stdout=subprocess.PIPE).stdout.split()]
    daemon.kill()
    call.join()
    for pid in adding:
        os.kill(pid, signal.SIGKILL)
    reboot(daemon)
    os.unlink(f"{daemon.folder}/hang")
    daemon.start()
    assert len(daemon.client.ListPodSandbox().items) == 0
    wait_for("DEL", lambda: calls(daemon, "DEL"))
    wait_for("nothing is left", lambda: not daemon.leaks_of_pods())
    Pods(daemon).run_pod(config)


def test_twice(make_daemon, registry):
    """A second reboot before anyone has removed what the first has ended."""
    daemon = make_daemon()
    daemon.pull_busybox(registry)
    first = Pods(daemon).run_pod()
    container = Pods(daemon).start(first, ["sleep", "1000"])
    reboot(daemon)
    daemon.start()
    status = Pods(daemon).status(container)
    second = Pods(daemon).run_pod()
    reboot(daemon)
    daemon.start()
    assert Pods(daemon).status(container) == status
    assert [p.state for p in daemon.client.ListPodSandbox().items] == [1, 1]
    wait_for("the leases' end", lambda: daemon.leases() == [])
    assert second
    daemon.remove_all()
    assert daemon.leaks_of_pods() == []


def test_layers_that_may_not_have_reached_the_disk(make_daemon, registry):
    """A power failure right after a pull: the records are there, of the files nobody can know. Such an image is not believed;
    what was made from it can still be seen and removed."""
    daemon = make_daemon()
    daemon.client.PullImage(image={"image": registry.busybox})
    pods = Pods(daemon, registry.busybox)
    pod = pods.run_pod(host_network=True)
    container = pods.start(pod, ["sleep", "1000"])
    images = f"{daemon.root}/images/images.db"
    wait_for("the layers are synced", lambda: records(images, '%"synced":1%'))
    daemon.kill()
    with contextlib.closing(sqlite3.connect(images)) as index, index:
        index.execute("""UPDATE records SET json = replace(json, '"synced":1', '"synced":0') WHERE kind = 'layer'""")
    reboot(daemon)
    daemon.start()
    assert len(daemon.client.ListImages().images) == 0
    pods = Pods(daemon, registry.busybox)
    assert pods.status(container).state == 2
    daemon.client.PullImage(image={"image": registry.busybox})
    assert pods.out(pods.run_pod(host_network=True), ["echo", "again"]) == "again\n"
    daemon.remove_all()
    daemon.client.RemoveImage(image={"image": registry.busybox})
    assert daemon.leaks_of_pods() == []
    wait_for("no layer is left", lambda: os.listdir(f"{daemon.root}/images/l") == ["empty"])


def records(path, pattern):
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as index:
        return index.execute("SELECT count(*) FROM records WHERE kind = 'layer' AND json LIKE ?", (pattern,)).fetchone()[0]
