# SPDX-License-Identifier: Apache-2.0
"""Debian's cloud kernel, fetched once with apt-get and unpacked, never installed; used by tools/build-guest and by the tests
that boot a guest.

    kernel = Kernel.get(cache)      # Missing says why there is none
    kernel.image, kernel.modules, kernel.version
    kernel.module_files(["erofs"])  # with what they depend on, in the order in which they can be loaded"""
import contextlib
import ctypes
import fcntl
import glob
import os
import re
import shutil
import struct
import subprocess
import tempfile

KERNEL_PACKAGE = "linux-image-cloud-amd64"


class Missing(Exception):
    """Why no kernel, or no guest, can be had here; a test skips with it."""


@contextlib.contextmanager
def locked(cache):
    """Two tests that fill the cache at once: the second waits and finds it filled."""
    os.makedirs(cache, exist_ok=True)
    with open(f"{cache}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}")
    return done.stdout


def _update_lists():
    """apt's package lists, where they are missing."""
    return os.getuid() == 0 and subprocess.run(["apt-get", "-q", "update"], stdout=subprocess.DEVNULL,
                                               stderr=subprocess.DEVNULL, timeout=120).returncode == 0


class Kernel:
    """A kernel of Debian's, unpacked: `image` (bzImage), `modules` (…/lib/modules/VERSION), `version`."""

    def __init__(self, tree):
        self.tree = tree
        self.image = glob.glob(f"{tree}/boot/vmlinuz-*")[0]
        self.version = self.image.partition("vmlinuz-")[2]
        self.modules = f"{tree}/lib/modules/{self.version}"

    @staticmethod
    def get(cache):
        """From the cache, or downloaded with apt-get: the newest that the package lists know."""
        with locked(cache):
            package = Kernel._package() or (_update_lists() and Kernel._package())
            trees = sorted(glob.glob(f"{cache}/kernel-*"), key=os.path.getmtime)
            tree = f"{cache}/kernel-{package}" if package else trees[-1] if trees else None
            if tree is None:
                raise Missing(f"apt knows no {KERNEL_PACKAGE}, and no kernel is in {cache}")
            if not os.path.isdir(tree):
                try:
                    Kernel._download(cache, package, tree)
                except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                    if not trees:
                        raise Missing(f"no kernel: {error}") from error
                    tree = trees[-1]
            for old in trees:
                if old != tree:
                    shutil.rmtree(old)
            return Kernel(tree)

    @staticmethod
    def _package():
        lines = subprocess.run(["apt-cache", "show", "--no-all-versions", KERNEL_PACKAGE], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True).stdout
        found = re.search(r"^Depends: (linux-image-[\w.-]+-cloud-amd64)", lines, re.M)
        return found and found.group(1)

    @staticmethod
    def _download(cache, package, tree):
        with tempfile.TemporaryDirectory(prefix="new-", dir=cache) as folder:
            run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package, cwd=folder, timeout=120)
            run("dpkg-deb", "-x", glob.glob(f"{folder}/*.deb")[0], f"{folder}/tree", timeout=60)
            os.rename(f"{folder}/tree", tree)

    def package_version(self):
        """Of the Debian source package, as the kernel's banner has it: "… Debian 6.1.192-2 (2026-11-16)"."""
        found = re.search(rb"Linux version \S+ .{0,400}? Debian (\d[\w.+~-]+) \(", self.vmlinux() or b"")
        if not found:
            raise RuntimeError(f"{self.image}: its banner names no version of Debian's")
        return found.group(1).decode()

    def module_files(self, names):
        """The files of modules, each after those it depends on; what is built in needs none."""
        files = {os.path.basename(path).partition(".ko")[0].replace("-", "_"): path
                 for path in glob.glob(f"{self.modules}/kernel/**/*.ko", recursive=True)}
        order = []

        def add(name):
            path = files.get(name)
            if path is None or path in order:
                return
            with open(path, "rb") as f:
                found = re.search(rb"\0depends=([^\0]*)\0", f.read())
            for other in (found.group(1).decode() if found else "").split(","):
                add(other.replace("-", "_"))
            order.append(path)

        for name in names:
            add(name.replace("-", "_"))
        return order

    def vmlinux(self):
        """The kernel's ELF file from within the bzImage: a VMM that knows PVH (Documentation/x86/boot.rst, "PVH") starts it
        without the decompressor's turn. None where it is compressed otherwise than by LZ4."""
        with open(self.image, "rb") as f:
            image = f.read()
        # setup_sects; payload_offset and payload_length (Documentation/x86/boot.rst)
        start = (image[0x1F1] + 1) * 512
        offset, length = struct.unpack_from("<II", image, 0x248)
        payload = image[start + offset:start + offset + length]
        # The legacy format: blocks of at most 8 MiB, each after its compressed length; the kernel appends the whole's length.
        if payload[:4] != struct.pack("<I", 0x184C2102):
            return None
        lz4 = ctypes.CDLL("liblz4.so.1")
        out, at, room = bytearray(), 4, ctypes.create_string_buffer(8 << 20)
        while at + 4 < len(payload):
            size, = struct.unpack_from("<I", payload, at)
            block = payload[at + 4:at + 4 + size]
            got = lz4.LZ4_decompress_safe(block, room, len(block), len(room))
            if got < 0:
                raise RuntimeError(f"{self.image}: bad compressed data")
            out += room.raw[:got]
            at += 4 + size
        if out[:4] != b"\x7fELF":
            raise RuntimeError(f"{self.image}: no ELF file inside")
        return bytes(out)
