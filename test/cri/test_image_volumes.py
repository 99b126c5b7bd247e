# SPDX-License-Identifier: Apache-2.0
"""Images as volumes (KEP-4639), and OCI artifacts: what a container sees, what it may not do, and when the layers go."""
import json
import os
import tarfile

import grpc
import pytest
from harness.images import OCI_MANIFEST, Image, busybox_layer, digest, directory, entry, tar_layer
from harness.pods import Pods
from harness.registry import wait_for
from test_userns import HOST, UserPods

EMPTY = "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"


def data_layers():
    """Three layers: one file replaced, one hidden, a folder emptied by the third."""
    return [tar_layer([directory("d"), entry("d/replaced", data=b"first\n"), entry("d/hidden", data=b"first\n"),
                       directory("emptied"), entry("emptied/old", data=b"first\n"), entry("run.sh", data=b"#!/bin/sh\n")]),
            tar_layer([entry("d/replaced", data=b"second\n"), entry("d/.wh.hidden", data=b""),
                       entry("d/in", tarfile.SYMTYPE, link="/emptied"), entry("d/out", tarfile.SYMTYPE, link="/etc"),
                       entry("d/climb", tarfile.SYMTYPE, link="../../../../../../../../etc"),
                       entry("d/loop", tarfile.SYMTYPE, link="loop"), entry("d/fifo", tarfile.FIFOTYPE)]),
            tar_layer([entry("emptied/.wh..wh..opq", data=b""), entry("emptied/new", data=b"third\n")])]


def artifact(files, artifact_type="application/vnd.example.model", config=(EMPTY, b"{}"), media="text/plain"):
    """As Image, of blobs with names instead of layers."""
    made = Image.__new__(Image)
    made.blobs = {}
    config_descriptor = made.add(config[1], config[0])
    layers = []
    for name, data in files:
        layers.append(made.add(data, media))
        if name is not None:
            layers[-1]["annotations"] = {TITLE: name}
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config_descriptor, "layers": layers}
    if artifact_type:
        manifest["artifactType"] = artifact_type
    made.manifest = json.dumps(manifest).encode()
    made.media_type, made.digest = OCI_MANIFEST, digest(made.manifest)
    return made


@pytest.fixture(scope="module")
def volume(registry, daemon):
    """An image of data alone; its id."""
    reference = registry.push(Image(data_layers()), "volume/data")
    return daemon.client.PullImage(image={"image": reference}).image_ref


def mount(image, path="/data", sub_path="", **extra):
    return {"container_path": path, "image": {"image": image}, "image_sub_path": sub_path, "readonly": True, **extra}


def layers_of(daemon):
    return set(os.listdir(f"{daemon.root}/images/l")) - {"empty"}


def refusal(pods, pod, *mounts, **extra):
    with pytest.raises(grpc.RpcError) as error:
        pods.create(pod, ["true"], mounts=list(mounts), **extra)
    return error.value.code(), error.value.details()


def test_a_container_sees_the_image(pods, volume):
    pod = pods.run_pod(host_network=True)
    out = pods.out(pod, ["sh", "-c", "cd /data; cat d/replaced emptied/new; ls d emptied"], mounts=[mount(volume)])
    assert out == "second\nthird\nd:\nclimb\nfifo\nin\nloop\nout\nreplaced\n\nemptied:\nnew\n"


def test_an_image_of_more_layers_than_a_page_of_options_names(pods, registry):
    """mount(2) takes 4 KiB of options."""
    layers = [tar_layer([entry(f"f{i}", data=b"x"), entry("last", data=b"%d\n" % i)]) for i in range(100)]
    reference = registry.push(Image(layers), "volume/many")
    pods.client.PullImage(image={"image": reference})
    pod = pods.run_pod(host_network=True)
    out = pods.out(pod, ["sh", "-c", "ls /data | wc -l; cat /data/last /one"], mounts=[mount(reference), mount(reference, "/one", "last")])
    assert out == "101\n99\n99\n"


@pytest.mark.parametrize("said", [True, False])
def test_it_is_read_only_whatever_was_said(pods, volume, said):
    pod = pods.run_pod(host_network=True)
    script = "touch /data/x && echo wrote; /data/run.sh && echo ran; grep ' /data ' /proc/self/mounts"
    container = pods.create(pod, ["sh", "-c", script], mounts=[mount(volume, readonly=said)])
    pods.client.StartContainer(container_id=container)
    lines = [line.text for line in pods.log(pods.wait_exit(container).log_path)]
    assert "Read-only file system" in lines[0] and "Permission denied" in lines[1] and len(lines) == 3, lines
    assert set(lines[2].split()[3].split(",")) >= {"ro", "nosuid", "nodev", "noexec"} and lines[2].split()[2] == "overlay"


