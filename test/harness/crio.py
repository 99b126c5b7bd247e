# SPDX-License-Identifier: Apache-2.0
"""A CRI-O of the test's own: CAISSON_TEST_CRIO names its folder of programs (crio, pinns), for Debian 12 has none. Private root, state,
socket and CNI; our companion as a runtime of the type "vm", our OCI command line as one of the type "oci". Pods(crio) works on it."""
import json
import os
import signal
import subprocess

import grpc

from .cri import Client
from .daemon import BIN, CNI_BIN, bridge_conflist, own_subnet
from .handler import GUEST
from .images import Image
from .registry import wait_for

PROGRAMS = os.environ.get("CAISSON_TEST_CRIO", "")


def config_text(crio):
    """crio.conf(5)."""
    folder = crio.folder
    return f"""[crio]
root = "{folder}/root"
runroot = "{folder}/run"
storage_driver = "overlay"
log_dir = "{folder}/log"
version_file = "{folder}/version"
version_file_persist = "{folder}/version-persist"
clean_shutdown_file = "{folder}/clean"
internal_wipe = false
[crio.api]
listen = "{crio.socket}"
stream_address = "127.0.0.1"
stream_port = "0"
[crio.runtime]
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
container_attach_socket_dir = "{folder}/attach"
container_exits_dir = "{folder}/exits"
namespaces_dir = "{folder}/ns"
pinns_path = "{PROGRAMS}/pinns"
hooks_dir = []
apparmor_profile = "unconfined"
log_level = "debug"
default_runtime = "caisson-oci"
[crio.runtime.runtimes.caisson]
runtime_path = "{folder}/bin/containerd-shim-caisson-v2"
runtime_type = "vm"
runtime_root = "{folder}/run/caisson"
privileged_without_host_devices = true
[crio.runtime.runtimes.caisson-vm]
runtime_path = "{folder}/bin/containerd-shim-caisson-vm-v2"
runtime_type = "vm"
runtime_root = "{folder}/run/caisson-vm"
runtime_config_path = "{folder}/shim.json"
privileged_without_host_devices = true
[crio.runtime.runtimes.caisson-oci]
runtime_path = "{BIN}/caisson-oci"
runtime_type = "oci"
runtime_root = "{folder}/run/caisson-oci"
monitor_path = "/usr/bin/conmon"
[crio.runtime.runtimes.runc]
runtime_path = "/usr/sbin/runc"
runtime_type = "oci"
runtime_root = "{folder}/run/runc"
monitor_path = "/usr/bin/conmon"
[crio.image]
signature_policy = "{folder}/policy.json"
pause_image = "{crio.pause}"
pause_command = ""
[crio.network]
network_dir = "{folder}/cni"
plugin_dirs = ["{CNI_BIN}"]
"""


class Crio:
    count = 0

    def __init__(self, folder, registry, environment=None, mirrored=()):
        Crio.count += 1
        self.folder = str(folder)
        self.marker = os.path.basename(self.folder)
        self.cgroup_parent = f"/caisson-{self.marker}"
        self.socket = f"{self.folder}/crio.sock"
        self.bridge, self.client, self.process, self.log = f"cro{os.getpid() % 10000}-{Crio.count}", None, None, None
        for name in ("bin", "cni"):
            os.makedirs(f"{self.folder}/{name}")
        for name in ("containerd-shim-caisson-v2", "containerd-shim-caisson-vm-v2"):
            os.symlink(f"{BIN}/containerd-shim-caisson-v2", f"{self.folder}/bin/{name}")
        self.image = registry.push(Image(), "crio/busybox", "1")
        self.pause = registry.push(Image(config={"Cmd": None, "Entrypoint": ["/bin/sh", "-c", "trap 'exit 0' TERM; tail -f /dev/null & wait"]}), "crio/pause", "1")
        self._write("shim.json", json.dumps({"kernel": f"{GUEST}/kernel", "initrd": f"{GUEST}/initramfs", "memory_bytes": 256 << 20}))
        self._write("policy.json", json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        os.makedirs(f"{self.folder}/.config/containers")  # of CRI-O's home (containers-registries.conf(5))
        self._write(".config/containers/registries.conf", f'[[registry]]\nlocation = "{registry.host}"\ninsecure = true\n'
                    + "".join(f'[[registry]]\nprefix = "{name}"\nlocation = "{registry.host}"\ninsecure = true\n' for name in mirrored))
        self._write("cni/10-test.conflist", json.dumps(bridge_conflist(self.folder, self.bridge, own_subnet())))
        self._write("crio.conf", config_text(self))
        self.env = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "HOME": self.folder, **(environment or {})}
        self.start()
        for image in (self.image, self.pause):
            self.client.PullImage(image={"image": image})

    def _write(self, name, text):
        with open(f"{self.folder}/{name}", "w") as f:
            f.write(text)

    def start(self):
        self.log = open(f"{self.folder}/crio.log", "ab")
        self.process = subprocess.Popen([f"{PROGRAMS}/crio", "--config", f"{self.folder}/crio.conf", "--config-dir", ""], env=self.env, stdout=self.log, stderr=self.log)
        wait_for(f"CRI-O answers (log: {self.folder}/crio.log)", self._answers)
        return self

    def _answers(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"CRI-O ended with {self.process.returncode}:\n{self.log_text()[-3000:]}")
        if not os.path.exists(self.socket):
            return False
        self.client = Client(self.socket)
        try:
            return all(c.status for c in self.client.Status(deadline=5).status.conditions)
        except grpc.RpcError:
            self.client.close()
            return False

    def log_text(self):
        with open(f"{self.folder}/crio.log", errors="replace") as f:
            return f.read()

    def kill(self):
        """SIGKILL; its pods live on."""
        self.process.send_signal(signal.SIGKILL)
        self._ended()

    def _ended(self):
        if self.client:
            self.client.close()
            self.client = None
        self.process.wait(20)
        self.log.close()

    def destroy(self):
        """All pods, then itself."""
        if self.process.poll() is not None:
            self.start()
        for pod in self.client.ListPodSandbox().items:
            self.client.StopPodSandbox(pod_sandbox_id=pod.id)
            self.client.RemovePodSandbox(pod_sandbox_id=pod.id)
        self.process.terminate()
        self._ended()
        subprocess.run(["ip", "link", "del", self.bridge], check=False)
        for base, _, _ in os.walk("/sys/fs/cgroup", topdown=False):  # as a kubelet would: the pods' parent is its own
            if base.endswith(self.cgroup_parent):
                os.rmdir(base)
        with open("/proc/self/mountinfo") as f:
            for mount in sorted((line.split()[4] for line in f if self.folder in line.split()[4]), reverse=True):
                subprocess.run(["umount", "-l", mount], check=False)
