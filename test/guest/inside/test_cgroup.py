# SPDX-License-Identifier: Apache-2.0
"""Containers on cgroup v2 with all controllers, as the guest of test_guest.py has it, with the driver that the environment
names. What is asked for is read back from the kernel's files, from outside of the container."""
import contextlib
import os
import subprocess

import grpc
import pytest
from harness.daemon import SYSTEMD
from harness.pods import Pods
from harness.registry import wait_for

ROOT = "/sys/fs/cgroup"
MIB = 1 << 20
PRIVILEGED = {"linux": {"security_context": {"privileged": True}}}


def read(folder, name):
    with open(f"{folder}/{name}") as f:
        return f.read().strip()


def write(folder, name, value):
    with open(f"{folder}/{name}", "w") as f:
        f.write(str(value))


def groups_of(name):
    return [f"{base}/{leaf}" for base, leaves, _ in os.walk(ROOT) for leaf in leaves if name in leaf]


def group(container):
    """The one cgroup of a container as a kubelet knows it: with systemd its scope's."""
    found = groups_of(container)
    assert len(found) == 1, found
    return found[0]


def inner(container):
    """The cgroup that its processes are in. systemd may write to the scope's own files whenever it likes."""
    return group(container) + ("/container" if SYSTEMD else "")


def systemctl(*args):
    return subprocess.run(["systemctl", *args], stdout=subprocess.PIPE, check=True, text=True).stdout


def reload_systemd():
    """What may make systemd write a unit's limits anew, as it knows them."""
    if SYSTEMD:
        systemctl("daemon-reload")


def resources(**fields):
    return {"linux": {"resources": fields}}


@pytest.fixture
def pod(pods):
    return pods.run_pod(host_network=True)


def start(pods, pod, command=("sleep", "1000"), **extra):
    return pods.start(pod, list(command), **extra)


def test_limits_are_what_was_asked_for(pods, pod):
    container = start(pods, pod, **resources(
        cpu_shares=512, cpu_quota=35000, cpu_period=50000, memory_limit_in_bytes=64 * MIB,
        memory_swap_limit_in_bytes=96 * MIB, cpuset_cpus="1", cpuset_mems="0",
        hugepage_limits=[{"page_size": "2MB", "limit": 4 * MIB}],
        unified={"memory.high": str(60 * MIB), "memory.oom.group": "1", "memory.low": str(8 * MIB), "pids.max": "77"}))
    own = inner(container)
    expected = {"cpu.weight": "59", "cpu.max": "35000 50000", "memory.max": str(64 * MIB), "memory.swap.max": str(32 * MIB),
                "cpuset.cpus": "1", "cpuset.mems": "0", "hugetlb.2MB.max": str(4 * MIB), "memory.high": str(60 * MIB),
                "memory.oom.group": "1", "memory.low": str(8 * MIB), "pids.max": "77"}
    assert {name: read(own, name) for name in expected} == expected
    reload_systemd()
    assert {name: read(own, name) for name in expected} == expected
    assert read(own, "cpuset.cpus.effective") == "1" and int(read(own, "pids.current")) == 1


