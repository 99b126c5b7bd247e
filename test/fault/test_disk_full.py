# SPDX-License-Identifier: Apache-2.0
"""The daemon's folders are on a small tmpfs that is full. What needs room fails and says so, what gives room back works,
and nothing half-made stays."""
import contextlib
import os
import random
import subprocess

import grpc
import pytest
from harness.daemon import HAS_CLI, cli
from harness.images import Image, busybox_layer, entry, tar_layer
from harness.pods import Pods
from harness.registry import wait_for

MIB = 1 << 20


class Disk:
    """A tmpfs on the daemon's root or state folder."""

    def __init__(self, path, size, inodes):
        self.path = path
        os.makedirs(path, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes},mode=0700", "caisson-test", path], check=True)

    def free(self):
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize

    def fill(self):
        """Until not one page is left."""
        with open(f"{self.path}/filler", "wb", buffering=0) as f:
            with contextlib.suppress(OSError):
                while True:
                    f.write(bytes(4096))
        assert self.free() == 0

    def relieve(self):
        os.unlink(f"{self.path}/filler")


@pytest.fixture
def small(make_daemon, registry):
    """small("root" or "state", size) -> (daemon, disk); the daemon is stopped and the disk gone at the end of the test."""
    made = []

    def make(folder, size=24 * MIB, inodes=10_000):
        daemon = make_daemon(start=False)
        disk = Disk(getattr(daemon, folder), size, inodes)
        made.append((daemon, disk))
        daemon.image = registry.busybox
        daemon.start()
        return daemon, disk

    yield make
    for daemon, disk in made:
        with contextlib.suppress(FileNotFoundError):
            disk.relieve()
        try:
            if daemon.process.poll() is None:
                daemon.remove_all()
            daemon.stop()
        finally:
            # A companion that somehow lives must not keep the test's folder busy; the leak check names it.
            subprocess.run(["umount", "-l", disk.path], check=True)


def pull(daemon, reference):
    return daemon.client.PullImage(image={"image": reference}).image_ref


def leaks(daemon):
    return [item for item in daemon.leaks_of_pods() if item not in (f"mount {daemon.root}", f"mount {daemon.state}")]


def files_of_images(daemon):
    """What there is of images on disk."""
    root = f"{daemon.root}/images"
    found = [f"{folder}/{name}" for folder in ("blobs/sha256", "ingest", "s", "trash", "l")
             for name in os.listdir(f"{root}/{folder}")]
    return sorted(set(found) - {"l/empty"})


def expect_no_space(call, *words):
    with pytest.raises(grpc.RpcError) as error:
        call()
    text = error.value.details()
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, (error.value.code(), text)
    assert "no space" in text.lower() or "is full" in text, text
    for word in words:
        assert word in text, text
    return text


