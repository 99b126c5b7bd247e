# SPDX-License-Identifier: Apache-2.0
"""A pod's life through the CRI: sandbox, containers, logs, exec, stop, states and times."""
import os
import time

import grpc
import pytest
from harness.handler import DEFAULT
from harness.registry import wait_for


def code(error):
    return error.value.code()


def test_version_and_status(daemon):
    version = daemon.client.Version()
    assert version.runtime_name == "caisson" and version.runtime_api_version == "v1"
    status = daemon.client.Status(verbose=True)
    conditions = {c.type: c for c in status.status.conditions}
    assert conditions["RuntimeReady"].status and conditions["NetworkReady"].status
    assert "" in [h.name for h in status.runtime_handlers]


def test_pod_has_an_ip_and_a_hostname(daemon, pods):
    pod = pods.run_pod(name="hosty")
    status = daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status
    assert status.state == 0 and status.network.ip.startswith(daemon.subnet.rsplit(".", 1)[0])
    assert pods.out(pod, ["hostname"]).strip() == "hosty"
    assert status.network.ip in pods.out(pod, ["ip", "addr", "show", "eth0"])
    assert "LOOPBACK,UP" in pods.out(pod, ["ip", "link", "show", "lo"])


def test_two_containers_share_network_ipc_and_shm(daemon, pods):
    pod = pods.run_pod()
    server = pods.start(pod, ["sh", "-c", "echo shared > /dev/shm/x; mkdir /www; echo hello > /www/index.html; "
                              "exec httpd -f -p 8080 -h /www"])
    assert pods.out(pod, ["sh", "-c", "until wget -q -O - http://127.0.0.1:8080/; do usleep 10000; done"]) == "hello\n"
    assert pods.out(pod, ["cat", "/dev/shm/x"]) == "shared\n"
    ns = "for n in net ipc uts; do readlink /proc/self/ns/$n; done"
    assert pods.exec(server, ["sh", "-c", ns])[1] == pods.out(pod, ["sh", "-c", ns])
    other = pods.run_pod()
    ip = daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.network.ip
    assert pods.out(other, ["wget", "-q", "-O", "-", f"http://{ip}:8080/"]) == "hello\n"


def test_exit_code_reason_and_times(pods):
    pod = pods.run_pod()
    before = time.time_ns()
    status, _ = pods.run(pod, ["sh", "-c", "exit 7"])
    assert (status.exit_code, status.reason) == (7, "Error")
    assert before < status.created_at <= status.started_at <= status.finished_at < time.time_ns()
    status, _ = pods.run(pod, ["true"])
    assert (status.exit_code, status.reason) == (0, "Completed")
    status, _ = pods.run(pod, ["sh", "-c", "sh -c 'kill -9 $$'; exit $?"])
    assert status.exit_code == 137


def test_log_lines(pods):
    pod = pods.run_pod()
    _, log = pods.run(pod, ["sh", "-c", "echo one; echo two >&2; printf tail"])
    assert sorted((line.stream, line.text, line.full) for line in log) == [
        ("stderr", "two", True), ("stdout", "one", True), ("stdout", "tail", False)] or \
        sorted((line.stream, line.text) for line in log) == [("stderr", "two"), ("stdout", "one"), ("stdout", "tail")]


def test_log_reopen_loses_no_line(daemon, pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sh", "-c", "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; sleep 1000"],
                           name="rotated")
    path = pods.status(container).log_path
    seen = []
    for turn in range(5):
        moved = f"{path}.{turn}"
        os.rename(path, moved)
        daemon.client.ReopenContainerLog(container_id=container)
        seen.append(moved)
    end = time.monotonic() + 30
    while True:
        lines = [line.text for name in seen + [path] for line in pods.log(name)]
        if len(lines) == 5000 or time.monotonic() > end:
            break
    assert lines == [f"line {i}" for i in range(5000)]
    daemon.client.StopContainer(container_id=container, timeout=0)
    with pytest.raises(grpc.RpcError):
        daemon.client.ReopenContainerLog(container_id=container)


