# SPDX-License-Identifier: Apache-2.0
"""What must be as before when all pods are gone: processes, mounts, cgroups, namespaces, veths, open sockets' files."""
import os


def _text(path):
    try:
        with open(path, errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def _processes(marker):
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                command = f.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
        except OSError:
            continue
        # A dead orphan is for the host's PID 1 to reap, in its own time.
        if _text(f"/proc/{pid}/stat").rpartition(")")[2].split()[:2] == ["Z", "1"]:
            continue
        # A container's process says nothing of us in its command, but its cgroup does.
        if marker in command or marker in _text(f"/proc/{pid}/cgroup"):
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


def links_of(bridge):
    """The links that are ports of the bridge: the host's ends of pods' veths."""
    folder = f"/sys/class/net/{bridge}/brif"
    return {f"link {name} of {bridge}" for name in os.listdir(folder)} if os.path.isdir(folder) else set()


class Leaks:
    """Leaks(marker...) remembers; check() returns what is new: things whose name has one of the markers, links of a bridge
    of that name."""

    def __init__(self, *markers):
        self.markers = markers
        self.before = self._now()

    def _now(self):
        found = set()
        for marker in self.markers:
            found |= links_of(marker) | _processes(marker) | _mounts(marker) | _cgroups(marker) | _netns(marker)
        return found

    def check(self):
        return sorted(self._now() - self.before)
