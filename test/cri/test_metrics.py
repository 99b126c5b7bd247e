# SPDX-License-Identifier: Apache-2.0
"""The verbs of metrics, pressure in the stats, and what the kubelet says of a pod's resources."""
import glob
import json
import os
import signal
import time

import grpc
import pytest
from harness.daemon import SYSTEMD
from harness.memory import anonymous, kept_when_freed
from harness.registry import wait_for
from harness.vm import info_of


def values(metrics, name):
    return [(list(m.label_values), m.value.value) for m in metrics if m.name == name]


def container_metrics(daemon, pod, container):
    [of_pod] = [m for m in daemon.client.ListPodSandboxMetrics().pod_metrics if m.pod_sandbox_id == pod[0]]
    [of_container] = [m for m in of_pod.container_metrics if m.container_id == container]
    return of_pod.metrics, of_container.metrics


def test_values_fit_descriptors(daemon, pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sh", "-c", "cat /dev/zero | head -c 30000000 >/f; while :; do :; done"],
                           # So little that it is used up however busy the host is.
                           linux={"resources": {"memory_limit_in_bytes": 64 << 20, "cpu_period": 100000, "cpu_quota": 10000}})
    keys = {d.name: list(d.label_keys) for d in daemon.client.ListMetricDescriptors().descriptors}
    end = time.monotonic() + 90
    while True:
        of_pod, of_container = container_metrics(daemon, pod, container)
        [(labels, used)] = values(of_container, "container_cpu_usage_seconds_total")
        throttled = values(of_container, "container_cpu_cfs_throttled_periods_total")[0][1]
        if used >= 1 and throttled > 0:
            break
        assert time.monotonic() < end, (used, throttled)
    for metric in [*of_pod, *of_container]:
        assert len(metric.label_values) == len(keys[metric.name]), metric
    name = pods.status(container).metadata.name
    assert labels == [name, pod[1]["metadata"]["name"], "default", container, pods.image]
    limit = values(of_container, "container_spec_memory_limit_bytes")
    assert limit[0][1] == 64 << 20 and values(of_container, "container_spec_cpu_quota")[0][1] == 10000
    assert values(of_container, "container_processes")[0][1] >= 1
    assert values(of_container, "container_memory_working_set_bytes")[0][1] > 0
    assert {labels[5] for labels, _ in values(of_container, "container_memory_failures_total")} == {"pgfault", "pgmajfault"}
    assert [labels[3] for labels, _ in values(of_pod, "container_network_receive_bytes_total")] == ["eth0"]
    streamed = [m.pod_sandbox_id for part in daemon.client.StreamPodSandboxMetrics() for m in part.pod_sandbox_metrics]
    assert pod[0] in streamed
    # What does not run any more has no metrics; a pod that is not ready neither.
    daemon.client.StopContainer(container_id=container, timeout=0)
    [of_pod] = [m for m in daemon.client.ListPodSandboxMetrics().pod_metrics if m.pod_sandbox_id == pod[0]]
    assert len(of_pod.container_metrics) == 0
    daemon.client.StopPodSandbox(pod_sandbox_id=pod[0])
    assert pod[0] not in [m.pod_sandbox_id for m in daemon.client.ListPodSandboxMetrics().pod_metrics]


def test_lists_are_sampled_and_never_behind_what_was_started(daemon, pods):
    pod = pods.run_pod()

    def of_containers():
        return {one.attributes.id: one.cpu.timestamp for one in daemon.client.ListContainerStats().stats}

    def of_pods():
        return {container.attributes.id: container.cpu.timestamp for one in daemon.client.ListPodSandboxStats().stats
                for container in one.linux.containers}

    def of_metrics():
        return {container.container_id: container.metrics[0].timestamp for one in daemon.client.ListPodSandboxMetrics().pod_metrics
                for container in one.container_metrics}

    for read in (of_containers, of_pods, of_metrics):
        before = read()
        container = pods.start(pod, ["sleep", "1000"])
        first = read()
        assert container not in before and first[container] > 0
        # Who asks again gets figures of another moment: crictl stats compares two answers.
        wait_for("another sample", lambda read=read: read()[container] != first[container], 30)


def test_companions_that_stand_still_hold_up_nobody(daemon, pods):
    """Their pods have no figures meanwhile; the others' figures, and the others, are as ever."""
    pod = pods.run_pod()
    container = pods.start(pod, ["sleep", "1000"])
    others = [pods.run_pod() for _ in range(4)]
    still = [pods.start(other, ["sleep", "1000"]) for other in others]
    companions = [info_of(daemon, other)["companionPid"] for other in others]

    def asked():
        return {one.attributes.id for one in daemon.client.ListContainerStats().stats if one.HasField("cpu")}

    def in_use():
        return [len(os.listdir(f"/proc/{daemon.process.pid}/{what}")) for what in ("fd", "task")]

    try:
        for companion in companions:
            os.kill(companion, signal.SIGSTOP)
        wait_for("figures of who answers alone", lambda: asked() & {container, *still} == {container})
        before, memory = in_use(), anonymous(daemon.process.pid)
        for _ in range(5):
            assert asked() & {container, *still} == {container}
            assert container in [one.container_id for of_pod in daemon.client.ListPodSandboxMetrics().pod_metrics
                                 for one in of_pod.container_metrics]
            assert pods.exec(container, ["true"])[0] == 0
        # gRPC's own pollers come and go, by one or two.
        assert all(now <= then + 4 for now, then in zip(in_use(), before))
        assert anonymous(daemon.process.pid) < memory + (8 << 20) + kept_when_freed()
    finally:
        for companion in companions:
            os.kill(companion, signal.SIGCONT)
    wait_for("figures of all again", lambda: asked() >= {container, *still})


