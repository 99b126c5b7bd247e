# SPDX-License-Identifier: Apache-2.0
"""Images through the CRI, from a real registry: formats, names, sharing, removal, and refusals."""
import gzip
import io
import re
import tarfile
import threading

import grpc
import pytest
from harness.images import Image, busybox_layer, directory, entry, tar_layer, digest, OCI_INDEX
import json


def pull(daemon, ref, **kw):
    return daemon.client.PullImage(image={"image": ref}, **kw).image_ref


def find(daemon, ref):
    return daemon.client.ImageStatus(image={"image": ref}).image


def test_pull_status_list_remove(daemon, registry):
    image = Image(config={"User": "1000:1000", "Labels": {"a": "b"}})
    ref = registry.push(image, "plain/one", "v1")
    assert pull(daemon, ref) == image.id
    status = find(daemon, ref)
    assert status.id == image.id and list(status.repo_tags) == [ref] and status.uid.value == 1000
    assert list(status.repo_digests) == [f"{registry.host}/plain/one@{image.digest}"] and status.size > 1000
    assert find(daemon, image.id).id == image.id and find(daemon, image.id[7:20]).id == image.id
    assert image.id in [i.id for i in daemon.client.ListImages().images]
    assert [i.id for i in daemon.client.ListImages(filter={"image": {"image": ref}}).images] == [image.id]
    daemon.client.RemoveImage(image={"image": ref})
    daemon.client.RemoveImage(image={"image": ref})
    assert find(daemon, ref).id == ""


def test_the_log_tells_of_each_pull_and_of_no_secret(daemon, registry):
    image = Image([busybox_layer([entry("audited", data=b"1")])])
    ref = registry.push(image, "audited/pull", "v1")
    auth = {"username": "audit-user", "password": "sesame-open", "registry_token": "sesame-token"}
    for _ in range(2):  # the second brings nothing, and was asked for all the same
        pull(daemon, ref, auth=auth)
    digested = f"{registry.host}/audited/pull@{image.digest}"
    pull(daemon, digested)
    log = daemon.log_text()
    for name, times in ((ref, 2), (digested, 1)):
        line = rf"pull of image {re.escape(name)} for the CRI: {image.digest}, {find(daemon, ref).size} bytes, \d+ ms"
        assert len(re.findall(line, log)) == times, log
    assert "sesame" not in log and "audit-user" not in log
    with pytest.raises(grpc.RpcError):
        pull(daemon, f"{registry.host}/audited/absent:1")
    assert not re.search("pull of image .*audited/absent", daemon.log_text())


@pytest.mark.parametrize("compression,docker", [("gzip", True), ("zstd", False), ("none", False)])
def test_formats(daemon, registry, pods, compression, docker):
    layers = [busybox_layer(), tar_layer([entry("marker", mode=0o644, data=compression.encode())])]
    ref = registry.push(Image(layers, compression=compression, docker=docker), f"format/{compression}")
    pull(daemon, ref)
    assert pods.out(pods.run_pod(), ["cat", "/marker"], image=ref) == compression


def test_index_chooses_this_platform(daemon, registry):
    ours, other = Image([busybox_layer([entry("ours", data=b"1")])]), Image([tar_layer([directory("x")])])
    for image in (ours, other):
        registry.push(image, "multi/arch", "tmp")
    machine = {"amd64": "arm64", "arm64": "amd64"}
    arch = json.loads(ours.blobs[ours.id])["architecture"]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        {"mediaType": other.media_type, "digest": other.digest, "size": len(other.manifest),
         "platform": {"os": "linux", "architecture": machine[arch]}},
        {"mediaType": ours.media_type, "digest": ours.digest, "size": len(ours.manifest),
         "platform": {"os": "linux", "architecture": arch}}]}).encode()
    registry.put_manifest("multi/arch", "v1", index, OCI_INDEX)
    ref = f"{registry.host}/multi/arch:v1"
    assert pull(daemon, ref) == ours.id
    assert list(find(daemon, ref).repo_digests) == [f"{registry.host}/multi/arch@{digest(index)}"]


def test_pull_by_digest(daemon, registry):
    image = Image([busybox_layer([entry("by-digest", data=b"1")])])
    registry.push(image, "by/digest")
    ref = f"{registry.host}/by/digest@{image.digest}"
    assert pull(daemon, ref) == image.id
    status = find(daemon, ref)
    assert list(status.repo_tags) == [] and list(status.repo_digests) == [ref]