def test_updates_change_what_they_name_and_nothing_else(daemon, pods, pod):
    container = start(pods, pod, **resources(
        cpu_shares=1024, memory_limit_in_bytes=64 * MIB, unified={"memory.high": str(48 * MIB), "memory.oom.group": "1"}))
    own = inner(container)
    assert (read(own, "cpu.weight"), read(own, "cpu.max"), read(own, "memory.max")) == ("100", "max 100000", str(64 * MIB))
    for fields, changed in [
            ({"cpu_quota": 20000, "cpu_period": 100000}, {"cpu.max": "20000 100000"}),
            ({"cpu_quota": 12345, "cpu_period": 25000}, {"cpu.max": "12345 25000"}),
            ({"memory_limit_in_bytes": 96 * MIB}, {"memory.max": str(96 * MIB)}),
            ({"cpu_shares": 2}, {"cpu.weight": "1"}),
            ({"cpuset_cpus": "0"}, {"cpuset.cpus": "0"}),
            ({"unified": {"memory.high": "max"}}, {"memory.high": "max"}),
            ({"cpu_quota": -1}, {"cpu.max": "max 25000"}),
            ({"memory_limit_in_bytes": 32 * MIB, "memory_swap_limit_in_bytes": 32 * MIB},
             {"memory.max": str(32 * MIB), "memory.swap.max": "0"})]:
        names = ("cpu.max", "cpu.weight", "memory.max", "memory.high", "memory.swap.max", "memory.oom.group", "cpuset.cpus")
        expected = {name: read(own, name) for name in names} | changed
        daemon.client.UpdateContainerResources(container_id=container, linux=fields)
        assert {name: read(own, name) for name in names} == expected, fields
    reload_systemd()
    assert {name: read(own, name) for name in names} == expected


def test_refused_values_are_named_and_leave_nothing(daemon, pods, pod):
    for fields, word in [({"cpuset_cpus": "1000"}, "cpuset.cpus"), ({"unified": {"memory.swappiness": "3"}}, "memory.swappiness"),
                         ({"unified": {"cgroup.procs": "1"}}, "cgroup.procs"), ({"cpu_quota": 10}, "cpu.max"),
                         ({"hugepage_limits": [{"page_size": "3MB", "limit": 1}]}, "3MB")]:
        with pytest.raises(grpc.RpcError) as error:
            pods.create(pod, ["true"], name="refused", **resources(**fields))
        assert word in error.value.details(), (fields, error.value.details())
    left = [name for name in groups_of("") if daemon.marker in name and not name.endswith(".slice")]
    assert all(name.endswith(daemon.cgroup_parent) for name in left), left


def test_devices_are_those_of_the_list(pods, pod):
    script = ("mknod /disk b {0} {1}; dd if=/disk of=/dev/null bs=512 count=1 2>&1; mknod /n c 1 3; cat /n; echo null $?"
              .format(*[os.major(os.stat("/dev/vda").st_rdev), os.minor(os.stat("/dev/vda").st_rdev)]))
    plain = start(pods, pod)
    for _ in range(2):
        out = pods.exec(plain, ["sh", "-c", script])[1]
        assert "Operation not permitted" in out and "null 0" in out, out
        pods.client.UpdateContainerResources(container_id=plain, linux={"cpu_shares": 512})
        reload_systemd()
    strong = pods.run_pod(host_network=True, **PRIVILEGED)
    assert "1+0 records in" in pods.out(strong, ["sh", "-c", script], **PRIVILEGED)


def test_a_container_sees_its_own_group_only(pods, pod):
    container = start(pods, pod, **resources(memory_limit_in_bytes=40 * MIB))
    sh = lambda script: pods.exec(container, ["sh", "-c", script])[1]  # noqa: E731
    assert sh("cat /proc/self/cgroup") == "0::/\n" and sh("cat /proc/1/cgroup") == "0::/\n"
    assert sh("cat /sys/fs/cgroup/memory.max") == f"{40 * MIB}\n"
    assert sh("cat /sys/fs/cgroup/cgroup.procs").split()[0] == "1"
    mount = sh("grep /sys/fs/cgroup /proc/self/mountinfo").split()
    assert (mount[3], mount[mount.index("-") + 1]) == ("/", "cgroup2") and "ro" in mount[5].split(",")
    assert "Read-only" in sh("mkdir /sys/fs/cgroup/x 2>&1; echo 1 > /sys/fs/cgroup/memory.max")
    assert read(inner(container), "memory.max") == str(40 * MIB)


NEST = ("mkdir /sys/fs/cgroup/init && for p in $(cat /sys/fs/cgroup/cgroup.procs); do echo $p > /sys/fs/cgroup/init/cgroup.procs; "
        "done; echo '+memory +pids' > /sys/fs/cgroup/cgroup.subtree_control && echo nested; exec sleep 1000")


