# SPDX-License-Identifier: Apache-2.0
"""Builds OCI images in memory from a static busybox and whatever files a test wants."""
import gzip
import hashlib
import io
import json
import os
import tarfile

BUSYBOX = "/bin/busybox"
APPLETS = ("sh ls cat echo id env sleep true false uname hostname ps kill dd head tail wc grep touch mkdir rm mount "
           "umount ip ping nc httpd wget stat readlink ln test yes seq date chmod chown mknod sync tty stty "
           "nslookup od printf trap tr sort find df free top vi printenv pwd pidof sha256sum tee timeout usleep "
           "mkfifo nproc setsid cut awk sed md5sum expr whoami nohup cp mv").split()

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar_layer(entries):
    """entries: TarInfo or (TarInfo, bytes)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            info, data = entry if isinstance(entry, tuple) else (entry, None)
            if data is not None:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if data is not None else None)
    return out.getvalue()


def entry(name, kind=tarfile.REGTYPE, mode=0o755, data=None, link="", uid=0, gid=0, pax=None):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.uid, info.gid = kind, mode, link, uid, gid
    info.mtime = 1_700_000_000
    info.pax_headers = pax or {}
    return (info, data) if data is not None else info


def directory(name, mode=0o755):
    return entry(name, tarfile.DIRTYPE, mode)


def busybox_layer(extra=()):
    with open(BUSYBOX, "rb") as f:
        busybox = f.read()
    entries = [directory(d) for d in ("bin", "etc", "proc", "sys", "dev", "root", "home", "var", "usr", "run", "opt")]
    entries += [directory("tmp", 0o1777), entry("bin/busybox", data=busybox)]
    entries += [entry(f"bin/{a}", tarfile.SYMTYPE, 0o777, link="busybox") for a in APPLETS]
    passwd = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nweb:x:1000:1000::/home:/bin/sh\n"
    group = b"root:x:0:\nnogroup:x:65534:\nweb:x:1000:\nextra:x:2000:web\nmore:x:2001:web,nobody\n"
    entries += [entry("etc/passwd", mode=0o644, data=passwd), entry("etc/group", mode=0o644, data=group)]
    return tar_layer(entries + list(extra))


class Image:
    """One image: blobs by digest, its manifest, and what a registry or a layout needs."""

    def __init__(self, layers=None, config=None, compression="gzip", docker=False, annotations=None):
        layers = [busybox_layer()] if layers is None else layers
        self.blobs = {}
        descriptors, diff_ids = [], []
        for layer in layers:
            diff_ids.append(digest(layer))
            data, media = self._compress(layer, compression, docker)
            descriptors.append(self.add(data, media))
        document = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine], "os": "linux",
            "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        document["config"].update(config or {})
        self.config = self.add(json.dumps(document).encode(), DOCKER_CONFIG if docker else OCI_CONFIG)
        manifest = {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
                    "config": self.config, "layers": descriptors}
        if annotations:
            manifest["annotations"] = annotations
        self.manifest = json.dumps(manifest).encode()
        self.media_type = manifest["mediaType"]
        self.id = self.config["digest"]
        self.digest = digest(self.manifest)

    @staticmethod
    def _compress(layer, compression, docker):
        if compression == "gzip":
            return gzip.compress(layer, 1, mtime=0), DOCKER_LAYER if docker else OCI_LAYER + "+gzip"
        if compression == "zstd":
            import subprocess
            return subprocess.run(["zstd", "-c", "-q"], input=layer, stdout=subprocess.PIPE, check=True).stdout, OCI_LAYER + "+zstd"
        return layer, OCI_LAYER

    def add(self, data, media):
        self.blobs[digest(data)] = data
        return {"mediaType": media, "digest": digest(data), "size": len(data)}

    def write_layout(self, path, name="latest"):
        """An OCI layout directory (image-spec image-layout.md)."""
        os.makedirs(f"{path}/blobs/sha256", exist_ok=True)
        for key, data in {**self.blobs, self.digest: self.manifest}.items():
            with open(f"{path}/blobs/sha256/{key.split(':')[1]}", "wb") as f:
                f.write(data)
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
            {"mediaType": self.media_type, "digest": self.digest, "size": len(self.manifest),
             "annotations": {"org.opencontainers.image.ref.name": name, "io.containerd.image.name": name}}]}
        with open(f"{path}/index.json", "w") as f:
            json.dump(index, f)
        with open(f"{path}/oci-layout", "w") as f:
            json.dump({"imageLayoutVersion": "1.0.0"}, f)
