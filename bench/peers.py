# SPDX-License-Identifier: Apache-2.0
"""The runtimes under test: each a daemon with everything private to it, behind one CRI socket."""
import glob
import json
import os
import shutil
import signal
import subprocess
import time

from harness.registry import wait_for

# Not those of harness.daemon: that imports a gRPC library, whose pages the daemon under test would then share with us.
BIN = os.path.join(os.environ["CAISSON_BUILD"], "bin")
CNI_BIN = "/usr/lib/cni" if os.path.isdir("/usr/lib/cni") else "/opt/cni/bin"
UNIFIED = "/sys/fs/cgroup/unified"
CAISSOND = os.path.join(os.environ.get("CAISSON_PRODUCT", os.path.dirname(BIN)), "bin", "caissond")


def remove_cgroups(name):
    """Removes the cgroup `name` and what is below it, in every hierarchy, and says which did not go."""
    for path in glob.glob(f"/sys/fs/cgroup/*{name}") + glob.glob(f"/sys/fs/cgroup{name}"):
        for below, _, _ in sorted(os.walk(path), reverse=True):
            try:
                os.rmdir(below)
            except OSError as error:
                print(f"  cgroup {below}: {error.strerror}", flush=True)


def cgroup_processes(name):
    """The processes in cgroup `name` and below it, in any hierarchy."""
    found = set()
    for path in glob.glob(f"/sys/fs/cgroup/*{name}/**/cgroup.procs", recursive=True):
        try:
            with open(path) as f:
                found |= {int(line) for line in f.read().split()}
        except OSError:
            pass  # the cgroup has gone since
    return found


def kill_all(processes):
    """Ends what processes() returns, until it is nothing: a cgroup can go only when its processes have gone."""
    end = time.monotonic() + 10
    while (left := processes()) and time.monotonic() < end:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)


class Runtime:
    """A runtime with its folder; `name` is also that of its bridge, network and cgroup parent."""
    handler = ""
    number = 0

    def __init__(self, folder, name, registry, pause):
        Runtime.number += 1
        self.name, self.folder, self.registry, self.pause = name, f"{folder}/{name}", registry, pause
        self.bridge = f"cb{os.getpid() % 10000}-{name}"[:15]
        self.subnet = f"10.{190 + Runtime.number}.{os.getpid() % 250}.0/24"
        self.cgroup_parent = f"/caisson-bench-{os.getpid()}-{name}"
        self.mark = f"caisson-bench-{os.getpid()}-{name}-main"
        self.cni_dir, self.logs = f"{self.folder}/cni", f"{self.folder}/logs"
        self.root, self.state = f"{self.folder}/root", f"{self.folder}/state"
        for path in (self.cni_dir, self.logs, self.root, self.state, f"{self.folder}/certs.d/{registry.host}"):
            os.makedirs(path)
        with open(f"{self.cni_dir}/10-bench.conflist", "w") as f:
            json.dump(self.conflist(), f)
        with open(f"{self.folder}/certs.d/{registry.host}/hosts.toml", "w") as f:
            f.write(f'server = "http://{registry.host}"\n[host."http://{registry.host}"]\n'
                    'capabilities = ["pull", "resolve"]\n')
        self.process = None

    def conflist(self):
        return {"cniVersion": "1.0.0", "name": f"{self.bridge}-net", "plugins": [
            {"type": "bridge", "bridge": self.bridge, "isGateway": True, "ipMasq": True,
             "ipam": {"type": "host-local", "dataDir": f"{self.folder}/ipam", "ranges": [[{"subnet": self.subnet}]],
                      "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": True}}]}

    def start(self):
        """A fresh daemon on the same root, as after a boot."""
        self.log = open(f"{self.folder}/log", "ab")
        # A session of its own: what the daemon leaves running is found by it when all is over.
        self.process = subprocess.Popen(self.command(), stdout=self.log, stderr=self.log, start_new_session=True)
        wait_for(f"{self.name} listens (log: {self.folder}/log)", self._listens, 60)
        self.bench("wait")

    def _listens(self):
        if self.process.poll() is not None:
            with open(f"{self.folder}/log", errors="replace") as f:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{f.read()[-3000:]}")
        return os.path.exists(self.socket)

    def bench(self, *words, image=""):
        """Runs cri_bench; returns its lines as dictionaries."""
        command = [f"{BIN}/cri_bench", "--socket", self.socket, "--image", image, "--handler", self.handler,
                   "--cgroup-parent", self.cgroup_parent, "--log-dir", self.logs, "--mark", self.mark, *map(str, words)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=900)
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: {' '.join(map(str, words))}: {done.stderr.strip()}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def terminate(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        self.log.close()

    def processes(self):
        """Every process that belongs to this runtime: whose command line or environment names its folder, or that is
        in its cgroups."""
        own = cgroup_processes(self.cgroup_parent)
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as f:
                    if self.folder.encode() in f.read():
                        own.add(int(entry))
            except OSError:
                pass
        return own - {os.getpid()}

    def destroy(self):
        if self.process and self.process.poll() is None:
            try:
                self.bench("clean")
            except RuntimeError as error:
                print(f"  {error}", flush=True)
        self.terminate()
        kill_all(self.processes)
        subprocess.run(["ip", "link", "del", self.bridge], stderr=subprocess.DEVNULL)
        self._unmount()
        remove_cgroups(self.cgroup_parent)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _unmount(self):
        with open("/proc/self/mountinfo") as f:
            points = [line.split()[4] for line in f]
        for point in sorted((p for p in points if p.startswith(self.folder + "/")), reverse=True):
            subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL)


