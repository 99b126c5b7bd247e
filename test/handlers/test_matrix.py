# SPDX-License-Identifier: Apache-2.0
"""The same tests of what a container gets over every handler: ours, and the runtimes of other projects. A handler whose probe pod
did not run is skipped with the probe's own reason; what a handler does not have is named here, once."""
import json
import os
import signal
import socket
import tempfile

import grpc
import pytest

from harness.daemon import Daemon, remove_tree
from harness.handler import FOREIGN, VM_CONFIG, missing_for_vms
from harness.leaks import Leaks
from harness.pods import Pods
from harness.registry import wait_for
from harness.streams import Session

HANDLERS = ["caisson", "caisson-vm", *FOREIGN]
# Debian's crun on a host with cgroup v1 and v2 side by side.
CRUN_REFUSES = "cgroups in hybrid mode not supported"
# What a handler lacks, by the test's name.
LACKS = {
    "runsc": {"limits": "gVisor's containers have no groups of their own: its sandbox has the pod's",
              "shared_pid": "gVisor's processes have no namespaces that others could join"},
    "gvisor": {"limits": "gVisor's containers have no groups of their own: its sandbox has the pod's",
               "exec_tree": "gVisor's shim ends an exec's first process only"},
}


def hybrid():
    return os.path.isdir("/sys/fs/cgroup/unified")


@pytest.fixture(scope="module")
def daemon(registry):
    folder = tempfile.mkdtemp(prefix="caisson-test-")
    leaks = Leaks(os.path.basename(folder))
    config = "".join(f"[handlers.{name}]\n{table}\n" for name, table in FOREIGN.items())
    made = Daemon(folder, config='[metrics]\naddress = "127.0.0.1:0"\n' + config + VM_CONFIG)
    made.pull_busybox(registry)
    yield made
    made.destroy()
    assert leaks.check() == []
    remove_tree(folder)


def await_probes(daemon):
    wait_for("every handler is probed", lambda: "has not run yet" not in json.dumps(dict(daemon.client.Status(verbose=True).info)), 60)


def reason_of(daemon, handler):
    """Why the handler is not ready, or nothing."""
    if handler == "caisson-vm":
        return missing_for_vms()
    await_probes(daemon)
    info = dict(daemon.client.Status(verbose=True).info)
    return "" if info.get(f"probe/{handler}", "ok") == "ok" else info[f"probe/{handler}"]


class Case:
    """A pod of the handler for the tests that need no other."""

    def __init__(self, daemon, handler):
        self.daemon, self.handler, self.pods = daemon, handler, Pods(daemon)
        self.pod = self.run_pod()

    def run_pod(self, **options):
        return self.pods.run_pod(handler=self.handler, **options)

    def may(self, what):
        return what not in LACKS.get(self.handler, {})

    def lacks(self, what):
        if not self.may(what):
            pytest.skip(LACKS[self.handler][what])


@pytest.fixture(scope="module", params=HANDLERS)
def case(daemon, request):
    if reason := reason_of(daemon, request.param):
        pytest.skip(reason)
    made = Case(daemon, request.param)
    yield made
    made.pods.remove_all()
    # A handler that has failed is tried again from time to time.
    wait_for("nothing is left", lambda: daemon.leaks_of_pods() == [], 30)


def sh(script):
    return ["sh", "-c", script]


def running(case, pod=None, **extra):
    return case.pods.start(pod or case.pod, ["sleep", "1000"], **extra)


def test_exit_code_args_env_and_working_dir(case):
    status, log = case.pods.run(case.pod, sh('echo "$0|$1|$WORD|$PWD"; exit 7') + ["zero", "a b"],
                                envs=[{"key": "WORD", "value": "x=y z"}], working_dir="/var")
    assert (status.exit_code, [line.text for line in log]) == (7, ["zero|a b|x=y z|/var"])
    assert case.pods.run(case.pod, ["true"])[0].exit_code == 0
    assert case.pods.run(case.pod, sh("sh -c 'kill -9 $$'; exit $?"))[0].exit_code == 137


def test_a_program_that_is_not_there_is_named(case):
    with pytest.raises(grpc.RpcError) as failed:
        case.pods.start(case.pod, ["/no/such/program"])
    assert "/no/such/program" in failed.value.details()


def test_user(case):
    ids = case.pods.out(case.pod, ["id"], linux={"security_context": {"run_as_user": {"value": 1234}, "run_as_group": {"value": 4321},
                                                                      "supplemental_groups": [77]}})
    assert "uid=1234" in ids and "gid=4321" in ids and "77" in ids
    assert case.pods.out(case.pod, ["id", "-un"], linux={"security_context": {"run_as_username": "nobody"}}).strip() == "nobody"


def test_both_streams_are_logged(case):
    _, log = case.pods.run(case.pod, sh("echo out; echo err >&2; printf part"))
    assert {(line.stream, line.text, line.full) for line in log} == {("stdout", "out", True), ("stderr", "err", True), ("stdout", "part", False)}


