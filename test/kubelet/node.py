# SPDX-License-Identifier: Apache-2.0
"""A node of a test's own: caissond and a kubelet in standalone mode, in a mount namespace of theirs."""
import contextlib
import json
import os
import ssl
import subprocess
import urllib.error
import urllib.parse
import urllib.request

from harness import go_tool
from harness.daemon import BUILD, Daemon
from harness.handler import VMS
from harness.registry import free_port, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))

# What a kubelet sets at its start, for all of the host: it sees other files, which have these values already.
TUNABLES = {"vm/overcommit_memory": 1, "vm/panic_on_oom": 0, "kernel/panic": 10, "kernel/panic_on_oops": 1,
            "kernel/keys/root_maxkeys": 1000000, "kernel/keys/root_maxbytes": 25000000}

# Folders that a kubelet uses by fixed names.
PRIVATE = ["/var/lib", "/var/log"]

NAME = "node"


def build(seconds=3000):
    """The kubelet's path."""
    verb = ["build", "-p", "2", "-tags", "grpcnotrace"]
    return go_tool.build("k8s.io/kubernetes/cmd/kubelet", HERE, f"{BUILD}/kubelet/kubelet", verb, {"CGO_ENABLED": "0"}, seconds)


class MountNamespace:
    """A mount namespace in which the kubelet's fixed paths and tunables are private; it lasts until close()."""

    def __init__(self, folder):
        commands = ["set -e", "mount --make-rshared /"]
        for path in PRIVATE:
            own = folder + path
            os.makedirs(own)
            commands.append(f"mount --bind {own} {path}")
        commands += ["echo made", "exec cat"]
        # It ends when its input does, so that it does not outlive us.
        self.process = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(commands)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "made\n"
        self.enter = ["nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", "--"]

    def with_tunables(self, folder):
        """A command as `enter`, for the kubelet: /proc of its own, so that nobody else sees what lies over it (a container in a
        user namespace could not mount another, mount_namespaces(7)); all other mounts are the namespace's."""
        commands = ["set -e", "mount --make-private /proc"]
        for name, value in TUNABLES.items():
            own = f"{folder}/{name.replace('/', '.')}"
            with open(own, "w") as f:
                f.write(f"{value}\n")
            commands.append(f"mount --bind {own} /proc/sys/{name}")
        return [*self.enter, "unshare", "--mount", "--propagation", "unchanged", "sh", "-c",
                "\n".join([*commands, 'exec "$@"']), "sh"]

    def mounts(self):
        with open(f"/proc/{self.process.pid}/mountinfo") as f:
            return [line.split()[4] for line in f]

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


