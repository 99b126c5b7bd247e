# SPDX-License-Identifier: Apache-2.0
"""Attacks on container runtimes that have worked on others, through the CRI."""
import ctypes
import hashlib
import json
import os
import threading
import uuid

import grpc
from harness.daemon import BIN
from harness.images import Image, busybox_layer, entry


def exchange(one, other):
    """renameat2(2) with RENAME_EXCHANGE: never is one of the two missing."""
    return ctypes.CDLL(None).renameat2(-100, one.encode(), -100, other.encode(), 2)


def test_mount_target_swapped_by_a_neighbour(pods, daemon):
    """CVE-2021-30465: the target of a mount lies in a volume in which somebody swaps a folder for a link to the host's root."""
    pod = pods.run_pod()
    name = f"swap-{uuid.uuid4().hex[:8]}"
    volume, secret = f"{daemon.folder}/{name}", f"{daemon.folder}/{name}-source"
    os.makedirs(f"{volume}/folder/{name}"), os.makedirs(secret)
    os.symlink("/", f"{volume}/link")
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            assert exchange(f"{volume}/folder", f"{volume}/link") == 0

    neighbour = threading.Thread(target=swap)
    neighbour.start()
    ended = 0
    try:
        for _ in range(40):
            try:
                container = pods.create(pod, ["touch", f"/volume/folder/{name}/mine"], mounts=[
                    {"container_path": "/volume", "host_path": volume},
                    {"container_path": f"/volume/folder/{name}", "host_path": secret}])
                pods.client.StartContainer(container_id=container)
                pods.wait_exit(container)
                ended += 1
            except grpc.RpcError:
                pass  # refused is as good as kept inside
            # Made or mounted, it would be where the host's own root is.
            assert not os.path.exists(f"/{name}")
    finally:
        stop.set()
        neighbour.join()
    assert ended > 0
    with open("/proc/self/mountinfo") as f:
        assert name not in f.read()


def test_the_companion_cannot_be_overwritten(pods, registry):
    """CVE-2019-5736: a container whose programs are links to /proc/self/exe, beside one that writes to what they run."""
    def digest():
        with open(f"{BIN}/containerd-shim-caisson-v2", "rb") as f:
            return hashlib.sha256(f.read()).hexdigest()
    before = digest()
    layer = busybox_layer([entry("evil", kind=b"2", link="/proc/self/exe"), entry("script", data=b"#!/proc/self/exe\n")])
    image = registry.push(Image([layer]), "hostile/self-exe")
    pods.client.PullImage(image={"image": image})
    pod = pods.run_pod(linux={"security_context": {"namespace_options": {"pid": 0}}})
    writer = pods.start(pod, ["sh", "-c", "while :; do for p in /proc/[0-9]*; do (echo x > $p/exe) 2>/dev/null && echo written $p; done; done"])
    victim = pods.start(pod, ["sleep", "1000"], image=image)
    for path in ("/evil", "/script", "/proc/self/exe", "/proc/1/exe"):
        for _ in range(5):
            try:
                pods.exec(victim, [path, "--version"])
            except grpc.RpcError:
                pass  # it need not run
        try:
            container = pods.create(pod, [path, "--version"], image=image)
            pods.client.StartContainer(container_id=container)
            pods.wait_exit(container)
        except grpc.RpcError:
            pass
    pods.client.StopContainer(container_id=writer, timeout=0)
    assert [line.text for line in pods.log(pods.status(writer).log_path)] == []
    assert digest() == before
    assert pods.out(pod, ["echo", "well"]) == "well\n"


def test_annotations_drive_nothing(pods, daemon):
    """CVE-2024-3154: what a pod's annotations say reaches neither systemd nor the container's configuration."""
    hostile = {"org.systemd.property.ExecStart": "'/bin/touch /pwned'", "run.oci.hooks": "/x", "io.katacontainers.config.hypervisor.path": "/x",
               "cdi.k8s.io/x": "v/c=d", "module.wasm.image/variant": "compat", "io.kubernetes.cri-o.userns-mode": "auto"}
    config = pods.pod_config(annotations=hostile)
    pod = pods.run_pod(config)
    container = pods.start(pod, ["sleep", "1000"], annotations=hostile)
    with open(f"{daemon.state}/containers/{container}/config.json") as f:
        text = f.read()
    assert not [key for key in hostile if key in text]
    assert set(json.loads(text)["annotations"]) == {
        "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id", "io.kubernetes.cri.container-name",
        "io.kubernetes.cri.sandbox-name", "io.kubernetes.cri.sandbox-namespace"}
    # The CRI gives them back all the same.
    assert dict(pods.status(container).annotations) == hostile


def test_no_way_to_the_hosts_cgroups(pods):
    """Release agents run on the host: a container may neither write one nor mount a hierarchy that has one."""
    pod = pods.run_pod()
    script = """for f in $(find /sys/fs/cgroup -name release_agent 2>/dev/null); do (echo /x > $f) 2>/dev/null && echo "wrote $f"; done
mkdir -p /tmp/c; for t in cgroup cgroup2; do mount -t $t -o memory none /tmp/c 2>/dev/null && echo "mounted $t"; done
(echo 1 > /sys/fs/cgroup/cgroup.procs) 2>/dev/null && echo "wrote procs"; echo done"""
    assert pods.out(pod, ["sh", "-c", script]) == "done\n"
    # SYS_ADMIN may mount, but finds no agent in what is its own cgroup's.
    admin = {"linux": {"security_context": {"capabilities": {"add_capabilities": ["SYS_ADMIN"]}}}}
    assert "wrote /" not in pods.out(pod, ["sh", "-c", script], **admin)