def test_exec_into_a_container_that_has_groups_of_its_own(daemon, pods):
    """As systemd or Docker in a container do: with controllers enabled below it, its own group may hold no process."""
    pod = pods.run_pod(host_network=True, **PRIVILEGED)
    container = start(pods, pod, ("sh", "-c", NEST), **PRIVILEGED)
    path = pods.status(container).log_path
    wait_for("the groups are made", lambda: "nested" in [line.text for line in pods.log(path)])
    assert pods.exec(container, ["sh", "-c", "cat /proc/self/cgroup"])[:2] == (0, "0::/init\n")
    daemon.client.UpdateContainerResources(container_id=container, linux={"memory_limit_in_bytes": 80 * MIB})
    assert read(inner(container), "memory.max") == str(80 * MIB)
    assert daemon.client.ContainerStats(container_id=container).stats.memory.working_set_bytes.value > 0
    daemon.client.StopContainer(container_id=container, timeout=0)
    daemon.client.RemoveContainer(container_id=container)
    assert groups_of(container) == []


def test_threaded_groups_below_a_container(daemon, pods):
    pod = pods.run_pod(host_network=True, **PRIVILEGED)
    container = start(pods, pod, ("sh", "-c", "mkdir /sys/fs/cgroup/t && echo threaded > /sys/fs/cgroup/t/cgroup.type && "
                                  "echo 1 > /sys/fs/cgroup/t/cgroup.threads && echo moved; exec sleep 1000"), **PRIVILEGED)
    path = pods.status(container).log_path
    wait_for("it is threaded", lambda: [line.text for line in pods.log(path)] == ["moved"])
    assert read(inner(container), "cgroup.type") == "domain threaded"
    assert pods.exec(container, ["echo", "in"])[1] == "in\n"
    daemon.client.StopContainer(container_id=container, timeout=0)
    assert pods.status(container).exit_code == 137


EAT = "x=aaaaaaaa; while :; do x=$x$x; done"


def test_oom_killed_each_time(pods, pod):
    """systemd removes a scope that has become empty at once: its counters must have been read before."""
    for _ in range(4):
        status, _ = pods.run(pod, ["sh", "-c", EAT], **resources(memory_limit_in_bytes=16 * MIB))
        assert (status.reason, status.exit_code) == ("OOMKilled", 137)


def test_oom_kills_the_group_or_the_one(pods, pod):
    script = f"sh -c '{EAT}' & sh -c 'sleep 1000 & wait' & wait %1; echo survived; exit 3"
    limit = {"memory_limit_in_bytes": 24 * MIB}
    status, log = pods.run(pod, ["sh", "-c", script], **resources(**limit))
    assert (status.exit_code, [line.text for line in log if "survived" in line.text]) == (3, ["survived"])
    status, log = pods.run(pod, ["sh", "-c", script], **resources(**limit, unified={"memory.oom.group": "1"}))
    assert (status.reason, status.exit_code) == ("OOMKilled", 137) and "survived" not in str([line.text for line in log])


@contextlib.contextmanager
def parent_with(daemon, limit):
    """A pod's group with a limit of its own, as a kubelet makes it."""
    if SYSTEMD:
        name = os.path.basename(daemon.cgroup_parent)
        systemctl("start", name)
        systemctl("set-property", "--runtime", name, f"MemoryMax={limit}")
    else:
        os.makedirs(ROOT + daemon.cgroup_parent, exist_ok=True)
        write(ROOT, "cgroup.subtree_control", "+memory")
        write(ROOT + daemon.cgroup_parent, "memory.max", limit)
    yield ROOT + daemon.cgroup_parent


def test_the_limit_of_the_pods_group(make_daemon, registry):
    daemon = make_daemon()
    daemon.client.PullImage(image={"image": registry.busybox})
    with parent_with(daemon, 24 * MIB) as parent:
        pods = Pods(daemon, registry.busybox)
        status, _ = pods.run(pods.run_pod(host_network=True), ["sh", "-c", EAT])
        assert (status.reason, status.exit_code) == ("OOMKilled", 137)
        pods.remove_all()
        assert read(parent, "memory.max") == str(24 * MIB)


