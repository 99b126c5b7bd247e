# SPDX-License-Identifier: Apache-2.0
"""Mount.recursive_read_only (KEP-3857): read-only with every mount below the source, and only where the CRI allows it."""
import os
import subprocess
import tempfile

import grpc
import pytest

PRIVATE, HOST_TO_CONTAINER, BIDIRECTIONAL = 0, 1, 2


@pytest.fixture
def nested(daemon):
    """A folder with a writable tmpfs two levels below it, and another in that one."""
    source = tempfile.mkdtemp(dir=daemon.folder)
    tops = [f"{source}/a/b", f"{source}/a/b/c"]
    for top in tops:
        os.makedirs(top)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "nested", top], check=True)
    yield source
    for top in reversed(tops):
        subprocess.run(["umount", top], check=True)


WRITE = "for d in . a a/b a/b/c; do touch /data/$d/x 2>/dev/null && echo $d; done; true"


def written(pods, source, **flags):
    pod = pods.run_pod(host_network=True)
    out = pods.out(pod, ["sh", "-c", WRITE], mounts=[{"container_path": "/data", "host_path": source, **flags}])
    return out.split()


def test_nothing_below_is_writable(pods, nested):
    assert written(pods, nested, readonly=True, recursive_read_only=True) == []
    assert not os.path.exists(f"{nested}/a/b/c/x")
    # The host's own mounts are as they were.
    open(f"{nested}/a/b/c/host", "w").close()


def test_plain_read_only_is_not_recursive(pods, nested):
    """What Kubernetes has `recursiveReadOnly` for: without it, mounts below stay writable."""
    assert written(pods, nested, readonly=True) == ["a/b", "a/b/c"]
    assert written(pods, nested) == [".", "a", "a/b", "a/b/c"]


def test_it_cannot_be_undone_below(pods, nested):
    """A container that may mount (but is not privileged over the host) does not get the nested mount back by remounting."""
    pod = pods.run_pod(host_network=True)
    script = "mount -o remount,rw /data/a/b 2>/dev/null; mount -o remount,bind,rw /data/a/b 2>/dev/null; " + WRITE
    out = pods.out(pod, ["sh", "-c", script], mounts=[{"container_path": "/data", "host_path": nested, "readonly": True, "recursive_read_only": True}])
    assert out == ""


@pytest.mark.parametrize("flags", [{"readonly": False}, {"readonly": True, "propagation": HOST_TO_CONTAINER},
                                   {"readonly": True, "propagation": BIDIRECTIONAL}, {"readonly": False, "propagation": BIDIRECTIONAL}],
                         ids=["writable", "from the host", "both ways", "both"])
def test_what_it_does_not_go_with(pods, daemon, flags):
    source = f"{daemon.folder}/plain"
    os.makedirs(source, exist_ok=True)
    with pytest.raises(grpc.RpcError) as error:
        pods.create(pods.run_pod(host_network=True), ["true"],
                    mounts=[{"container_path": "/data", "host_path": source, "recursive_read_only": True, **flags}])
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "recursive_read_only needs readonly and private" in error.value.details()


def test_the_feature_is_reported_for_every_handler(daemon):
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    handlers = daemon.client.Status().runtime_handlers
    assert handlers and all(handler.features.recursive_read_only_mounts == (release >= (5, 12)) for handler in handlers)
