# SPDX-License-Identifier: Apache-2.0
"""The systemd driver, as systemd sees it: names and properties of scopes, nothing left over, the daemon as its service."""
import os
import subprocess
import uuid

import pytest
from harness.daemon import BIN, SYSTEMD, Daemon, slice_path
from harness.pods import Pods
from harness.registry import wait_for
from test_cgroup import MIB, group, inner, read, resources, systemctl

pytestmark = pytest.mark.skipif(not SYSTEMD, reason="needs systemd as PID 1 of cgroup v2")


def scopes():
    """All units of ours that systemd knows of, failed and inactive ones too."""
    return systemctl("list-units", "--all", "--plain", "--no-legend", "caisson-*.scope").splitlines()


def show(unit, *names):
    lines = systemctl("show", unit, *[f"--property={name}" for name in names]).splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_kubelets_names(daemon, pods):
    """The kubelet's own slice of a burstable pod: systemd wants its name, the kubelet sends the whole path."""
    uid = str(uuid.uuid4()).replace("-", "_")
    name = f"kubepods-burstable-pod{uid}.slice"
    systemctl("start", name)
    parent = slice_path(name)
    assert parent == f"/kubepods.slice/kubepods-burstable.slice/{name}"
    pod = pods.run_pod(host_network=True, linux={"cgroup_parent": parent})
    container = pods.start(pod, ["sleep", "1000"], **resources(cpu_shares=512, memory_limit_in_bytes=64 * MIB))
    unit = f"caisson-{container}.scope"
    assert group(container) == f"/sys/fs/cgroup{parent}/{unit}"
    assert show(unit, "Slice", "ControlGroup", "Delegate", "ActiveState", "MemoryMax", "CPUWeight", "Transient") == {
        "Slice": name, "ControlGroup": f"{parent}/{unit}", "Delegate": "yes", "ActiveState": "active",
        "MemoryMax": str(64 * MIB), "CPUWeight": "59", "Transient": "yes"}
    daemon.client.UpdateContainerResources(container_id=container, linux={"memory_limit_in_bytes": 80 * MIB})
    assert show(unit, "MemoryMax", "TasksMax") == {"MemoryMax": str(80 * MIB), "TasksMax": "infinity"}
    systemctl("daemon-reexec")
    for folder in (group(container), inner(container)):
        wait_for("systemd has written it", lambda: read(folder, "memory.max") == str(80 * MIB), 10)
        assert (read(folder, "cpu.weight"), read(folder, "pids.max")) == ("59", "max")
    daemon.client.StopContainer(container_id=container, timeout=0)
    daemon.client.RemoveContainer(container_id=container)
    assert scopes() == []
    systemctl("stop", name)
    assert not os.path.exists(f"/sys/fs/cgroup{parent}")


def test_no_units_are_left(daemon, pods):
    pod = pods.run_pod(host_network=True)
    for command in (["true"], ["false"], ["sh", "-c", "kill -9 $$"], ["/no/such/program"]):
        try:
            pods.run(pod, command)
        except Exception as error:  # noqa: BLE001 - the last one fails to start
            assert "/no/such/program" in str(error)
    wait_for("systemd has let go of them", lambda: scopes() == [], 10)
    running = pods.start(pod, ["sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do usleep 10000; done"])
    pods.wait_line(running, "ready")
    assert len(scopes()) == 1
    systemctl("stop", f"caisson-{running}.scope")  # an administrator's doing
    assert pods.wait_exit(running).exit_code == 7
    wait_for("systemd has let go of it", lambda: scopes() == [], 10)


def test_a_slice_is_needed(daemon, pods):
    with pytest.raises(Exception, match="slice"):
        pods.run_pod(host_network=True, linux={"cgroup_parent": "/kubepods/burstable/pod1"})


def test_as_a_service(registry):
    """The unit file that we ship: pods outlive restarts of the service, nothing is in their way when it comes back."""
    folder = "/scratch/tmp/caisson-service"
    os.makedirs(folder)
    daemon = Daemon(folder, start=False)
    unit = "/run/systemd/system/caissond.service"
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../share/systemd/caissond.service")
    with open(source) as f:
        text = f.read()
    assert "ExecStart=/usr/bin/caissond\n" in text
    with open(unit, "w") as f:
        f.write(text.replace("ExecStart=/usr/bin/caissond", "ExecStart=" + " ".join(daemon.command())))
    systemctl("daemon-reload")
    try:
        systemctl("start", "caissond")
        daemon.process = subprocess.Popen(["sleep", "1000"])  # what the harness may look at and end
        wait_for("it answers", daemon._answers)
        daemon.client.PullImage(image={"image": registry.busybox})
        pods = Pods(daemon, registry.busybox)
        pod = pods.run_pod(host_network=True)
        container = pods.start(pod, ["sleep", "1000"])
        before = show("caissond", "MainPID")
        for verb in ("restart", "stop"):
            systemctl(verb, "caissond")
        systemctl("start", "caissond")
        wait_for("it answers again", daemon._answers)
        assert show("caissond", "MainPID", "ActiveState") == {
            "MainPID": show("caissond", "MainPID")["MainPID"], "ActiveState": "active"} and show("caissond", "MainPID") != before
        pods = Pods(daemon, registry.busybox)
        assert pods.status(container).state == 1 and pods.exec(container, ["echo", "alive"])[1] == "alive\n"
        daemon.remove_all()
        assert scopes() == [] and BIN in systemctl("show", "caissond", "--property=ExecStart")
    finally:
        daemon.client.close()
        systemctl("stop", "caissond")
        daemon.process.kill()
        daemon.process.wait()
        os.unlink(unit)
        systemctl("daemon-reload")
