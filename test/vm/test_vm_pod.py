# SPDX-License-Identifier: Apache-2.0
"""The life of a pod that is a virtual machine, through the CRI."""
import json
import os
import signal
import time

import grpc
import pytest

from harness.registry import wait_for
from harness.streams import Forward
from harness.vm import BOOT_SECONDS, VM_CONFIG, VmPods, await_template, children_of, need_guest, vm_daemon_of

NODE = 2
BOOT_ID = "/proc/sys/kernel/random/boot_id"  # a kernel's own; releases may be the same


def code(error):
    return error.value.code()


def pod_info(daemon, pod):
    return json.loads(daemon.client.PodSandboxStatus(pod_sandbox_id=pod, verbose=True).info["info"])


def host_boot():
    with open(BOOT_ID) as f:
        return f.read().strip()


def test_a_kernel_of_its_own(vm_daemon, vm_pods):
    pod = vm_pods.run_pod()
    status, lines = vm_pods.run(pod, ["sh", "-c", f"cat {BOOT_ID}; echo to-stderr >&2; exit 7"])
    assert status.exit_code == 7 and status.reason == "Error"
    text = [(line.stream, line.text) for line in lines]
    assert ("stderr", "to-stderr") in text
    boot, = [line for stream, line in text if stream == "stdout"]
    assert len(boot) == 36 and boot != host_boot()
    vm = pod_info(vm_daemon, pod[0])["vm"]
    assert vm["vmm"] == "qemu" and vm["accelerator"] in os.environ.get("CAISSON_TEST_ACCELERATOR", "kvm tcg").split() and vm["vcpus"] == 1
    assert vm["vmmUser"] >= 1_900_000_000


def test_filters_are_compiled_here_and_hold_there(vm_daemon, vm_pods):
    """Of system calls, for the container and for what is exec'd; an emulated kernel interprets them."""
    profile = f"{vm_daemon.folder}/no-mkdir.json"
    with open(profile, "w") as f:
        json.dump({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}, f)
    pod = vm_pods.run_pod()
    script = "grep Seccomp: /proc/self/status; mkdir /new; exec sleep 1000"
    one = vm_pods.start(pod, ["sh", "-c", script], linux={"security_context": {"seccomp": {"profile_type": 2, "localhost_ref": profile}}})
    vm_pods.wait_line(one, "Seccomp:\t2")
    vm_pods.wait_line(one, "mkdir: can't create directory '/new': Operation not supported")
    assert vm_pods.exec(one, ["grep", "Seccomp:", "/proc/self/status"])[1] == "Seccomp:\t2\n"
    assert "not supported" in vm_pods.exec(one, ["mkdir", "/other"])[2]
    two = vm_pods.start(pod, ["sleep", "1000"], linux={"security_context": {"seccomp": {"profile_type": 1}}})
    assert vm_pods.exec(two, ["sh", "-c", "mkdir /new && grep Seccomp: /proc/self/status"])[1] == "Seccomp:\t0\n"
    if pod_info(vm_daemon, pod[0])["vm"]["accelerator"] == "tcg":
        assert vm_pods.exec(two, ["sh", "-c", "cat /proc/sys/net/core/bpf_jit_enable || echo none"])[1].strip() in ("0", "none")


def test_the_handler_is_listed_with_its_features(vm_daemon):
    reply = vm_daemon.client.Status(verbose=True)
    features = {handler.name: handler.features for handler in reply.runtime_handlers}
    assert not features["caisson-vm"].user_namespaces
    assert features["caisson-vm"].recursive_read_only_mounts
    assert reply.info["accelerator/caisson-vm"] in ("kvm", "tcg") and reply.info["overhead/caisson-vm"].endswith("Mi")


def test_without_a_guest_image_there_is_no_handler(make_daemon):
    daemon = make_daemon(config='[handlers.caisson-vm]\nkernel = "/nonexistent/kernel"\n')
    reply = daemon.client.Status(verbose=True)
    assert "caisson-vm" not in [handler.name for handler in reply.runtime_handlers]
    assert "/nonexistent/kernel" in reply.info["unusable/caisson-vm"]
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.RunPodSandbox(config={"metadata": {"name": "p", "uid": "u", "namespace": "n"}}, runtime_handler="caisson-vm")
    assert code(error) == grpc.StatusCode.FAILED_PRECONDITION and "caisson-guest" in error.value.details()
    assert not daemon.client.ListPodSandbox().items


