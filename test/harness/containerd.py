# SPDX-License-Identifier: Apache-2.0
"""A containerd of the test's own (Debian's, or CAISSON_TEST_CONTAINERD's folder of programs): private root, state and sockets, our
companion found by its runtime's name, and `ctr` to drive it. Pods(containerd) works on its CRI."""
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile

import grpc

from .cri import Client
from .daemon import BIN, CNI_BIN, bridge_conflist, own_subnet, remove_tree, slice_path  # noqa: F401
from .images import Image
from .leaks import Leaks, links_of
from .registry import wait_for

PROGRAMS = os.environ.get("CAISSON_TEST_CONTAINERD", "/usr/bin")
RUNTIME = "io.containerd.caisson.v2"
# What no test needs and takes time to start, or does not start here.
UNUSED = ("snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.devmapper", "snapshotter.v1.aufs", "snapshotter.v1.blockfile",
          "snapshotter.v1.erofs", "internal.v1.opt", "tracing.processor.v1.otlp", "internal.v1.tracing", "nri.v1.nri")


def config_text(folder, socket, cri, runtimes):
    """config.toml of version 2, which containerd 1.6 to 2.x read. `cri`: the CNI configuration's folder, or None for no CRI."""
    disabled = [f"io.containerd.{name}" for name in UNUSED] + ([] if cri else ["io.containerd.grpc.v1.cri"])
    text = f"""version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = {json.dumps(disabled)}
[grpc]
address = "{socket}"
[ttrpc]
address = "{socket}.ttrpc"
"""
    if not cri:
        return text
    text += f"""[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/pause:1"
stream_server_address = "127.0.0.1"
stream_server_port = "0"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_BIN}"
conf_dir = "{cri}"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "caisson"
"""
    for name, kind in runtimes.items():
        text += f'[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{name}]\nruntime_type = "{kind}"\n'
        if "-vm." in kind:  # docs/containerd.md
            text += 'privileged_without_host_devices = true\n'
    return text


