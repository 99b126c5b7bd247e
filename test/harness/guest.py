# SPDX-License-Identifier: Apache-2.0
"""A real Linux guest under QEMU: Debian's cloud kernel, an initramfs, a root disk made of the host's Debian packages.

    kernel = Kernel.get(cache)                     # fetched once, never installed
    root = root_image(cache, kernel, ["systemd", "python3"])
    guest = Guest(kernel, initramfs(f"{folder}/initrd", kernel, MODULES, INIT), disks=[root, Disk(scratch, True)])
    output = guest.run(command_line, seconds=240)  # what the guest wrote to its console; QEMU is killed at the deadline

QEMU runs as nobody, with a system call filter, without a network; what it may open it gets as descriptors. Missing() says
why there can be no guest. Linux/x86 microvm with TCG: nested or slow KVM is worse than none, and CI has no other."""
import glob
import hashlib
import os
import re
import selectors
import shutil
import stat
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "guest"))
from cpio import Cpio  # noqa: E402
from debian_kernel import Kernel, Missing, locked, run as _run  # noqa: E402

QEMU = "qemu-system-x86_64"
TOOLS = (QEMU, "mkfs.erofs", "mkfs.ext4", "depmod", "busybox", "dpkg-deb", "dpkg-query")
# Seconds without a word on the console after which a guest is taken for dead.
SILENCE = 600
# What the initramfs needs to reach the root disk; the rest is loaded from there by name.
BOOT_MODULES = ("virtio_mmio", "virtio_blk", "virtio_console", "virtio_rng", "erofs", "ext4", "overlay")


def check_tools():
    if os.uname().machine != "x86_64":
        raise Missing(f"guests are made for x86_64 only, not for {os.uname().machine}")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=path)]
    if missing:
        raise Missing(f"not installed: {' '.join(missing)} (tools/install-deps installs them)")


def initramfs(path, kernel, init, modules=BOOT_MODULES, files=None):
    """Writes an initramfs with busybox, `modules` (loaded by `init` in the order of /modules) and the shell script `init`;
    `files`: {name: bytes} more."""
    cpio = Cpio()
    for name in ("bin", "dev", "proc", "sys", "run", "mnt", "lib"):
        cpio.add(name, stat.S_IFDIR | 0o755)
    cpio.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    with open(shutil.which("busybox"), "rb") as f:
        cpio.add("bin/busybox", stat.S_IFREG | 0o755, f.read())
    cpio.add("bin/sh", stat.S_IFLNK | 0o777, b"busybox")
    order = kernel.module_files(modules)
    for file in order:
        with open(file, "rb") as f:
            cpio.add(f"lib/{os.path.basename(file)}", stat.S_IFREG | 0o644, f.read())
    cpio.add("modules", stat.S_IFREG | 0o644, "".join(f"{os.path.basename(file)}\n" for file in order).encode())
    for name, data in (files or {}).items():
        cpio.add(name, stat.S_IFREG | 0o755, data)
    cpio.add("init", stat.S_IFREG | 0o755, init.encode())
    with open(path, "wb") as f:
        f.write(cpio.end())
    return path


def package_closure(roots):
    """Installed packages that `roots` need, with versions: {name: version}."""
    fields = "${db:Status-Status}\t${Package}\t${Version}\t${Depends}, ${Pre-Depends}\t${Provides}\n"
    needs, versions, providers = {}, {}, {}
    for line in _run("dpkg-query", "-W", "-f", fields).splitlines():
        status, name, version, depends, provides = line.split("\t")
        if status != "installed":
            continue
        versions[name] = version
        needs[name] = [[re.split(r"[\s:(]", one.strip())[0] for one in group.split("|")] for group in depends.split(",")]
        for one in provides.split(","):
            providers.setdefault(one.strip().split(" ")[0], name)
    closure, left = {}, list(roots)
    missing = [name for name in roots if name not in versions]
    if missing:
        raise Missing(f"not installed: {' '.join(missing)} (tools/install-deps installs them)")
    while left:
        name = left.pop()
        if name in closure:
            continue
        closure[name] = versions[name]
        for group in needs[name]:
            found = [one if one in versions else providers[one] for one in group if one in versions or one in providers]
            left += found[:1]
    return closure


