# SPDX-License-Identifier: Apache-2.0
"""The shim protocol without containerd: what CRI-O and newer containerds say to a shim, played (docs/containerd.md)."""
import json
import os
import signal
import subprocess
import tempfile

import pytest

from harness.cri import Api
from harness.daemon import BIN, remove_tree
from harness.handler import GUEST, missing_for_vms
from harness.images import APPLETS, BUSYBOX
from harness.leaks import Leaks
from harness.registry import wait_for
from harness.ttrpc import Caller, Error

pytestmark = pytest.mark.native("these companions are of processes")
UNIMPLEMENTED = 12


@pytest.fixture(scope="module")
def apis():
    return {"task": Api("containerd/task_v3.proto", "containerd.task.v3"), "boot": Api("containerd/bootstrap.proto", "containerd.runtime.bootstrap.v1"),
            "types": Api("containerd/types.proto", "containerd.types"), "runc": Api("containerd/runc_options.proto", "containerd.runc.v1")}


class Node:
    """Bundles in a folder, and a client of the companions that serve them."""

    def __init__(self, folder, apis):
        self.folder, self.task, self.apis = folder, apis["task"], apis
        self.root = f"{folder}/rootfs"
        for name in ("bin", "proc", "tmp"):
            os.makedirs(f"{self.root}/{name}")
        subprocess.run(["cp", BUSYBOX, f"{self.root}/bin/busybox"], check=True)
        for name in APPLETS:
            os.symlink("busybox", f"{self.root}/bin/{name}")

    def bundle(self, name, script, annotations=None, cgroup=None):
        path = f"{self.folder}/{name}"
        os.makedirs(path)
        config = {"ociVersion": "1.0.2", "root": {"path": self.root}, "annotations": annotations or {},
                  "process": {"args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
                  "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
                  "linux": {"cgroupsPath": cgroup or f"/{os.path.basename(self.folder)}/{name}",
                            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]}}
        with open(f"{path}/config.json", "w") as f:
            json.dump(config, f)
        return path

    def command(self, name, action, stdin=b"", env=None, check=True):
        done = subprocess.run([f"{BIN}/containerd-shim-caisson-v2", "-namespace", "test", "-address", "", "-publish-binary", "", "-id", name,
                               *(["-bundle", f"{self.folder}/{name}"] if action == "delete" else []), action],
                              cwd=f"{self.folder}/{name}", input=stdin, env={"PATH": os.environ["PATH"], **(env or {})}, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60)
        if check:
            assert done.returncode == 0 and not done.stderr, (done.returncode, done.stderr)
        return done.stdout if check else done

    def start(self, name, script, annotations=None, cgroup=None, **kw):
        """The companion's address, as a client without a version gets it."""
        self.bundle(name, script, annotations, cgroup)
        return self.command(name, "start", **kw).decode()

    def ask(self, caller, method, response="Empty", **fields):
        request = {"Create": "CreateTaskRequest", "Exec": "ExecProcessRequest"}.get(method, f"{method}Request")
        answer = self.apis["task"].message("google.protobuf.Empty") if response == "Empty" else getattr(self.task, response)
        return caller.call("containerd.task.v3.Task", method, getattr(self.task, request)(**fields), answer)

    def create(self, caller, name, **fields):
        return self.ask(caller, "Create", "CreateTaskResponse", id=name, bundle=f"{self.folder}/{name}", **fields)

    def run(self, caller, name, **fields):
        """To its end; the exit status."""
        self.create(caller, name, **fields)
        self.ask(caller, "Start", "StartResponse", id=name)
        return self.ask(caller, "Wait", "WaitResponse", id=name).exit_status

    def companion(self, name):
        with open(f"{self.folder}/{name}/shim.pid") as f:
            return int(f.read())

    def runc_options(self, **fields):
        return {"type_url": "containerd.runc.v1.Options", "value": self.apis["runc"].Options(**fields).SerializeToString()}