def test_exec_sync(pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sleep", "1000"], envs=[{"key": "K", "value": "v"}])
    assert pods.exec(container, ["sh", "-c", "echo $K; echo err >&2; exit 3"]) == (3, "v\n", "err\n")
    code_, out, _ = pods.exec(container, ["sh", "-c", "id -u; pwd"])
    assert (code_, out) == (0, "0\n/\n")


def test_exec_sync_timeout_kills_the_tree(pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sleep", "1000"])
    with pytest.raises(grpc.RpcError) as error:
        pods.exec(container, ["sh", "-c", "sleep 777 & sleep 778"], timeout=1)
    assert code(error) == grpc.StatusCode.DEADLINE_EXCEEDED
    # They have been killed; on a busy host they are seen until they have had their turn to die.
    wait_for("the tree is gone", lambda: "sleep 77" not in pods.exec(container, ["ps", "-o", "args"])[1], 30)


def test_exec_sync_output_is_bounded(pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sleep", "1000"])
    reply = pods.client.ExecSync(container_id=container, cmd=["sh", "-c", "dd if=/dev/zero bs=1M count=40; echo x >&2"])
    assert 0 < len(reply.stdout) <= 16 << 20


def test_stop_container_signal_then_kill(daemon, pods):
    pod = pods.run_pod()
    polite = pods.start(pod, ["sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do usleep 10000; done"])
    pods.wait_line(polite, "ready")
    daemon.client.StopContainer(container_id=polite, timeout=20)
    assert pods.status(polite).exit_code == 5
    deaf = pods.start(pod, ["sh", "-c", "trap '' TERM; echo ready; while :; do usleep 10000; done"])
    pods.wait_line(deaf, "ready")
    daemon.client.StopContainer(container_id=deaf, timeout=1)
    assert pods.status(deaf).exit_code == 137
    daemon.client.StopContainer(container_id=deaf, timeout=1)


def test_remove_is_idempotent_and_forceful(daemon, pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sleep", "1000"])
    daemon.client.RemoveContainer(container_id=container)
    daemon.client.RemoveContainer(container_id=container)
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.ContainerStatus(container_id=container)
    assert code(error) == grpc.StatusCode.NOT_FOUND
    daemon.client.StopPodSandbox(pod_sandbox_id=pod[0])
    daemon.client.StopPodSandbox(pod_sandbox_id=pod[0])
    assert daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state == 1
    daemon.client.RemovePodSandbox(pod_sandbox_id=pod[0])
    daemon.client.RemovePodSandbox(pod_sandbox_id=pod[0])


def test_lists_and_filters(daemon, pods):
    one = pods.run_pod(labels={"app": "one"})
    pods.run_pod(labels={"app": "two"})
    listed = daemon.client.ListPodSandbox(filter={"label_selector": {"app": "one"}}).items
    assert [p.id for p in listed] == [one[0]]
    container = pods.create(one, ["true"], labels={"x": "y"})
    listed = daemon.client.ListContainers(filter={"pod_sandbox_id": one[0]}).containers
    assert [c.id for c in listed] == [container]
    assert len(daemon.client.ListContainers(filter={"state": {"state": 1}, "pod_sandbox_id": one[0]}).containers) == 0
    assert daemon.client.ListContainers(filter={"id": container[:12]}).containers[0].id == container


def test_repeated_create_returns_the_first(daemon, pods):
    config = pods.pod_config()
    first = pods.run_pod(config)
    assert daemon.client.RunPodSandbox(config=config, runtime_handler=DEFAULT).pod_sandbox_id == first[0]


def test_unknown_handler_is_named(daemon, pods):
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.RunPodSandbox(config=pods.pod_config(), runtime_handler="no-such")
    assert "no-such" in error.value.details()


def test_missing_image_is_named(daemon, pods):
    pod = pods.run_pod()
    with pytest.raises(grpc.RpcError) as error:
        pods.create(pod, ["true"], image="127.0.0.1:1/none:1")
    assert "127.0.0.1:1/none:1" in error.value.details() and code(error) == grpc.StatusCode.NOT_FOUND


def test_pid_modes(pods):
    pod = pods.run_pod(linux={"security_context": {"namespace_options": {"pid": 0}}})
    shared = {"linux": {"security_context": {"namespace_options": {"pid": 0}}}}
    first = pods.start(pod, ["sleep", "4242"], **shared)
    second = pods.start(pod, ["sleep", "1000"], **shared)
    assert "sleep 4242" in pods.exec(second, ["ps", "-o", "args"])[1]
    own = pods.run_pod()
    assert pods.out(own, ["sh", "-c", "echo $$"]).strip() == "1"
    target = pods.start(own, ["sleep", "4343"])
    aimed = pods.start(own, ["sleep", "1000"], linux={"security_context": {"namespace_options": {
        "pid": 3, "target_id": target}}})
    assert "sleep 4343" in pods.exec(aimed, ["ps", "-o", "args"])[1]
    assert pods.status(first).state == 1


@pytest.mark.native("the host's PID namespace")
def test_pid_namespace_of_the_host(pods):
    host = pods.run_pod(linux={"security_context": {"namespace_options": {"pid": 2}}})
    pid = pods.out(host, ["sh", "-c", "echo $$"], linux={"security_context": {"namespace_options": {"pid": 2}}})
    assert int(pid) > 50


@pytest.mark.native("the host's network")
def test_host_network(daemon, pods):
    pod = pods.run_pod(host_network=True)
    assert daemon.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.network.ip == ""
    inside = pods.out(pod, ["readlink", "/proc/self/ns/net"],
                      linux={"security_context": {"namespace_options": {"network": 2}}}).strip()
    assert inside == os.readlink("/proc/self/ns/net")


def test_tty(pods):
    pod = pods.run_pod()
    status, log = pods.run(pod, ["sh", "-c", "tty; echo done"], tty=True)
    assert status.exit_code == 0 and [line.text.strip() for line in log] == ["/dev/pts/0", "done"]


def test_stats(daemon, pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sh", "-c", "dd if=/dev/zero of=/big bs=1M count=3; while :; do :; done"])
    end = time.monotonic() + 20
    while True:
        stats = daemon.client.ContainerStats(container_id=container).stats
        if stats.cpu.usage_core_nano_seconds.value > 0 and stats.writable_layer.used_bytes.value >= 3 << 20:
            break
        assert time.monotonic() < end, stats
    assert stats.memory.working_set_bytes.value > 0 and stats.attributes.id == container
    listed = daemon.client.ListContainerStats(filter={"pod_sandbox_id": pod[0]}).stats
    assert [s.attributes.id for s in listed] == [container]


def test_update_resources(daemon, pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sleep", "1000"], linux={"resources": {"memory_limit_in_bytes": 64 << 20}})
    read = ["sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max"]
    assert int(pods.exec(container, read)[1]) == 64 << 20
    daemon.client.UpdateContainerResources(container_id=container, linux={"memory_limit_in_bytes": 96 << 20})
    assert int(pods.exec(container, read)[1]) == 96 << 20
    assert pods.status(container).resources.linux.memory_limit_in_bytes == 96 << 20


def test_oom_killed(pods):
    pod = pods.run_pod()
    status, _ = pods.run(pod, ["sh", "-c", "x=aaaaaaaa; while :; do x=$x$x; done"],
                         linux={"resources": {"memory_limit_in_bytes": 16 << 20}})
    assert (status.reason, status.exit_code) == ("OOMKilled", 137)


@pytest.mark.skipif(DEFAULT not in ("", "caisson-vm"), reason="other runtimes look for it at their create")
def test_a_program_that_is_not_there(daemon, pods):
    """It is the start that fails, as a kubelet expects it: the container tells why."""
    pod = pods.run_pod(host_network=True)
    container = pods.create(pod, ["/no/such/program"])
    with pytest.raises(grpc.RpcError, match="/no/such/program"):
        daemon.client.StartContainer(container_id=container)
    status = pods.status(container)
    assert (status.reason, status.exit_code) == ("StartError", 128) and "/no/such/program" in status.message
