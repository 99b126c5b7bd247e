# SPDX-License-Identifier: Apache-2.0
"""Pods with a user namespace (hostUsers: false): ids, files, rights, what is refused, and that nothing is left."""
import json
import os
import subprocess

import grpc
import pytest
from harness.daemon import BIN, HAS_CLI, cli
from harness.images import Image
from harness.pods import Pods, merge
from harness.registry import wait_for
from harness.streams import Forward, Session

HOST, SIZE = 200000, 65536
MAPPING = {"host_id": HOST, "container_id": 0, "length": SIZE}


def space(mode=0, uids=(MAPPING,), gids=(MAPPING,)):
    return {"mode": mode, "uids": list(uids), "gids": list(gids)}


def options(userns=None, **more):
    """linux.security_context of a pod or container."""
    return {"linux": {"security_context": {"namespace_options": {"pid": 1, "userns_options": userns or space(), **more}}}}


class UserPods(Pods):
    """Pods and containers that name the user namespace."""

    def pod_config(self, userns=None, name=None, host_network=False, **more):
        linux = merged(options(userns)["linux"], more.pop("linux", {}))
        return super().pod_config(name=name, host_network=host_network, linux=linux, **more)

    def container_config(self, command=None, userns=None, linux=None, **extra):
        return super().container_config(command, linux=merged(options(userns)["linux"], linux or {}), **extra)


def merged(base, more):
    merge(base, more)
    return base


@pytest.fixture
def pods(daemon):
    with UserPods(daemon) as pods:
        yield pods


def security(**fields):
    return {"linux": {"security_context": fields}}


def refused(call, *args, **kw):
    with pytest.raises(grpc.RpcError) as error:
        call(*args, **kw)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT, error.value
    return error.value.details()