@pytest.mark.parametrize("which", ["network", "pid", "ipc"])
def test_namespaces_of_the_host_are_refused(vm_daemon, vm_pods, which):
    config = vm_pods.pod_config()
    config["linux"]["security_context"]["namespace_options"][which] = NODE
    with pytest.raises(grpc.RpcError) as error:
        vm_pods.run_pod(config)
    assert code(error) == grpc.StatusCode.INVALID_ARGUMENT and "use handler 'caisson'" in error.value.details()


def test_a_pod_too_small_to_boot_is_told_the_minimum(vm_pods):
    with pytest.raises(grpc.RpcError) as error:
        vm_pods.run_pod(linux={"resources": {"memory_limit_in_bytes": 8 << 20}})
    assert code(error) == grpc.StatusCode.INVALID_ARGUMENT and "MiB to boot" in error.value.details()


def test_when_memory_is_short_it_goes_as_early_as_its_containers_would(vm_daemon, vm_pods):
    def score(pid):
        with open(f"/proc/{pid}/oom_score_adj") as f:
            return int(f.read())

    def scores(pod):
        return {score(child) for child in children_of(pod_info(vm_daemon, pod[0])["companionPid"])}

    own = max(score("self"), 0)
    pod = vm_pods.run_pod()
    assert scores(pod) == {own}
    shared = [{"container_path": "/shared", "host_path": vm_daemon.folder, "readonly": True}]
    vm_pods.start(pod, ["sleep", "1000"], mounts=shared, linux={"resources": {"oom_score_adj": 900}})
    assert len(children_of(pod_info(vm_daemon, pod[0])["companionPid"])) == 2, "the VMM and the file server"
    assert scores(pod) == {max(own, 900)}
    vm_pods.start(pod, ["sleep", "1000"], linux={"resources": {"oom_score_adj": 500}})
    assert scores(pod) == {max(own, 500)}


def test_its_clock_is_the_hosts(vm_daemon, vm_pods):
    privileged = {"linux": {"security_context": {"privileged": True}}}
    pod = vm_pods.run_pod(**privileged)
    container = vm_pods.start(pod, ["sleep", "1000"], **privileged)

    def wrong():
        """How far it is from the host's clock at least, as both tell whole seconds and the question takes its time."""
        before = int(time.time())
        guest = int(vm_pods.exec(container, ["date", "+%s"])[1])
        return max(before - guest, guest - int(time.time()), 0)

    assert wrong() <= 1
    # Whoever may set it in there.
    assert vm_pods.exec(container, ["date", "-s", "2035-01-01"])[0] == 0
    wait_for("it is right again", lambda: wrong() <= 1, BOOT_SECONDS)
    # A machine that stands still for a while: nobody tells the companion.
    vmm, = children_of(pod_info(vm_daemon, pod[0])["companionPid"])
    os.kill(vmm, signal.SIGSTOP)
    time.sleep(3)
    os.kill(vmm, signal.SIGCONT)
    wait_for("it is right again", lambda: wrong() <= 1, BOOT_SECONDS)


def test_what_needs_the_host_is_refused_and_leaves_nothing(vm_daemon, vm_pods):
    pod = vm_pods.run_pod()
    with pytest.raises(grpc.RpcError) as error:
        vm_pods.create(pod, ["true"], devices=[{"host_path": "/dev/null", "container_path": "/dev/x", "permissions": "rwm"}])
    assert code(error) == grpc.StatusCode.UNIMPLEMENTED and "/dev/null" in error.value.details()
    with pytest.raises(grpc.RpcError) as error:
        vm_pods.create(pod, ["true"], mounts=[{"container_path": "/m", "host_path": vm_daemon.folder, "propagation": 2}])
    assert code(error) == grpc.StatusCode.UNIMPLEMENTED and "propagate" in error.value.details()
    assert not vm_daemon.client.ListContainers().containers


def test_its_processes_are_not_checkpointed(vm_daemon, vm_pods):
    pod = vm_pods.run_pod()
    container = vm_pods.start(pod, ["sleep", "1000"])
    target = f"{vm_daemon.folder}/checkpoint.tar"
    with pytest.raises(grpc.RpcError) as error:
        vm_daemon.client.CheckpointContainer(container_id=container, location=target)
    assert code(error) == grpc.StatusCode.UNIMPLEMENTED and "guest" in error.value.details()
    with pytest.raises(grpc.RpcError) as error:
        vm_pods.create(pod, ["true"], image=target)
    assert code(error) == grpc.StatusCode.UNIMPLEMENTED and "VM" in error.value.details()
    assert not os.path.exists(target)