class Kubelet:
    def __init__(self, program, folder, daemon, namespace, features=None, **config):
        self.folder, self.program, self.namespace, self.daemon = folder, program, namespace, daemon
        self.manifests = f"{folder}/manifests"
        self.root = f"{folder}/kubelet"
        self.logs = f"{folder}/pod-logs"
        os.makedirs(self.manifests)
        self.port = free_port()
        # Beside what docs/kubelet.md says: folders, ports and groups of the test's own; and all that takes time takes less.
        self.config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{daemon.socket}",
            "staticPodPath": self.manifests, "podLogsDir": self.logs, "port": self.port, "healthzPort": 0,
            "cgroupRoot": daemon.cgroup_parent, "failCgroupV1": False, "resolvConf": f"{folder}/resolv.conf",
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "containerLogMaxSize": "20Ki", "containerLogMaxFiles": 3, "containerLogMonitorInterval": "3s",
            "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"}, "syncFrequency": "5s", "volumeStatsAggPeriod": "2s",
            "featureGates": {"PodAndContainerStatsFromCRI": False, "KubeletCrashLoopBackOffMax": True, **(features or {})}, **config,
        }
        with open(f"{folder}/resolv.conf", "w") as f:
            f.write("nameserver 127.0.0.1\n")
        self.process = self.log = None

    def start(self):
        # cgroupRoot must be there, in each hierarchy.
        for hierarchy in hierarchies():
            os.makedirs(hierarchy + self.daemon.cgroup_parent, exist_ok=True)
        with open(f"{self.folder}/kubelet.yaml", "w") as f:
            f.write(documented())
        os.makedirs(f"{self.folder}/kubelet.d", exist_ok=True)
        with open(f"{self.folder}/kubelet.d/10-test.conf", "w") as f:
            json.dump(self.config, f, indent=1)
        self.log = open(f"{self.folder}/kubelet.log", "ab")
        self.process = subprocess.Popen(
            [*self.namespace.with_tunables(self.folder), self.program, "--config", f"{self.folder}/kubelet.yaml",
             "--config-dir", f"{self.folder}/kubelet.d", "--root-dir", self.root, "--cert-dir", f"{self.folder}/pki",
             "--hostname-override", NAME, "--node-ip", "127.0.0.1", "--v", "2"],
            stdout=self.log, stderr=self.log)
        wait_for(f"the kubelet answers (log: {self.folder}/kubelet.log)", self._answers, 120)
        return self

    def _answers(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"the kubelet ended with {self.process.returncode}:\n{self.log_text()[-3000:]}")
        try:
            return self.get("/healthz") == "ok"
        except OSError:
            return False

    def log_text(self):
        with open(f"{self.folder}/kubelet.log", errors="replace") as f:
            return f.read()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        if self.log:
            self.log.close()

    def request(self, method, path, body=None):
        """(status, text) of its HTTPS port."""
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60, context=ssl._create_unverified_context()) as reply:
                return reply.status, reply.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode("utf-8", "replace")

    def get(self, path):
        status, text = self.request("GET", path)
        assert status == 200, f"{path}: {status} {text}"
        return text

    def get_json(self, path):
        return json.loads(self.get(path))


def missing_controllers():
    """Of those that a kubelet asks for, what the root of a v2 hierarchy does not hand down."""
    if not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return []
    with open("/sys/fs/cgroup/cgroup.subtree_control") as f:
        return sorted({"cpu", "cpuset", "memory", "pids"} - set(f.read().split()))


def documented():
    """The configuration of docs/kubelet.md for a node without an API server."""
    with open(f"{HERE}/../../docs/kubelet.md") as f:
        return f.read().split("## Without an API server")[1].split("```yaml\n")[1].split("```")[0]


def hierarchies():
    """Where the cgroup hierarchies are mounted: one, or one per controller."""
    with open("/proc/self/mountinfo") as f:
        mounts = [line.split() for line in f]
    return [m[4] for m in mounts if m[m.index("-") + 1] in ("cgroup", "cgroup2") and m[4].startswith("/sys/fs/cgroup")]