def host_status(pid):
    with open(f"/proc/{pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def info(pods, container):
    reply = pods.client.ContainerStatus(container_id=container, verbose=True)
    return json.loads(reply.info["info"])


def pid_of(pods, container):
    """On the host."""
    return info(pods, container)["pid"]


def test_host_can(daemon):
    """The kernel of whoever runs these tests; else they would say nothing."""
    reply = daemon.client.Status()
    assert {handler.name: handler.features.user_namespaces for handler in reply.runtime_handlers} == {"": True, "caisson": True}
    assert reply.features.user_namespaces_host_network
    if HAS_CLI:
        line, = [line for line in cli(daemon, "doctor").stdout.splitlines() if "hostUsers: false (caisson)" in line]
        assert line.startswith("ok")


def test_features_are_false_where_the_companion_says_no(make_daemon, folder):
    shim = f"{folder}/shim"
    with open(shim, "w") as f:
        f.write(f'#!/bin/sh\n[ "$1" = probe ] && {{ echo no idmapped layers here >&2; exit 1; }}\n'
                f'exec {BIN}/containerd-shim-caisson-v2 "$@"\n')
    os.chmod(shim, 0o755)
    daemon = make_daemon(config=f'[handlers.caisson]\nshim_path = "{shim}"\n')
    reply = daemon.client.Status(verbose=True)
    assert not any(handler.features.user_namespaces for handler in reply.runtime_handlers)
    assert not reply.features.user_namespaces_host_network
    assert "no idmapped layers here" in reply.info["userNamespaces/caisson"]
    if HAS_CLI:
        line, = [line for line in cli(daemon, "doctor").stdout.splitlines() if "hostUsers: false (caisson)" in line]
        assert line.startswith("warn") and "no idmapped layers here" in line
    with pytest.raises(grpc.RpcError) as error:
        UserPods(daemon).run_pod()
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "no idmapped layers here" in error.value.details()
    Pods(daemon).run_pod()


def test_ids(pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sleep", "1000"])
    pid = pid_of(pods, container)
    status = host_status(pid)
    assert status["Uid"].split() == status["Gid"].split() == [str(HOST)] * 4
    for name in ("uid_map", "gid_map"):
        code, out, _ = pods.exec(container, ["cat", f"/proc/self/{name}"])
        assert code == 0 and out.split() == ["0", str(HOST), str(SIZE)]
    assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    # The container's capabilities are of its namespace: the usual fourteen, none on the host.
    assert int(status["CapEff"], 16) == 0xa80425fb
    # A second container: the same user, network, IPC and UTS namespace.
    other = pid_of(pods, pods.start(pod, ["sleep", "1000"]))
    for name in ("user", "net", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/{other}/ns/{name}"), name
        if name != "user":
            assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"), name


def test_another_user_with_groups(pods):
    container = pods.start(pods.run_pod(), ["sleep", "1000"],
                           **security(run_as_user={"value": 1000}, run_as_group={"value": 2000}, supplemental_groups=[3000]))
    status = host_status(pid_of(pods, container))
    assert status["Uid"].split()[0] == str(HOST + 1000) and status["Gid"].split()[0] == str(HOST + 2000)
    assert str(HOST + 3000) in status["Groups"].split()
    assert pods.exec(container, ["id"])[1].startswith("uid=1000")


def test_root_file_system(pods):
    pod = pods.run_pod()
    out = pods.out(pod, ["sh", "-c", "stat -c %u:%g / /bin/busybox /bin /dev /dev/shm /dev/pts /dev/mqueue; "
                                     "touch /new && chown 7:8 /new && stat -c %u:%g /new; rm /bin/busybox && ls /bin | wc -l"])
    assert out.split()[:7] == ["0:0"] * 7, out
    assert out.split()[7] == "7:8"
    # The image is as it was.
    assert pods.out(pod, ["stat", "-c", "%u:%g", "/bin/busybox"]) == "0:0\n"
    plain = Pods(pods.daemon)
    ordinary = plain.run_pod()
    assert plain.out(ordinary, ["stat", "-c", "%u:%g", "/bin/busybox"]) == "0:0\n"
    plain.remove_all()


def test_pod_files_devices_and_kernel_file_systems(pods):
    pod = pods.run_pod(pods.pod_config(name="named"))
    script = """cat /etc/hostname; hostname; echo 127.0.0.9 mine >> /etc/hosts && tail -1 /etc/hosts; cat /etc/resolv.conf > /dev/null
echo x > /dev/null && head -c 4 /dev/zero | wc -c; echo shm > /dev/shm/f && cat /dev/shm/f
grep -c '/sys sysfs ro' /proc/mounts; grep -c '/dev/mqueue mqueue' /proc/mounts; echo x > /proc/sys/kernel/core_pattern || echo refused
mknod /dev/mine c 1 3 || echo refused; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range
ls /sys/class/net; mount -t tmpfs x /tmp || echo refused"""
    out = pods.out(pod, ["sh", "-c", script + " 2>/dev/null"])
    assert out.split("\n")[:-1] == ["named", "named", "127.0.0.9 mine", "4", "shm", "1", "1", "refused", "refused", "0",
                                    f"0\t{SIZE - 1}", "eth0", "lo", "refused"], out


def test_output_and_log(pods):
    status, log = pods.run(pods.run_pod(), ["sh", "-c", "echo one > /dev/stdout; echo two > /dev/stderr; exit 3"])
    assert status.exit_code == 3
    assert {(line.stream, line.text) for line in log} == {("stdout", "one"), ("stderr", "two")}
    assert os.stat(status.log_path).st_uid == 0, "the log is the host's"


def test_exec_and_attach(pods, daemon):
    pod = pods.run_pod()
    container = pods.start(pod, ["cat"], stdin=True, tty=True)
    code, out, _ = pods.exec(container, ["sh", "-c", "id -u; cat /proc/self/uid_map; grep CapEff /proc/self/status; "
                                                     "echo again > /dev/stdout; cat /proc/self/cgroup"])
    assert code == 0 and out.split()[:4] == ["0", "0", str(HOST), str(SIZE)]
    assert "00000000a80425fb" in out and "\nagain\n" in out
    url = daemon.client.Exec(container_id=container, cmd=["sh", "-c", "stat -c %u $(tty); echo tty > /dev/tty"], tty=True,
                             stdin=False, stdout=True).url
    assert Session(url).finish() == (0, b"0\r\ntty\r\n", b"")
    session = Session(daemon.client.Attach(container_id=container, tty=True, stdin=True, stdout=True).url)
    session.write(b"hello\n")
    session.until(b"hello\r\nhello\r\n")
    session.vanish()


def volume(folder, mapped=True, **extra):
    mapping = {"uidMappings": [MAPPING], "gidMappings": [MAPPING]} if mapped else {}
    return {"mounts": [{"container_path": "/volume", "host_path": folder, **mapping, **extra}]}


def test_volume_with_mapped_ids(pods, folder):
    os.chmod(folder, 0o755)
    with open(f"{folder}/old", "w") as f:
        f.write("old")
    os.chown(f"{folder}/old", 1000, 1000)
    os.makedirs(f"{folder}/sub")
    pod = pods.run_pod()
    out = pods.out(pod, ["sh", "-c", "stat -c %u:%g /volume /volume/old; echo x > /volume/new; touch /volume/sub/other; "
                                     "chown 5:6 /volume/sub/other; stat -c %u:%g /volume/new"], **volume(folder))
    assert out == "0:0\n1000:1000\n0:0\n"
    for name, owner in (("new", (0, 0)), ("sub/other", (5, 6))):
        found = os.stat(f"{folder}/{name}")
        assert (found.st_uid, found.st_gid) == owner, name
    status, log = pods.run(pod, ["sh", "-c", "touch /volume/x"], **volume(folder, readonly=True))
    assert status.exit_code == 1 and "Read-only" in log[0].text
    # Without mappings it is somebody else's.
    status, log = pods.run(pod, ["sh", "-c", "stat -c %u /volume; touch /volume/x"], **volume(folder, mapped=False))
    assert status.exit_code == 1 and log[0].text == "65534" and "denied" in log[1].text


def test_volume_on_what_cannot_be_mapped(pods):
    pod = pods.run_pod()
    with pytest.raises(grpc.RpcError) as error:
        pods.create(pod, ["true"], **volume("/proc"))
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION and "'/volume'" in error.value.details()


# Linux 6.3; the companion's own probe says whether.
@pytest.mark.skipif(subprocess.run([f"{BIN}/containerd-shim-caisson-v2", "probe", "--folder", "/dev/shm"],
                                   stderr=subprocess.DEVNULL).returncode != 0, reason="tmpfs cannot be id-mapped here")
def test_volume_on_tmpfs(pods):
    pod = pods.run_pod()
    shm = f"/dev/shm/{pods.daemon.marker}"
    os.makedirs(shm)
    try:
        assert pods.out(pod, ["sh", "-c", "touch /volume/f; stat -c %u /volume/f"], **volume(shm)) == "0\n"
        assert os.stat(f"{shm}/f").st_uid == 0
    finally:
        if os.path.exists(f"{shm}/f"):
            os.unlink(f"{shm}/f")
        os.rmdir(shm)


def test_root_of_the_pod_is_nobody_on_the_host(pods, folder):
    """What only the host's root may read stays closed, whatever root of the pod is."""
    os.chmod(folder, 0o755)
    with open(f"{folder}/secret", "w") as f:
        f.write("secret")
    os.chmod(f"{folder}/secret", 0o600)
    status, log = pods.run(pods.run_pod(), ["cat", "/volume/secret"], **volume(folder, mapped=False))
    assert status.exit_code == 1 and "denied" in log[0].text


def test_sysctls(pods):
    sysctls = {"kernel.shmmax": "1234567", "net.ipv4.ip_local_port_range": "2000\t3000", "fs.mqueue.msg_max": "20"}
    pod = pods.run_pod(linux={"sysctls": sysctls})
    assert pods.out(pod, ["cat", "/proc/sys/kernel/shmmax", "/proc/sys/net/ipv4/ip_local_port_range",
                          "/proc/sys/fs/mqueue/msg_max"]) == "1234567\n2000\t3000\n20\n"
    with pytest.raises(grpc.RpcError) as error:
        pods.run_pod(linux={"sysctls": {"net.ipv4.ping_group_range": f"0 {SIZE}"}})
    assert "ping_group_range" in error.value.details()


def test_network_is_the_pods(pods):
    """CAP_NET_ADMIN counts, for the network namespace belongs to the pod's user namespace."""
    pod = pods.run_pod()
    status = pods.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status
    assert status.network.ip
    net_admin = security(capabilities={"add_capabilities": ["NET_ADMIN"]})
    out = pods.out(pod, ["sh", "-c", "ip link set lo mtu 1400 && cat /sys/class/net/lo/mtu; ip -4 addr show eth0"], **net_admin)
    assert out.startswith("1400\n") and status.network.ip in out
    status, log = pods.run(pod, ["ip", "link", "set", "lo", "mtu", "1300"])
    assert status.exit_code != 0


def test_port_forward_and_statistics(pods, daemon):
    """What the daemon does in the network namespace itself."""
    pod = pods.run_pod()
    forward = Forward(daemon.client.PortForward(pod_sandbox_id=pod[0], port=[7009]).url)
    forward.until(lambda f: f.got[1])
    assert b"Connection refused" in forward.got[1]
    forward.vanish()
    pods.start(pod, ["sleep", "1000"])
    stats = daemon.client.PodSandboxStats(pod_sandbox_id=pod[0]).stats
    assert stats.linux.network.default_interface.name == "eth0" and stats.linux.memory.usage_bytes.value > 0


def test_sys_admin_inside(pods):
    """Rights over the container's own mounts, none over the host's."""
    admin = security(capabilities={"add_capabilities": ["SYS_ADMIN"]})
    pod = pods.run_pod()
    out = pods.out(pod, ["sh", "-c", "mount -t tmpfs x /tmp && echo mounted; hostname other && hostname; "
                                     "mount -o remount,rw /sys 2>/dev/null || echo refused; "
                                     "mknod /tmp/vda b 253 0 2>/dev/null || echo refused"], **admin)
    assert out == "mounted\nother\nrefused\nrefused\n", out


def test_host_network(pods):
    pod = pods.run_pod(host_network=True)
    container = pods.start(pod, ["sleep", "1000"])
    pid = pid_of(pods, container)
    assert os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
    assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    assert host_status(pid)["Uid"].split()[0] == str(HOST)
    code, out, error = pods.exec(container, ["sh", "-c", "id -u; ls /sys/class/net | grep -c '^lo$'; cat /proc/net/dev | grep -c lo:; "
                                                         "echo x > /sys/kernel/mm/ksm/run || echo refused; ip link set lo mtu 1400 || "
                                                         "echo refused; touch /sys/fs/cgroup/x || echo refused"])
    assert out.split() == ["0", "1", "1", "refused", "refused", "refused"], (out, error)
    # All of /sys that is the host's is closed, not its root alone.
    mounts = pods.exec(container, ["cat", "/proc/self/mounts"])[1].splitlines()
    below = [line for line in mounts if line.split()[1].startswith("/sys")]
    assert below and all("ro" in line.split()[3].split(",") for line in below), below


def test_shared_pid_namespace(pods):
    pod = pods.run_pod(linux={"security_context": {"namespace_options": {"pid": 0}}})
    shared = {"linux": {"security_context": {"namespace_options": {"pid": 0}}}}
    first = pods.start(pod, ["sleep", "1234"], **shared)
    second = pods.start(pod, ["sleep", "1000"], **shared)
    assert "sleep 1234" in pods.exec(second, ["ps"])[1]
    assert os.readlink(f"/proc/{pid_of(pods, first)}/ns/pid") == os.readlink(f"/proc/{pid_of(pods, second)}/ns/pid")
    # The pod's init has no id that counts on the host.
    code, out, _ = pods.exec(second, ["grep", "^Uid", "/proc/1/status"])
    assert code == 0 and "65534" in out
    pods.client.StopContainer(container_id=first, timeout=0)
    assert pods.exec(second, ["true"])[0] == 0


def test_target_pid_namespace(pods):
    pod = pods.run_pod()
    first = pods.start(pod, ["sleep", "1234"])
    target = {"linux": {"security_context": {"namespace_options": {"pid": 3, "target_id": first}}}}
    assert "sleep 1234" in pods.out(pod, ["ps"], **target)


def test_cgroup_is_below_the_pods(pods, daemon):
    """CVE-2025-47291: containers of such pods ran outside their pod's group, without its limits."""
    for host_network in (False, True):
        container = pods.start(pods.run_pod(host_network=host_network), ["sleep", "1000"],
                               linux={"resources": {"memory_limit_in_bytes": 64 << 20}})
        with open(f"/proc/{pid_of(pods, container)}/cgroup") as f:
            groups = [line.rstrip("\n").split(":", 2) for line in f]
        memory = [path for _, names, path in groups if "memory" in names.split(",") or names == ""]
        assert any(daemon.cgroup_parent in path and container in path for path in memory), groups


def test_seccomp_rlimits_and_no_new_privs(make_daemon, registry):
    daemon = make_daemon(config="[containers]\nnofile_limit = 4000\n")
    daemon.client.PullImage(image={"image": registry.busybox})
    pods = UserPods(daemon, registry.busybox)
    pod = pods.run_pod()
    out = pods.out(pod, ["sh", "-c", "ulimit -n; ulimit -Hn; grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status"],
                   **security(seccomp={"profile_type": 0}, no_new_privs=True))
    assert out.split() == ["4000", "4000", "NoNewPrivs:", "1", "Seccomp:", "2"]


def test_devices(pods):
    devices = {"devices": [{"container_path": "/dev/other", "host_path": "/dev/zero", "permissions": "rwm"}]}
    pod = pods.run_pod()
    out = pods.out(pod, ["sh", "-c", "stat -c %t:%T /dev/other; head -c 3 /dev/other | wc -c"], **devices)
    assert out == "1:5\n3\n"


def test_privileged_is_so_in_its_namespace_only(pods):
    pod = pods.run_pod(linux={"security_context": {"privileged": True}})
    out = pods.out(pod, ["sh", "-c", "grep CapEff /proc/self/status; mount -t tmpfs x /tmp && echo mounted; "
                                     "for f in /dev/vda /dev/sda /dev/kmsg /dev/mem; do [ -e $f ] && head -c 1 $f > /dev/null && "
                                     "echo read $f; done; echo 1 > /proc/sys/vm/drop_caches || echo refused"],
                   **security(privileged=True)).splitlines()
    assert "mounted" in out and "refused" in out and not [line for line in out if line.startswith("read")], out
    assert int(out[0].split()[1], 16) & (1 << 21), out


def test_same_pod_after_daemon_death(alone):
    pods = UserPods(alone)
    pod = pods.run_pod()
    first = pods.start(pod, ["sleep", "1000"])
    pid = pid_of(pods, first)
    alone.kill()
    alone.start()
    pods = UserPods(alone)
    assert pods.exec(first, ["id", "-u"])[1] == "0\n"
    second = pods.start(pod, ["sleep", "1000"])
    other = pid_of(pods, second)
    for name in ("user", "net", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/{other}/ns/{name}"), name
    alone.remove_all()
    assert alone.leaks_of_pods() == []


def test_companion_death(alone):
    pods = UserPods(alone)
    pod = pods.run_pod(linux={"security_context": {"namespace_options": {"pid": 0}}})
    container = pods.start(pod, ["sleep", "1000"], linux={"security_context": {"namespace_options": {"pid": 0}}})
    pid = pid_of(pods, container)
    with open(f"{alone.state}/pods/{pod[0]}/shim.pid") as f:
        companion = int(f.read().split()[0])
    os.kill(companion, 9)
    wait_for("the container ends with its companion", lambda: not os.path.exists(f"/proc/{pid}"), 20)
    pods.wait_exit(container)
    alone.remove_all()
    assert alone.leaks_of_pods() == []


def test_companion_keeps_its_rights(pods, daemon):
    """It is the host's root, in the host's user namespace, and nobody in the pod can look into it."""
    pod = pods.run_pod()
    with open(f"{daemon.state}/pods/{pod[0]}/shim.pid") as f:
        companion = int(f.read().split()[0])
    assert os.readlink(f"/proc/{companion}/ns/user") == os.readlink("/proc/self/ns/user")
    assert host_status(companion)["CapEff"] == host_status(daemon.process.pid)["CapEff"]
    container = pods.start(pod, ["sleep", "1000"])
    named = json.loads(pods.client.PodSandboxStatus(pod_sandbox_id=pod[0], verbose=True).info["info"])["userNamespace"]
    assert os.readlink(named) == os.readlink(f"/proc/{pid_of(pods, container)}/ns/user")
    assert os.readlink(f"/proc/{companion}/ns/net") == os.readlink(f"/proc/{pid_of(pods, container)}/ns/net")


@pytest.mark.parametrize("userns, says", [
    (space(uids=[], gids=[]), "exactly one"),
    (space(gids=[]), "exactly one"),
    (space(uids=[MAPPING, {"host_id": 400000, "container_id": SIZE, "length": 10}]), "exactly one"),
    (space(uids=[{"host_id": 1, "container_id": 0, "length": SIZE}]), "other mappings"),
    (space(uids=[{**MAPPING, "length": 0}], gids=[{**MAPPING, "length": 0}]), "length 0"),
    (space(uids=[{**MAPPING, "host_id": 2**32 - 10}], gids=[{**MAPPING, "host_id": 2**32 - 10}]), "past the last id"),
    (space(uids=[{**MAPPING, "container_id": 1}], gids=[{**MAPPING, "container_id": 1}]), "no root"),
    (space(uids=[{**MAPPING, "host_id": 0}], gids=[{**MAPPING, "host_id": 0}]), "the host's"),
    (space(mode=2), "mode is NODE"),
    (space(mode=1), "not CONTAINER"),
    (space(mode=3), "not TARGET"),
], ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "")
def test_refused_options_of_a_pod(pods, daemon, userns, says):
    before = daemon.leaks_of_pods()
    assert says in refused(pods.run_pod, userns=userns)
    assert daemon.leaks_of_pods() == before


@pytest.mark.parametrize("options, says", [({"pid": 2}, "host's PID"), ({"ipc": 2}, "host's IPC")])
def test_refused_with_namespaces_of_the_host(pods, options, says):
    assert says in refused(pods.run_pod, linux={"security_context": {"namespace_options": options}})


def test_refused_options_of_a_container(pods, daemon):
    pod = pods.run_pod()
    before = daemon.leaks_of_pods()
    other = {**MAPPING, "host_id": 300000}
    assert "another mapping" in refused(pods.create, pod, ["true"], userns=space(uids=[other], gids=[other]))
    assert "its pod has one of its own" in refused(pods.create, pod, ["true"], userns=space(mode=2, uids=[], gids=[]))
    assert "not TARGET" in refused(pods.create, pod, ["true"], userns=space(mode=3))
    plain = Pods(daemon)
    ordinary = plain.run_pod()
    assert "the host's" in refused(pods.create, ordinary, ["true"])
    plain.remove_all()
    for extra, says in ((security(run_as_user={"value": SIZE}), f"user {SIZE} is not in"),
                        (security(run_as_user={"value": 1}, run_as_group={"value": 70000}), "group 70000 is not in"),
                        (security(supplemental_groups=[1000000]), "supplemental group 1000000")):
        assert says in refused(pods.create, pod, ["true"], **extra)
    assert daemon.leaks_of_pods() == before


def test_refused_mounts(pods, folder):
    pod = pods.run_pod()
    one = {"container_path": "/volume", "host_path": folder}
    for mount, says in (({**one, "uidMappings": [MAPPING]}, "groups"),
                        ({**one, "uidMappings": [{**MAPPING, "length": 0}], "gidMappings": [MAPPING]}, "length 0"),
                        ({**one, "uidMappings": [MAPPING, MAPPING], "gidMappings": [MAPPING]}, "overlap"),
                        ({**one, "propagation": 2}, "bidirectional")):
        assert says in refused(pods.create, pod, ["true"], mounts=[mount])


def test_user_of_the_image_is_not_mapped(alone, registry):
    image = registry.push(Image(config={"User": "70000", "Cmd": ["id"]}), "library/far-user", "1")
    alone.client.PullImage(image={"image": image})
    pods = UserPods(alone, image)
    assert "user 70000 is not in the pod's user namespace" in refused(pods.create, pods.run_pod())


def test_small_namespace(pods):
    """Of a few ids: no group "tty", no nobody."""
    few = {**MAPPING, "length": 3}
    userns = space(uids=[few], gids=[few])
    pod = pods.run_pod(userns=userns, linux={"security_context": {"namespace_options": {"pid": 0}}})
    assert pods.out(pod, ["sh", "-c", "id -u; test -c /dev/ptmx && echo pty"], userns=userns, tty=False,
                    linux={"security_context": {"namespace_options": {"pid": 0}}}) == "0\npty\n"


STEPS = ["run_pod_sandbox.shim_spawn", "run_pod_sandbox.sandbox_create", "run_pod_sandbox.netns", "run_pod_sandbox.cni_add",
         "run_pod_sandbox.sandbox_start", "run_pod_sandbox.record"]


@pytest.mark.parametrize("step", STEPS)
def test_failing_step_of_a_pod(make_daemon, step):
    daemon = make_daemon(args=["--fault", step])
    config = UserPods(daemon).pod_config()
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.RunPodSandbox(config=config)
    assert step in error.value.details()
    assert daemon.leaks_of_pods() == []
    daemon.restart_with()
    UserPods(daemon).run_pod(config)


@pytest.mark.parametrize("step", ["create_container.bundle", "create_container.task_create", "create_container.record"])
def test_failing_step_of_a_container(make_daemon, registry, step):
    daemon = make_daemon(args=["--fault", step])
    daemon.client.PullImage(image={"image": registry.busybox})
    pods = UserPods(daemon, registry.busybox)
    pod = pods.run_pod()
    before = daemon.leaks_of_pods()
    with pytest.raises(grpc.RpcError) as error:
        pods.create(pod, ["true"])
    assert step in error.value.details() and daemon.leaks_of_pods() == before
