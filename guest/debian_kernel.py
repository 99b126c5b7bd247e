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

KERNEL_PACKAGE = "linux-image-cloud-{}"
HOST = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")


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


class Apt:
    """apt for packages of an architecture: this machine's own, or one with lists and a state of its own in the cache, as if on a
    machine of the other architecture that has nothing."""

    def __init__(self, cache, architecture):
        self.own = architecture == HOST
        self.options = ["-q", "-o", "APT::Sandbox::User=root"]
        if not self.own:
            folder = f"{cache}/apt-{architecture}"
            for name in ("lists/partial", "archives/partial"):
                os.makedirs(f"{folder}/{name}", exist_ok=True)
            with open(f"{folder}/status", "a"):
                pass
            for name, value in (("APT::Architecture", architecture), ("APT::Architectures", architecture), ("Dir::State", folder),
                                ("Dir::State::status", f"{folder}/status"), ("Dir::Cache", folder)):
                self.options += ["-o", f"{name}={value}"]

    def show(self, package):
        """What is known of it, or nothing."""
        return subprocess.run(["apt-cache", *self.options, "show", "--no-all-versions", package], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True).stdout

    def update(self):
        """The package lists, where they are missing."""
        return (not self.own or os.getuid() == 0) and subprocess.run(
            ["apt-get", *self.options, "update"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120).returncode == 0

    def download(self, package, folder):
        run("apt-get", *self.options, "download", package, cwd=folder, timeout=120)


class Kernel:
    """A kernel of Debian's, unpacked: `image` (bzImage; arm64: Image), `modules` (…/lib/modules/VERSION), `version`."""

    def __init__(self, tree, architecture=HOST):
        self.tree = tree
        self.architecture = architecture
        self.image = glob.glob(f"{tree}/boot/vmlinuz-*")[0]
        self.version = self.image.partition("vmlinuz-")[2]
        self.modules = f"{tree}/lib/modules/{self.version}"

    @staticmethod
    def get(cache, architecture=HOST):
        """From the cache, or downloaded with apt-get: the newest that the package lists know."""
        with locked(cache):
            apt = Apt(cache, architecture)
            package = Kernel._package(apt, architecture) or (apt.update() and Kernel._package(apt, architecture))
            trees = sorted(glob.glob(f"{cache}/kernel-*-cloud-{architecture}"), key=os.path.getmtime)
            tree = f"{cache}/kernel-{package}" if package else trees[-1] if trees else None
            if tree is None:
                raise Missing(f"apt knows no {KERNEL_PACKAGE.format(architecture)}, and no kernel is in {cache}")
            if not os.path.isdir(tree):
                try:
                    Kernel._download(apt, cache, package, tree)
                except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                    if not trees:
                        raise Missing(f"no kernel: {error}") from error
                    tree = trees[-1]
            for old in trees:
                if old != tree:
                    shutil.rmtree(old)
            return Kernel(tree, architecture)

    @staticmethod
    def _package(apt, architecture):
        found = re.search(rf"^Depends: (linux-image-[\w.-]+-cloud-{architecture})", apt.show(KERNEL_PACKAGE.format(architecture)), re.M)
        return found and found.group(1)

    @staticmethod
    def _download(apt, cache, package, tree):
        with tempfile.TemporaryDirectory(prefix="new-", dir=cache) as folder:
            apt.download(package, folder)
            run("dpkg-deb", "-x", glob.glob(f"{folder}/*.deb")[0], f"{folder}/tree", timeout=60)
            os.rename(f"{folder}/tree", tree)

    def package_version(self):
        """Of the Debian source package, as the kernel's banner has it: "… Debian 6.1.192-2 (2026-11-16)"."""
        with open(self.image, "rb") as f:
            text = f.read() if self.architecture == "arm64" else self.vmlinux() or b""
        found = re.search(rb"Linux version \S+ .{0,400}? Debian (\d[\w.+~-]+) \(", text)
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
        without the decompressor's turn. None where it is compressed otherwise than by LZ4, and on arm64, where the image is as good."""
        if self.architecture == "arm64":
            return None
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
