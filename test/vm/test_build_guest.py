# SPDX-License-Identifier: Apache-2.0
"""tools/build-guest: the same bytes each time, what the manifest says, modules that can be loaded in their order."""
import hashlib
import json
import os
import re
import stat
import subprocess

import pytest

from harness.daemon import BUILD

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
AGENT = f"{BUILD}/test/echo-init"


def build(output, agent=AGENT):
    return subprocess.run([f"{ROOT}/tools/build-guest", "--agent", agent, "--output", output],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    if not os.path.exists(AGENT):
        pytest.skip("this build has no VMM driver, hence no payload for it")
    output = str(tmp_path_factory.mktemp("guest") / "image")
    done = build(output)
    if done.returncode == 77:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stdout
    return output


def content(path):
    with open(path, "rb") as f:
        return f.read()


def entries(archive):
    """{name: (mode, device, data)} of a "newc" archive; each field that could tell one build from another is 0."""
    found, at = {}, 0
    while True:
        assert archive[at:at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
        inode, mode, uid, gid, _, mtime, size, _, _, major, minor, name_size, _ = fields
        name = archive[at + 110:at + 110 + name_size - 1].decode()
        data_at = (at + 110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            return found
        assert (uid, gid, mtime) == (0, 0, 0), name
        assert inode == len(found) + 1, name
        assert name not in found
        found[name] = (mode, (major, minor), archive[data_at:data_at + size])
        at = (data_at + size + 3) & ~3


def test_two_builds_are_the_same(image, tmp_path):
    assert build(str(tmp_path)).returncode == 0
    assert sorted(os.listdir(tmp_path)) == sorted(os.listdir(image)) == ["initramfs", "kernel", "manifest.json"]
    for name in os.listdir(image):
        assert content(f"{image}/{name}") == content(f"{tmp_path}/{name}"), name


def test_the_manifest_tells_the_truth(image):
    manifest = json.loads(content(f"{image}/manifest.json"))
    for name in ("kernel", "initramfs"):
        data = content(f"{image}/{manifest[name]['file']}")
        assert manifest[name]["bytes"] == len(data)
        assert manifest[name]["sha256"] == hashlib.sha256(data).hexdigest()
        # A VMM that is not root opens it.
        assert stat.S_IMODE(os.stat(f"{image}/{name}").st_mode) == 0o644
    agent = entries(content(f"{image}/initramfs"))["init"][2]
    assert manifest["agent"] == {"bytes": len(agent), "sha256": hashlib.sha256(agent).hexdigest()}
    assert re.fullmatch(r"[\d.]+-\d+-cloud-amd64", manifest["kernel_version"])
    with open(f"{ROOT}/CMakeLists.txt", encoding="utf-8") as f:
        assert f"VERSION {manifest['version']} " in f.read()
    assert manifest["kernel"]["format"] == "vmlinux" and content(f"{image}/kernel")[:4] == b"\x7fELF"


def test_the_initramfs_holds_the_agent_and_modules_in_order(image):
    files = entries(content(f"{image}/initramfs"))
    mode, _, data = files["init"]
    assert mode == stat.S_IFREG | 0o555
    # The agent, but for its symbols.
    assert data[:4] == b"\x7fELF" and len(data) <= os.path.getsize(AGENT) and b"/modules/list" in data
    assert files["dev/console"][:2] == (stat.S_IFCHR | 0o600, (5, 1))
    loaded = set()
    for listed in ("modules/list", "modules/later"):
        for path in files[listed][2].decode().splitlines():
            module = files[path[1:]][2]
            assert b"Module signature appended" not in module, path
            needs = re.search(rb"\0depends=([^\0]*)\0", module).group(1).decode()
            missing = [name for name in needs.split(",") if name and name.replace("-", "_") not in loaded]
            assert not missing, f"{path} comes before {missing}"
            loaded.add(os.path.basename(path)[:-len(".ko")].replace("-", "_"))
    for name in ("virtio_mmio", "virtio_console", "virtio_net", "virtio_scsi", "sd_mod", "erofs", "overlay", "nf_tables"):
        assert name in loaded


def test_a_build_that_fails_says_why(tmp_path):
    done = build(str(tmp_path / "out"), agent=str(tmp_path / "none"))
    assert done.returncode == 1 and "none" in done.stdout and "Traceback" not in done.stdout
    assert not os.path.exists(tmp_path / "out")


def test_the_package_holds_the_image(image, tmp_path):
    debs = [str(tmp_path / name) for name in ("a.deb", "b.deb")]
    for deb in debs:
        done = subprocess.run([f"{ROOT}/tools/build-guest", "--agent", AGENT, "--output", str(tmp_path / "image"), "--deb", deb],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
        assert done.returncode == 0, done.stdout
    assert content(debs[0]) == content(debs[1])
    subprocess.run(["dpkg-deb", "-x", debs[0], str(tmp_path / "root")], check=True)
    for name in os.listdir(image):
        assert content(f"{tmp_path}/root/usr/lib/caisson/guest/{name}") == content(f"{image}/{name}"), name
    fields = subprocess.run(["dpkg-deb", "-f", debs[0]], stdout=subprocess.PIPE, text=True, check=True).stdout
    kernel = json.loads(content(f"{image}/manifest.json"))["kernel_version"]
    assert "Package: caisson-guest\n" in fields and f" Linux {kernel} " in fields
    # The source that the GPL asks for can be found by it.
    assert re.search(r"^Built-Using: linux \(= [\d.]+-\d+\S*\)$", fields, re.M)