class Caisson(Runtime):
    program = "caissond"

    def __init__(self, folder, registry, pause):
        super().__init__(folder, "caisson", registry, pause)
        self.socket = f"{self.state}/caisson.sock"
        with open(f"{self.folder}/config.toml", "w") as f:
            f.write(f'[cni]\nconf_dir = "{self.cni_dir}"\nbin_dirs = ["{CNI_BIN}"]\n'
                    f'[images]\ncerts_dir = "{self.folder}/certs.d"\n')

    def command(self):
        return [CAISSOND, "--config", f"{self.folder}/config.toml", "--root", self.root, "--state", self.state,
                "--socket", self.socket]

    def daemon_pid(self):
        return self.process.pid

    def version(self):
        return subprocess.run([CAISSOND, "--version"], stdout=subprocess.PIPE, text=True).stdout.strip() or "caissond"


class Containerd(Runtime):
    """Debian's containerd with `low` (runc or crun). It lives in a mount namespace of its own: crun refuses a host with a
    cgroup2 beside cgroup v1, so there that is not mounted; both get the same for fairness."""
    program = "containerd"

    def __init__(self, folder, low, registry, pause):
        super().__init__(folder, low, registry, pause)
        self.low = low
        self.socket = f"{self.state}/containerd.sock"
        binary = shutil.which(low) or f"/usr/sbin/{low}"
        with open(f"{self.folder}/config.toml", "w") as f:
            f.write(f'''version = 2
root = "{self.root}"
state = "{self.state}"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{self.socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
disable_apparmor = true
restrict_oom_score_adj = true
disable_tcp_service = true
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{self.folder}/certs.d"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_BIN}"
conf_dir = "{self.cni_dir}"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "{low}"
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{low}]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{low}.options]
BinaryName = "{binary}"
SystemdCgroup = false
''')

    def command(self):
        # The places that containerd and its shims use beside their root and state are private and vanish with the namespace.
        script = (f"if mountpoint -q {UNIFIED}; then umount {UNIFIED}; fi; set -e; "
                  "for d in /run/netns /run/containerd /var/lib/cni; do mkdir -p $d; mount -t tmpfs tmpfs $d; done; "
                  f"exec containerd --config {self.folder}/config.toml")
        return ["unshare", "-m", "--propagation", "private", "sh", "-c", script]

    def daemon_pid(self):
        return self.process.pid  # unshare and sh have become it by exec

    def version(self):
        first = subprocess.run(["containerd", "--version"], stdout=subprocess.PIPE, text=True).stdout.split()[2]
        second = subprocess.run([self.low, "--version"], stdout=subprocess.PIPE, text=True).stdout.split()[2]
        return f"containerd {first} + {self.low} {second}"


def settle(seconds=1.0):
    """Lets the work of before end (lazy unmounts, RCU, writeback) before something is measured."""
    os.sync()
    time.sleep(seconds)
