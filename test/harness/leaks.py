# SPDX-License-Identifier: Apache-2.0
"""What must be as before when all pods are gone: processes, mounts, cgroups, namespaces, veths, open sockets' files."""
import os


def _processes(marker):
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                command = f.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
        except OSError:
            continue
        if marker in command:
            found.add(f"process {pid}: {command[:200]}")
    return found


def _mounts(marker):
    with open("/proc/self/mountinfo") as f:
        return {f"mount {line.split()[4]}" for line in f if marker in line}


def _cgroups(marker):
    found = set()
    for base, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            if marker in os.path.join(base, name):
                found.add(f"cgroup {base}/{name}")
    return found


def _netns(marker):
    return {f"file {path}" for path in _tree("/run/netns") if marker in path}


def _tree(path):
    return [os.path.join(base, leaf) for base, _, leaves in os.walk(path) for leaf in leaves]


def _links():
    return {f"link {name}" for name in os.listdir("/sys/class/net") if name.startswith("veth")}


class Leaks:
    """Leaks(marker...) remembers; check() returns what is new: things whose name has one of the markers."""

    def __init__(self, *markers):
        self.markers = markers
        self.before = self._now()

    def _now(self):
        found = _links()
        for marker in self.markers:
            found |= _processes(marker) | _mounts(marker) | _cgroups(marker) | _netns(marker)
        return found

    def check(self):
        return sorted(self._now() - self.before)