def test_the_layers_are_made_once_for_all(vm_daemon, vm_pods):
    folder = f"{vm_daemon.root}/images/e"
    pod = vm_pods.run_pod()
    assert vm_pods.out(pod, ["echo", "one"]) == "one\n"
    disks = {name: os.stat(f"{folder}/{name}").st_ino for name in os.listdir(folder)}
    assert disks and all(name.endswith(".erofs") for name in disks)
    other = vm_pods.run_pod()
    assert vm_pods.out(other, ["sh", "-c", "echo x > /written; cat /written"]) == "x\n"
    assert {name: os.stat(f"{folder}/{name}").st_ino for name in os.listdir(folder)} == disks
    # The same image natively, at the same time.
    native = vm_pods.run_pod(handler="caisson")
    assert vm_pods.out(native, ["cat", "/proc/sys/kernel/osrelease"]).strip() == os.uname().release


def test_its_size_is_its_limits(vm_daemon, vm_pods):
    pod = vm_pods.run_pod(linux={"resources": {"memory_limit_in_bytes": 256 << 20, "cpu_quota": 150_000, "cpu_period": 100_000}})
    free = int(vm_pods.out(pod, ["awk", "/^MemAvailable/ {print $2}", "/proc/meminfo"])) * 1024
    assert 256 << 20 <= free < 320 << 20  # what it may use is there, besides what the guest needs itself
    assert int(vm_pods.out(pod, ["nproc"])) == min(2, os.cpu_count())


MIB = 1 << 20


def host_file(daemon, pod, controller, *names):
    """What a file of the pod's VMM's cgroup says, under its name of cgroup v1 or v2."""
    for folder in (f"/sys/fs/cgroup/{controller}{daemon.cgroup_parent}/{pod[0]}", f"/sys/fs/cgroup{daemon.cgroup_parent}/{pod[0]}"):
        for name in names:
            if os.path.exists(f"{folder}/{name}"):
                with open(f"{folder}/{name}") as f:
                    return f.read().split()
    return None


def test_its_size_changes_while_it_runs(vm_daemon, vm_pods):
    period = {"cpu_period": 100_000}
    pod = vm_pods.run_pod(linux={"resources": {"memory_limit_in_bytes": 384 * MIB, "cpu_quota": 50_000, **period}})
    container = vm_pods.start(pod, ["sleep", "1000"], linux={"resources": {"memory_limit_in_bytes": 64 * MIB, "cpu_quota": 50_000, **period}})

    def see(path):
        return vm_pods.exec(container, ["cat", path])[1].split()

    def update(code=None, overhead=0, **resources):
        request = {"pod_sandbox_id": pod[0], "resources": resources, "overhead": {"memory_limit_in_bytes": overhead}}
        if code is None:
            return vm_daemon.client.UpdatePodSandboxResources(**request)
        with pytest.raises(grpc.RpcError) as error:
            vm_daemon.client.UpdatePodSandboxResources(**request)
        assert error.value.code() == code, error.value
        return error.value.details()

    def total():
        return int(see("/proc/meminfo")[1]) // 1024

    def size():
        vm = pod_info(vm_daemon, pod[0])["vm"]
        return vm["vcpus"], vm["memoryBytes"] // MIB

    all_memory, most = total(), min(2, os.cpu_count())
    assert vm_pods.exec(container, ["nproc"])[1] == "1\n" and size() == (1, 480)
    assert host_file(vm_daemon, pod, "cpu", "cpu.cfs_quota_us", "cpu.max") in (["50000"], ["50000", "100000"], None)
    update(cpu_quota=200_000, **period)
    assert vm_pods.exec(container, ["nproc"])[1] == f"{most}\n" and size() == (most, 480)
    assert host_file(vm_daemon, pod, "cpu", "cpu.cfs_quota_us", "cpu.max") in (["200000"], ["200000", "100000"], None)
    # Less memory: what is not used is the host's again.
    update(memory_limit_in_bytes=256 * MIB)
    assert size() == (most, 352)
    wait_for("the guest has less memory", lambda: total() == all_memory - 128, BOOT_SECONDS)
    # What cannot be changes nothing.
    assert "can have 480 MiB of memory" in update(grpc.StatusCode.FAILED_PRECONDITION, memory_limit_in_bytes=1024 * MIB, cpu_quota=50_000)
    assert "MiB to boot" in update(grpc.StatusCode.INVALID_ARGUMENT, memory_limit_in_bytes=16 * MIB)
    assert size() == (most, 352) and vm_pods.exec(container, ["nproc"])[1] == f"{most}\n"
    # One container's limits, in the guest.
    vm_daemon.client.UpdateContainerResources(container_id=container, linux={"memory_limit_in_bytes": 250 * MIB, "cpu_quota": 150_000})
    assert see("/sys/fs/cgroup/memory.max") == [str(250 * MIB)] and see("/sys/fs/cgroup/cpu.max") == ["150000", "100000"]
    assert vm_pods.exec(container, ["sh", "-c", "dd if=/dev/zero of=/used bs=1M count=200"])[0] == 0
    assert "bytes in use" in update(grpc.StatusCode.FAILED_PRECONDITION, overhead=64 * MIB, memory_limit_in_bytes=190 * MIB)
    assert total() == all_memory - 128 and size() == (most, 352)
    vm_pods.exec(container, ["rm", "/used"])
    # It is kept, and it grows again.
    vm_daemon.stop()
    vm_daemon.start()
    vm_pods.client = vm_daemon.client
    assert size() == (most, 352)
    update(memory_limit_in_bytes=384 * MIB)
    wait_for("the guest has its memory", lambda: total() == all_memory, BOOT_SECONDS)
    update(cpu_quota=100_000)
    assert vm_pods.exec(container, ["nproc"])[1] == "1\n" and size() == (1, 480)


