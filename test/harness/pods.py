# SPDX-License-Identifier: Apache-2.0
"""Pods and containers for tests, in a few words: pods.run_pod(...), pods.run(pod, ["sh", "-c", …])."""
import os
import uuid

from .handler import DEFAULT, VMS
from .registry import wait_for


class Pods:
    def __init__(self, daemon, image=None):
        self.daemon, self.client = daemon, daemon.client
        self.api = daemon.client.api
        self.image = image or getattr(daemon, "image", None)
        self.made = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove_all()

    def pod_config(self, name=None, host_network=False, **extra):
        """`host_network`: for speed. A test that is about the host's network is marked `native`."""
        name = name or f"pod-{uuid.uuid4().hex[:8]}"
        logs = f"{self.daemon.folder}/logs/{name}"
        config = {
            "metadata": {"name": name, "uid": uuid.uuid4().hex, "namespace": "default", "attempt": 0},
            "hostname": name, "log_directory": logs,
            "linux": {"cgroup_parent": self.daemon.cgroup_parent,
                      "security_context": {"namespace_options": {"network": 2 if host_network and not VMS else 0, "pid": 1}}},
        }
        linux = extra.pop("linux", None)
        if linux:
            merge(config["linux"], linux)
        config.update(extra)
        return config

    def run_pod(self, config=None, handler=DEFAULT, **options):
        """Returns (id, config)."""
        config = config or self.pod_config(**options)
        os.makedirs(config.get("log_directory") or self.daemon.folder, exist_ok=True)
        pod = self.client.RunPodSandbox(config=config, runtime_handler=handler).pod_sandbox_id
        self.made.append(pod)
        return pod, config

    def container_config(self, command=None, name=None, image=None, **extra):
        name = name or f"c-{uuid.uuid4().hex[:8]}"
        config = {"metadata": {"name": name, "attempt": 0}, "image": {"image": image or self.image, "user_specified_image": image or self.image},
                  "log_path": f"{name}.log", "linux": {}}
        if command is not None:
            config["command"] = command
        config.update(extra)
        return config

    def create(self, pod, command=None, **extra):
        pod, config = pod
        return self.client.CreateContainer(pod_sandbox_id=pod, sandbox_config=config,
                                           config=self.container_config(command, **extra)).container_id

    def start(self, pod, command=None, **extra):
        container = self.create(pod, command, **extra)
        self.client.StartContainer(container_id=container)
        return container

    def status(self, container):
        return self.client.ContainerStatus(container_id=container).status

    def wait_exit(self, container, seconds=30):
        """The status once the container has ended."""
        exited = self.api.enum("ContainerState")["CONTAINER_EXITED"]
        wait_for(f"container {container} ends", lambda: self.status(container).state == exited, seconds)
        return self.status(container)

    def wait_line(self, container, text, seconds=30):
        """Until the container has written the line: what it does before is done then."""
        path = self.status(container).log_path
        wait_for(f"container {container} writes '{text}'",
                 lambda: os.path.exists(path) and any(line.text == text for line in read_log(path)), seconds)

    def run(self, pod, command, **extra):
        """Runs to the end; returns (status, log lines)."""
        container = self.start(pod, command, **extra)
        status = self.wait_exit(container)
        return status, self.log(status.log_path)

    def out(self, pod, command, **extra):
        """Standard output of a command that must succeed."""
        status, log = self.run(pod, command, **extra)
        text = "".join(line.text + ("\n" if line.full else "") for line in log if line.stream == "stdout")
        assert status.exit_code == 0, (status.exit_code, status.reason, status.message,
                                       [line.text for line in log])
        return text

    def exec(self, container, command, timeout=0):
        reply = self.client.ExecSync(container_id=container, cmd=command, timeout=timeout)
        return reply.exit_code, reply.stdout.decode("utf-8", "replace"), reply.stderr.decode("utf-8", "replace")

    @staticmethod
    def log(path):
        return read_log(path)

    def remove_all(self):
        while self.made:
            pod = self.made.pop()
            self.client.StopPodSandbox(pod_sandbox_id=pod)
            self.client.RemovePodSandbox(pod_sandbox_id=pod)


class Line:
    def __init__(self, raw):
        self.time, self.stream, tag, self.text = raw.split(" ", 3)
        assert self.stream in ("stdout", "stderr") and tag in ("F", "P"), raw
        self.full = tag == "F"


def read_log(path):
    with open(path, errors="replace", newline="\n") as f:
        # The piece behind the last line end is one that is just being written.
        return [Line(raw) for raw in f.read().rpartition("\n")[0].split("\n") if raw]


def merge(into, more):
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value