@pytest.fixture
def node(apis):
    folder = tempfile.mkdtemp(prefix="caisson-shim-")
    leaks = Leaks(os.path.basename(folder))
    yield Node(folder, apis)
    for controller in os.listdir("/sys/fs/cgroup"):
        path = f"/sys/fs/cgroup/{controller}/{os.path.basename(folder)}"
        if os.path.isdir(path):
            os.rmdir(path)
    wait_for("nothing is left", lambda: not leaks.check(), 10)
    remove_tree(folder)


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_pod_as_crio_starts_it(node):
    pod = {"io.kubernetes.cri-o.SandboxID": "pod1", "io.kubernetes.cri-o.ContainerType": "sandbox"}
    address = node.start("pod1", "exec sleep 1000", pod)
    assert address.startswith("unix:///") and "\n" not in address
    companion = node.companion("pod1")
    assert os.getsid(companion) == companion
    with open(f"/proc/{companion}/oom_score_adj") as theirs, open("/proc/self/oom_score_adj") as ours:
        assert int(theirs.read()) == min(int(ours.read()) + 1, 1000)
    caller = Caller(address)
    node.create(caller, "pod1")
    node.ask(caller, "Start", "StartResponse", id="pod1")
    assert node.start("one", "exit 4", {**pod, "io.kubernetes.cri-o.ContainerType": "container"}) == address
    assert not os.path.exists(f"{node.folder}/one/shim.pid")
    with open(f"{node.folder}/one/address") as f:
        assert f.read() == address
    assert node.run(caller, "one") == 4
    assert node.ask(caller, "Delete", "DeleteResponse", id="one").exit_status == 4
    node.ask(caller, "Shutdown", id="one")  # the pod is there yet
    node.ask(caller, "Kill", id="pod1", signal=signal.SIGKILL)
    assert node.ask(caller, "Wait", "WaitResponse", id="pod1").exit_status == 137
    node.ask(caller, "Delete", "DeleteResponse", id="pod1")
    node.ask(caller, "Shutdown", id="pod1")
    caller.close()
    wait_for("the companion ends", lambda: gone(companion))
    assert not os.path.exists(address.removeprefix("unix://"))


def test_versions_of_the_answer(node, apis):
    node.bundle("c", "exit 0")
    answer = json.loads(node.command("c", "start", env={"MAX_SHIM_VERSION": "2"}))
    assert (answer["version"], answer["protocol"]) == (2, "ttrpc")
    params = apis["boot"].BootstrapParams(instance_id="c", namespace="test")
    result = apis["boot"].BootstrapResult.FromString(node.command("c", "start", stdin=params.SerializeToString()))
    assert (result.version, result.protocol, result.address) == (3, "ttrpc", answer["address"])
    caller = Caller(result.address)
    node.ask(caller, "Shutdown", id="c", now=True)
    caller.close()
    wait_for("the companion ends", lambda: gone(node.companion("c")))


def test_delete_after_the_companions_death(node):
    caller = Caller(node.start("c", "exec sleep 1000"))
    pid = node.create(caller, "c").pid
    node.ask(caller, "Start", "StartResponse", id="c")
    companion, address = node.companion("c"), open(f"{node.folder}/c/address").read()
    os.kill(companion, signal.SIGKILL)
    wait_for("it is gone", lambda: gone(companion))
    response = node.task.DeleteResponse.FromString(node.command("c", "delete"))
    assert (response.pid, response.exit_status) == (pid, 137) and response.exited_at.seconds > 0
    assert gone(pid) and not os.path.exists(address.removeprefix("unix://"))
    node.command("c", "delete")  # again: nothing is left to do
    caller = Caller(node.command("c", "start").decode())  # the same name serves anew
    node.ask(caller, "Shutdown", id="c", now=True)
    wait_for("the companion ends", lambda: gone(node.companion("c")))


def test_exit_status_outlives_the_companion(node):
    caller = Caller(node.start("c", "exit 6"))
    assert node.run(caller, "c") == 6
    ended = node.ask(caller, "State", "StateResponse", id="c").exited_at
    companion = node.companion("c")
    os.kill(companion, signal.SIGKILL)
    wait_for("it is gone", lambda: gone(companion))
    response = node.task.DeleteResponse.FromString(node.command("c", "delete"))
    assert (response.exit_status, response.exited_at) == (6, ended)


def test_delete_of_what_lives(node):
    address = node.start("c", "exec sleep 1000")
    caller = Caller(address)
    pid = node.create(caller, "c").pid
    node.ask(caller, "Start", "StartResponse", id="c")
    companion = node.companion("c")
    node.command("c", "delete")
    wait_for("the companion ends", lambda: gone(companion))
    assert gone(pid) and not os.path.exists(address.removeprefix("unix://"))


def test_runc_options(node):
    caller = Caller(node.start("c", "stat -L -c %u:%g /proc/self/fd/1"))
    for option, value in {"binary_name": "/usr/bin/runc", "no_pivot_root": True, "no_new_keyring": True}.items():
        with pytest.raises(Error) as refused:
            node.create(caller, "c", options=node.runc_options(**{option: value}))
        assert refused.value.code == UNIMPLEMENTED and option in refused.value.message
    fifo = f"{node.folder}/out"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert node.run(caller, "c", stdout=fifo, options=node.runc_options(root="/run/x", io_uid=1000, io_gid=2000)) == 0
    assert os.read(reader, 100) == b"1000:2000\n"
    os.close(reader)
    node.ask(caller, "Delete", "DeleteResponse", id="c")
    node.ask(caller, "Shutdown", id="c")
    wait_for("the companion ends", lambda: gone(node.companion("c")))