def test_a_privileged_container_cannot_write_the_layers(pods, registry, daemon):
    """One layer only: a bind mount of its folder could be made writable again."""
    image = Image([tar_layer([entry("f", data=b"layer\n")])])
    reference = registry.push(image, "volume/single")
    pods.client.PullImage(image={"image": reference})
    pod = pods.run_pod(host_network=True, linux={"security_context": {"privileged": True}})
    out = pods.out(pod, ["sh", "-c", "mount -o remount,rw /data; mount -o remount,bind,rw /data; echo evil > /data/f; cat /data/f"],
                   mounts=[mount(reference)], linux={"security_context": {"privileged": True}})
    assert out == "layer\n"


def test_the_host_sees_no_mount(pods, volume, daemon):
    def mounts_of_ours():  # others have tests at the same time
        with open("/proc/self/mountinfo") as f:
            return sorted(line for line in f if daemon.marker in line)
    pod = pods.run_pod(host_network=True)
    before = mounts_of_ours()
    pods.start(pod, ["sleep", "1000"], mounts=[mount(volume), mount(volume, "/sub", "d")])
    assert mounts_of_ours() == before


def test_sub_paths(pods, volume):
    pod = pods.run_pod(host_network=True)
    mounts = [mount(volume, "/folder", "emptied"), mount(volume, "/file", "d/replaced"), mount(volume, "/link", "d/in"),
              mount(volume, "/dots", "./d//."), mount(volume, "/dot", ".")]
    script = "cat /folder/new /file /link/new /dots/replaced /dot/emptied/new; touch /folder/x /file 2>&1 | grep -c Read-only"
    assert pods.out(pod, ["sh", "-c", script], mounts=mounts) == "third\nsecond\nthird\nsecond\nthird\n2\n"


@pytest.mark.parametrize("sub_path", ["missing", "d/hidden", "emptied/old", "d/replaced/below", "d/out", "d/out/passwd",
                                      "d/climb/passwd", "d/loop"])
def test_a_sub_path_that_is_not_in_the_image(pods, volume, sub_path):
    """Also what only lower layers have, and links that would lead to the host."""
    code, text = refusal(pods, pods.run_pod(host_network=True), mount(volume, sub_path=sub_path))
    assert code == grpc.StatusCode.NOT_FOUND and "ImageVolumeMountFailed" in text and f"the image has no '{sub_path}'" in text


@pytest.mark.parametrize("sub_path", ["..", "d/../d", "/d", "../../etc"])
def test_a_sub_path_that_cannot_be(pods, volume, sub_path):
    code, text = refusal(pods, pods.run_pod(host_network=True), mount(volume, sub_path=sub_path))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and sub_path in text


def test_a_sub_path_that_is_neither_folder_nor_file(pods, volume):
    text = refusal(pods, pods.run_pod(host_network=True), mount(volume, sub_path="d/fifo"))[1]
    assert "neither a folder nor a file" in text and "ImageVolumeMountFailed" in text


def test_what_cannot_be_asked(pods, volume, daemon):
    pod = pods.run_pod(host_network=True)
    assert "host path" in refusal(pods, pod, mount(volume, host_path="/etc"))[1]
    assert "propagate" in refusal(pods, pod, mount(volume, propagation=2))[1]
    assert "readonly" in refusal(pods, pod, mount(volume, readonly=False, recursive_read_only=True))[1]
    code, text = refusal(pods, pod, mount("registry.example/not/here:1"))
    assert code == grpc.StatusCode.NOT_FOUND and "registry.example/not/here:1" in text and "ImageVolumeMountFailed" in text
    code, text = refusal(pods, pod, {"container_path": "/x", "host_path": "/etc", "image_sub_path": "d"})
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "image_sub_path" in text
    assert "'..'" in refusal(pods, pod, mount(volume, "/a/../b"))[1]


@pytest.mark.native("volumes with mappings of their own")
def test_what_mappings_cannot_be(pods, volume):
    pod = pods.run_pod(host_network=True)
    maps = [{"host_id": 100000, "container_id": 0, "length": 65536}]
    code, text = refusal(pods, pod, mount(volume, uidMappings=maps))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "but not those of groups" in text
    code, text = refusal(pods, pod, mount(volume, uidMappings=[*maps, *maps], gidMappings=maps))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "uidMappings" in text
    # Layers are mapped in their place, and here all mounts would be seen on the host.
    shared = [mount(volume, uidMappings=maps, gidMappings=maps), {"container_path": "/x", "host_path": "/", "propagation": 2}]
    with pytest.raises(grpc.RpcError) as error:
        pods.start(pod, ["true"], mounts=shared)
    assert "shared with the host's" in error.value.details() or "not a shared mount" in error.value.details(), error.value


