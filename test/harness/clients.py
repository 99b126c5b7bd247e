# SPDX-License-Identifier: Apache-2.0
"""containerd, Docker and podman from Debian's packages, each with folders and sockets of its own, running our OCI runtime."""
import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile

from .bundle import PROGRAM
from .images import busybox_layer, digest
from .registry import wait_for

NAME = "caisson.test/busybox:1"


def missing(*programs):
    """What of the packages is not here; empty: nothing."""
    return ", ".join(name for name in programs if not shutil.which(name))


def docker_archive(path):
    """An image that every client loads: `docker save`'s format."""
    layer = busybox_layer()
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
                         "rootfs": {"type": "layers", "diff_ids": [digest(layer)]}}).encode()
    manifest = [{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        for name, data in (("config.json", config), ("layer.tar", layer), ("manifest.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


class Client:
    """Runs a client's command; `say` is its words up to its own verbs."""

    def __init__(self, *say):
        self.say = say

    def run(self, *words, timeout=120, **kw):
        return subprocess.run([*self.say, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=timeout, **kw)

    def ok(self, *words, **kw):
        done = self.run(*words, **kw)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout


@contextlib.contextmanager
def daemon(command, answers, log):
    with open(log, "wb") as f:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=f, stderr=f, start_new_session=True)
    try:
        wait_for(f"{command[0]} answers (its log: {log})", lambda: process.poll() is None and answers(), 60)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def containerd(folder):
    """(its socket, ctr on it)"""
    address = f"{folder}/containerd.sock"
    with open(f"{folder}/containerd.toml", "w") as f:
        f.write(f'version = 2\nroot = "{folder}/containerd"\nstate = "{folder}/containerd-state"\n'
                f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{address}"\n')
    ctr = Client("ctr", "--address", address)
    with daemon(["containerd", "--config", f"{folder}/containerd.toml"], lambda: ctr.run("version").returncode == 0, f"{folder}/containerd.log"):
        yield address, ctr


@contextlib.contextmanager
def docker(folder, address, runtimes=None, default="caisson", programs=""):
    """`docker` on a daemon whose default runtime ours is, over a containerd that is there already. The daemon, with its bridges and rules, is in a
    network namespace of its own: `client.net`, a command's words up to its own, runs one there. `programs`: a folder of others than Debian's."""
    settings = {"runtimes": runtimes or {"caisson": {"path": PROGRAM}}, "default-runtime": default, "bip": "10.88.7.1/24",
                "default-address-pools": [{"base": "10.89.0.0/16", "size": 24}], "data-root": f"{folder}/docker", "exec-root": f"{folder}/docker-exec",
                "pidfile": f"{folder}/docker.pid", "hosts": [f"unix://{folder}/docker.sock"], "containerd": address,
                "containerd-namespace": f"docker-{os.getpid()}", "cgroup-parent": "/" + os.path.basename(folder), "storage-driver": storage_driver(folder)}
    with open(f"{folder}/docker.json", "w") as f:
        json.dump(settings, f)
    # BuildKit in Docker 20.10 runs what is called runc, whatever the default runtime is.
    os.mkdir(f"{folder}/bin")
    os.symlink(PROGRAM, f"{folder}/bin/runc")
    client = Client(f"{programs or '/usr/bin'}/docker", "--host", f"unix://{folder}/docker.sock")
    path = f"{programs}:{folder}/bin:$PATH" if programs else f"{folder}/bin:$PATH"
    command = ["unshare", "--net", "sh", "-c", f"ip link set lo up && PATH={path} exec dockerd --config-file {folder}/docker.json"]
    with daemon(command, lambda: client.run("version").returncode == 0, f"{folder}/docker.log") as process:
        client.net = ["nsenter", "--target", str(process.pid), "--net"]
        yield client


def storage_driver(folder):
    """overlay2, unless the folder is itself on an overlay, which cannot be stacked."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], stdout=subprocess.PIPE, text=True).stdout.strip()
    return "vfs" if kind == "overlayfs" else "overlay2"
