# SPDX-License-Identifier: Apache-2.0
"""Pods that are virtual machines, made by our companion as the shim of a real containerd: docs/containerd.md."""
import json
import os
import pty
import select
import signal
import socket
import subprocess
import tempfile

import grpc
import pytest

from harness.containerd import PROGRAMS, Containerd, check_log_uris, own_containerd
from harness.handler import GUEST, missing_for_vms
from harness.pods import Pods
from harness.registry import wait_for
from harness.streams import Forward
from harness.vm import BOOT_SECONDS

pytestmark = [pytest.mark.skipif(not os.path.exists(f"{PROGRAMS}/containerd"), reason="no containerd here: install Debian's containerd"),
              pytest.mark.skipif(bool(missing_for_vms()), reason=missing_for_vms() or "-"),
              pytest.mark.native("names its own runtime")]

VM = "io.containerd.caisson-vm.v2"
SETTINGS = {"kernel": f"{GUEST}/kernel", "initrd": f"{GUEST}/initramfs", "memory_bytes": 256 << 20}


SHIM_SANDBOX = f"""[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.vmshim]
runtime_type = "{VM}"
sandboxer = "shim"
privileged_without_host_devices = true
"""


def with_vms(folder):
    with open(f"{folder}/settings.json", "w") as f:
        json.dump(SETTINGS, f)
    with open(f"{folder}/vms.json", "w") as f:
        json.dump({**SETTINGS, "sandbox": "vm"}, f)
    return Containerd(folder, cri=True, runtimes={"vm": VM}, config=SHIM_SANDBOX, environment={"CAISSON_SHIM_CONFIG": f"{folder}/settings.json"})


@pytest.fixture(scope="module")
def containerd():
    """With the CRI; ctr's containers are in the same namespace."""
    with own_containerd(with_vms) as containerd:
        yield containerd


@pytest.fixture(autouse=True)
def nothing_left(containerd):
    """Each test ends its containers; no companion and no machine outlives them."""
    yield
    pods = {pod.id for pod in containerd.client.ListPodSandbox().items}
    for left in [task for task in containerd.tasks() if task not in pods]:
        containerd.ctr("task", "rm", "-f", left, check=False)
    for left in containerd.ctr("container", "ls", "-q").stdout.split():
        if left not in pods:
            containerd.ctr("container", "rm", left)
    wait_for("no companion is left", lambda: not containerd.companions())


@pytest.fixture
def pods(containerd):
    with Pods(containerd) as pods:
        yield pods


def run(containerd, name, *command, args=(), **kw):
    return containerd.run(name, *command, args=args, runtime=VM, timeout=BOOT_SECONDS, **kw)


def sleeper(containerd, name, *args):
    run(containerd, name, "sh", "-c", 'trap "exit 5" TERM; while :; do sleep 0.05; done', args=("-d", *args))


def vmm_of(containerd, name):
    return vmm_below(containerd.companion(name))


def vmm_below(companion):
    """The pid of the pod's VMM: a child of its companion."""
    with open(f"/proc/{companion}/task/{companion}/children") as f:
        for child in f.read().split():
            with open(f"/proc/{child}/cmdline", "rb") as command:
                if b"qemu-system" in command.read():
                    return int(child)
    raise AssertionError(f"companion {companion} has no VMM")