def test_recursively_read_only_is_what_it_is_anyway(pods, volume):
    pod = pods.run_pod(host_network=True)
    assert pods.out(pod, ["cat", "/data/emptied/new"], mounts=[mount(volume, recursive_read_only=True)]) == "third\n"


def test_a_target_that_is_a_link_stays_in_the_container(pods, registry, volume, daemon):
    from harness.images import busybox_layer
    victim = f"{daemon.folder}/link-victim"
    os.makedirs(victim)
    evil = [entry("absolute", tarfile.SYMTYPE, link=victim), entry("climbs", tarfile.SYMTYPE, link="../../../../../.." + victim)]
    reference = registry.push(Image([busybox_layer(evil)]), "volume/link")
    pods.client.PullImage(image={"image": reference})
    pod = pods.run_pod(host_network=True)
    for path in ("/absolute", "/climbs"):
        assert pods.out(pod, ["cat", f"{path}/emptied/new"], image=reference, mounts=[mount(volume, path)]) == "third\n"
    assert os.listdir(victim) == []
    for path in ("/proc", "/proc/sys"):
        assert "proc" in refusal(pods, pod, mount(volume, path))[1]


def test_volume_names_image_by_reference_and_digest(pods, registry, daemon):
    image = Image([tar_layer([entry("f", data=b"named\n")])])
    reference = registry.push(image, "volume/named", "7")
    pods.client.PullImage(image={"image": reference})
    pod = pods.run_pod(host_network=True)
    for name in (reference, f"{reference.rsplit(':', 1)[0]}@{image.digest}", image.id, image.id[7:]):
        assert pods.out(pod, ["cat", "/data/f"], mounts=[mount(name)]) == "named\n"


def test_the_status_has_the_mount(pods, volume):
    pod = pods.run_pod(host_network=True)
    container = pods.create(pod, ["true"], mounts=[mount(volume, sub_path="d")])
    (seen,) = pods.status(container).mounts
    assert seen.image.image == volume and seen.image_sub_path == "d" and seen.container_path == "/data"


def test_the_layers_stay_as_long_as_a_container_uses_them(alone, registry):
    """RemoveImage while in use, then the daemon's death, then the container's end."""
    pods = Pods(alone)
    kept = layers_of(alone)
    reference = registry.push(Image(data_layers()), "volume/used")
    alone.client.PullImage(image={"image": reference})
    assert len(layers_of(alone)) == len(kept) + 3
    pod = pods.run_pod(host_network=True)
    container = pods.create(pod, ["sh", "-c", "cat /data/emptied/new; sleep 1000"],
                            mounts=[mount(reference), mount(reference, "/again", "d")])
    alone.client.RemoveImage(image={"image": reference})
    assert not alone.client.ImageStatus(image={"image": reference}).HasField("image")
    assert len(layers_of(alone)) == len(kept) + 3
    alone.kill()
    alone.start()
    pods.client = alone.client
    alone.client.StartContainer(container_id=container)
    pods.wait_line(container, "third")
    assert pods.exec(container, ["cat", "/data/d/replaced", "/again/replaced"])[1] == "second\nsecond\n"
    alone.client.RemoveContainer(container_id=container)
    assert layers_of(alone) == kept
    pods.remove_all()


@pytest.mark.parametrize("step", ["snapshot", "bundle", "task_create", "record"])
def test_nothing_stays_of_a_create_that_failed(make_daemon, registry, step):
    daemon = make_daemon(args=["--fault", f"create_container.{step}"])
    daemon.client.PullImage(image={"image": registry.busybox})
    kept = layers_of(daemon)
    reference = registry.push(Image(data_layers()), "volume/failed")
    daemon.client.PullImage(image={"image": reference})
    pods = Pods(daemon, registry.busybox)
    refusal(pods, pods.run_pod(host_network=True), mount(reference))
    daemon.client.RemoveImage(image={"image": reference})
    assert layers_of(daemon) == kept
    pods.remove_all()


