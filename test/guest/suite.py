# SPDX-License-Identifier: Apache-2.0
"""Runs tests of this build in a guest (harness/guest.py), which has what a test host may lack: cgroup v2 with all controllers,
systemd as PID 1, a kernel that is older than the host's."""
import os
import shutil
import subprocess

import pytest

from harness import guest
from harness.daemon import BUILD

REPO = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.environ.get("CAISSON_GUEST_CACHE", f"{REPO}/build/guest")
DEADLINE = int(os.environ.get("CAISSON_GUEST_SECONDS", "1000"))
PACKAGES = ["base-files", "bash", "dash", "coreutils", "grep", "sed", "findutils", "hostname", "util-linux", "mount", "procps", "kmod",
            "systemd", "iproute2", "iptables", "containernetworking-plugins", "busybox-static", "docker-registry", "openssl",
            "criu", "crun", "runc", "qemu-system-x86", "erofs-utils", "python3", "python3-pytest", "python3-grpcio", "python3-protobuf", "protobuf-compiler"]
BINARIES = ["bin/caissond", "bin/containerd-shim-caisson-v2", "bin/caisson", "bin/caisson-oci", "src/oci/oci_root_test", "src/shim/shim_root_test", "src/vmm/vmm_vm_test"]
PYTEST = "/usr/bin/python3 -m pytest -q --tb=short --color=no --durations=5 -p no:cacheprovider"
# Of the tests of caisson-oci those that look at cgroups; some always, the others with tools/check --long.
LONG = bool(os.environ.get("CAISSON_LONG_TESTS"))
OCI = "life or pause or update or memory or cgroup_path" if LONG else "life or memory"


def stage_tests(folder, tests, folders):
    """The disk with the binaries, the repository's tests, `folders` and what is to be run: [(name, command)]."""
    os.makedirs(f"{folder}/build/bin")
    for name in BINARIES:
        shutil.copy(f"{BUILD}/{name}", f"{folder}/build/bin/")
    for name, source in folders.items():
        shutil.copytree(source, f"{folder}/{name}")
    for name in ("test", "proto", "share"):
        shutil.copytree(f"{REPO}/{name}", f"{folder}/repo/{name}", ignore=shutil.ignore_patterns("__pycache__"))
    guest.compile_python(f"{folder}/repo/test")
    # Those that others import; the guest has the compiler alone.
    shutil.copytree("/usr/include/google/protobuf", f"{folder}/repo/proto/google/protobuf", ignore=lambda _, names: [name for name in names if not name.endswith(".proto")])
    with open(f"{folder}/build_dir", "w") as f:
        f.write(BUILD)
    with open(f"{folder}/tests", "w") as f:
        f.writelines(f"{name}\t{command}\n" for name, command in tests)


def build_guest(folder, agent):
    """A guest image with the program `agent` for its agent."""
    done = subprocess.run(["/usr/bin/python3", f"{REPO}/tools/build-guest", "--agent", agent, "--output", folder], text=True, capture_output=True, timeout=300)
    if done.returncode == 77:
        pytest.skip(f"no guest: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return folder


def boot(folder, append, tests, folders={}, **size):
    """Boots a guest that runs `tests` and has `folders` ({name: source}) in /caisson; `size`: Guest's. Fails unless each passes, skips where there can be no guest."""
    try:
        guest.check_tools()
        kernel = guest.Kernel.get(CACHE)
        root = guest.root_image(CACHE, kernel, PACKAGES + guest.packages_of([f"{BUILD}/{name}" for name in BINARIES]))
    except guest.Missing as missing:
        pytest.skip(f"no guest: {missing}")
    stage_tests(f"{folder}/stage", tests, folders)
    work = guest.erofs(f"{folder}/tests.erofs", f"{folder}/stage")
    scratch = guest.scratch_disk(f"{folder}/scratch.ext4", 2 << 30)
    with open(f"{REPO}/test/guest/initramfs.sh") as f:
        initrd = guest.initramfs(f"{folder}/initrd", kernel, f.read())
    machine = guest.Guest(kernel, initrd, [root, work, (scratch, True)], **size)
    text, why = machine.run(f"psi=1 {append}", DEADLINE, mark=lambda line: print(line, flush=True))
    results = {words[1]: words[2] for words in map(str.split, text.splitlines()) if words[:1] == ["GUEST-RESULT"]}
    assert why is None, f"{why}; its last words: {text[-1000:]}"
    assert results == {name: "0" for name, _ in tests} and "GUEST-DONE" in text, results
