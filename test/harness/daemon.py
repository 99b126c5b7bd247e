# SPDX-License-Identifier: Apache-2.0
"""A caissond of the test's own: private root, state, socket, CNI configuration and cgroup parent."""
import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess

import grpc

from .cri import Client
from .handler import BUILD, DEFAULT, FOREIGN_CONFIG, VM_CONFIG, VMS, WARM
from .leaks import Leaks, links_of
from .registry import wait_for

BIN = os.path.join(BUILD, "bin")
CNI_BIN = "/usr/lib/cni" if os.path.isdir("/usr/lib/cni") else "/opt/cni/bin"


# Where there is a systemd that manages cgroup v2, the tests may ask for its driver; "" is the daemon's own choice.
SYSTEMD = os.environ.get("CAISSON_TEST_CGROUP_DRIVER", "") == "systemd"


def slice_path(name):
    """Where systemd puts the slice "a-b.slice": "/a.slice/a-b.slice"."""
    parts = name.removesuffix(".slice").split("-")
    return "".join("/" + "-".join(parts[:i + 1]) + ".slice" for i in range(len(parts)))


def bridge_conflist(folder, name, subnet, plugins=("portmap",), cni_version="1.0.0"):
    bridge = {"type": "bridge", "bridge": name, "isGateway": True, "ipMasq": False,
              "ipam": {"type": "host-local", "dataDir": f"{folder}/ipam", "ranges": [[{"subnet": subnet}]],
                       "routes": [{"dst": "0.0.0.0/0"}]}}
    chain = [bridge]
    if "portmap" in plugins:
        chain.append({"type": "portmap", "capabilities": {"portMappings": True}})
    chain += [p for p in plugins if isinstance(p, dict)]
    return {"cniVersion": cni_version, "name": f"{name}-net", "plugins": chain}


_held = []


def own_subnet():
    """An IPv4 subnet that no other test's daemon has for as long as this process lives (a socket's name in the abstract
    namespace, unix(7), holds it), and that the host has no route to: else pods of one are looked for on the other's bridge."""
    for number in ((os.getpid() * 37 + i) % 3072 for i in range(3072)):
        subnet, holder = f"10.{200 + number // 256}.{number % 256}.0/24", socket.socket(socket.AF_UNIX)
        try:
            holder.bind(f"\0caisson-test-subnet-{number}")
        except OSError:
            holder.close()
            continue
        _held.append(holder)
        routes = [subprocess.run(["ip", "-4", "route", "show", "to", which, subnet], stdout=subprocess.PIPE, text=True, check=True).stdout
                  for which in ("match", "root")]
        if not [line for line in "".join(routes).splitlines() if not line.startswith("default")]:
            return subnet
    raise RuntimeError("no subnet of 10.200.0.0 to 10.211.255.0 is free: are there bridges that tests have left?")