def packages_of(binaries):
    """The packages of the shared libraries that `binaries` are linked with."""
    # ldd's status is 1 where one is linked statically.
    listed = subprocess.run(["ldd", *binaries], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    found = re.findall(r"=> \S*/([^/\s]+) ", listed)
    lines = _run("dpkg-query", "-S", *[f"*/{name}" for name in sorted(set(found))]).splitlines()
    return sorted({re.split(r"[:,]", line)[0] for line in lines})


# Left out of a root image: nothing reads it there.
SKIPPED = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/", "/usr/share/lintian/",
           "/usr/include/", "/usr/share/zoneinfo/", "/usr/share/bug/", "/usr/lib/udev/hwdb.d/", "/etc/")
# Of /etc only what the packages' files need to work; nothing of this host's own.
ETC = ("alternatives", "ld.so.conf", "ld.so.conf.d", "ld.so.cache", "protocols", "services", "ssl/openssl.cnf", "systemd",
       "pam.d", "iproute2", "python3", "xtables", "ethertypes")
ETC_FILES = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
              "messagebus:x:100:100::/nonexistent:/bin/false\n",
    "group": "root:x:0:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nkmem:x:15:\nutmp:x:43:\nnogroup:x:65534:\nmessagebus:x:100:\n",
    "hosts": "127.0.0.1 localhost\n", "hostname": "guest\n", "resolv.conf": "", "fstab": "",
    "machine-id": "0123456789abcdef0123456789abcdef\n", "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def _copy(path, stage):
    """One file, folder (itself only) or link of the host's, at its place below `stage`."""
    target = stage + path
    info = os.lstat(path)
    if stat.S_ISDIR(info.st_mode):
        os.makedirs(target, exist_ok=True)
        os.chmod(target, stat.S_IMODE(info.st_mode))
    elif not os.path.lexists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(path), target)
        elif stat.S_ISREG(info.st_mode):
            shutil.copyfile(path, target)
            os.chmod(target, stat.S_IMODE(info.st_mode))


def _stage_packages(stage, packages):
    # A merged /usr (Debian 12): packages still name files below /lib.
    for name in ("bin", "sbin", "lib", "lib64"):
        os.makedirs(f"{stage}/usr/{name}", exist_ok=True)
        os.symlink(f"usr/{name}", f"{stage}/{name}")
    for path in _run("dpkg-query", "-L", *packages).splitlines():
        if path.startswith("/") and not path.startswith(SKIPPED) and os.path.lexists(path) and path not in ("/.", "/lib64"):
            _copy(os.path.realpath(os.path.dirname(path)) + "/" + os.path.basename(path), stage)
    for name in ETC:
        base = f"/etc/{name}"
        for path in [base] + glob.glob(f"{base}/**", recursive=True):
            if os.path.lexists(path):
                _copy(path.rstrip("/"), stage)
    os.makedirs(f"{stage}/etc", exist_ok=True)
    for name, text in ETC_FILES.items():
        with open(f"{stage}/etc/{name}", "w") as f:
            f.write(text)


def root_image(cache, kernel, packages):
    """An EROFS image of `packages` and all they need, as they are installed here, and of the kernel's modules. Of each set
    of versions one is made; older ones are removed."""
    closure = package_closure(packages)
    with open(__file__, "rb") as f:
        key = hashlib.sha256(repr((sorted(closure.items()), kernel.version)).encode() + f.read()).hexdigest()[:16]
    with locked(cache):
        path = f"{cache}/root-{key}.erofs"
        if os.path.exists(path):
            return path
        for old in glob.glob(f"{cache}/root-*"):
            os.unlink(old)
        with tempfile.TemporaryDirectory(prefix="new-", dir=cache) as stage:
            os.chmod(stage, 0o755)
            for name in ("dev", "proc", "sys", "run", "tmp", "mnt", "root", "var/tmp", "var/log", "scratch", "caisson"):
                os.makedirs(f"{stage}/{name}")
            _stage_packages(stage, sorted(closure))
            shutil.copytree(kernel.modules, f"{stage}/usr/lib/modules/{kernel.version}", symlinks=True)
            _run("depmod", "-b", stage, kernel.version)
            for folder in glob.glob(f"{stage}/usr/lib/python3*"):
                compile_python(folder)
            erofs(f"{path}.new", stage)
        os.rename(f"{path}.new", path)
        return path


def compile_python(folder):
    """Compiled in advance, for an emulated processor is slow at it; unchecked, for the image has no times of its own."""
    _run("/usr/bin/python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", folder)