def ended(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def cgroups_of(path):
    return [base for base, _, _ in os.walk("/sys/fs/cgroup") if base.endswith(path)]


ROOT = """
set -e
uname -r
cat /proc/sys/kernel/hostname
mknod /tmp/null c 1 3; echo gone > /tmp/null
echo one > /etc/new; chown 7:8 /etc/new; chmod 4711 /etc/new; ln /etc/new /etc/hard; mv /etc/hard /usr/hard; stat -c "%u %g %a %h" /usr/hard
rm /bin/vi; ls /bin/vi 2>/dev/null || echo removed
mv /bin/wget /bin/moved; mkdir /bin/folder; mv /bin/folder /root2; ls -d /root2
cp /bin/busybox /tmp/echo; /tmp/echo runs
echo more >> /etc/appended; cat /etc/appended
ulimit -n >/dev/null; df / | tail -1 | cut -d" " -f1
echo err >&2
exit 7
"""


def test_run_in_a_machine_whose_root_is_like_any(containerd, name):
    done = run(containerd, name, "sh", "-c", ROOT, args=("--rm",), check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 7, (done.stdout, done.stderr)
    assert lines[0] != os.uname().release and lines[1] == os.uname().nodename
    assert lines[2:] == ["7 8 4711 2", "removed", "/root2", "runs", "more", "overlay"]
    assert "err" in done.stderr
    assert containerd.tasks() == {} and not cgroups_of(f"/{name}")


def test_exec_terminal_stats_and_kill(containerd, name):
    sleeper(containerd, name, "--memory-limit", str(128 << 20))
    vmm = vmm_of(containerd, name)
    done = containerd.ctr("task", "exec", "--exec-id", "one", name, "sh", "-c", "echo in; cat; exit 3", check=False, input="more")
    assert (done.returncode, done.stdout) == (3, "in\nmore")
    ours, theirs = pty.openpty()
    client = subprocess.Popen([f"{PROGRAMS}/ctr", "task", "exec", "-t", "--exec-id", "tty", name, "sh", "-c", "tty; read line; echo got $line"],
                              env=containerd.env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    for text, answer in ((b"/dev/pts/0", b"hello\n"), (b"got hello", b"")):
        while text not in seen:
            assert select.select([ours], [], [], 60)[0], seen
            seen += os.read(ours, 4096)
        os.write(ours, answer)
    assert client.wait(60) == 0
    os.close(ours)
    # The limit is the container's in the guest; the machine is as large as that needs, not as by default.
    metrics = json.loads(containerd.ctr("task", "metrics", "--format", "json", name).stdout)
    assert metrics["memory"]["usage_limit"] == 128 << 20 and metrics["pids"]["current"] >= 1
    total = containerd.ctr("task", "exec", "--exec-id", "free", name, "sed", "-n", "s/MemTotal: *\\([0-9]*\\) kB/\\1/p", "/proc/meminfo").stdout
    assert 128 << 10 < int(total) < 224 << 10
    containerd.ctr("task", "pause", name)
    assert containerd.tasks()[name] == "PAUSED"
    containerd.ctr("task", "resume", name)
    assert cgroups_of(f"/k8s.io/{name}")
    containerd.ctr("task", "kill", "-s", "TERM", name)
    wait_for("it ends", lambda: containerd.tasks()[name] == "STOPPED")
    assert not ended(vmm)
    assert "exit code 5" in containerd.ctr("task", "rm", name, check=False).stderr
    assert ended(vmm) and not cgroups_of(f"/k8s.io/{name}")


def test_log_file_and_log_program(containerd, name):
    check_log_uris(containerd, name, lambda of, *command, args=(): run(containerd, of, *command, args=args))
    done = run(containerd, name, "true", args=("-d", "--log-uri", "binary:///no/such/logger"), check=False)
    assert done.returncode != 0 and "/no/such/logger" in done.stderr


def test_what_a_machine_cannot_have_is_refused(containerd, name):
    for args, words in ((("--net-host",), "the host's network"), (("--mount", "type=bind,src=/dev/null,dst=/x,options=rbind:ro"), "neither a file nor a folder"),
                        (("--mount", "type=bind,src=/tmp,dst=/x,options=rbind:rshared"), "cannot propagate to the host")):
        done = run(containerd, name, "true", args=args, check=False)
        assert done.returncode != 0 and words in done.stderr, (args, done.stderr)
        containerd.ctr("container", "rm", name, check=False)
        wait_for("nothing of it is left", lambda: not containerd.companions() and name not in containerd.tasks())
    done = run(containerd, name, "/no/such/program", check=False)
    assert done.returncode != 0 and "/no/such/program" in done.stderr


def test_bind_mounts_and_options_that_choose_the_machine(containerd, name):
    folder = tempfile.mkdtemp(dir=containerd.folder)
    os.chmod(folder, 0o755)
    with open(f"{folder}/host", "w") as f:
        f.write("from the host\n")
    mount = f"type=bind,src={folder},dst=/data,options=rbind:rw"
    # The runtime is the native one's: options of it say that its pods are machines, or an annotation.
    settings = ("--runtime-config-path", f"{containerd.folder}/vms.json")
    done = containerd.run(f"{name}-o", "sh", "-c", "cat /data/host; echo from the guest > /data/guest; uname -r", args=("--rm", "--mount", mount, *settings), timeout=BOOT_SECONDS)
    assert done.stdout.splitlines()[0] == "from the host" and done.stdout.splitlines()[1] != os.uname().release
    with open(f"{folder}/guest") as f:
        assert f.read() == "from the guest\n"
    done = containerd.run(f"{name}-a", "uname", "-r", args=("--rm", "--annotation", "io.caisson.sandbox=vm"), timeout=BOOT_SECONDS)
    assert done.stdout.strip() != os.uname().release
    done = containerd.run(f"{name}-n", "uname", "-r", args=("--rm",))
    assert done.stdout.strip() == os.uname().release


@pytest.mark.parametrize("victim", ["companion", "vmm"])
def test_nothing_stays_of_what_is_killed(containerd, name, victim):
    sleeper(containerd, name)
    companion, vmm = containerd.companion(name), vmm_of(containerd, name)
    os.kill(companion if victim == "companion" else vmm, signal.SIGKILL)
    if victim == "vmm":
        # The companion lives on to tell of it.
        wait_for("the container has ended", lambda: containerd.tasks()[name] == "STOPPED")
        assert "exit code 137" in containerd.ctr("task", "rm", name, check=False).stderr
    wait_for("containerd has cleaned up", lambda: not os.path.exists(containerd.bundle(name)))
    assert ended(vmm)
    wait_for("the companion has ended", lambda: ended(companion))
    assert not cgroups_of(f"/k8s.io/{name}")


def pod_ip(pods, pod):
    return pods.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.network.ip


def secret_in(folder):
    """As the kubelet writes one."""
    path = tempfile.mkdtemp(dir=folder)
    os.chmod(path, 0o755)
    os.mkdir(f"{path}/..1")
    with open(f"{path}/..1/key", "w") as f:
        f.write("one\n")
    os.symlink("..1", f"{path}/..data")
    os.symlink("..data/key", f"{path}/key")
    return path


def change_secret(path):
    os.mkdir(f"{path}/..2")
    with open(f"{path}/..2/key", "w") as f:
        f.write("two\n")
    os.symlink("..2", f"{path}/..tmp")
    os.rename(f"{path}/..tmp", f"{path}/..data")


def test_pod_of_two_containers_is_one_machine(containerd, pods):
    pod = pods.run_pod(handler="vm", linux={"sysctls": {"net.core.somaxconn": "77"}}, dns_config={"servers": ["192.0.2.53"]})
    assert len(containerd.companions()) == 1
    vmm, secret = vmm_of(containerd, pod[0]), secret_in(containerd.folder)
    waiting = ["sh", "-c", 'trap "exit 4" TERM; echo up; echo err >&2; while :; do sleep 0.05; done']
    one = pods.start(pod, waiting, mounts=[{"container_path": "/secret", "host_path": secret, "readonly": True}])
    two = pods.start(pod, ["nc", "-ll", "-p", "4711", "-e", "echo", "seen"])
    pods.wait_line(one, "up")
    assert len(containerd.companions()) == 1 and vmm_of(containerd, pod[0]) == vmm
    # Its network is the pod's: from the host, from the other container, with the pod's names.
    address = pod_ip(pods, pod)

    def answer():
        try:
            with socket.create_connection((address, 4711), timeout=5) as peer:
                return peer.recv(100)
        except OSError:
            return b""
    assert wait_for("the port answers", answer, 60) == b"seen\n"
    assert pods.exec(one, ["sh", "-c", "nc 127.0.0.1 4711 </dev/null"])[1] == "seen\n"
    assert address in pods.exec(one, ["ip", "addr"])[1]
    out = pods.exec(one, ["sh", "-c", "hostname; cat /proc/sys/net/core/somaxconn /etc/hostname /etc/resolv.conf; uname -r; df -k /dev/shm | tail -1"])[1].splitlines()
    assert out[:3] == [pod[1]["hostname"], "77", pod[1]["hostname"]] and "nameserver 192.0.2.53" in out
    assert out[-2] != os.uname().release and out[-1].split()[1] == str(64 << 10)
    # /dev/shm is the pod's.
    assert pods.exec(one, ["sh", "-c", "echo shared > /dev/shm/x"])[0] == 0
    assert pods.exec(two, ["cat", "/dev/shm/x"]) == (0, "shared\n", "")
    # A Secret is, and is kept up to date.
    assert pods.exec(one, ["cat", "/secret/key"]) == (0, "one\n", "")
    change_secret(secret)
    wait_for("the new state is there", lambda: pods.exec(one, ["cat", "/secret/key"])[1] == "two\n")
    log = pods.log(pods.status(one).log_path)
    assert sorted((line.stream, line.text) for line in log) == [("stderr", "err"), ("stdout", "up")]

    def used():
        return pods.client.ContainerStats(container_id=one).stats
    assert used().cpu.usage_core_nano_seconds.value > 0 and used().memory.working_set_bytes.value > 0
    pods.client.StopContainer(container_id=one, timeout=20)
    assert pods.status(one).exit_code == 4
    pods.client.RemoveContainer(container_id=one)
    assert pods.exec(two, ["echo", "still"]) == (0, "still\n", "")
    pods.client.StopPodSandbox(pod_sandbox_id=pod[0])
    assert ended(vmm) and pods.status(two).exit_code == 137


def forwarded(pods, pod, port, data, size):
    """What comes back until there is `size` of it or the connection ends."""
    forward = Forward(pods.client.PortForward(pod_sandbox_id=pod[0], port=[port]).url)
    try:
        if data:
            forward.write(data)
        forward.until(lambda f: f.got[1] or len(f.got[0]) >= size)
        return bytes(forward.got[0])
    finally:
        forward.vanish()


def test_ports_of_localhost_are_forwarded_into_the_machine(containerd, pods):
    """containerd dials localhost in the pod's network namespace."""
    pod = pods.run_pod(handler="vm")
    one = pods.start(pod, ["sh", "-c", "nc -ll -p 4711 -e cat & nc -ll -p 4712 -e echo local & wait"])
    big = os.urandom(1 << 20)
    wait_for("the port answers", lambda: forwarded(pods, pod, 4711, b"word", 4) == b"word", 60)
    assert forwarded(pods, pod, 4711, big, len(big)) == big
    wait_for("the other answers", lambda: forwarded(pods, pod, 4712, b"", 6) == b"local\n", 60)
    # Nobody listens: the connection ends, and the next is as good as ever.
    assert forwarded(pods, pod, 4713, b"", 1) == b""
    assert forwarded(pods, pod, 4711, b"word", 4) == b"word"
    # What is forwarded does not hold up the machine's end.
    companion, = containerd.companions()
    forward = Forward(pods.client.PortForward(pod_sandbox_id=pod[0], port=[4711]).url)
    forward.write(b"x")
    forward.until(lambda f: f.got[0])
    pods.remove_all()
    forward.until(lambda f: False)
    wait_for("the companion has ended", lambda: ended(companion))
    assert one not in containerd.tasks()


def test_processes_of_the_pod_and_of_one_container(pods):
    """shareProcessNamespace, and a container for debugging that joins another's processes."""
    shared = {"security_context": {"namespace_options": {"pid": 0}}}
    pod = pods.run_pod(handler="vm", linux=shared)
    one = pods.start(pod, ["sleep", "4711"], linux=shared)
    two = pods.start(pod, ["sleep", "4712"], linux=shared)
    listed = pods.exec(two, ["ps", "-o", "args"])[1]
    assert "sleep 4711" in listed and "sleep 4712" in listed, listed
    # Also after the machine's client has been away.
    pods.daemon.kill()
    pods.daemon.start()
    pods.client = pods.daemon.client
    assert pods.exec(one, ["echo", "alive"]) == (0, "alive\n", "")
    target = {"security_context": {"namespace_options": {"pid": 3, "target_id": two}}}
    alone = pods.start(pod, ["sleep", "4713"], linux={"security_context": {"namespace_options": {"pid": 1}}})
    assert "sleep 4711" not in pods.exec(alone, ["ps", "-o", "args"])[1]
    target["security_context"]["namespace_options"]["target_id"] = alone
    listed = pods.exec(pods.start(pod, ["sleep", "4714"], linux=target), ["ps", "-o", "args"])[1]
    assert "sleep 4713" in listed and "sleep 4714" in listed and "sleep 4711" not in listed, listed
    status, _ = pods.run(pod, ["sh", "-c", "exit 3"])
    assert status.exit_code == 3


def test_machine_without_a_pause_container(containerd, pods):
    """containerd 2.x with `sandboxer = "shim"`: the Sandbox service makes the machine, in which all containers are."""
    if not containerd.is_two():
        pytest.skip("containerd 1.x has the pause container only")
    pod = pods.run_pod(handler="vmshim", linux={"sysctls": {"net.core.somaxconn": "77"}})
    companion, = containerd.companions()
    assert pods.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state == 0
    one = pods.start(pod, ["nc", "-ll", "-p", "4711", "-e", "echo", "seen"])
    two = pods.start(pod, ["sleep", "1000"])
    assert containerd.companions() == [companion]
    out = pods.exec(two, ["sh", "-c", "hostname; cat /proc/sys/net/core/somaxconn; uname -r"])[1].splitlines()
    assert out[:2] == [pod[1]["hostname"], "77"] and out[2] != os.uname().release
    wait_for("the port answers", lambda: pods.exec(two, ["sh", "-c", "nc 127.0.0.1 4711 </dev/null"])[1] == "seen\n")
    assert pods.run(pod, ["sh", "-c", "exit 3"])[0].exit_code == 3
    pods.client.StopContainer(container_id=one, timeout=2)
    assert pods.exec(two, ["echo", "still"]) == (0, "still\n", "")
    # The machine's end is the pod's.
    os.kill(vmm_below(companion), signal.SIGKILL)
    assert pods.wait_exit(two).exit_code in (137, 255)
    wait_for("the pod is not ready", lambda: pods.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state == 1)
    pods.remove_all()
    wait_for("the companion has ended", lambda: ended(companion))


def test_an_exec_that_cannot_start_is_told_at_once(pods):
    pod = pods.run_pod(handler="vm")
    one = pods.start(pod, ["sleep", "1000"])
    with pytest.raises(grpc.RpcError) as error:
        pods.exec(one, ["no-such-program"])
    assert "no-such-program" in error.value.details(), error.value
    assert pods.exec(one, ["echo", "next"]) == (0, "next\n", "")


def test_out_of_memory_in_the_guest_is_told(pods):
    pod = pods.run_pod(handler="vm")
    container = pods.start(pod, ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1"], linux={"resources": {"memory_limit_in_bytes": 8 << 20}})
    status = pods.wait_exit(container)
    assert (status.reason, status.exit_code) == ("OOMKilled", 137)


def test_machine_that_dies_takes_its_pod_with_it(containerd, pods):
    pod = pods.run_pod(handler="vm")
    container = pods.start(pod, ["sleep", "1000"])
    os.kill(vmm_of(containerd, pod[0]), signal.SIGKILL)
    assert pods.wait_exit(container).exit_code == 137
    wait_for("the pod is not ready", lambda: pods.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status.state == 1)