class Daemon:
    def __init__(self, folder, config="", cni=None, args=(), start=True, env=None, prefix=()):
        """`prefix`: a command that runs the daemon somewhere else, and becomes it."""
        self.folder = str(folder)
        self.subnet = own_subnet()
        self.bridge = "cst{:0>3}-{:0>3}".format(*self.subnet.split(".")[1:3])  # nobody's else, not even one's that was left behind
        self.cni_dir = f"{self.folder}/cni"
        self.root, self.state = f"{self.folder}/root", f"{self.folder}/state"
        self.socket = f"{self.state}/caisson.sock"
        self.marker = os.path.basename(self.folder)
        # Of a made-up kubelet: its slices' names say where they are (systemd.slice(5)).
        self.cgroup_parent = slice_path(f"kubepods-{self.marker}.slice") if SYSTEMD else f"/caisson-{self.marker}"
        self.args, self.env, self.prefix = list(args), dict(env or {}), list(prefix)
        os.makedirs(self.cni_dir, exist_ok=True)
        self.write_cni(cni if cni is not None else bridge_conflist(self.folder, self.bridge, self.subnet))
        if SYSTEMD and "cgroup_driver" not in config:
            config = 'cgroup_driver = "systemd"\n' + config
        if "warm_count" not in config:
            tables = config.split("[templates]\n", 1)
            config = tables[0] + f"\n[templates]\nwarm_count = {WARM}\n" + "".join(tables[1:])
        if VMS and "[handlers.caisson-vm]" not in config:
            config += VM_CONFIG
        config += FOREIGN_CONFIG
        self.config = f"{self.folder}/config.toml"
        with open(self.config, "w") as f:
            f.write(config + f"\n[cni]\nconf_dir = \"{self.cni_dir}\"\nbin_dirs = [\"{CNI_BIN}\"]\n"
                    if "[cni]" not in config else config)
        self.process = self.client = self.log = None
        if start:
            self.start()

    def write_cni(self, conflist, name="10-test.conflist"):
        with open(f"{self.cni_dir}/.new", "w") as f:
            f.write(conflist if isinstance(conflist, str) else json.dumps(conflist))
        os.rename(f"{self.cni_dir}/.new", f"{self.cni_dir}/{name}")

    def command(self, *extra):
        return [f"{BIN}/caissond", "--config", self.config, "--root", self.root, "--state", self.state,
                "--socket", self.socket, *self.args, *extra]

    def start(self):
        self.log = open(f"{self.folder}/caissond.log", "ab")
        self.process = subprocess.Popen([*self.prefix, *self.command()], stdout=self.log, stderr=self.log,
                                        env={**os.environ, **self.env})
        wait_for(f"caissond answers (log: {self.folder}/caissond.log)", self._answers, 30)
        return self

    def _answers(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"caissond ended with {self.process.returncode}:\n{self.log_text()[-3000:]}")
        if not os.path.exists(self.socket):
            return False
        self.client = Client(self.socket)
        try:
            self.client.Version(deadline=5)
            # A foreign runtime's handler is there when its probe pod has run.
            return not FOREIGN_CONFIG or DEFAULT in [handler.name for handler in self.client.Status(deadline=5).runtime_handlers]
        except grpc.RpcError:
            self.client.close()
            return False

    def log_text(self):
        with open(f"{self.folder}/caissond.log", errors="replace") as f:
            return f.read()

    def kill(self):
        """SIGKILL; pods live on."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self._closed()

    def stop(self):
        """SIGTERM; pods live on."""
        # First: an idle Python channel polls nothing, so it would answer the server's farewell after seconds only.
        if self.client:
            self.client.close()
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        self._closed()

    def restart_with(self, *args):
        """Ends the daemon and starts it with other flags."""
        self.stop()
        self.args = list(args)
        return self.start()

    def _closed(self):
        if self.client:
            self.client.close()
        self.client = None
        if self.log:
            self.log.close()

    def remove_all(self):
        """Every pod stopped and removed through the CRI."""
        for pod in self.client.ListPodSandbox().items:
            self.client.StopPodSandbox(pod_sandbox_id=pod.id)
            self.client.RemovePodSandbox(pod_sandbox_id=pod.id)

    def leaks_of_pods(self):
        """All that would be of pods or containers: processes, mounts, cgroups, links, leases, files, rows. Of a daemon
        without pods: what leaked."""
        found = [item for item in Leaks(self.marker, self.bridge).before
                 if f"{BIN}/caissond --config" not in item and "--sandbox template" not in item
                 and not (item.startswith("cgroup ") and item.endswith(self.cgroup_parent))]
        found += [f"lease {ip}" for ip in self.leases()]
        for folder in (f"{self.state}/pods", f"{self.state}/containers", f"{self.state}/netns", f"{self.root}/images/s",
                       f"{self.root}/images/ingest"):
            found += [f"file {folder}/{name}" for name in (os.listdir(folder) if os.path.isdir(folder) else [])]
        with contextlib.closing(sqlite3.connect(f"file:{self.root}/caissond.db?mode=ro", uri=True)) as index:
            for table in ("pods", "containers"):
                found += [f"row {table} {row[0]}" for row in index.execute(f"SELECT id FROM {table}")]
        return sorted(found)

    def leases(self):
        """Addresses that host-local has given out."""
        folder = f"{self.folder}/ipam/{self.bridge}-net"
        return [name for name in os.listdir(folder) if name[0].isdigit() or ":" in name] if os.path.isdir(folder) else []

    def keepers(self):
        """{template's id: pid} of the processes that hold templates of VMs; they outlive the daemon."""
        found, folder = {}, f"{self.state}/templates"
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            with contextlib.suppress(OSError, ValueError):
                with open(f"{folder}/{name}/shim.pid") as f:
                    pid = int(f.read().split()[0])
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    if name.encode() in f.read():
                        found[name] = pid
        return found

    def pull_busybox(self, registry):
        """So that pods of this daemon (harness/pods.py) have an image."""
        self.image = registry.busybox
        self.client.PullImage(image={"image": self.image})

    def destroy(self):
        """Pods, daemon, bridge and folders gone."""
        try:
            if self.process and self.process.poll() is None:
                self.remove_all()
        finally:
            self.stop()
            for pid in self.keepers().values():
                os.kill(pid, signal.SIGKILL)
            wait_for("the templates' keepers are gone", lambda: not self.keepers(), 30)
            self.links_left = links_of(self.bridge)
            subprocess.run(["ip", "link", "del", self.bridge], stderr=subprocess.DEVNULL)
            self._remove_cgroup_parent()
        self._check_log()

    def _check_log(self):
        """What a sanitizer has found in the daemon fails the test, whatever the daemon answered."""
        log = self.log_text() if os.path.exists(f"{self.folder}/caissond.log") else ""
        for mark in ("Sanitizer:", "runtime error:"):
            assert mark not in log, log[log.index(mark):][:4000]

    def _remove_cgroup_parent(self):
        """As a kubelet does with a pod's: only the folder itself, so that what is below stays to be seen as a leak."""
        if SYSTEMD:
            name = os.path.basename(self.cgroup_parent)
            scopes = subprocess.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "caisson-*.scope"],
                                    stdout=subprocess.PIPE, text=True, check=True).stdout
            self.links_left |= {f"unit {line}" for line in scopes.splitlines()}
            # Slices of ours and of nobody else, from the innermost on.
            while self.marker in name or name.startswith("kubepods-caisson"):
                subprocess.run(["systemctl", "stop", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                name = name.rpartition("-")[0] + ".slice"
            return
        for controller in os.listdir("/sys/fs/cgroup"):
            for base in (f"/sys/fs/cgroup/{controller}{self.cgroup_parent}", f"/sys/fs/cgroup{self.cgroup_parent}"):
                if os.path.isdir(base):
                    try:
                        os.rmdir(base)
                    except OSError:
                        pass


# The thread sanitizer's build is of the daemon alone.
HAS_CLI = os.path.exists(f"{BIN}/caisson")


def cli(daemon, *args, timeout=120, **kw):
    """Runs the `caisson` command against the daemon."""
    return subprocess.run([f"{BIN}/caisson", "--socket", daemon.socket, *args], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=timeout, text=True, **kw)


def remove_tree(path):
    shutil.rmtree(path, ignore_errors=True)
