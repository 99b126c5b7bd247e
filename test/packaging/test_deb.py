# SPDX-License-Identifier: Apache-2.0
"""The .deb of this build and `cmake --install`: what is in them, that dpkg takes and removes the package, and that the
programs work from where it puts them. Nothing is compiled and nothing is installed on this machine."""
import gzip
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile

import pytest
from harness.daemon import BIN, BUILD, Daemon, remove_tree
from harness.leaks import Leaks
from harness.pods import Pods

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAMS = ("caissond", "caisson", "containerd-shim-caisson-v2", "caisson-oci")

if not shutil.which("dpkg-deb"):
    pytest.skip("dpkg is not installed", allow_module_level=True)
if not os.path.exists(f"{BUILD}/CPackConfig.cmake") or not all(os.path.exists(f"{BIN}/{name}") for name in PROGRAMS):
    pytest.skip("this build has not all programs of the package", allow_module_level=True)


def output(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, **options)
    assert done.returncode == 0, (command, done.stdout)
    return done.stdout


@pytest.fixture(scope="module")
def deb():
    folder = tempfile.mkdtemp(prefix="caisson-test-")
    output("cpack", "-G", "DEB", "--config", f"{BUILD}/CPackConfig.cmake", "-B", folder, cwd=folder)
    (name,) = [name for name in os.listdir(folder) if name.endswith(".deb")]
    yield f"{folder}/{name}"
    remove_tree(folder)


@pytest.fixture(scope="module")
def unpacked(deb):
    path = f"{os.path.dirname(deb)}/unpacked"
    output("dpkg-deb", "-x", deb, path)
    return path


def members(deb):
    data = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE, check=True).stdout
    with tempfile.TemporaryFile() as f:
        f.write(data)
        f.seek(0)
        with tarfile.open(fileobj=f) as tar:
            return tar.getmembers()


def test_control(deb):
    fields = dict(line.split(": ", 1) for line in output("dpkg-deb", "-f", deb).splitlines() if ": " in line and line[0] != " ")
    version = output(f"{BIN}/caissond", "--version").split()[-1]
    assert (fields["Package"], fields["Version"], fields["Section"]) == ("caisson", version, "admin")
    assert fields["Architecture"] == output("dpkg", "--print-architecture").strip()
    assert os.path.basename(deb) == f"caisson_{version}_{fields['Architecture']}.deb"
    # What the programs link against, and nothing of the machine that built it that no archive has.
    assert "libc6" in fields["Depends"] and "libgrpc++" in fields["Depends"] and "containernetworking-plugins" in fields["Recommends"]


def test_contents(deb):
    found = {member.name.lstrip("./"): member for member in members(deb)}
    for path in ("usr/bin/caissond", "usr/bin/caisson", "usr/bin/containerd-shim-caisson-v2", "usr/lib/systemd/system/caissond.service",
                 "usr/share/doc/caisson/copyright", "usr/share/doc/caisson/README.md", "usr/share/doc/caisson/docs/config.md",
                 "usr/share/doc/caisson/examples/config.toml", "usr/share/doc/caisson/examples/cni/10-caisson.conflist.example",
                 "usr/share/bash-completion/completions/caisson", "usr/share/zsh/vendor-completions/_caisson",
                 "usr/share/fish/vendor_completions.d/caisson.fish", "usr/share/man/man1/caisson.1.gz", "usr/share/man/man8/caissond.8.gz",
                 "usr/bin/caisson-oci", "usr/share/man/man8/caisson-oci.8.gz"):
        assert path in found and found[path].size > 0, path
    assert found["usr/bin/containerd-shim-caisson-vm-v2"].linkname == "containerd-shim-caisson-v2"
    for path, member in found.items():
        assert (member.uname, member.gname) == ("root", "root"), path
        if member.issym():
            continue  # its mode says nothing
        assert not member.mode & 0o022 and not member.mode & (stat.S_ISUID | stat.S_ISGID), (path, oct(member.mode))
        assert member.isdir() or bool(member.mode & 0o111) == path.startswith("usr/bin/"), (path, oct(member.mode))
        # Tests, headers, libraries of the build are not for a node.
        assert path == "" or path.startswith("usr"), path


def test_dpkg_installs_and_removes_it(deb, folder):
    root = f"{folder}/root"
    for path in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/log"):
        os.makedirs(f"{root}/{path}")
    for path in ("status", "available"):
        open(f"{root}/var/lib/dpkg/{path}", "w").close()
    dpkg = ("dpkg", f"--root={root}", "--force-depends", "--force-script-chrootless", "--log=/dev/null")
    output(*dpkg, "--install", deb)
    assert "install ok installed" in output("dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Status}", "caisson")
    assert os.path.exists(f"{root}/usr/bin/caissond")
    output(*dpkg, "--install", deb)  # as an upgrade
    output(*dpkg, "--purge", "caisson")
    left = [os.path.join(base, name) for base, _, names in os.walk(f"{root}/usr") for name in names]
    assert left == []