def test_rate_of_cpu_use(daemon, pods):
    pod = pods.run_pod()
    busy = pods.start(pod, ["sh", "-c", "while :; do :; done"])
    idle = pods.start(pod, ["sleep", "100000"])

    def cpu():
        listed = daemon.client.ListContainerStats(filter={"pod_sandbox_id": pod[0]}).stats
        return {s.attributes.id: s.cpu for s in listed}

    first = cpu()
    assert not first[busy].HasField("usage_nano_cores"), "a rate of nothing"
    time.sleep(1.2)  # the time that the rate is of
    second = cpu()
    for container in busy, idle:
        used = second[container].usage_core_nano_seconds.value - first[container].usage_core_nano_seconds.value
        elapsed = second[container].timestamp - first[container].timestamp
        assert second[container].usage_nano_cores.value == pytest.approx(used / elapsed * 1e9, abs=1), container
    assert second[busy].usage_nano_cores.value > second[idle].usage_nano_cores.value
    # Who asks a moment later hears the same.
    third = daemon.client.ContainerStats(container_id=busy).stats.cpu
    assert third.usage_nano_cores.value == second[busy].usage_nano_cores.value


@pytest.fixture
def group(daemon, pods):
    """A cgroup for one pod, as the kubelet makes them."""
    if SYSTEMD:
        pytest.skip("the pods of a slice")
    name = f"{daemon.cgroup_parent}/pod-of-its-own"
    yield name
    pods.remove_all()
    for path in [*glob.glob(f"/sys/fs/cgroup/*{name}"), f"/sys/fs/cgroup{name}"]:
        if os.path.isdir(path):
            os.rmdir(path)


def test_figures_of_a_pod_are_its_groups(daemon, pods, group):
    pod = pods.run_pod(linux={"cgroup_parent": group})
    pods.start(pod, ["sleep", "100000"])
    spin = ["sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]
    assert pods.run(pod, spin)[0].exit_code == 0
    stats = daemon.client.PodSandboxStats(pod_sandbox_id=pod[0]).stats.linux
    of_containers = sum(c.cpu.usage_core_nano_seconds.value for c in stats.containers)
    # What has ended counts too: a counter never goes back.
    assert len(stats.containers) == 1 and stats.cpu.usage_core_nano_seconds.value > of_containers + 10_000_000
    assert stats.memory.usage_bytes.value >= stats.containers[0].memory.usage_bytes.value > 0
    assert stats.process.process_count.value == 1
    accounted = stats.containers[0].cpu.HasField("psi")
    assert (stats.cpu.HasField("psi"), stats.memory.HasField("psi"), stats.io.HasField("psi")) == (accounted,) * 3
    [listed] = daemon.client.ListPodSandboxStats(filter={"id": pod[0]}).stats
    assert listed.linux.cpu.usage_core_nano_seconds.value >= stats.cpu.usage_core_nano_seconds.value


def pressure_file(container_pid):
    """The pressure of a process's cgroup, or None where the host does not account it."""
    with open(f"/proc/{container_pid}/cgroup") as f:
        path = [line.strip().split(":", 2)[2] for line in f if line.startswith("0::")][0]
    for root in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        if os.path.exists(f"{root}{path}/cpu.pressure"):
            return f"{root}{path}/cpu.pressure"
    return None


@pytest.mark.native("the container's cgroup is the guest's")
def test_pressure(daemon, pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sh", "-c", "for i in 1 2 3 4; do while :; do :; done & done; wait"],
                           linux={"resources": {"cpu_period": 100000, "cpu_quota": 10000}})
    info = json.loads(daemon.client.ContainerStatus(container_id=container, verbose=True).info["info"])
    path = pressure_file(info["pid"])
    if path is None:
        stats = daemon.client.ContainerStats(container_id=container).stats
        assert not stats.cpu.HasField("psi") and not stats.HasField("io")
        return
    end = time.monotonic() + 30
    while True:
        stats = daemon.client.ContainerStats(container_id=container).stats
        if stats.cpu.psi.Some.Total > 0:
            break
        assert time.monotonic() < end
    with open(path) as f:
        some = f.readline()
    assert stats.cpu.psi.Some.Total <= int(some.split("total=")[1]) * 1000
    assert stats.memory.HasField("psi") and stats.io.HasField("psi")
    _, metrics = container_metrics(daemon, pod, container)
    assert len(values(metrics, "container_pressure_cpu_waiting_seconds_total")) == 1


def test_pod_resources_are_kept(daemon, pods):
    pod = pods.run_pod(linux={"resources": {"cpu_shares": 5}})
    daemon.client.UpdatePodSandboxResources(pod_sandbox_id=pod[0], overhead={"memory_limit_in_bytes": 1 << 20},
                                            resources={"cpu_shares": 7})

    def info():
        return json.loads(daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"])
    assert info()["resources"]["cpu_shares"] == "7" and info()["overhead"]["memory_limit_in_bytes"] == str(1 << 20)
    # What is not said stays.
    daemon.client.UpdatePodSandboxResources(pod_sandbox_id=pod[0], resources={"cpu_shares": 9})
    assert info()["resources"]["cpu_shares"] == "9" and info()["overhead"]["memory_limit_in_bytes"] == str(1 << 20)
    daemon.client.StopPodSandbox(pod_sandbox_id=pod[0])
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.UpdatePodSandboxResources(pod_sandbox_id=pod[0], resources={"cpu_shares": 9})
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.UpdatePodSandboxResources(pod_sandbox_id="missing", resources={"cpu_shares": 9})
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
