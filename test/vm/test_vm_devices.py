# SPDX-License-Identifier: Apache-2.0
"""Block devices of the host in pods that are virtual machines: raw block PVCs."""
import os
import subprocess

import grpc
import pytest

from harness.registry import wait_for
from harness.vm import vmm_of

# As a guest could leave one: QEMU, if it looked, would take it for a qcow2 image whose backing file is a file of the host's.
QCOW2 = b"QFI\xfb\x00\x00\x00\x03" + (512).to_bytes(8, "big") + (8).to_bytes(4, "big")


@pytest.fixture
def device(tmp_path):
    """A block device of the host's: 8 MiB of a file, in blocks of 4096 bytes."""
    backing = tmp_path / "disk"
    with open(backing, "wb") as f:
        f.truncate(8 << 20)
        f.write(QCOW2)
        f.seek(512)
        f.write(b"/etc/shadow")
    made = subprocess.run(["losetup", "-f", "--show", "--sector-size", "4096", backing], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"no loop device to be had here: {made.stderr.strip()}")
    path = made.stdout.strip()
    yield path
    # That it is read-only would stay for the next who uses that number.
    subprocess.run(["blockdev", "--setrw", path], check=True)
    subprocess.run(["losetup", "-d", path], check=True)


def holders(pid, device):
    """The descriptors of a process that are that device."""
    number, found = os.stat(device).st_rdev, 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found += os.stat(f"/proc/{pid}/fd/{fd}").st_rdev == number
        except OSError:
            pass
    return found


def at(device, offset, size):
    with open(device, "rb") as f:
        f.seek(offset)
        return f.read(size)


def given(device, permissions="rwm", path="/dev/block"):
    return {"devices": [{"host_path": device, "container_path": path, "permissions": permissions}]}


def test_a_block_device(vm_daemon, vm_pods, device):
    """Raw whatever is on it, one disk for all containers; nobody reaches it, or an image's disk, by mknod."""
    pod = vm_pods.run_pod()
    first = vm_pods.start(pod, ["sleep", "1000"], **given(device))
    vmm = vmm_of(vm_daemon, pod)
    held = holders(vmm, device)
    assert held > 0
    second = vm_pods.start(pod, ["sleep", "1000"], **given(device, "r", "/dev/other"))
    assert holders(vmm, device) == held  # one disk

    def run(container, script, code=0):
        done = vm_pods.exec(container, ["sh", "-c", script])
        assert done[0] == code, done
        return done[1] + done[2]

    assert run(first, "wc -c < /dev/block").strip() == str(8 << 20)
    assert run(first, "head -c 8 /dev/block | od -An -c").split()[:4] == ["Q", "F", "I", "373"]
    run(first, "echo from the guest | dd of=/dev/block bs=4096 seek=1 conv=notrunc,fsync")
    assert at(device, 4096, 15) == b"from the guest\n" and at(device, 0, 4) == b"QFI\xfb"
    assert run(second, "dd if=/dev/other bs=4096 skip=1 count=1 | head -n 1").startswith("from the guest\n")
    assert "not permitted" in run(second, "echo x > /dev/other", 1)
    # No disk of the guest's is another container's: neither this one nor the images'.
    third = vm_pods.start(pod, ["sleep", "1000"])
    for disk in run(third, "cat /sys/block/sd*/dev").split():
        assert "not permitted" in run(third, f"rm -f /disk; mknod /disk b {disk.replace(':', ' ')}; head -c 1 /disk", 1)
    for container in (first, second):
        assert holders(vmm, device) == held
        vm_daemon.client.StopContainer(container_id=container, timeout=0)
        vm_daemon.client.RemoveContainer(container_id=container)
    wait_for("the VMM has let go", lambda: holders(vmm, device) == 0, 30)

    # Again, for reading alone; then it cannot become writable for another.
    fourth = vm_pods.start(pod, ["sleep", "1000"], **given(device, "r"))
    assert run(fourth, "dd if=/dev/block bs=4096 skip=1 count=1 | head -n 1").startswith("from the guest\n")
    run(fourth, "echo x > /dev/block", 1)
    with pytest.raises(grpc.RpcError) as error:
        vm_pods.create(pod, ["true"], **given(device))
    assert "another container has it read-only" in error.value.details()
    assert at(device, 0, 4) == b"QFI\xfb"


def test_what_cannot_be_given_leaves_nothing(vm_daemon, vm_pods, device):
    pod = vm_pods.run_pod()

    def refused(code, words, **config):
        with pytest.raises(grpc.RpcError) as error:
            vm_pods.create(pod, ["true"], **config)
        assert error.value.code() == code and words in error.value.details(), error.value
        assert holders(vmm_of(vm_daemon, pod), device) == 0

    refused(grpc.StatusCode.UNIMPLEMENTED, "block devices", devices=[{"host_path": "/dev", "permissions": "rwm"}])
    refused(grpc.StatusCode.UNIMPLEMENTED, "volumeDevices", mounts=[{"container_path": "/m", "host_path": device}])
    refused(grpc.StatusCode.UNIMPLEMENTED, "volumeDevices", mounts=[{"container_path": "/m", "host_path": "/dev/null"}])
    refused(grpc.StatusCode.NOT_FOUND, "No such file", **given(device + "-not-there"))
    # A device that cannot be written.
    subprocess.run(["blockdev", "--setro", device], check=True)
    refused(grpc.StatusCode.PERMISSION_DENIED, "for writing", **given(device))
    assert not vm_daemon.client.ListContainers(filter={"pod_sandbox_id": pod[0]}).containers
    assert vm_pods.out(pod, ["head", "-c", "3", "/dev/block"], **given(device, "r")) == "QFI"