def test_tty(case):
    status, log = case.pods.run(case.pod, sh("test -t 0 && test -t 1 && echo tty"), tty=True)
    assert status.exit_code == 0 and [line.text.strip() for line in log] == ["tty"]


def test_exec(case):
    container = running(case, envs=[{"key": "WORD", "value": "w"}])
    assert case.pods.exec(container, sh("echo $WORD; echo err >&2; exit 5")) == (5, "w\n", "err\n")
    with pytest.raises(grpc.RpcError) as failed:
        case.pods.exec(container, ["/no/such/program"])
    assert "/no/such/program" in failed.value.details()
    with pytest.raises(grpc.RpcError) as late:
        case.pods.exec(container, sh("sleep 98765 & sleep 98765"), timeout=1)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    left = 0 if case.may("exec_tree") else 1
    wait_for("the tree is gone", lambda: case.pods.exec(container, ["ps", "-o", "args"])[1].count("98765") == left, 30)
    case.pods.client.StopContainer(container_id=container, timeout=0)


def test_streams_of_exec(case):
    container = running(case)
    client = case.pods.client
    session = Session(client.Exec(container_id=container, cmd=["cat"], stdin=True, stdout=True, stderr=True).url)
    session.write(b"one\n")
    session.until(b"one\n")
    session.end_input()
    session.finish()
    session = Session(client.Exec(container_id=container, cmd=["sh"], tty=True, stdin=True, stdout=True).url)
    session.write(b"test -t 0 && echo te''rminal; exit\n")
    session.until(b"terminal")
    session.finish()
    client.StopContainer(container_id=container, timeout=0)


def test_attached_stdin(case):
    container = case.pods.start(case.pod, sh("echo ready; read word; echo got $word; cat; exit 4"), stdin=True, stdin_once=True)
    case.pods.wait_line(container, "ready", 60)
    session = Session(case.pods.client.Attach(container_id=container, stdin=True, stdout=True, stderr=True).url)
    session.write(b"hello\n")
    session.until(b"got hello\n")
    session.end_input()
    session.finish()
    assert case.pods.wait_exit(container, 60).exit_code == 4


def test_stop_asks_and_then_kills(case):
    polite = case.pods.start(case.pod, sh("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.1; done"))
    stubborn = case.pods.start(case.pod, sh("trap '' TERM; echo ready; while :; do sleep 0.1; done"))
    for container in (polite, stubborn):
        case.pods.wait_line(container, "ready", 60)
    case.pods.client.StopContainer(container_id=polite, timeout=20)
    case.pods.client.StopContainer(container_id=stubborn, timeout=1)
    assert [case.pods.status(one).exit_code for one in (polite, stubborn)] == [3, 137]


def test_read_only_root_and_volumes(case):
    folder = f"{case.daemon.folder}/volumes-{case.handler}"
    for name in ("ro", "rw"):
        os.makedirs(f"{folder}/{name}")
        with open(f"{folder}/{name}/was", "w") as f:
            f.write("was here\n")
    out = case.pods.out(case.pod, sh("cat /ro/was; for at in / /ro /rw; do touch $at/new 2>/dev/null && echo $at; done"),
                        mounts=[{"container_path": f"/{name}", "host_path": f"{folder}/{name}", "readonly": name == "ro"} for name in ("ro", "rw")],
                        linux={"security_context": {"readonly_rootfs": True}})
    assert out.split("\n") == ["was here", "/rw", ""]
    assert (os.path.exists(f"{folder}/rw/new"), os.path.exists(f"{folder}/ro/new")) == (True, False)
    assert case.pods.out(case.pod, sh("touch /new && ls /new")) == "/new\n"


def group_of(pid, controller):
    with open(f"/proc/{pid}/cgroup") as f:
        for line in f:
            _, names, path = line.strip().split(":", 2)
            if controller in names.split(","):
                return f"/sys/fs/cgroup/{controller}{path}"
            if not names and os.path.exists(f"/sys/fs/cgroup{path}/cgroup.procs"):
                return f"/sys/fs/cgroup{path}"
    raise AssertionError(f"no group of {controller}")


def pid_of(case, container):
    info = json.loads(dict(case.pods.client.ContainerStatus(container_id=container, verbose=True).info)["info"])
    return info["pid"]