def erofs(path, folder):
    _run("mkfs.erofs", "-T0", "--quiet", path, folder)
    return path


def scratch_disk(path, size):
    """A sparse ext4 disk that a guest may write to."""
    with open(path, "wb") as f:
        f.truncate(size)
    _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-O", "^has_journal", path)
    return path


class Guest:
    """One run of QEMU. `disks`: paths (read-only) or (path, True) for those it may write to; a guest knows them by their
    serial numbers disk0, disk1, … (/sys/block/*/serial), for the kernel's names are in no promised order."""

    def __init__(self, kernel, initrd, disks, memory_mib=1536, cpus=2):
        self.kernel, self.initrd, self.disks = kernel, initrd, disks
        self.memory_mib, self.cpus = memory_mib, cpus

    def _command(self, append, fds):
        """QEMU's arguments; what it opens goes to `fds` as descriptors."""
        def opened(path, flags=os.O_RDONLY):
            fds.append(os.open(path, flags | os.O_CLOEXEC))
            return fds[-1]

        command = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-monitor", "none",
                   "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
                   "-M", "microvm", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-smp", str(self.cpus),
                   "-m", str(self.memory_mib), "-serial", "stdio",
                   "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-device,rng=rng",
                   "-kernel", f"/proc/self/fd/{opened(self.kernel.image)}", "-initrd", f"/proc/self/fd/{opened(self.initrd)}",
                   "-append", f"console=ttyS0 quiet panic=-1 reboot=t tsc_early_khz={_host_khz()} tsc=reliable cryptomgr.notests {append}"]
        for number, disk in enumerate(self.disks):
            path, writable = disk if isinstance(disk, tuple) else (disk, False)
            fd = opened(path, os.O_RDWR if writable else os.O_RDONLY)
            command += ["-add-fd", f"fd={fd},set={number}",
                        "-blockdev", f"driver=file,node-name=d{number},filename=/dev/fdset/{number},cache.no-flush=on,"
                        f"read-only={'off' if writable else 'on'}",
                        "-device", f"virtio-blk-device,drive=d{number},serial=disk{number}"]
        return command

    def run(self, append, seconds, mark=None):
        """Boots and returns (console text, None), or (text so far, why it was ended) once `seconds` have passed. `mark(line)`
        is called with each line as it comes."""
        fds = []
        try:
            command = self._command(append, fds)
            options = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
            qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                    pass_fds=fds, cwd="/", start_new_session=True, **options)
        finally:
            for fd in fds:
                os.close(fd)
        try:
            return self._follow(qemu, time.monotonic() + seconds, seconds, mark)
        finally:
            qemu.kill()
            qemu.wait()
            qemu.stdout.close()

    @staticmethod
    def _follow(qemu, end, seconds, mark):
        text, seen, heard = bytearray(), 0, time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(qemu.stdout, selectors.EVENT_READ)
            while True:
                now = time.monotonic()
                if now > end:
                    return text.decode("utf-8", "replace"), f"the guest did not end within {seconds} s"
                if now > heard + SILENCE:
                    return text.decode("utf-8", "replace"), f"the guest was silent for {SILENCE} s"
                if not selector.select(min(end, heard + SILENCE) - now):
                    continue
                heard = time.monotonic()
                data = os.read(qemu.stdout.fileno(), 65536)
                if not data:
                    status = qemu.wait()
                    return text.decode("utf-8", "replace"), None if status == 0 else f"QEMU ended with {status}"
                text += data
                while mark and (line_end := text.find(b"\n", seen)) >= 0:
                    mark(text[seen:line_end].decode("utf-8", "replace").rstrip("\r"))
                    seen = line_end + 1


def _host_khz():
    """The TSC calibration of a guest under TCG may hang; told the frequency it measures nothing."""
    with open("/proc/cpuinfo") as f:
        found = re.search(r"cpu MHz\s*: ([\d.]+)", f.read())
    return int(float(found.group(1)) * 1000) if found else 2_500_000


if __name__ == "__main__":
    # guest.py CACHE: what needs the network, in advance.
    try:
        check_tools()
        print(f"guest kernel: {Kernel.get(sys.argv[1]).version}")
    except (Missing, subprocess.TimeoutExpired) as missing:
        print(f"tests in a guest will be skipped: {missing}")
