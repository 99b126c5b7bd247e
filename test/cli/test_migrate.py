# SPDX-License-Identifier: Apache-2.0
"""`caisson migrate`, and that caissond takes what it writes."""
import shutil
import subprocess

import pytest
from harness.daemon import BIN


def migrate(*args):
    return subprocess.run([f"{BIN}/caisson", "migrate", *args], capture_output=True, text=True, timeout=60)


def checked(path):
    return subprocess.run([f"{BIN}/caissond", "--check-config", "--config", path], capture_output=True, text=True, timeout=60)


def test_what_containerd_says_of_itself(tmp_path):
    if not shutil.which("containerd"):
        pytest.skip("containerd is not installed")
    defaults = subprocess.run(["containerd", "config", "default"], capture_output=True, text=True, check=True, timeout=60).stdout
    (tmp_path / "theirs.toml").write_text(defaults)
    done = migrate("--from", "containerd", "--config", f"{tmp_path}/theirs.toml", "--output", f"{tmp_path}/ours.toml")
    assert done.returncode == 0, done.stderr
    ours = (tmp_path / "ours.toml").read_text()
    assert 'default_handler = "runc"' in ours and '[handlers.runc]\nsandbox = "native"' in ours
    assert "sandbox_image: there is no pause container" in done.stderr
    assert checked(f"{tmp_path}/ours.toml").returncode == 0, checked(f"{tmp_path}/ours.toml").stderr


def test_other_runtimes_are_taken_over(tmp_path):
    (tmp_path / "theirs.toml").write_text('''version = 2
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gvisor]
runtime_type = "io.containerd.runsc.v1"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gvisor.options]
TypeUrl = "io.containerd.runsc.v1.options"
ConfigPath = "/etc/containerd/runsc.toml"
''')
    done = migrate("--from", "containerd", "--config", f"{tmp_path}/theirs.toml", "--output", f"{tmp_path}/ours.toml")
    assert done.returncode == 0 and 'runtime_type = "io.containerd.runsc.v1"' in (tmp_path / "ours.toml").read_text(), done.stderr
    assert checked(f"{tmp_path}/ours.toml").returncode == 0, checked(f"{tmp_path}/ours.toml").stderr


def test_drop_ins_and_imports_count(tmp_path):
    (tmp_path / "crio.conf").write_text('[crio.network]\nnetwork_dir = "/etc/cni/a"\n')
    (tmp_path / "crio.conf.d").mkdir()
    (tmp_path / "crio.conf.d" / "10-b").write_text('[crio.network]\nnetwork_dir = "/etc/cni/b"\n')
    (tmp_path / "crio.conf.d" / "20-c").write_text('[crio.runtime]\ndefault_runtime = "crun"\n[crio.runtime.runtimes.crun]\nruntime_path = "/usr/bin/crun"\n')
    done = migrate("--from", "crio", "--config", f"{tmp_path}/crio.conf")
    assert done.returncode == 0 and 'conf_dir = "/etc/cni/b"' in done.stdout and 'default_handler = "crun"' in done.stdout, done.stderr
    (tmp_path / "config.toml").write_text('imports = ["more/*.toml"]\n')
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "cni.toml").write_text('[plugins.cri.cni]\nconf_dir = "/etc/cni/d"\n')
    done = migrate("--from", "containerd", "--config", f"{tmp_path}/config.toml")
    assert done.returncode == 0 and 'conf_dir = "/etc/cni/d"' in done.stdout, done.stderr


def test_what_cannot_be_done_is_said(tmp_path):
    done = migrate("--from", "containerd", "--config", f"{tmp_path}/none.toml")
    assert done.returncode == 1 and "none.toml" in done.stderr
    (tmp_path / "broken.toml").write_text("a = 1\nb = \n")
    done = migrate("--from", "containerd", "--config", f"{tmp_path}/broken.toml")
    assert done.returncode == 1 and "broken.toml:2" in done.stderr
    (tmp_path / "good.toml").write_text("version = 2\n")
    (tmp_path / "there.toml").write_text("mine")
    done = migrate("--from", "containerd", "--config", f"{tmp_path}/good.toml", "--output", f"{tmp_path}/there.toml")
    assert done.returncode == 1 and "there.toml" in done.stderr and (tmp_path / "there.toml").read_text() == "mine"