def test_tag_that_moves(daemon, registry):
    one, two = (Image([busybox_layer([entry("n", data=n)])]) for n in (b"1", b"2"))
    ref = registry.push(one, "moving/tag", "v")
    pull(daemon, ref)
    registry.push(two, "moving/tag", "v")
    assert pull(daemon, ref) == two.id
    assert find(daemon, ref).id == two.id and list(find(daemon, one.id).repo_tags) == []


def test_many_pulls_of_one_image_join(daemon, registry):
    image = Image([busybox_layer([entry("joined", data=b"1")])])
    ref = registry.push(image, "joined/pull")
    results = []
    threads = [threading.Thread(target=lambda: results.append(pull(daemon, ref))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [image.id] * 12


def test_image_in_use_stays_until_its_container_goes(daemon, registry, pods):
    image = Image([busybox_layer([entry("used", data=b"1")])])
    ref = registry.push(image, "used/image")
    pull(daemon, ref)
    container = pods.start(pods.run_pod(), ["sleep", "1000"], image=ref)
    daemon.client.RemoveImage(image={"image": ref})
    assert pods.exec(container, ["cat", "/used"])[1] == "1"


def test_image_fs_info(daemon):
    info = daemon.client.ImageFsInfo()
    assert info.image_filesystems[0].used_bytes.value > 1000 and info.image_filesystems[0].inodes_used.value > 1


def test_missing_repository_and_refused_connection(daemon, registry):
    for ref, words in ((f"{registry.host}/not/there:1", ["not/there", "not found"]),
                       ("127.0.0.1:1/x:1", ["127.0.0.1:1"]), ("nosuchhost.invalid/x:1", ["nosuchhost.invalid"]),
                       (f"{registry.host}/not/there:1", ["not found"])):
        with pytest.raises(grpc.RpcError) as error:
            pull(daemon, ref)
        for word in words:
            assert word in error.value.details()


@pytest.mark.parametrize("ref", ["upper/CASE", "a/b:", "a b", "-x", "x@sha256:12", "x" * 5000, "../etc"])
def test_bad_reference_is_refused(daemon, ref):
    with pytest.raises(grpc.RpcError) as error:
        pull(daemon, ref)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


HOSTILE = {
    "write-through-link": [entry("a", tarfile.SYMTYPE, link="/tmp"), entry("a/caisson-escape", data=b"x")],
    "dotdot": [entry("../../../../../../tmp/caisson-escape", data=b"x")],
    "absolute": [entry("/tmp/caisson-escape", data=b"x")],
    "hardlink-out": [entry("h", tarfile.LNKTYPE, link="../../../../../../etc/passwd")],
    "link-then-dir": [entry("d", tarfile.SYMTYPE, link="../../../../../../tmp"), directory("d/caisson-escape")],
    "whiteout-root": [entry(".wh..", data=b""), entry(".wh...", data=b"")],
    "long-path": [entry("p/" * 30000 + "x", data=b"x")],
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_layer_writes_nothing_outside(daemon, registry, name):
    import os
    ref = registry.push(Image([busybox_layer(), tar_layer(HOSTILE[name])]), f"hostile/{name}")
    passwd = os.stat("/etc/passwd").st_nlink
    try:
        pull(daemon, ref)
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.DATA_LOSS, grpc.StatusCode.OUT_OF_RANGE,
                                grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED), error
    assert not os.path.exists("/tmp/caisson-escape") and os.stat("/etc/passwd").st_nlink == passwd


def test_zip_bomb_is_bounded(daemon, registry):
    """A layer that says it is 100 TB of zeros is refused before it fills the disk."""
    info = tarfile.TarInfo("bomb")
    info.size = 100 << 40
    layer = gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
    image = Image([tar_layer([entry("no-such-layer-here", data=b"1")])])
    descriptor = image.add(layer, "application/vnd.oci.image.layer.v1.tar+gzip")
    manifest = json.loads(image.manifest)
    manifest["layers"] = [descriptor]
    image.manifest = json.dumps(manifest).encode()
    ref = registry.push(image, "hostile/bomb")
    with pytest.raises(grpc.RpcError) as error:
        pull(daemon, ref)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error.value


def test_wrong_diff_id_is_refused(daemon, registry):
    image = Image()
    config = json.loads(image.blobs[image.id])
    config["rootfs"]["diff_ids"][0] = "sha256:" + "0" * 64
    manifest = json.loads(image.manifest)
    manifest["config"] = image.add(json.dumps(config).encode(), manifest["config"]["mediaType"])
    image.manifest = json.dumps(manifest).encode()
    ref = registry.push(image, "hostile/diffid")
    with pytest.raises(grpc.RpcError) as error:
        pull(daemon, ref)
    assert "0000" in error.value.details() or "diff" in error.value.details()
