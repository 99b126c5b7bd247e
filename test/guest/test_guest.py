# SPDX-License-Identifier: Apache-2.0
"""Runs tests on real cgroup v2 with all controllers, in a guest: once with the cgroupfs driver, once with the systemd driver
under a systemd that is PID 1. Most CI machines and this project's own have neither."""
import os
import shutil
import sys

import pytest

from harness import guest
from harness.daemon import BUILD

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.environ.get("CAISSON_GUEST_CACHE", f"{REPO}/build/guest")
DEADLINE = int(os.environ.get("CAISSON_GUEST_SECONDS", "270"))
PACKAGES = ["base-files", "bash", "dash", "coreutils", "grep", "sed", "findutils", "hostname", "util-linux", "mount", "procps", "kmod",
            "systemd", "iproute2", "iptables", "containernetworking-plugins", "busybox-static", "docker-registry", "openssl",
            "python3", "python3-pytest", "python3-grpcio", "python3-protobuf", "protobuf-compiler"]
BINARIES = ["bin/caissond", "bin/containerd-shim-caisson-v2", "bin/caisson", "src/oci/oci_root_test",
            "src/shim/shim_root_test", "src/sys/sys_root_test"]
PYTEST = "/usr/bin/python3 -m pytest -q --tb=short --color=no --durations=5 -p no:cacheprovider"


def stage_tests(folder, tests):
    """The disk with the binaries, the repository's tests and what is to be run: [(name, command)]."""
    os.makedirs(f"{folder}/build/bin")
    for name in BINARIES:
        shutil.copy(f"{BUILD}/{name}", f"{folder}/build/bin/")
    for name in ("test", "proto", "share"):
        shutil.copytree(f"{REPO}/{name}", f"{folder}/repo/{name}", ignore=shutil.ignore_patterns("__pycache__"))
    guest.compile_python(f"{folder}/repo/test")
    with open(f"{folder}/build_dir", "w") as f:
        f.write(BUILD)
    with open(f"{folder}/tests", "w") as f:
        f.writelines(f"{name}\t{command}\n" for name, command in tests)


@pytest.fixture
def boot(folder):
    """boot(init, append, tests): fails unless each test passes."""
    def run(append, tests):
        try:
            guest.check_tools()
            kernel = guest.Kernel.get(CACHE)
            root = guest.root_image(CACHE, kernel, PACKAGES + guest.packages_of([f"{BUILD}/{name}" for name in BINARIES]))
        except guest.Missing as missing:
            pytest.skip(f"no guest: {missing}")
        stage_tests(f"{folder}/stage", tests)
        work = guest.erofs(f"{folder}/tests.erofs", f"{folder}/stage")
        scratch = guest.scratch_disk(f"{folder}/scratch.ext4", 2 << 30)
        with open(f"{REPO}/test/guest/initramfs.sh") as f:
            initrd = guest.initramfs(f"{folder}/initrd", kernel, f.read())
        machine = guest.Guest(kernel, initrd, [root, work, (scratch, True)])
        text, why = machine.run(append, DEADLINE, mark=lambda line: print(line, file=sys.stderr, flush=True))
        results = {words[1]: words[2] for words in map(str.split, text.splitlines()) if words[:1] == ["GUEST-RESULT"]}
        assert why is None, why
        assert results == {name: "0" for name, _ in tests} and "GUEST-DONE" in text, results
    return run


ROOT_TESTS = [(name, f"$CAISSON_BUILD/bin/{name} --gtest_brief=1") for name in ("oci_root_test", "shim_root_test", "sys_root_test")]


def test_cgroupfs_driver(boot):
    boot("guest_init=/caisson/repo/test/guest/run.sh", ROOT_TESTS + [
        ("pods", f"{PYTEST} test/cri/test_pod.py test/cri/test_restart.py test/cri/test_security.py"),
    ])


def test_systemd_driver(boot):
    boot("guest_init=/lib/systemd/systemd systemd.unit=caisson-guest.service systemd.show_status=no "
         "systemd.unified_cgroup_hierarchy=1", [
             ("booted", "systemctl status --no-pager | head -30; systemctl --failed --no-pager; mount | grep cgroup"),
             ("pods", f"CAISSON_TEST_CGROUP_DRIVER=systemd {PYTEST} test/cri/test_pod.py test/cri/test_restart.py"),
         ])
