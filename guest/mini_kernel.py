# SPDX-License-Identifier: Apache-2.0
"""The small guest kernel: Debian's linux-source-6.1 with guest/kernel-mini.config, built once and kept in the cache: five minutes
of two cores. It needs linux-source's archive (downloaded, not installed) and make, gcc, flex, bison, bc, libelf-dev.

    kernel = MiniKernel.get(cache)   # Missing says what is not there
    kernel.vmlinux()                 # as debian_kernel.Kernel; it has no modules"""
import glob
import hashlib
import os
import re
import shutil
import subprocess
import tempfile

from debian_kernel import Missing, locked, run

SOURCE_PACKAGE = "linux-source-6.1"
CONFIG = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernel-mini.config")
TOOLS = ("make", "gcc", "flex", "bison", "bc", "xz")
# The same bytes each time (Documentation/kbuild/reproducible-builds.rst).
ENVIRONMENT = {"KBUILD_BUILD_TIMESTAMP": "1970-01-01", "KBUILD_BUILD_USER": "caisson", "KBUILD_BUILD_HOST": "caisson", "KBUILD_BUILD_VERSION": "1"}


def wanted(text):
    """{option: value} of a configuration's lines."""
    return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.M))


class MiniKernel:
    """`version`, `vmlinux()`, and no modules."""

    modules = None

    def __init__(self, folder):
        self.folder = folder
        with open(f"{folder}/version", encoding="utf-8") as f:
            self.version, self._package_version = f.read().split()

    def package_version(self):
        """Of the source's Debian package."""
        return self._package_version

    def vmlinux(self):
        with open(f"{self.folder}/vmlinux", "rb") as f:
            return f.read()

    @staticmethod
    def module_files(_):
        return []

    @staticmethod
    def get(cache):
        # A folder and a lock of its own: who wants Debian's kernel does not wait for this.
        cache = f"{cache}/mini"
        with locked(cache):
            shown = subprocess.run(["apt-cache", "show", "--no-all-versions", SOURCE_PACKAGE], stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True).stdout
            found = re.search(r"^Version: (\S+)", shown, re.M)
            if not found:
                raise Missing(f"apt knows no {SOURCE_PACKAGE}")
            with open(CONFIG, "rb") as f:
                key = hashlib.sha256(found.group(1).encode() + f.read()).hexdigest()[:16]
            folder = f"{cache}/kernel-{key}"
            if not os.path.isdir(folder):
                for unfinished in glob.glob(f"{cache}/new-*"):
                    shutil.rmtree(unfinished)
                MiniKernel._build(cache, folder, found.group(1))
                for old in glob.glob(f"{cache}/kernel-*"):
                    if old != folder:
                        shutil.rmtree(old)
            return MiniKernel(folder)

    @staticmethod
    def _build(cache, folder, package_version):
        missing = [tool for tool in TOOLS if not shutil.which(tool)]
        if not os.path.exists("/usr/include/libelf.h"):
            missing.append("libelf-dev")
        if missing:
            raise Missing(f"to build a kernel these are missing: apt-get install {' '.join(missing)}")
        with tempfile.TemporaryDirectory(prefix="new-", dir=cache) as work:
            run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", SOURCE_PACKAGE, cwd=work, timeout=600)
            run("dpkg-deb", "-x", glob.glob(f"{work}/*.deb")[0], f"{work}/package", timeout=300)
            run("tar", "-xf", glob.glob(f"{work}/package/usr/src/linux-source-*.tar.xz")[0], "-C", work, timeout=600)
            source = glob.glob(f"{work}/linux-source-*/")[0]
            make = ["make", "-C", source, f"-j{len(os.sched_getaffinity(0))}", "LOCALVERSION="]
            environment = {**os.environ, **ENVIRONMENT}
            run(*make, f"KCONFIG_ALLCONFIG={CONFIG}", "allnoconfig", env=environment, timeout=600)
            MiniKernel._check(f"{source}/.config")
            run(*make, "vmlinux", env=environment, timeout=7200)
            os.mkdir(f"{work}/out")
            run("strip", "-o", f"{work}/out/vmlinux", f"{source}/vmlinux")
            shutil.copyfile(f"{source}/.config", f"{work}/out/config")
            with open(f"{work}/out/version", "w", encoding="utf-8") as f:
                f.write(f"{run(*make, '-s', 'kernelrelease', env=environment).strip()} {package_version}\n")
            os.rename(f"{work}/out", folder)

    @staticmethod
    def _check(path):
        """Kconfig drops in silence what it cannot have."""
        with open(CONFIG, encoding="utf-8") as f:
            asked = wanted(f.read())
        with open(path, encoding="utf-8") as f:
            got = wanted(f.read())
        lost = sorted(name for name, value in asked.items() if got.get(name) != value)
        if lost:
            raise RuntimeError(f"the kernel's configuration has not: {' '.join(lost)}")
