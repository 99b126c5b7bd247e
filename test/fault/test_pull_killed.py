# SPDX-License-Identifier: Apache-2.0
"""The daemon is killed in the middle of a pull: the next one pulls the image whole, and of a pull that nobody repeats
nothing stays."""
import hashlib
import json
import os
import random
import threading
import time

import grpc
import pytest
from harness.images import Image, busybox_layer, entry, tar_layer
from harness.pods import Pods
from harness.registry import wait_for
from harness.stalling_registry import StallingRegistry

DATA = random.Random(4).randbytes(3 << 20)
TWO_DAYS = 2 * 24 * 3600


@pytest.fixture(scope="module")
def image():
    return Image([busybox_layer(), tar_layer([entry("data", mode=0o644, data=DATA)]), tar_layer([entry("top", data=b"top")])])


@pytest.fixture
def stalling(image):
    registry = StallingRegistry(image)
    yield registry
    registry.stop()


def layer(image, index):
    return json.loads(image.manifest)["layers"][index]["digest"]


def start_pull(daemon, reference):
    def call():
        with pytest.raises((grpc.RpcError, ValueError)):  # ValueError: the channel was closed with the daemon
            daemon.client.PullImage(image={"image": reference})
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def kill_while_it_stalls(daemon, stalling, digest, after):
    stalling.stall(digest, after)
    pull = start_pull(daemon, stalling.reference)
    assert stalling.stalled.wait(30)
    if "/blobs/" in stalling.asked[-1][0] and after:
        wait_for("the bytes that were sent are on disk", lambda: written(daemon, digest) >= after - (64 << 10), 30)
    daemon.kill()
    pull.join()
    stalling.release()


def written(daemon, digest):
    path = f"{daemon.root}/images/ingest/{digest.split(':')[1]}"
    return os.stat(path).st_size if os.path.exists(path) else 0


def files_of_images(daemon):
    """What there is of images on disk."""
    root = f"{daemon.root}/images"
    found = [f"{folder}/{name}" for folder in ("blobs/sha256", "ingest", "s", "trash", "l")
             for name in os.listdir(f"{root}/{folder}")]
    return sorted(set(found) - {"l/empty"})


def expect_whole(daemon, image, reference):
    assert daemon.client.PullImage(image={"image": reference}).image_ref == image.id
    pods = Pods(daemon, reference)
    pod = pods.run_pod(host_network=True)
    assert pods.out(pod, ["sha256sum", "/data"]).split()[0] == hashlib.sha256(DATA).hexdigest()
    assert pods.out(pod, ["cat", "/top"]) == "top"
    pods.remove_all()


# The manifest, the config, and each layer at its beginning and in its middle.
@pytest.mark.parametrize("what, after", [("manifest", 10), ("config", 10), (0, 0), (0, 300_000), (1, 2 << 20), (2, 50)])
def test_the_repeat_is_whole(make_daemon, image, stalling, what, after):
    daemon = make_daemon()
    digest = {"manifest": image.digest, "config": image.id}.get(what) or layer(image, what)
    kill_while_it_stalls(daemon, stalling, digest, after)
    before = len(stalling.asked)
    daemon.start()
    assert len(daemon.client.ListImages().images) == 0
    expect_whole(daemon, image, stalling.reference)
    if what == 1:
        # What had come is not fetched again.
        (_, asked), = [entry for entry in stalling.asked[before:] if entry[0].endswith(digest)]
        assert int(asked[len("bytes="):].rstrip("-")) >= after - (64 << 10)
    assert os.listdir(f"{daemon.root}/images/ingest") == []
    daemon.client.RemoveImage(image={"image": stalling.reference})
    wait_for("nothing is left", lambda: files_of_images(daemon) == [])


def test_a_pull_that_nobody_repeats_is_collected(make_daemon, registry, image, stalling):
    daemon = make_daemon()
    kill_while_it_stalls(daemon, stalling, layer(image, 1), 2 << 20)
    left = [name for name in files_of_images(daemon) if name.startswith(("blobs", "ingest"))]
    assert left
    daemon.start()
    # Folders of layers that belong to no image go at once, what was fetched may be of use for a day.
    wait_for("no folders are left", lambda: [f for f in files_of_images(daemon) if f.startswith(("l/", "trash"))] == [])
    assert [name for name in files_of_images(daemon) if name.startswith(("blobs", "ingest"))] == left
    for name in left:
        os.utime(f"{daemon.root}/images/{name}", (time.time() - TWO_DAYS,) * 2)
    other = registry.push(Image([tar_layer([entry("other", data=b"x")])]), "other")
    daemon.client.PullImage(image={"image": other})
    daemon.client.RemoveImage(image={"image": other})
    wait_for("nothing is left", lambda: files_of_images(daemon) == [])


def test_killed_at_random_moments_of_a_pull(make_daemon, image, stalling):
    """Also while layers are unpacked and recorded. CAISSON_KILL_SEED repeats a run."""
    seed = int(os.environ.get("CAISSON_KILL_SEED", time.time_ns() % 1_000_000))
    print(f"CAISSON_KILL_SEED={seed}")
    dice = random.Random(seed)
    daemon = make_daemon()
    for _ in range(8):
        pull = start_pull_that_may_end(daemon, stalling.reference)
        pull.join(dice.uniform(0.005, 0.15))
        daemon.kill()
        pull.join()
        daemon.start()
        images = daemon.client.ListImages().images
        if images:
            expect_whole(daemon, image, stalling.reference)
            daemon.client.RemoveImage(image={"image": stalling.reference})
    expect_whole(daemon, image, stalling.reference)
    daemon.client.RemoveImage(image={"image": stalling.reference})
    wait_for("nothing is left", lambda: [f for f in files_of_images(daemon) if not f.startswith("ingest/")] == [])


def start_pull_that_may_end(daemon, reference):
    def call():
        try:
            daemon.client.PullImage(image={"image": reference})
        except (grpc.RpcError, ValueError):
            pass
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_the_daemons_end_does_not_wait_for_a_pull(make_daemon, image, stalling):
    """SIGTERM while a registry says nothing: an orderly end, soon, and the next daemon goes on where this one stopped."""
    daemon = make_daemon()
    stalling.stall(layer(image, 1), 1 << 20)
    pull = start_pull(daemon, stalling.reference)
    assert stalling.stalled.wait(30)
    daemon.process.terminate()
    assert daemon.process.wait(28) == 0
    pull.join()
    daemon.stop()
    assert "with work unfinished" not in daemon.log_text()
    stalling.release()
    daemon.start()
    expect_whole(daemon, image, stalling.reference)