def big_image(mebibytes, seed, compression="gzip"):
    """Half of it in each of two layers, none of which compresses."""
    dice = random.Random(seed)
    layers = [tar_layer([entry(f"data-{i}", data=dice.randbytes(mebibytes * MIB // 2))]) for i in range(2)]
    return Image([busybox_layer(), *layers], compression=compression)


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_a_pull_that_does_not_fit(small, registry, compression):
    daemon, disk = small("root")
    before = disk.free()
    reference = registry.push(big_image(40, 1, compression), f"big/{compression}")
    expect_no_space(lambda: pull(daemon, reference), reference)
    wait_for("nothing is left of the pull", lambda: files_of_images(daemon) == [])
    wait_for("the room is back", lambda: disk.free() >= before - MIB)
    assert len(daemon.client.ListImages().images) == 0
    pods = Pods(daemon)
    pull(daemon, registry.busybox)
    assert pods.out(pods.run_pod(), ["echo", "fits"]) == "fits\n"


def test_a_pull_of_more_files_than_there_may_be(small, registry):
    daemon, _ = small("root", inodes=1000)
    reference = registry.push(Image([tar_layer([entry(f"f{i}", data=b"") for i in range(2000)])]), "many/files")
    expect_no_space(lambda: pull(daemon, reference), reference)
    wait_for("nothing is left of the pull", lambda: files_of_images(daemon) == [])
    pull(daemon, registry.busybox)


def test_a_pull_on_a_full_disk_then_room(small, registry):
    daemon, disk = small("root")
    disk.fill()
    for _ in range(3):
        expect_no_space(lambda: pull(daemon, registry.busybox), registry.busybox)
    wait_for("nothing is left of the pull", lambda: files_of_images(daemon) == [])
    disk.relieve()
    pull(daemon, registry.busybox)


@pytest.mark.skipif(not HAS_CLI, reason="this build has no caisson command")
def test_an_import_that_does_not_fit(small, folder):
    daemon, disk = small("root")
    big_image(40, 2).write_layout(f"{folder}/layout")
    Image().write_layout(f"{folder}/small")
    before = disk.free()
    failed = cli(daemon, "import", f"{folder}/layout")
    assert failed.returncode != 0 and "no space" in failed.stderr.lower(), failed
    wait_for("nothing is left of it", lambda: files_of_images(daemon) == [])
    wait_for("the room is back", lambda: disk.free() >= before - MIB)
    assert cli(daemon, "import", f"{folder}/small").returncode == 0


def test_images_are_removed_from_a_full_disk(small, registry):
    daemon, disk = small("root")
    references = [registry.push(big_image(4, seed), f"some/i{seed}") for seed in range(3)]
    for turn in range(3):
        for reference in references[:2]:
            pull(daemon, reference)
        disk.fill()
        expect_no_space(lambda: pull(daemon, references[2]), references[2])
        for reference in references[:2]:
            daemon.client.RemoveImage(image={"image": reference})
        assert len(daemon.client.ListImages().images) == 0
        wait_for("the room is back", lambda: disk.free() > 8 * MIB)
        assert pull(daemon, references[2])
        daemon.client.RemoveImage(image={"image": references[2]})
        disk.relieve()


def test_pods_and_containers_on_a_full_root(small, registry):
    daemon, disk = small("root")
    pull(daemon, registry.busybox)
    pods = Pods(daemon)
    pod = pods.run_pod()
    running = pods.start(pod, ["sleep", "1000"])
    disk.fill()
    refused = pods.pod_config()
    # The index keeps what room its own files have: a few more may fit.
    text = until_refused(lambda n: daemon.client.RunPodSandbox(config=pods.pod_config(host_network=True)))
    assert "caissond.db" in text, text
    expect_no_space(lambda: daemon.client.RunPodSandbox(config=refused), refused["metadata"]["name"])
    expect_no_space(lambda: pods.create(pod, ["true"], name="refused"), "refused")
    # What runs goes on, is seen, and can be stopped and removed.
    assert pods.exec(running, ["echo", "alive"])[1] == "alive\n"
    daemon.client.StopContainer(container_id=running, timeout=0)
    assert pods.status(running).state == 2
    daemon.client.RemoveContainer(container_id=running)
    daemon.remove_all()
    assert leaks(daemon) == []
    disk.relieve()
    pods.made.clear()
    assert pods.out(pods.run_pod(refused), ["echo", "room"], name="refused") == "room\n"


def until_refused(call):
    """Calls until there is no room; the error's text. The caller's disk is small: that comes soon."""
    for number in range(200):
        try:
            call(number)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
            return error.details()
    raise AssertionError("200 calls found room on a full disk")


def test_a_daemon_starts_on_a_full_root(small, registry):
    """Its pods live, and someone must be able to remove what fills the disk."""
    daemon, disk = small("root")
    pull(daemon, registry.busybox)
    pod = Pods(daemon).run_pod()
    running = Pods(daemon).start(pod, ["sleep", "1000"])
    disk.fill()
    for end in (daemon.kill, daemon.stop):
        end()
        if end == daemon.stop:
            disk.relieve()
            disk.fill()
        daemon.start()
        assert Pods(daemon).exec(running, ["echo", "alive"])[1] == "alive\n"
    daemon.remove_all()
    daemon.client.RemoveImage(image={"image": registry.busybox})
    assert len(daemon.client.ListImages().images) == 0


def test_a_full_state_folder(small, registry):
    daemon, disk = small("state", 8 * MIB)
    pull(daemon, registry.busybox)
    pods = Pods(daemon)
    pod = pods.run_pod()
    before = leaks(daemon)
    disk.fill()
    config = pods.pod_config()
    expect_no_space(lambda: daemon.client.RunPodSandbox(config=config), config["metadata"]["name"], daemon.state)
    expect_no_space(lambda: pods.create(pod, ["true"], name="refused"), "refused", daemon.state)
    assert leaks(daemon) == before
    disk.relieve()
    pods.run_pod(config)
    assert pods.out(pod, ["echo", "room"], name="refused") == "room\n"
    disk.fill()
    daemon.remove_all()
    assert leaks(daemon) == []