@pytest.mark.parametrize("templates", ["false", "true"])
def test_memory_is_plugged_in(make_daemon, registry, templates):
    need_guest()
    daemon = vm_daemon_of(make_daemon, registry, VM_CONFIG + f'machine = "q35"\ntemplates = {templates}\n', tables=False)
    pods = VmPods(daemon)
    if templates == "true":
        pods.run_pod()
        await_template(daemon)
    pod = pods.run_pod()
    vm = pod_info(daemon, pod[0])["vm"]
    assert (vm["machine"], vm["start"]) == ("q35", "clone" if templates == "true" else "boot")
    container = pods.start(pod, ["sleep", "1000"], linux={"resources": {"memory_limit_in_bytes": 64 * MIB}})

    def see(path):
        return pods.exec(container, ["cat", path])[1].split()

    def update(limit):
        daemon.client.UpdatePodSandboxResources(pod_sandbox_id=pod[0], resources={"memory_limit_in_bytes": limit})

    def total():
        return int(see("/proc/meminfo")[1]) // 1024

    before = total()
    update(1024 * MIB)
    assert pod_info(daemon, pod[0])["vm"]["memoryBytes"] // MIB >= 1024 + 80
    assert total() > before + 600
    daemon.client.UpdateContainerResources(container_id=container, linux={"memory_limit_in_bytes": 900 * MIB})
    assert see("/sys/fs/cgroup/memory.max") == [str(900 * MIB)]
    assert pods.exec(container, ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=600M count=1"])[0] == 0
    # No machine has more than its host.
    with pytest.raises(grpc.RpcError) as error:
        update(1 << 44)
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION and "while it runs" in error.value.details()
    pods.remove_all()


def test_untrusted_pods_are_vms_where_configured(make_daemon, registry):
    need_guest()
    daemon = vm_daemon_of(make_daemon, registry, 'untrusted_handler = "caisson-vm"\n')
    pods = VmPods(daemon)
    annotations = {"io.kubernetes.cri-o.TrustedSandbox": "false"}
    pod = pods.run_pod(handler="", annotations=annotations)
    assert pod_info(daemon, pod[0])["runtimeHandler"] == "caisson-vm"
    assert pods.out(pod, ["cat", BOOT_ID]).strip() != host_boot()
    # What a RuntimeClass says comes first.
    trusted = pods.run_pod(handler="caisson", annotations=annotations)
    assert pods.out(trusted, ["cat", BOOT_ID]).strip() == host_boot()
    pods.remove_all()


def test_a_port_of_the_guest(vm_daemon, vm_pods):
    pod = vm_pods.run_pod()
    vm_pods.start(pod, ["sh", "-c", "echo 'read word; echo got $word' > /answer; while :; do nc -l -p 8080 -e sh /answer; done"])
    wait_for("the port answers", lambda: forwarded(vm_daemon, pod[0], 8080, b"a word\n") == b"got a word\n", BOOT_SECONDS)
    # Nobody listens: the client is told why.
    forward = Forward(vm_daemon.client.PortForward(pod_sandbox_id=pod[0], port=[81]).url)
    forward.until(lambda f: f.got[1])
    assert b"port 81" in forward.got[1]
    forward.vanish()


def forwarded(daemon, pod, port, data):
    forward = Forward(daemon.client.PortForward(pod_sandbox_id=pod, port=[port]).url)
    try:
        forward.write(data)
        forward.until(lambda f: f.got[1] or f.got[0].endswith(b"\n"))
        return forward.got[0]
    finally:
        forward.vanish()
