# SPDX-License-Identifier: Apache-2.0
"""Checkpoints where criu works: Debian's kernel 6.1 with cgroup v2 and Debian's criu. A process goes on in another container,
in another pod; an archive that was tampered with restores nothing and leaves nothing."""
import io
import json
import os
import shutil
import stat
import struct
import tarfile

import grpc
import pytest
from harness.pods import Pods
from harness.registry import wait_for

CONFIG = "[checkpoint]\nrestore = true\n"
# Counts in memory alone; its files in /data and /work are known by the number it began with.
COUNTER = ("i=0; echo begun $$ > /work/begun; mkdir -p /work/d; echo deep > /work/d/f; rm -f /removed; exec 7> /work/held; "
           "while :; do i=$((i+1)); echo count $i; [ ! -e /work/write ] || echo held $i >&7; sleep 0.2; done")


@pytest.fixture(scope="module")
def restoring(make_module_daemon, registry):
    daemon = make_module_daemon(config=CONFIG)
    daemon.pull_busybox(registry)
    return daemon


@pytest.fixture
def pods(restoring):
    pods = Pods(restoring)
    yield pods
    pods.remove_all()


@pytest.fixture
def where(folder):
    return f"{folder}/checkpoint.tar"


def counts(pods, container):
    path = pods.status(container).log_path
    if not os.path.exists(path):
        return []
    return [int(line.text.split()[1]) for line in pods.log(path) if line.text.startswith("count ")]


def count_past(pods, container, number):
    wait_for(f"it counts past {number}", lambda: (counts(pods, container) or [0])[-1] > number, 60)
    return counts(pods, container)


def counter(pods, pod=None, **extra):
    container = pods.start(pod or pods.run_pod(), ["sh", "-c", COUNTER], mounts=[{"container_path": "/work", "host_path": work(pods)}], **extra)
    count_past(pods, container, 3)
    return container


def work(pods):
    path = f"{pods.daemon.folder}/work"
    os.makedirs(path, exist_ok=True)
    return path


def checkpoint(pods, container, where, **extra):
    pods.client.CheckpointContainer(container_id=container, location=where, deadline=300, **extra)


def restored(pods, where, pod=None, start=True, **extra):
    extra.setdefault("mounts", [{"container_path": "/work", "host_path": work(pods)}])
    container = pods.create(pod or pods.run_pod(), ["true"], image=where, **extra)
    if start:
        pods.client.StartContainer(container_id=container, deadline=300)
    return container


def refused(pods, where, code=None, **extra):
    """What restoring says; nothing runs then, and nothing is left but the container that the kubelet will remove."""
    with pytest.raises(grpc.RpcError) as error:
        restored(pods, where, **extra)
    if code:
        assert error.value.code() == code, error.value.details()
    return error.value.details()


def members(where):
    with tarfile.open(where) as archive:
        return {member.name.rstrip("/"): archive.extractfile(member).read() if member.isreg() else None for member in archive}


def rewrite(where, changes, extra=()):
    """The archive with some members' bytes changed (None: left out) and others added."""
    content = members(where)
    content.update(changes)
    with tarfile.open(where, "w") as archive:
        for name, data in content.items():
            if data is None and name != "checkpoint":
                continue
            info = tarfile.TarInfo(name)
            info.type, info.mode = (tarfile.DIRTYPE, 0o700) if data is None else (tarfile.REGTYPE, 0o600)
            info.size = len(data or b"")
            archive.addfile(info, io.BytesIO(data or b""))
        for info, data in extra:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return where


def nothing_is_left(daemon):
    assert os.listdir(f"{daemon.root}/checkpoints") == []


def test_a_process_goes_on_in_another_pod(pods, where):
    container = counter(pods)
    checkpoint(pods, container, where)
    at = counts(pods, container)[-1]
    # Forensic: the container itself goes on.
    count_past(pods, container, at + 3)
    assert stat.S_IMODE(os.stat(where).st_mode) == 0o600
    content = members(where)
    assert {"config.dump", "spec.dump", "status.dump", "dump.log", "stats-dump", "rootfs-diff.tar", "checkpoint/inventory.img",
            "checkpoint/pstree.img", "checkpoint/descriptors.json"} <= set(content)
    assert json.loads(content["config.dump"])["id"] == container
    nothing_is_left(pods.daemon)
    before = counts(pods, container)
    pods.client.StopContainer(container_id=container, timeout=0)
    pods.client.RemoveContainer(container_id=container)
    again = restored(pods, where)
    nothing_is_left(pods.daemon)
    seen = count_past(pods, again, at + 5)
    # Not from the beginning, and not from later than it was dumped.
    assert 3 < seen[0] <= before[-1] and seen == list(range(seen[0], seen[0] + len(seen)))
    status = pods.status(again)
    assert status.state == pods.api.enum("ContainerState")["CONTAINER_RUNNING"] and status.image.image == pods.image
    # All that is done with a container is done with this one.
    assert pods.exec(again, ["sh", "-c", "echo $$; cat /proc/1/comm"])[:2][0] == 0
    assert pods.client.ContainerStats(container_id=again).stats.cpu.usage_core_nano_seconds.value > 0
    pods.client.StopContainer(container_id=again, timeout=0)
    assert pods.status(again).exit_code == 137