@pytest.mark.native("what a machine's container writes is in its guest")
def test_volumes_are_no_writable_layers(alone, registry):
    """What ImageFsInfo says of containers is what they have written."""
    pods = Pods(alone)
    reference = registry.push(Image(data_layers()), "volume/usage")
    alone.client.PullImage(image={"image": reference})
    pod = pods.run_pod(host_network=True)

    def written():
        (containers,) = alone.client.ImageFsInfo().container_filesystems
        return containers.used_bytes.value, containers.inodes_used.value
    pods.create(pod, ["true"])
    wait_for("the layer is measured", lambda: written()[1] > 0)
    plain = written()
    pods.create(pod, ["true"], mounts=[mount(reference), mount(reference, "/b")])
    wait_for("the second layer is measured", lambda: written()[1] > plain[1])
    # Two places to mount on are the container's own.
    assert written()[1] == 2 * plain[1] + 2
    pods.remove_all()


def test_a_refused_second_volume_gives_the_first_back(alone, registry):
    pods, kept = Pods(alone), layers_of(alone)
    reference = registry.push(Image(data_layers()), "volume/second")
    alone.client.PullImage(image={"image": reference})
    refusal(pods, pods.run_pod(host_network=True), mount(reference), mount(reference, "/b", "missing"))
    alone.client.RemoveImage(image={"image": reference})
    assert layers_of(alone) == kept
    pods.remove_all()


def test_an_artifact_is_mounted_as_its_files(alone, registry):
    pods, kept = Pods(alone), layers_of(alone)
    made = artifact([("model.bin", b"weights\n"), ("deep/er/readme.txt", b"words\n"), ("same.bin", b"weights\n"), (None, b"nameless")])
    reference = registry.push(made, "artifact/model")
    alone.client.PullImage(image={"image": reference})
    image = alone.client.ImageStatus(image={"image": reference}, verbose=True)
    assert image.image.id == digest(made.manifest) and image.image.size > len(b"weights\n")
    assert json.loads(image.info["info"])["artifactType"] == "application/vnd.example.model"
    pod = pods.run_pod(host_network=True)
    script = "cd /data; find . -type f | sort; cat model.bin same.bin deep/er/readme.txt; cat /sub/readme.txt; ! touch model.bin 2>/dev/null"
    out = pods.out(pod, ["sh", "-c", script], mounts=[mount(image.image.id), mount(reference, "/sub", "deep/er")],
                   linux={"security_context": {"run_as_user": {"value": 1000}}})
    assert out == "./deep/er/readme.txt\n./model.bin\n./same.bin\nweights\nweights\nwords\nwords\n"
    # What it is not: a program.
    with pytest.raises(grpc.RpcError) as error:
        pods.create(pod, ["true"], image=reference)
    assert "artifact of type 'application/vnd.example.model'" in error.value.details()
    # It outlives the daemon as images do, and goes as they do.
    alone.kill()
    alone.start()
    pods.client = alone.client
    assert pods.out(pod, ["cat", "/data/model.bin"], mounts=[mount(reference)]) == "weights\n"
    pods.remove_all()
    alone.client.RemoveImage(image={"image": reference})
    assert layers_of(alone) == kept
    wait_for("the artifact's blobs are gone", lambda: not {b.split(":")[1] for b in made.blobs} & set(os.listdir(f"{alone.root}/images/blobs/sha256")))


@pytest.mark.parametrize("name", ["../escape", "/absolute", "a/../../b", "", "a//b", "."])
def test_an_artifact_whose_names_lead_out(daemon, registry, name):
    made = artifact([("good", b"good\n"), (name, b"evil\n")])
    reference = registry.push(made, "artifact/hostile", digest(name.encode())[7:20])
    before = layers_of(daemon)
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.PullImage(image={"image": reference})
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT and f"'{name}'" in error.value.details()
    assert layers_of(daemon) == before and not os.path.exists(f"{daemon.root}/images/l/escape")


def test_an_artifact_with_one_name_twice(daemon, registry):
    reference = registry.push(artifact([("a", b"1"), ("a", b"2")]), "artifact/twice")
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.PullImage(image={"image": reference})
    assert "two files of the artifact are named 'a'" in error.value.details()


def test_an_artifact_without_files_is_refused_by_its_type(daemon, registry):
    chart = artifact([(None, b"not a tar")], "", ("application/vnd.cncf.helm.config.v1+json", b'{"name":"x"}'), "application/vnd.cncf.helm.chart")
    reference = registry.push(chart, "artifact/helm")
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.PullImage(image={"image": reference})
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED and "application/vnd.cncf.helm.config.v1+json" in error.value.details()