def test_programs_run_from_where_they_are(unpacked, registry):
    """The daemon finds the companion beside itself; a pod of this package runs."""
    path = tempfile.mkdtemp(prefix="caisson-test-")
    leaks = Leaks(os.path.basename(path))
    daemon = Daemon(path, start=False)
    inner = daemon.command
    daemon.command = lambda *extra: [f"{unpacked}/usr/bin/caissond", *inner(*extra)[1:]]
    try:
        output(*daemon.command("--check-config"))
        daemon.start()
        daemon.client.PullImage(image={"image": registry.busybox})
        pods = Pods(daemon, registry.busybox)
        pod = pods.run_pod()
        container = pods.start(pod, ["sleep", "1000"])
        companions = [item for item in Leaks(pod[0]).before if "containerd-shim-caisson-v2" in item]
        assert companions and all(f"{unpacked}/usr/bin/" in item for item in companions), companions
        caisson = [f"{unpacked}/usr/bin/caisson", "--socket", daemon.socket]
        assert "daemon " in output(*caisson, "version") and "no answer" not in output(*caisson, "version")
        assert output(*caisson, "exec", container, "echo", "packaged") == "packaged\n"
    finally:
        daemon.destroy()
        left = leaks.check() + sorted(daemon.links_left)
        remove_tree(path)
    assert not left, left


def test_the_example_configuration_is_good(unpacked):
    """As shipped: its values are the defaults."""
    daemon = f"{unpacked}/usr/bin/caissond"
    example = f"{unpacked}/usr/share/doc/caisson/examples/config.toml"
    output(daemon, "--config", example, "--check-config")
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as empty:
        assert output(daemon, "--config", example, "--print-config") == output(daemon, "--config", empty.name, "--print-config")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_the_unit_is_valid(unpacked, folder):
    with open(f"{unpacked}/usr/lib/systemd/system/caissond.service") as f:
        unit = f.read()
    assert "ExecStart=/usr/bin/caissond\n" in unit and "KillMode=process\n" in unit and "Type=notify\n" in unit
    documentation = re.search(r"^Documentation=file:(\S+)$", unit, re.MULTILINE)[1]
    assert os.path.exists(unpacked + documentation)
    # The check wants the program to be where the unit says.
    with open(f"{folder}/caissond.service", "w") as f:
        f.write(unit.replace("/usr/bin/caissond", f"{unpacked}/usr/bin/caissond"))
    said = output("systemd-analyze", "verify", "--man=no", f"{folder}/caissond.service")
    assert "caissond.service" not in said, said


@pytest.mark.parametrize("shell, path", [("bash", "usr/share/bash-completion/completions/caisson"),
                                         ("zsh", "usr/share/zsh/vendor-completions/_caisson"),
                                         ("fish", "usr/share/fish/vendor_completions.d/caisson.fish")])
def test_completions(unpacked, shell, path):
    with open(f"{unpacked}/{path}") as f:
        assert f.read() == output(f"{BIN}/caisson", "completion", shell)
    if shutil.which(shell):
        output(shell, "-n", f"{unpacked}/{path}")


@pytest.mark.parametrize("program, page", [("caisson", "man1/caisson.1.gz"), ("caissond", "man8/caissond.8.gz"),
                                           ("caisson-oci", "man8/caisson-oci.8.gz")])
def test_manual_pages_name_all_there_is(unpacked, program, page):
    with gzip.open(f"{unpacked}/usr/share/man/{page}", "rt") as f:
        manual = f.read().replace("\\-", "-")
    help_text = output(f"{BIN}/{program}", "--help")
    named = re.findall(r"^  (?:-\w,)?(--[a-z-]+)", help_text, re.MULTILINE)
    named += re.findall(r"^  ([a-z]+) {3,}", help_text.partition("Subcommands:")[2] or help_text, re.MULTILINE)
    assert len(named) > 1
    for name in named:
        assert re.search(rf"(^|[^a-z-]){name}\b", manual), name


def test_install_with_destdir(folder):
    output("cmake", "--install", BUILD, "--prefix", "/opt/caisson", env={**os.environ, "DESTDIR": folder})
    with open(f"{folder}/opt/caisson/lib/systemd/system/caissond.service") as f:
        assert "ExecStart=/opt/caisson/bin/caissond\n" in f.read()
    assert os.listdir(folder) == ["opt"]
    assert sorted(os.listdir(f"{folder}/opt/caisson/bin")) == sorted([*PROGRAMS, "containerd-shim-caisson-vm-v2"])
    output(f"{folder}/opt/caisson/bin/caissond", "--version")