def test_files_memory_and_identity_are_those_of_the_checkpoint(pods, where):
    script = ("echo new > /etc/new; rm /etc/group; mkdir /only; echo x > /only/x; ln /only/x /only/y; secret=$(head -c 9 /dev/urandom | "
              "base64); echo is $secret; trap 'echo still $secret; cat /etc/new; ls /etc/group /only; exit 7' USR1; while :; do sleep 0.1; done")
    container = pods.start(pods.run_pod(), ["sh", "-c", script])
    wait_for("it has said it", lambda: any(line.text.startswith("is ") for line in pods.log(pods.status(container).log_path)))
    secret = pods.log(pods.status(container).log_path)[0].text[3:]
    checkpoint(pods, container, where)
    pods.client.StopContainer(container_id=container, timeout=0)
    again = restored(pods, where, mounts=[])
    assert pods.exec(again, ["kill", "-USR1", "1"])[0] == 0
    status = pods.wait_exit(again)
    lines = [line.text for line in pods.log(status.log_path)]
    assert status.exit_code == 7 and lines[:2] == [f"still {secret}", "new"], (status, lines)
    assert {"x", "y"} <= set(lines) and any("/etc/group" in line and "No such" in line for line in lines)


def test_the_new_pod_gives_network_and_cgroup(pods, where):
    container = counter(pods)
    checkpoint(pods, container, where)
    pod = pods.run_pod()
    again = restored(pods, where, pod=pod, linux={"resources": {"memory_limit_in_bytes": 96 << 20}})
    count_past(pods, again, 3)
    pid = json.loads(pods.client.ContainerStatus(container_id=again, verbose=True).info["info"])["pid"]
    other = json.loads(pods.client.ContainerStatus(container_id=container, verbose=True).info["info"])["pid"]
    probe = pods.start(pod, ["sleep", "100"])
    peer = json.loads(pods.client.ContainerStatus(container_id=probe, verbose=True).info["info"])["pid"]
    for kind in ("net", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{peer}/ns/{kind}")
    for kind in ("net", "ipc", "uts", "mnt", "pid", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/{other}/ns/{kind}")
    with open(f"/proc/{pid}/cgroup") as f:
        group = "/sys/fs/cgroup" + f.read().strip().split(":", 2)[2]
    assert again in group
    with open(f"{group}/memory.max") as f:
        assert int(f.read()) == 96 << 20


def test_a_volume_is_the_new_containers(pods, where):
    container = counter(pods)
    checkpoint(pods, container, where)
    pods.client.StopContainer(container_id=container, timeout=0)
    other = f"{pods.daemon.folder}/other"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(work(pods), other)
    again = restored(pods, where, mounts=[{"container_path": "/work", "host_path": other}])
    count_past(pods, again, 3)
    with open(f"{other}/write", "w"):
        wait_for("it writes there, by the descriptor it had", lambda: os.path.getsize(f"{other}/held") > 0)
    assert os.path.getsize(f"{work(pods)}/held") == 0


def test_what_cannot_be_checkpointed_says_why(pods, where):
    def why(container, code=grpc.StatusCode.FAILED_PRECONDITION, location=where):
        with pytest.raises(grpc.RpcError) as error:
            checkpoint(pods, container, location)
        assert error.value.code() == code, error.value.details()
        assert not os.path.exists(where)
        return error.value.details()

    pod = pods.run_pod()
    assert "terminal" in why(pods.start(pod, ["sleep", "100"], tty=True))
    assert "running" in why(pods.create(pod, ["sleep", "100"]))
    container = pods.start(pod, ["sleep", "100"])
    for location in ("", "relative.tar", "/", f"{where}/"):
        why(container, grpc.StatusCode.INVALID_ARGUMENT, location)
    assert "/no/such" in why(container, grpc.StatusCode.NOT_FOUND, "/no/such/folder/x.tar")
    shared = pods.run_pod(linux={"security_context": {"namespace_options": {"pid": 0}}})
    assert "PID namespace" in why(pods.start(shared, ["sleep", "100"]))
    # It was thawed again, also after failures.
    assert pods.exec(container, ["true"])[0] == 0
    nothing_is_left(pods.daemon)


def test_the_location_is_not_followed(pods, where, folder):
    container = pods.start(pods.run_pod(), ["sleep", "100"])
    with open(f"{folder}/precious", "w") as f:
        f.write("mine")
    os.symlink(f"{folder}/precious", where)
    with pytest.raises(grpc.RpcError) as error:
        checkpoint(pods, container, where)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert open(f"{folder}/precious").read() == "mine"


# What the new container may not have, its processes do not get, whatever the images say.
DENIED = grpc.StatusCode.PERMISSION_DENIED


def test_more_privileges_than_the_new_container_has(pods, where):
    privileged = pods.run_pod(linux={"security_context": {"privileged": True}})
    container = pods.start(privileged, ["sleep", "100"], linux={"security_context": {"capabilities": {"add_capabilities": ["SYS_ADMIN"]}}})
    checkpoint(pods, container, where)
    assert "Cap" in refused(pods, where, DENIED, mounts=[])


def test_another_user(pods, where):
    container = pods.start(pods.run_pod(), ["sleep", "100"])
    checkpoint(pods, container, where)
    said = refused(pods, where, DENIED, mounts=[], linux={"security_context": {"run_as_user": {"value": 1000}}})
    assert "user 0" in said or "Cap" in said


def test_no_filter_where_one_is_wanted(pods, where):
    container = pods.start(pods.run_pod(), ["sleep", "100"])
    checkpoint(pods, container, where)
    filtered = {"security_context": {"seccomp": {"profile_type": 0}}}
    assert "seccomp" in refused(pods, where, DENIED, mounts=[], linux=filtered)
    # And with the same filter on both sides it is restored.
    os.unlink(where)
    container = pods.start(pods.run_pod(), ["sh", "-c", "echo on; sleep 100"], linux=filtered)
    pods.wait_line(container, "on")
    checkpoint(pods, container, where)
    again = restored(pods, where, mounts=[], linux=filtered)
    assert "Seccomp:\t2" in pods.exec(again, ["cat", "/proc/1/status"])[1]
    # Another filter is not this one.
    image = bytearray(members(where)["checkpoint/seccomp.img"])
    image[40] ^= 1
    assert "seccomp" in refused(pods, rewrite(where, {"checkpoint/seccomp.img": bytes(image)}), DENIED, mounts=[], linux=filtered)


def test_mounts_that_the_new_container_lacks_or_has(pods, where):
    container = counter(pods)
    checkpoint(pods, container, where)
    assert "/work" in refused(pods, where, mounts=[])
    more = [{"container_path": path, "host_path": work(pods)} for path in ("/work", "/more")]
    assert "/more" in refused(pods, where, DENIED, mounts=more)
    # Read-only is the new container's word.
    said = refused(pods, where, mounts=[{"container_path": "/work", "host_path": work(pods), "readonly": True}])
    assert "/work" in said or "held" in said, said


# Line 22: paths, links, names and specifications of an archive.
def test_hostile_archives(pods, where, folder, registry):
    container = pods.start(pods.run_pod(), ["sleep", "100"])
    checkpoint(pods, container, where)
    good = f"{folder}/good.tar"
    shutil.copy(where, good)

    def entry(name, type=tarfile.REGTYPE, link=""):
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode = type, link, 0o600
        return info

    def tampered(changes=None, extra=()):
        shutil.copy(good, where)
        return rewrite(where, changes or {}, extra)

    invalid = grpc.StatusCode.INVALID_ARGUMENT
    escape = f"{folder}/escape"
    for extra in ([(entry(f"../../../../../../../../{escape}"), b"x")], [(entry("l", tarfile.SYMTYPE, folder), b""), (entry("l/escape"), b"x")]):
        try:
            restored(pods, tampered(extra=extra), mounts=[], start=False)
        except grpc.RpcError as error:
            assert error.code() == invalid
        assert not os.path.exists(escape)
    # An image that is a link would show criu, and the container, a file of the host's.
    said = refused(pods, tampered({"checkpoint/pages-1.img": None}, [(entry("checkpoint/pages-1.img", tarfile.SYMTYPE, "/etc/passwd"), b"")]), invalid, mounts=[])
    assert "pages-1.img" in said
    said = refused(pods, tampered(extra=[(entry("checkpoint/f", tarfile.FIFOTYPE), b"")]), invalid, mounts=[])
    assert "checkpoint/f" in said
    # Neither fetched nor given another name: only what is here, under the names it has here.
    config = json.loads(members(good)["config.dump"])
    absent = {**config, "rootfsImageRef": "sha256:" + "1" * 64, "rootfsImageName": f"{registry.host}/never/pulled:1", "rootfsImage": ""}
    assert "never/pulled" in refused(pods, tampered({"config.dump": json.dumps(absent).encode()}), grpc.StatusCode.FAILED_PRECONDITION, mounts=[])
    poisoned = {**config, "rootfsImage": "docker.io/library/trusted:1", "rootfsImageName": "docker.io/library/trusted:1"}
    again = restored(pods, tampered({"config.dump": json.dumps(poisoned).encode()}), mounts=[])
    assert pods.status(again).image.image == pods.image
    assert pods.client.ImageStatus(image={"image": "docker.io/library/trusted:1"}).image.id == ""
    for config in (b"{", b"[]", b'{"rootfsImageRef": 7}'):
        refused(pods, tampered({"config.dump": config}), invalid, mounts=[])
    refused(pods, tampered({"config.dump": None}), invalid, mounts=[])
    # The specification in it counts for nothing, nor does its log.
    spec = json.loads(members(good)["spec.dump"])
    spec["process"]["capabilities"] = {kind: ["CAP_SYS_ADMIN"] for kind in ("bounding", "effective", "permitted")}
    spec["mounts"].append({"destination": "/host", "type": "bind", "source": "/", "options": ["rbind"]})
    again = restored(pods, tampered({"spec.dump": json.dumps(spec).encode()}, [(entry("container.log", tarfile.SYMTYPE, "/etc/passwd"), b"")]), mounts=[])
    assert pods.exec(again, ["ls", "/host"])[0] != 0 and os.path.islink(pods.status(again).log_path) is False
    # criu's own images, broken: it says so, and nothing of it runs.
    pages = members(good)["checkpoint/pstree.img"]
    refused(pods, tampered({"checkpoint/pstree.img": pages[:-3] + b"\xff\xff\xff"}), mounts=[])
    refused(pods, tampered({"checkpoint/inventory.img": b""}), mounts=[])
    refused(pods, tampered({"checkpoint/descriptors.json": b'["pipe:[1]", 7]'}), invalid, mounts=[])
    assert struct.unpack("<I", pages[:4])[0] == 0x54564319
    refused(pods, f"{folder}/absent.tar", grpc.StatusCode.NOT_FOUND, mounts=[])
    refused(pods, folder, invalid, mounts=[])


def test_off_by_default(daemon, folder):
    with pytest.raises(grpc.RpcError) as error:
        pods = Pods(daemon)
        try:
            pods.create(pods.run_pod(), ["true"], image=f"{folder}/checkpoint.tar")
        finally:
            pods.remove_all()
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION and "checkpoint.restore" in error.value.details()


# In criu's place: one that is asked and does not answer, or ends without a word.
FAKE = """#!/bin/sh
[ "$1" = check ] && exit 0
[ ! -e {0}/ends ] || exit 1
echo $$ > {0}/asked
exec sleep 4711
"""


def test_a_criu_that_does_not_answer(make_daemon, registry, where, folder):
    """Its deadline ends it, the container goes on, and nothing is left."""
    with open(f"{folder}/criu", "w") as f:
        f.write(FAKE.format(folder))
    os.chmod(f"{folder}/criu", 0o755)
    os.chmod(folder, 0o755)
    daemon = make_daemon(config=f'[checkpoint]\ncriu = "{folder}/criu"\nrestore = true\n')
    daemon.client.PullImage(image={"image": registry.busybox})
    pods = Pods(daemon, registry.busybox)
    container = pods.start(pods.run_pod(host_network=True), ["sleep", "100"])
    assert json.loads(daemon.client.Status(verbose=True).info["checkpoint"]) == {"checkpoint": "", "restore": ""}
    with pytest.raises(grpc.RpcError) as error:
        checkpoint(pods, container, where, timeout=1)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED and "was killed" in error.value.details()
    with open(f"{folder}/asked") as f:
        wait_for("it is gone", lambda pid=f.read().strip(): not os.path.exists(f"/proc/{pid}"))
    with open(f"{folder}/ends", "w"):
        with pytest.raises(grpc.RpcError) as error:
            checkpoint(pods, container, where)
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION and "without an answer" in error.value.details()
    assert pods.exec(container, ["true"])[0] == 0 and not os.path.exists(where)
    nothing_is_left(daemon)
    pods.remove_all()