@pytest.fixture
def owners(registry, daemon):
    """An image that programs can be run from, with files of several owners; its reference."""
    files = [entry("o", tarfile.DIRTYPE, 0o755), entry("o/root", mode=0o600, data=b"root's\n"),
             entry("o/web", mode=0o400, data=b"web's\n", uid=1000, gid=1000), entry("o/nobody", data=b"", uid=65534, gid=65534)]
    reference = registry.push(Image([busybox_layer(), tar_layer(files), tar_layer([entry("top", data=b"top\n")])]), "volume/owners")
    daemon.client.PullImage(image={"image": reference})
    return reference


@pytest.fixture
def user_pods(daemon):
    with UserPods(daemon) as pods:
        yield pods


OWNERS = "0:0 root\n1000:1000 web\n65534:65534 nobody\n"
LIST = "cd {} && for f in root web nobody; do stat -c '%u:%g' $f | sed \"s/$/ $f/\"; done"


@pytest.mark.native("user namespaces")
def test_in_a_user_namespace_owners_are_as_in_the_image(user_pods, owners, volume, registry, daemon):
    """The root file system and all volumes have layers in common, which can be id-mapped only once each."""
    made = registry.push(artifact([("deep/model.bin", b"weights\n")]), "artifact/mapped")
    daemon.client.PullImage(image={"image": made})
    twice = tar_layer([entry("other", data=b"other\n")])
    other = registry.push(Image([busybox_layer(), twice, twice]), "volume/other")
    daemon.client.PullImage(image={"image": other})
    pod = user_pods.run_pod()
    script = "; ".join([LIST.format("/o"), LIST.format("/data/o"), LIST.format("/sub"), "cat /data/o/root /file /other/other /model/model.bin",
                        "stat -c %u:%g /file /model/model.bin /third/d/replaced", "cut -d' ' -f5 /proc/self/mountinfo | grep -c /images/ || :"])
    mounts = [mount(owners), mount(owners, "/sub", "o"), mount(owners, "/file", "o/web"), mount(other, "/other"), mount(volume, "/third"),
              mount(made, "/model", "deep")]
    out = user_pods.out(pod, ["sh", "-c", script], image=owners, mounts=mounts)
    assert out == OWNERS * 3 + "root's\nweb's\nother\nweights\n1000:1000\n0:0\n0:0\n" + "0\n"
    # The rights are those of the owners.
    web = {"security_context": {"run_as_user": {"value": 1000}, "run_as_group": {"value": 1000}}}
    out = user_pods.out(pod, ["sh", "-c", "cat /data/o/web; ! cat /data/o/root 2>/dev/null; ! touch /data/o/web 2>/dev/null"], mounts=[mount(owners)], linux=web)
    assert out == "web's\n"


@pytest.mark.native("user namespaces")
def test_in_a_user_namespace_the_host_sees_no_mount(user_pods, owners, daemon):
    def mounts_of_ours():
        with open("/proc/self/mountinfo") as f:
            return sorted(line for line in f if daemon.marker in line)
    pod = user_pods.run_pod()
    before, files = mounts_of_ours(), {path: os.stat(path) for path in layer_files(daemon, "o")}
    user_pods.start(pod, ["sleep", "1000"], image=owners, mounts=[mount(owners), mount(owners, "/sub", "o")])
    assert mounts_of_ours() == before
    assert files and {path: os.stat(path).st_uid for path in files} == {path: info.st_uid for path, info in files.items()}


def layer_files(daemon, folder):
    """What the unpacked layers have in `folder`."""
    return [f"{top}/{name}" for top, _, names in os.walk(f"{daemon.root}/images") if top.endswith(f"/{folder}") for name in names]


@pytest.mark.native("user namespaces")
def test_a_volume_may_have_mappings_of_its_own(user_pods, pods, owners):
    def maps(host, container=0):
        each = [{"host_id": host, "container_id": container, "length": 1001}]
        return {"uidMappings": each, "gidMappings": each}
    # Of a pod with a user namespace: its ids 2000 and up.
    pod = user_pods.run_pod()
    out = user_pods.out(pod, ["stat", "-c", "%u:%g", "/data/o/root", "/data/o/web", "/data/o/nobody"], mounts=[mount(owners, **maps(HOST + 2000))])
    assert out == "2000:2000\n3000:3000\n65534:65534\n"
    # Of a pod without: the host's.
    pod = pods.run_pod(host_network=True)
    mounts = [mount(owners, **maps(7000)), mount(owners, "/plain"), mount(owners, "/again", **maps(9000))]
    out = pods.out(pod, ["stat", "-c", "%u:%g", "/data/o/web", "/plain/o/web", "/again/o/web", "/o/web"], image=owners, mounts=mounts)
    assert out == "8000:8000\n1000:1000\n10000:10000\n1000:1000\n"
