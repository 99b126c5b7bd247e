# SPDX-License-Identifier: Apache-2.0
"""Looking into a VM pod: figures for Prometheus, the console, processes in the guest itself, where its start's time went."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import grpc
import pytest

from harness.daemon import BIN, cli
from harness.metrics import METRICS, of, scrape
from harness.registry import wait_for
from harness.vm import BOOT_SECONDS, GUEST, VmPods, children_of, info_of, need_guest, vm_daemon_of

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MIB = 1 << 20


@pytest.fixture(scope="module")
def guest(tmp_path_factory):
    """A guest image with programs for debugging, of the agent of the image that the other tests use."""
    need_guest()
    if not os.path.exists("/bin/busybox"):
        pytest.skip("busybox-static is not installed")
    folder = tmp_path_factory.mktemp("guest")
    made = subprocess.run([sys.executable, f"{ROOT}/tools/build-guest", "--debug", "--agent", f"{BIN}/caisson-agent", "--output", folder],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
    if made.returncode == 77:
        pytest.skip(made.stdout)
    assert made.returncode == 0, made.stdout
    return folder


@pytest.fixture(scope="module")
def daemon(make_module_daemon, registry, guest):
    return vm_daemon_of(make_module_daemon, registry, f"""{METRICS}
[handlers.caisson-vm]
kernel = "{GUEST}/kernel"
initrd = "{GUEST}/initramfs"
templates = false
[handlers.vm-debug]
sandbox = "vm"
kernel = "{guest}/kernel"
initrd = "{guest}/initramfs"
templates = false
debug = true
""", tables=False)


@pytest.fixture(scope="module")
def pod(daemon):
    """One pod of the handler whose guests may be debugged, with a container and a volume."""
    pods = VmPods(daemon)
    pod = pods.run_pod(handler="vm-debug")
    pods.start(pod, ["sleep", "1000"], name="main", mounts=[{"container_path": "/v", "host_path": daemon.folder, "readonly": True}])
    yield pod
    pods.remove_all()


def read(path):
    with open(path) as f:
        return f.read()


def guest_exec(daemon, pod, *command, **kw):
    return cli(daemon, "exec", "--guest", pod[0], "--", *command, **kw)


def test_a_guest_image_is_what_its_manifest_says(make_daemon, daemon, tmp_path):
    def looked_at(of):
        found = {check["name"]: check for check in json.loads(cli(of, "doctor", "-o", "json").stdout)}
        return found.get("guest image (caisson-vm)"), found.get("VMs (caisson-vm)")

    assert looked_at(daemon)[0]["verdict"] == "ok" and "kernel" in looked_at(daemon)[0]["fact"]
    for name in ("kernel", "initramfs", "manifest.json"):
        shutil.copy(f"{GUEST}/{name}", tmp_path)
    other = make_daemon(config=f'[handlers.caisson-vm]\nkernel = "{tmp_path}/kernel"\ninitrd = "{tmp_path}/initramfs"\ntemplates = false\n')
    with open(tmp_path / "initramfs", "r+b") as f:
        f.seek(-1, os.SEEK_END)
        last = f.read()
        f.seek(-1, os.SEEK_END)
        f.write(bytes([last[0] ^ 1]))
    assert looked_at(other)[0]["verdict"] == "FAIL" and "initramfs' is not what was built" in looked_at(other)[0]["fact"]
    os.truncate(tmp_path / "initramfs", 1000)
    assert "has 1000 bytes, and its manifest says" in looked_at(other)[1]["fact"]
    assert "caisson-vm" not in [handler.name for handler in other.client.Status().runtime_handlers]
    with pytest.raises(grpc.RpcError, match="has 1000 bytes"):
        VmPods(other).run_pod()
    with open(tmp_path / "manifest.json", "r+") as f:
        manifest = json.load(f)
        f.seek(0)
        json.dump({**manifest, "version": "0.0.1"}, f)
        f.truncate()
    with pytest.raises(grpc.RpcError, match="is of version 0.0.1, and this is "):
        VmPods(other).run_pod()


def test_its_figures(daemon, pod):
    values = scrape(daemon)
    name = pod[1]["metadata"]["name"]

    def figure(metric, **labels):
        return of(values, f"caisson_vm_{metric}", namespace="default", pod=name, id=pod[0], **labels)

    assert figure("guest_answers") == 1
    total, free = figure("guest_memory_total_bytes"), figure("guest_memory_available_bytes")
    assert 300 * MIB < total <= 512 * MIB and 100 * MIB < free < total
    assert figure("guest_balloon_bytes") == 0
    assert figure("guest_cpu_seconds_total", mode="system") > 0 and figure("guest_cpu_seconds_total", mode="steal") >= 0
    assert figure("guest_uptime_seconds_total") > 0 and figure("guest_load", minutes="1") >= 0
    assert figure("guest_threads") > 10 and figure("guest_threads_runnable") >= 1
    assert 100 << 10 < figure("agent_resident_memory_bytes") < 64 * MIB and figure("agent_cpu_seconds_total") > 0
    # QEMU's own processor time is at least the boot's.
    assert figure("vmm_cpu_seconds_total") > 0.1 and figure("vmm_threads") >= 2
    assert 50 * MIB < figure("vmm_proportional_memory_bytes") <= figure("vmm_resident_memory_bytes") < 2048 * MIB
    assert 0 < figure("companion_resident_memory_bytes") < 64 * MIB and figure("companion_cpu_seconds_total") >= 0
    assert 0 < figure("start_seconds", how="boot") < BOOT_SECONDS
    assert figure("agent_rpc_seconds_count", method="Task.Create") == 1 and figure("agent_rpc_seconds_sum", method="Task.Create") > 0
    assert figure("agent_rpc_failures_total", method="Task.Create") == 0
    assert figure("agent_rpc_seconds_count", method="Task.Wait") is None  # waits for the container
    # All of it is documented, and the dashboard shows nothing that is not there.
    names = {re.sub(r"_(sum|count)$", "", key.split("{")[0]) for key in values if key.startswith("caisson_vm_")}
    with open(f"{ROOT}/docs/metrics.md") as page:
        assert names <= set(re.findall(r"`(caisson_vm_\w+)`", page.read()))
    with open(f"{ROOT}/share/grafana/caisson.json") as f:
        shown = re.findall(r"caisson_vm_\w+", " ".join(t["expr"] for p in json.load(f)["panels"] for t in p["targets"]))
    assert shown and {re.sub(r"_(sum|count)$", "", one) for one in shown} <= names


def test_a_machine_that_stands_still_holds_no_scrape_up(daemon, pod):
    companion = info_of(daemon, pod)["companionPid"]
    # Its other child serves the shared folder.
    vmm, = [child for child in children_of(companion) if read(f"/proc/{child}/comm").startswith("qemu")]
    try:
        os.kill(vmm, signal.SIGSTOP)
        # The first may wait for the guest a little, a second does not ask it again.
        for _ in range(2):
            values = scrape(daemon)
            assert of(values, "caisson_vm_guest_answers", id=pod[0]) == 0
            assert of(values, "caisson_vm_guest_memory_total_bytes", id=pod[0]) is None
            assert of(values, "caisson_vm_vmm_resident_memory_bytes", id=pod[0]) > 0
            assert of(values, "caisson_vm_agent_rpc_seconds_count", id=pod[0], method="Task.Create") == 1
        os.kill(companion, signal.SIGSTOP)
        values = scrape(daemon)
        assert of(values, "caisson_vm_guest_answers", id=pod[0]) is None and of(values, "caisson_pods", state="ready") >= 1
    finally:
        os.kill(companion, signal.SIGCONT)
        os.kill(vmm, signal.SIGCONT)
    wait_for("the guest answers again", lambda: of(scrape(daemon), "caisson_vm_guest_answers", id=pod[0]) == 1, BOOT_SECONDS)


def test_where_the_time_of_its_start_went(daemon, pod):
    text = cli(daemon, "explain", pod[0]).stdout
    for phase in ("vm_spawn", "vm_boot", "vm_agent", "vm_network", "vm_configure", "vm_disks", "vm_volumes", "vm_rootfs", "vm_container"):
        assert phase in text, text
    assert text.index("run_pod_sandbox") < text.index("vm_spawn") < text.index("create_container") < text.index("vm_disks")


def test_a_process_in_the_guest_itself(daemon, pod):
    done = guest_exec(daemon, pod, "sh", "-c", "cat /proc/1/comm; hostname; ls /run/caisson/containers; echo err >&2; exit 7")
    assert done.returncode == 7 and done.stderr == "err\n", (done.stdout, done.stderr)
    lines = done.stdout.split()
    # PID 1 is the agent's, not a container's; what the pod's containers are made of is seen.
    assert lines[0] in ("init", "caisson-agent") and lines[1] == pod[1]["hostname"] and len(lines) == 3
    # Stdin, and every right: the kernel's messages.
    done = guest_exec(daemon, pod, "true")
    assert done.returncode == 0
    done = cli(daemon, "exec", "--guest", "-i", pod[0], "--", "sh", "-c", "dmesg | grep -c Linux; wc -c", input="hello")
    assert done.returncode == 0 and int(done.stdout.split()[0]) >= 1 and done.stdout.split()[1] == "5", (done.stdout, done.stderr)
    missing = guest_exec(daemon, pod, "no-such-program")
    assert missing.returncode != 0 and "no-such-program" in missing.stderr
    # For the audit.
    assert f"exec in the guest of pod default/{pod[1]['metadata']['name']} for" in daemon.log_text()


def test_each_of_the_agents_processes_may_do_its_own(daemon, pod):
    script = "for p in /proc/[0-9]*; do echo \"pid ${p#/proc/}\"; cat $p/status 2>/dev/null; echo \"Score: $(cat $p/oom_score_adj 2>/dev/null)\"; done"

    def processes():
        """The lines of each process that has memory of its own, by name."""
        found = {}
        for one in guest_exec(daemon, pod, "sh", "-c", script).stdout.split("pid ")[1:]:
            lines = dict(line.split(":", 1) for line in one.splitlines()[1:] if ":" in line)
            if "VmRSS" in lines:
                found.setdefault(lines["Name"].strip(), []).append({key: value.split() for key, value in lines.items()})
        return found

    # A launcher ends with its answer: none is there while nobody asks for anything.
    wait_for("there is no launcher", lambda: "caisson-launch" not in processes(), BOOT_SECONDS)
    found = processes()
    none = ["0000000000000000"]
    # The messenger, and the carriers of the shared folder that the container has.
    for name in ("caisson-agent", "files-to-host", "files-from-host"):
        one, = found[name]
        assert one["Uid"] == ["2147483646"] * 4 and one["Gid"] == ["2147483646"] * 4 and one["Groups"] == [], (name, one)
        assert [one[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [none] * 5, (name, one)
        assert one["NoNewPrivs"] == ["1"] and one["Seccomp"] == ["2"] and one["Score"] == ["-1000"], (name, one)
    # Neither their score nor their filter is the containers'.
    assert all(one["Score"] != ["-1000"] for one in found["sleep"])
    assert any(one["Pid"] == ["1"] and one["PPid"] == ["0"] and one["CapEff"] != none for one in found["init"])


def test_the_guest_keeps_no_copy_that_nobody_has(daemon, pod):
    pods = VmPods(daemon)
    kept = lambda: guest_exec(daemon, pod, "ls", "/run/caisson/volumes").stdout.split()
    before = kept()
    path = f"{daemon.folder}/a-file"
    with open(path, "w") as f:
        f.write("x")
    containers = [pods.start(pod, ["sleep", "1000"], mounts=[{"container_path": "/a", "host_path": path}]) for _ in range(2)]
    assert len(kept()) == len(before) + 1
    pods.client.RemoveContainer(container_id=containers[0])
    assert len(kept()) == len(before) + 1
    pods.client.RemoveContainer(container_id=containers[1])
    wait_for("the copy is gone", lambda: kept() == before, BOOT_SECONDS)


def test_its_console(daemon, pod):
    # A line that is the guest's, and what would move a terminal.
    assert guest_exec(daemon, pod, "sh", "-c", "printf 'said on the console\\033[2J\\n' > /dev/console").returncode == 0
    text = wait_for("the console has it", lambda: (out := cli(daemon, "console", pod[0]).stdout) and "said on the console" in out and out, 30)
    assert "said on the console\\x1b[2J\n" in text
    follower = subprocess.Popen([f"{BIN}/caisson", "--socket", daemon.socket, "console", "-f", pod[0]], stdout=subprocess.PIPE, text=True)
    try:
        for line in follower.stdout:
            if "said on the console" in line:
                break
        assert guest_exec(daemon, pod, "sh", "-c", "echo and more > /dev/console").returncode == 0
        assert follower.stdout.readline() == "and more\n"
        # More than is kept: the end of it.
        flood = "i=0; while [ $i -lt 900 ]; do echo $i: a line of fifty characters and then some more text; i=$((i+1)); done > /dev/console"
        assert guest_exec(daemon, pod, "sh", "-c", flood).returncode == 0
        wait_for("the last line", lambda: "\n899: a line" in cli(daemon, "console", pod[0]).stdout, BOOT_SECONDS)
        assert 16 << 10 < len(cli(daemon, "console", pod[0]).stdout) <= 33 << 10
    finally:
        follower.kill()
        follower.wait()


def test_not_without_the_handlers_word(daemon, pod):
    pods = VmPods(daemon)
    try:
        plain = pods.run_pod()
        refused = guest_exec(daemon, plain, "true")
        assert refused.returncode == 1 and "'handlers.caisson-vm.debug' was false" in refused.stderr
        # A native pod has no guest.
        native = pods.run_pod(handler="caisson", host_network=True)
        for command in (("exec", "--guest", native[0], "--", "true"), ("console", native[0])):
            refused = cli(daemon, *command)
            assert refused.returncode == 1 and "no virtual machine" in refused.stderr
        follower = subprocess.Popen([f"{BIN}/caisson", "--socket", daemon.socket, "console", "-f", plain[0]], stdout=subprocess.DEVNULL)
        daemon.client.StopPodSandbox(pod_sandbox_id=plain[0])
        assert follower.wait(timeout=60) == 0
    finally:
        pods.remove_all()