@pytest.mark.parametrize("says, groups", [(None, "system.slice/crio-{id}.scope"), (True, "system.slice/crio-{id}.scope"), (False, "system.slice:crio:{id}")])
def test_whose_cgroup_it_is(node, says, groups):
    """CRI-O, and containerd's CRI plugin for other runtimes than runc, say nothing of systemd but by the cgroup's path."""
    if not os.path.exists("/run/systemd/private"):
        pytest.skip("there is no systemd here")
    name = os.path.basename(node.folder)
    caller = Caller(node.start(name, "cat /proc/self/cgroup > /tmp/group", cgroup=f"system.slice:crio:{name}"))
    options = {} if says is None else {"options": node.runc_options(systemd_cgroup=says)}
    assert node.run(caller, name, **options) == 0
    with open(f"{node.root}/tmp/group") as f:
        assert groups.format(id=name) in f.read()
    node.ask(caller, "Delete", "DeleteResponse", id=name)
    node.ask(caller, "Shutdown", id=name)
    wait_for("the companion ends", lambda: gone(node.companion(name)))


def test_what_start_refuses(node):
    node.bundle("c", "exit 0", {"io.kubernetes.cri.sandbox-id": "../up"})
    done = node.command("c", "start", check=False)
    assert done.returncode == 1 and not done.stdout and b"sandbox-id" in done.stderr
    with open(f"{node.folder}/c/config.json", "w") as f:
        f.write("{")
    done = node.command("c", "start", check=False)
    assert done.returncode == 1 and b"config.json" in done.stderr


MACHINE = pytest.param("named", 0, True, marks=pytest.mark.skipif(bool(missing_for_vms()), reason=missing_for_vms() or "-"))


@pytest.mark.parametrize("hostname,pid_mode,machine", [("named", 1, False), ("named", 0, False), ("", 1, False), MACHINE])
def test_a_sandbox_without_a_container(node, hostname, pid_mode, machine):
    """As containerd 2.x makes it with `sandboxer = "shim"`: the companion itself holds the pod's namespaces, or the machine is the sandbox."""
    os.makedirs(f"{node.folder}/pod")
    with open(f"{node.folder}/settings.json", "w") as f:
        json.dump({"kernel": f"{GUEST}/kernel", "initrd": f"{GUEST}/initramfs", "sandbox": "vm"} if machine else {}, f)
    caller = Caller(node.command("pod", "start", env={"CAISSON_SHIM_CONFIG": f"{node.folder}/settings.json"}).decode())
    sandbox, pod = Api("containerd/sandbox.proto", "containerd.runtime.sandbox.v1"), Api("caisson/pod/v1/pod_config.proto", "caisson.pod.v1")
    network = f"caisson-{os.path.basename(node.folder)}"
    subprocess.run(["ip", "netns", "add", network], check=True)

    def ask(method, **fields):
        return caller.call("containerd.runtime.sandbox.v1.Sandbox", method, getattr(sandbox, f"{method}Request")(**fields),
                           getattr(sandbox, f"{method}Response"))
    try:
        config = pod.PodConfig(hostname=hostname, linux={"sysctls": {"net.ipv4.ip_forward": "1"}, "security_context": {
            "namespace_options": {"pid": pid_mode}}})
        options = {"type_url": "runtime.v1.PodSandboxConfig", "value": config.SerializeToString()}
        ask("CreateSandbox", sandbox_id="pod", bundle_path=f"{node.folder}/pod", netns_path=f"/run/netns/{network}", options=options)
        pid = ask("StartSandbox", sandbox_id="pod").pid
        assert ask("SandboxStatus", sandbox_id="pod").state == "SANDBOX_READY"
        for kind in ("net",) if machine else ("pid", "net", "ipc", "uts"):  # what containers are put into is never the host's
            assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
        node.ask(caller, "Shutdown", id="pod")  # no container is left; the sandbox is
        node.bundle("c", "hostname; cat /proc/sys/net/ipv4/ip_forward")
        with open(f"{node.folder}/c/config.json") as f:
            spec = json.load(f)
        spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "pid"}, *({"type": kind, "path": f"/proc/{pid}/ns/{file}"}
                                                                         for kind, file in (("network", "net"), ("ipc", "ipc"), ("uts", "uts")))]
        with open(f"{node.folder}/c/config.json", "w") as f:
            json.dump(spec, f)
        assert node.run(caller, "c", stdout=f"file://{node.folder}/out") == 0
        with open(f"{node.folder}/out") as f:
            assert f.read() == f"{hostname or os.uname().nodename}\n1\n"
        ask("StopSandbox", sandbox_id="pod", timeout_secs=10)
        assert ask("SandboxStatus", sandbox_id="pod").state == "SANDBOX_NOTREADY"
        ask("ShutdownSandbox", sandbox_id="pod")
        wait_for("the companion ends", lambda: gone(node.companion("pod")))
    finally:
        subprocess.run(["ip", "netns", "del", network], check=True)
        caller.close()