@pytest.mark.skipif(SYSTEMD, reason="systemd puts no process into a slice")
def test_a_parent_that_holds_processes_is_named(daemon, pods):
    parent = f"{daemon.cgroup_parent}-busy"
    os.mkdir(ROOT + parent)
    sleeper = subprocess.Popen(["sleep", "1000"])
    try:
        write(ROOT + parent, "cgroup.procs", sleeper.pid)
        pod = pods.run_pod(host_network=True, linux={"cgroup_parent": parent})
        with pytest.raises(grpc.RpcError) as error:
            pods.create(pod, ["true"])
        assert "holds processes itself" in error.value.details() and parent in error.value.details()
    finally:
        sleeper.kill()
        sleeper.wait()
        os.rmdir(ROOT + parent)


def test_stats_are_those_of_the_kernel(daemon, pods, pod):
    container = start(pods, pod, ("sh", "-c", "dd if=/dev/zero of=/file bs=1M count=4 conv=fsync 2>/dev/null; echo done; "
                                  "exec sleep 1000"), **resources(memory_limit_in_bytes=128 * MIB))
    path, own = pods.status(container).log_path, inner(container)
    wait_for("the file is written", lambda: [line.text for line in pods.log(path)] == ["done"])
    stats = daemon.client.ContainerStats(container_id=container).stats
    usage = int(dict(line.split() for line in read(own, "cpu.stat").splitlines())["usage_usec"]) * 1000
    assert 0 < stats.cpu.usage_core_nano_seconds.value <= usage
    assert 4 * MIB <= stats.memory.usage_bytes.value <= 128 * MIB
    assert stats.memory.working_set_bytes.value + stats.memory.available_bytes.value == 128 * MIB
    assert "wbytes=" in read(own, "io.stat")
    sandbox = daemon.client.PodSandboxStats(pod_sandbox_id=pod[0]).stats
    assert sandbox.linux.memory.working_set_bytes.value > 0 and sandbox.linux.process.process_count.value >= 1


def test_stop_leaves_no_process_of_a_shared_pid_namespace(daemon, pods):
    space = {"linux": {"security_context": {"namespace_options": {"pid": 2}}}}
    pod = pods.run_pod(host_network=True, **space)
    container = start(pods, pod, ("sh", "-c", "trap '' TERM; for i in 1 2 3; do setsid sh -c \"trap '' TERM; "
                                  "while :; do sleep 31338; done\" & done; echo up; wait"), **space)
    path, own = pods.status(container).log_path, inner(container)
    wait_for("they are up", lambda: [line.text for line in pods.log(path)] == ["up"]
             and int(read(own, "pids.current")) == 7)
    daemon.client.StopContainer(container_id=container, timeout=0)
    assert subprocess.run(["pgrep", "-f", "sleep 31338"], stdout=subprocess.PIPE).stdout == b""


def test_limits_after_the_daemon_was_killed(make_daemon, registry):
    daemon = make_daemon()
    daemon.client.PullImage(image={"image": registry.busybox})
    pods = Pods(daemon, registry.busybox)
    pod = pods.run_pod(host_network=True)
    container = start(pods, pod, **resources(memory_limit_in_bytes=64 * MIB))
    daemon.kill()
    reload_systemd()
    daemon.start()
    pods = Pods(daemon, registry.busybox)
    daemon.client.UpdateContainerResources(container_id=container, linux={"memory_limit_in_bytes": 48 * MIB})
    assert read(inner(container), "memory.max") == str(48 * MIB)
    assert pods.exec(container, ["cat", "/proc/self/cgroup"])[1] == "0::/\n"
    daemon.client.StopContainer(container_id=container, timeout=0)
    wait_for("the group is gone", lambda: groups_of(container) == [])