def test_limits(case):
    if case.handler == "runsc":
        container = running(case)
        with pytest.raises(grpc.RpcError) as refused:
            case.pods.client.UpdateContainerResources(container_id=container, linux={"memory_limit_in_bytes": 64 << 20})
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        case.pods.client.StopContainer(container_id=container, timeout=0)
    case.lacks("limits")
    container = running(case, linux={"resources": {"memory_limit_in_bytes": 96 << 20, "cpu_quota": 50000, "cpu_period": 100000, "cpu_shares": 512,
                                                   "oom_score_adj": 999}})
    # A VM's containers have their groups in the guest (version 2), where they see their own.
    in_guest = case.handler == "caisson-vm"
    pid = None if in_guest else pid_of(case, container)

    def value(controller, *names):
        if in_guest:
            return case.pods.exec(container, ["cat", f"/sys/fs/cgroup/{names[-1]}"])[1].split()[0]
        for name in names:
            if os.path.exists(path := f"{group_of(pid, controller)}/{name}"):
                with open(path) as f:
                    return f.read().split()[0]
        raise AssertionError(f"none of {names}")

    assert value("memory", "memory.limit_in_bytes", "memory.max") == str(96 << 20)
    assert value("cpu", "cpu.cfs_quota_us", "cpu.max") == "50000"
    case.pods.client.UpdateContainerResources(container_id=container, linux={"memory_limit_in_bytes": 64 << 20})
    assert value("memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    if in_guest:
        assert case.pods.exec(container, ["cat", "/proc/1/oom_score_adj"])[1].strip() == "999"
    else:
        with open(f"/proc/{pid}/oom_score_adj") as f:
            assert f.read().strip() == "999"
    case.pods.client.StopContainer(container_id=container, timeout=0)


def test_containers_of_a_pod_share_shm_and_hostname(case):
    first = running(case)
    assert case.pods.exec(first, sh("echo shared > /dev/shm/word"))[0] == 0
    assert case.pods.out(case.pod, sh("cat /dev/shm/word; hostname")) == f"shared\n{case.pod[1]['hostname']}\n"
    case.pods.client.StopContainer(container_id=first, timeout=0)


def test_shared_pid_namespace(case):
    case.lacks("shared_pid")
    pod = case.run_pod(linux={"security_context": {"namespace_options": {"pid": 0}}})
    options = {"linux": {"security_context": {"namespace_options": {"pid": 0}}}}
    case.pods.start(pod, ["sleep", "4343"], **options)
    assert "sleep 4343" in case.pods.out(pod, ["ps", "-o", "args"], **options)


def test_the_pods_address_is_reached(case):
    server = case.pods.start(case.pod, sh("mkdir /www; echo hello > /www/index.html; echo ready; exec httpd -f -p 8080 -h /www"))
    case.pods.wait_line(server, "ready", 60)
    ip = case.pods.client.PodSandboxStatus(pod_sandbox_id=case.pod[0]).status.network.ip

    def answers():
        try:
            with socket.create_connection((ip, 8080), 5) as client:
                client.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
                return b"".join(iter(lambda: client.recv(4096), b""))
        except OSError:
            return b""

    wait_for("the server answers", lambda: answers().endswith(b"hello\n"), 30)
    case.pods.client.StopContainer(container_id=server, timeout=0)


def test_statistics(case):
    container = case.pods.start(case.pod, sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; sleep 1000"))
    case.pods.wait_line(container, "done", 60)

    def stats():
        return case.pods.client.ContainerStats(container_id=container).stats

    wait_for("there are figures", lambda: stats().cpu.usage_core_nano_seconds.value > 0 and stats().memory.working_set_bytes.value > 0, 30)
    case.pods.client.StopContainer(container_id=container, timeout=0)


def test_a_container_outlives_the_daemon(case):
    container = case.pods.start(case.pod, sh("trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"))
    case.pods.wait_line(container, "ready", 60)
    case.daemon.kill()
    case.daemon.start()
    case.pods.client = case.daemon.client
    assert reason_of(case.daemon, case.handler) == ""
    assert case.pods.exec(container, ["echo", "alive"])[1] == "alive\n"
    case.pods.client.StopContainer(container_id=container, timeout=20)
    assert case.pods.status(container).exit_code == 9


def test_nothing_stays_when_the_companion_is_killed(case):
    pod = case.run_pod()
    container = running(case, pod)
    with open(f"{case.daemon.state}/pods/{pod[0]}/shim.pid") as f:
        os.kill(int(f.read().split()[0]), signal.SIGKILL)
    exited = case.pods.api.enum("ContainerState")["CONTAINER_EXITED"]
    wait_for("the container has ended", lambda: case.pods.status(container).state == exited, 60)
    case.pods.client.StopPodSandbox(pod_sandbox_id=pod[0])
    case.pods.client.RemovePodSandbox(pod_sandbox_id=pod[0])
    case.pods.made.remove(pod[0])
    assert not [item for item in case.daemon.leaks_of_pods() if pod[0] in item or container in item]


def test_a_handler_that_is_not_ready_says_why(daemon):
    """Debian's crun where cgroup v1 and v2 are side by side; elsewhere it runs."""
    if not hybrid():
        pytest.skip("crun runs on this host")
    reason = reason_of(daemon, "crun")
    assert CRUN_REFUSES in reason
    assert "crun" not in [handler.name for handler in daemon.client.Status().runtime_handlers]
    with pytest.raises(grpc.RpcError) as refused:
        Pods(daemon).run_pod(handler="crun")
    assert CRUN_REFUSES in refused.value.details()