class Node:
    """The daemon, the kubelet, and static pods by name."""

    def __init__(self, program, folder, image, features=None, **config):
        self.folder, self.image = folder, image
        self.namespace = MountNamespace(folder)
        self.mounts = sorted(self.namespace.mounts())
        self.daemon = Daemon(folder, config='default_handler = "caisson-vm"\n' if VMS else "", prefix=self.namespace.enter)
        self.kubelet = Kubelet(program, folder, self.daemon, self.namespace, features, **config)
        try:
            self.kubelet.start()
        except BaseException:
            self.close()
            raise

    def put(self, name, containers, **spec):
        """Writes a static pod; `containers`: each a dict of the pod API. Returns the name that the kubelet gives it."""
        annotations = spec.pop("annotations", {})
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "annotations": annotations,
                                                               "labels": {"app": name}},
               "spec": {"terminationGracePeriodSeconds": 5, **spec,
                        "containers": [self._container(c) for c in containers],
                        "initContainers": [self._container(c) for c in spec.get("initContainers", ())]}}
        # Beside the folder first: the kubelet must not see half a file.
        with open(f"{self.folder}/{name}.json", "w") as f:
            json.dump(pod, f)
        os.rename(f"{self.folder}/{name}.json", f"{self.kubelet.manifests}/{name}.json")
        return f"{name}-{NAME}"

    def _container(self, container):
        return {"image": self.image, "imagePullPolicy": "IfNotPresent", **container}

    def remove(self, name):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.kubelet.manifests}/{name}.json")

    def pod(self, name):
        """The pod as the kubelet shows it; None: it knows of none."""
        for pod in self.kubelet.get_json("/pods")["items"] or []:
            if pod["metadata"]["name"] == f"{name}-{NAME}":
                return pod
        return None

    def containers(self, name):
        """{container: its status}, those of init containers too."""
        status = (self.pod(name) or {}).get("status", {})
        found = status.get("initContainerStatuses", []) + status.get("containerStatuses", [])
        return {s["name"]: s for s in found}

    def condition(self, name, kind):
        conditions = (self.pod(name) or {}).get("status", {}).get("conditions", [])
        return any(c["type"] == kind and c["status"] == "True" for c in conditions)

    def ready(self, name):
        return self.condition(name, "Ready")

    def wait_ready(self, name, seconds=120):
        self._wait(f"pod {name} is ready", name, lambda: self.ready(name), seconds)

    def wait_status(self, name, what, condition, seconds=120):
        """Until condition({container: status}) holds."""
        self._wait(f"pod {name}: {what}", name, lambda: condition(self.containers(name)), seconds)

    def _wait(self, what, name, condition, seconds):
        try:
            wait_for(what, condition, seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{json.dumps((self.pod(name) or {}).get('status'), indent=1)}\n"
                               f"kubelet: {self.kubelet.log_text()[-6000:]}\n"
                               f"caissond: {self.daemon.log_text()[-3000:]}") from None

    def run(self, name, container, *command):
        """What the command writes, by the kubelet's /run."""
        query = urllib.parse.urlencode([("cmd", word) for word in command])
        command = urllib.parse.quote(" ".join(command))
        status, text = self.kubelet.request("POST", f"/run/default/{name}-{NAME}/{container}?cmd={command}", b"")
        assert status == 200, (status, text)
        return text

    def end(self, name, container):
        """SIGTERM to the container's first process."""
        # The command may be gone with its container before it has ended by itself: whatever the answer is.
        self.kubelet.request("POST", f"/run/default/{name}-{NAME}/{container}?cmd=kill%20-TERM%201", b"")

    def logs(self, name, container, **query):
        return self.kubelet.get(f"/containerLogs/default/{name}-{NAME}/{container}?{urllib.parse.urlencode(query)}")

    def sandboxes(self, name):
        """The pod's sandboxes as the runtime has them."""
        return [p for p in self.daemon.client.ListPodSandbox().items if p.metadata.name == f"{name}-{NAME}"]

    def close(self):
        """All gone; returns what was left behind in the namespace."""
        try:
            for manifest in os.listdir(self.kubelet.manifests):
                os.unlink(f"{self.kubelet.manifests}/{manifest}")
            if self.kubelet.process and self.kubelet.process.poll() is None:
                wait_for("the kubelet ends its pods and removes what it made for them", self._clean, 120)
        finally:
            self.kubelet.stop()
            self.daemon.destroy()
            self._remove_kubepods()
            left = sorted(self.namespace.mounts())
            self.namespace.close()
        return [f"mount {m}" for m in left if m not in self.mounts]

    def _clean(self):
        ready = self.daemon.client.api.enum("PodSandboxState")["SANDBOX_READY"]
        return not (any(p.state == ready for p in self.daemon.client.ListPodSandbox().items) or os.listdir(f"{self.kubelet.root}/pods")
                    or [group for group in self.cgroups() if "/pod" in group])

    def cgroups(self):
        return [base for base, _, _ in os.walk("/sys/fs/cgroup") if self.daemon.marker in base]

    def _remove_kubepods(self):
        """The groups that the kubelet makes for all pods; what is below stays to be seen as a leak."""
        for hierarchy in hierarchies():
            base = hierarchy + self.daemon.cgroup_parent
            for group in ("/kubepods/besteffort", "/kubepods/burstable", "/kubepods", ""):
                with contextlib.suppress(OSError):
                    os.rmdir(base + group)