class Containerd:
    count = 0

    def __init__(self, folder, cri=False, runtimes=None, config="", environment=None):
        Containerd.count += 1
        self.folder = str(folder)
        self.marker = os.path.basename(self.folder)
        self.cgroup_parent = f"/caisson-{self.marker}"
        self.socket = f"{self.folder}/containerd.sock"
        self.bridge, self.client, self.process, self.log = f"ctd{os.getpid() % 10000}-{Containerd.count}", None, None, None
        self.namespace = "k8s.io" if cri else "default"
        self.cri = f"{self.folder}/cni" if cri else None
        os.makedirs(f"{self.folder}/bin")
        for name in ("containerd-shim-caisson-v2", "containerd-shim-caisson-vm-v2"):
            os.symlink(f"{BIN}/containerd-shim-caisson-v2", f"{self.folder}/bin/{name}")
        if cri:
            os.makedirs(self.cri)
            with open(f"{self.cri}/10-test.conflist", "w") as f:
                json.dump(bridge_conflist(self.folder, self.bridge, own_subnet()), f)
        with open(f"{self.folder}/config.toml", "w") as f:
            f.write(config_text(self.folder, self.socket, self.cri, {"caisson": RUNTIME, **(runtimes or {})}) + config)
        self.env = {**os.environ, "PATH": f"{self.folder}/bin:{PROGRAMS}:{os.environ['PATH']}", "CONTAINERD_ADDRESS": self.socket,
                    "CONTAINERD_NAMESPACE": self.namespace, **(environment or {})}
        self.image = None
        self.start()
        self.add_image("docker.io/library/busybox:1", Image())
        if cri:
            self.add_image("docker.io/library/pause:1", Image(config={"Cmd": None, "Entrypoint": ["/bin/tail", "-f", "/dev/null"]}))
        self.image = "docker.io/library/busybox:1"

    def start(self):
        self.log = open(f"{self.folder}/containerd.log", "ab")
        self.process = subprocess.Popen([f"{PROGRAMS}/containerd", "-c", f"{self.folder}/config.toml", "-l", "debug"], env=self.env,
                                        stdout=self.log, stderr=self.log)
        wait_for(f"containerd answers (log: {self.folder}/containerd.log)", self._answers)
        return self

    def _answers(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"containerd ended with {self.process.returncode}:\n{self.log_text()[-3000:]}")
        if not os.path.exists(self.socket) or self.ctr("version", check=False).returncode != 0:
            return False
        if not self.cri:
            return True
        self.client = Client(self.socket)
        try:
            return all(c.status for c in self.client.Status(deadline=5).status.conditions if c.type == "RuntimeReady")
        except grpc.RpcError:
            self.client.close()
            return False

    def is_two(self):
        """containerd 2.x."""
        return subprocess.run([f"{PROGRAMS}/containerd", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()[2].lstrip("v").startswith("2")

    def log_text(self):
        with open(f"{self.folder}/containerd.log", errors="replace") as f:
            return f.read()

    def add_image(self, name, image):
        """`image` under `name`, without a registry."""
        path = f"{self.folder}/layout"
        image.write_layout(path, name)
        subprocess.run(["tar", "-C", path, "-cf", f"{path}.tar", "."], check=True)
        self.ctr("images", "import", f"{path}.tar")
        shutil.rmtree(path)

    def ctr(self, *args, check=True, timeout=60, **kw):
        """ctr ARGS, its output as text."""
        done = subprocess.run([f"{PROGRAMS}/ctr", *args], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=timeout, **kw)
        if check:
            assert done.returncode == 0, (args, done.returncode, done.stdout, done.stderr)
        return done

    def run(self, name, *command, args=(), runtime=RUNTIME, **kw):
        """ctr run of our runtime."""
        return self.ctr("run", "--runtime", runtime, *args, self.image, name, *command, **kw)

    def bundle(self, name):
        return f"{self.folder}/state/io.containerd.runtime.v2.task/{self.namespace}/{name}"

    def companion(self, name):
        """The pid of the companion that was started for the container."""
        with open(f"{self.bundle(name)}/shim.pid") as f:
            return int(f.read())

    def tasks(self):
        """{id: status}"""
        return {line.split()[0]: line.split()[2] for line in self.ctr("task", "ls").stdout.splitlines()[1:]}

    def companions(self):
        """Pids of all companions of this containerd."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    words = f.read().split(b"\0")
            except OSError:
                continue
            if b"serve" in words and f"{self.socket}.ttrpc".encode() in words:
                found.append(int(pid))
        # The init of a pod's PID namespace is a child of its companion with the same command line.
        return [pid for pid in found if self._parent_of(pid) not in found]

    @staticmethod
    def _parent_of(pid):
        try:
            with open(f"/proc/{pid}/stat") as f:
                return int(f.read().rpartition(")")[2].split()[1])
        except OSError:
            return 0

    def kill(self):
        """SIGKILL; its containers live on."""
        self.process.send_signal(signal.SIGKILL)
        self._ended()

    def stop(self):
        if self.client:
            self.client.close()
            self.client = None
        if self.process.poll() is None:
            self.process.terminate()
        self._ended()

    def _ended(self):
        if self.client:
            self.client.close()
            self.client = None
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self.log.close()

    def destroy(self):
        """All containers and pods, then itself. What is left of companions is killed and reported."""
        if self.process.poll() is not None:
            self.start()
        if self.cri:
            for pod in self.client.ListPodSandbox().items:
                self.client.StopPodSandbox(pod_sandbox_id=pod.id)
                self.client.RemovePodSandbox(pod_sandbox_id=pod.id)
        for name in self.tasks():
            self.ctr("task", "rm", "-f", name, check=False)
        for name in self.ctr("container", "ls", "-q").stdout.split():
            self.ctr("container", "rm", name, check=False)
        try:
            wait_for("the companions have ended", lambda: not self.companions(), 10)
            return []
        except TimeoutError:
            left = self.companions()
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return [f"companion {pid}" for pid in left]
        finally:
            self.stop()
            self.links_left = links_of(self.bridge)
            subprocess.run(["ip", "link", "del", self.bridge], stderr=subprocess.DEVNULL)
            for controller in os.listdir("/sys/fs/cgroup"):
                for base in (f"/sys/fs/cgroup/{controller}{self.cgroup_parent}", f"/sys/fs/cgroup{self.cgroup_parent}"):
                    if os.path.isdir(base):
                        os.rmdir(base)


@contextlib.contextmanager
def own_containerd(make=Containerd):
    """The Containerd that `make` makes of a folder, for one file of tests; nothing of it is left then."""
    folder = tempfile.mkdtemp(prefix="caisson-containerd-")
    leaks = Leaks(os.path.basename(folder))
    containerd = make(folder)
    yield containerd
    left = containerd.destroy() + sorted(containerd.links_left)
    # What was killed with its companion is for the host's PID 1 to reap, or for whoever is in its place.
    wait_for("nothing is left", lambda: not leaks.check(), 10)
    remove_tree(folder)
    assert not left, left


LOGGER = """#!/bin/sh
# A log program: key "to", value the file.
exec 5>&-
echo "$CONTAINER_NAMESPACE/$CONTAINER_ID" > "$2"
sed "s/^/out /" <&3 >> "$2" &
sed "s/^/err /" <&4 >> "$2" &
wait
echo end >> "$2"
"""


def check_log_uris(containerd, name, run):
    """Output to a file and to a log program; run(name, *command, args=…) starts a container."""
    folder = containerd.folder
    run(f"{name}-f", "sh", "-c", "echo one; echo two >&2", args=("-d", "--log-uri", f"file://{folder}/file.log"))
    with open(f"{folder}/logger", "w") as f:
        f.write(LOGGER)
    os.chmod(f"{folder}/logger", 0o755)
    run(f"{name}-b", "sh", "-c", "echo one; echo two >&2", args=("-d", "--log-uri", f"binary://{folder}/logger?to={folder}/program%2elog"))

    def text(path):
        with open(f"{folder}/{path}") as f:
            return f.read().splitlines()
    wait_for("both end", lambda: set(containerd.tasks().values()) == {"STOPPED"})
    wait_for("the log program ends", lambda: text("program.log")[-1:] == ["end"])
    assert sorted(text("file.log")) == ["one", "two"]
    assert sorted(text("program.log")) == sorted([f"{containerd.namespace}/{name}-b", "out one", "err two", "end"])
