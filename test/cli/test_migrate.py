# SPDX-License-Identifier: Apache-2.0
"""`caisson migrate`, and that caissond takes what it writes."""
import os
import shutil
import subprocess

import grpc
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
    done = migrate("--from", "crio", "--config", f"{tmp_path}/crio.conf", "--containers", f"{tmp_path}/none")
    assert done.returncode == 0 and 'conf_dir = "/etc/cni/b"' in done.stdout and 'default_handler = "crun"' in done.stdout, done.stderr
    (tmp_path / "config.toml").write_text('imports = ["more/*.toml"]\n')
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "cni.toml").write_text('[plugins.cri.cni]\nconf_dir = "/etc/cni/d"\n')
    done = migrate("--from", "containerd", "--config", f"{tmp_path}/config.toml")
    assert done.returncode == 0 and 'conf_dir = "/etc/cni/d"' in done.stdout, done.stderr


def test_mirrors_of_containerd_are_ours(tmp_path, registry, make_daemon):
    (tmp_path / "theirs.toml").write_text(f'''version = 2
[plugins."io.containerd.grpc.v1.cri".registry.mirrors."images.example"]
endpoint = ["http://{registry.host}/v2/library"]
''')
    done = migrate("--from", "containerd", "--config", f"{tmp_path}/theirs.toml", "--output", f"{tmp_path}/ours.toml")
    assert done.returncode == 0 and done.stderr.splitlines() == [f"Check it: caissond --check-config --config {tmp_path}/ours.toml"], done.stderr
    daemon = make_daemon(config=(tmp_path / "ours.toml").read_text())
    assert daemon.client.PullImage(image={"image": "images.example/busybox:1"}).image_ref
    shown = migrate("--from", "containerd", "--config", f"{tmp_path}/theirs.toml").stdout
    assert f'#   [host."http://{registry.host}/v2/library"]' in shown


def test_registries_of_crio_are_ours(tmp_path, registry, make_daemon):
    containers = tmp_path / "containers"
    (containers / "registries.conf.d").mkdir(parents=True)
    (containers / "registries.conf").write_text('[[registry]]\nlocation = "images.example"\nblocked = true\n')
    (containers / "registries.conf.d" / "10-mirror.conf").write_text(f'''[[registry]]
location = "images.example"
[[registry.mirror]]
location = "{registry.host}/library"
insecure = true
[[registry]]
location = "bad.example"
blocked = true
''')
    (containers / "certs.d" / "tls.example").mkdir(parents=True)
    (containers / "certs.d" / "tls.example" / "own.crt").write_text("")
    (tmp_path / "crio.conf").write_text("")
    done = migrate("--from", "crio", "--config", f"{tmp_path}/crio.conf", "--containers", f"{containers}", "--output", f"{tmp_path}/ours.toml")
    assert done.returncode == 0, done.stderr
    assert f'ca = ["{containers}/certs.d/tls.example/own.crt"]' in (tmp_path / "certs.d" / "tls.example" / "hosts.toml").read_text()
    daemon = make_daemon(config=(tmp_path / "ours.toml").read_text())
    assert daemon.client.PullImage(image={"image": "images.example/busybox:1"}).image_ref
    with pytest.raises(grpc.RpcError, match="bad.example"):
        daemon.client.PullImage(image={"image": "bad.example/busybox:1"})


def test_nothing_is_written_over_and_nothing_half(tmp_path):
    (tmp_path / "theirs.toml").write_text('''[plugins.cri.registry.mirrors."a.example"]
endpoint = ["https://mirror.example"]
[plugins.cri.registry.mirrors."b.example"]
endpoint = ["https://mirror.example"]
''')
    there = tmp_path / "certs.d" / "b.example" / "hosts.toml"
    there.parent.mkdir(parents=True)
    there.write_text("mine")
    done = migrate("--from", "containerd", "--config", f"{tmp_path}/theirs.toml", "--output", f"{tmp_path}/ours.toml")
    assert done.returncode == 1 and str(there) in done.stderr
    assert there.read_text() == "mine" and sorted(os.listdir(tmp_path)) == ["certs.d", "theirs.toml"] and os.listdir(tmp_path / "certs.d") == ["b.example"]


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
