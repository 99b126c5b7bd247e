# SPDX-License-Identifier: Apache-2.0
"""OCI bundles, and the command line of our OCI runtime on them."""
import ctypes
import json
import os
import select
import subprocess

from .daemon import BIN, SYSTEMD
from .images import APPLETS, BUSYBOX

PROGRAM = f"{BIN}/caisson-oci"


def become_subreaper():
    """What `create` and `exec --detach` leave behind becomes our child, as that of containerd's shim."""
    PR_SET_CHILD_SUBREAPER = 36
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def exit_code(pid, seconds=30):
    """Waits for a process that `create` or `exec --detach` has left to us."""
    pidfd = os.pidfd_open(pid)
    try:
        assert select.select([pidfd], [], [], seconds)[0], f"process {pid} does not end"
    finally:
        os.close(pidfd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def make_rootfs(path):
    for folder in ("bin", "etc", "proc", "sys", "dev", "tmp", "root"):
        os.makedirs(f"{path}/{folder}")
    os.chmod(f"{path}/tmp", 0o1777)
    os.link(BUSYBOX, f"{path}/bin/busybox") if os.stat(BUSYBOX).st_dev == os.stat(path).st_dev else None
    if not os.path.exists(f"{path}/bin/busybox"):
        with open(BUSYBOX, "rb") as source, open(f"{path}/bin/busybox", "wb") as target:
            target.write(source.read())
        os.chmod(f"{path}/bin/busybox", 0o755)
    for applet in APPLETS:
        os.symlink("busybox", f"{path}/bin/{applet}")
    with open(f"{path}/etc/passwd", "w") as f:
        f.write("root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/tmp:/bin/sh\n")
    with open(f"{path}/etc/group", "w") as f:
        f.write("root:x:0:\nweb:x:1000:\nextra:x:2000:web\n")


class Bundle:
    """A folder with rootfs/ and config.json; `spec` is the latter, written again by save()."""

    def __init__(self, path, rootfs, spec_flags=()):
        os.makedirs(path)
        self.path = path
        subprocess.run([PROGRAM, "spec", "--bundle", path, *spec_flags], check=True, timeout=30)
        with open(f"{path}/config.json") as f:
            self.spec = json.load(f)
        self.spec["root"]["path"] = rootfs
        self.spec["process"]["terminal"] = False

    def args(self, *args):
        self.spec["process"]["args"] = list(args)
        return self.save()

    def script(self, text):
        return self.args("sh", "-c", text)

    def save(self):
        with open(f"{self.path}/config.json", "w") as f:
            json.dump(self.spec, f)
        return self


class Runtime:
    """`caisson-oci` with a root folder and a log of its own."""

    def __init__(self, folder):
        self.folder, self.root, self.log, self.program = folder, f"{folder}/root", f"{folder}/log.json", PROGRAM

    def command(self, *words):
        driver = ["--systemd-cgroup"] if SYSTEMD else []
        return [self.program, "--root", self.root, "--log", self.log, "--log-format", "json", *driver, *map(str, words)]

    def run(self, *words, timeout=60, stdin=subprocess.DEVNULL, **kw):
        if "input" in kw:
            stdin = None
        return subprocess.run(self.command(*words), timeout=timeout, **({"stdin": stdin} if stdin else {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)

    def quiet(self, *words, **kw):
        """For what leaves a process behind, which would hold our pipes open."""
        return subprocess.run(self.command(*words), timeout=60, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, **kw)

    def ok(self, *words, **kw):
        done = self.run(*words, **kw)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def refused(self, *words, **kw):
        """Its message, which is on stderr and in the log alike."""
        done = self.run(*words, **kw)
        assert done.returncode != 0, (words, done.stdout)
        message = self.last_error()
        assert message in done.stderr
        return message

    def last_error(self):
        with open(self.log) as f:
            last = json.loads(f.read().splitlines()[-1])
        assert set(last) == {"level", "msg", "time"} and last["level"] == "error"
        return last["msg"]

    def create(self, name, bundle, *flags, **kw):
        done = self.quiet("create", "--bundle", bundle.path, "--pid-file", f"{self.folder}/{name}.pid", *flags, name, **kw)
        assert done.returncode == 0, self.last_error()
        with open(f"{self.folder}/{name}.pid") as f:
            return int(f.read())

    def start(self, name, bundle, *flags, **kw):
        pid = self.create(name, bundle, *flags, **kw)
        self.ok("start", name)
        return pid

    def state(self, name):
        return json.loads(self.ok("state", name))

    def status(self, name):
        return self.state(name)["status"]
