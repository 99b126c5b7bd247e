# SPDX-License-Identifier: Apache-2.0
"""caisson-oci as containerd, Docker and podman use it: every command, and that failures leave nothing."""
import array
import json
import os
import pty
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading

import pytest
from harness.bundle import PROGRAM, Bundle, Runtime, become_subreaper, exit_code, make_rootfs
from harness.daemon import BIN, SYSTEMD, remove_tree
from harness.leaks import Leaks
from harness.terminal import Terminal

FOREVER = "trap 'exit 3' TERM; echo up > /tmp/up; while :; do sleep 0.05; done"


@pytest.fixture(scope="module")
def rootfs():
    path = tempfile.mkdtemp(prefix="caisson-rootfs-")
    os.chmod(path, 0o755)
    make_rootfs(path)
    yield path
    remove_tree(path)


@pytest.fixture
def oci(folder):
    become_subreaper()
    leaks = Leaks(os.path.basename(folder))
    runtime = Runtime(folder)
    yield runtime
    reap()  # an exec'd process that nobody has reaped keeps its PID namespace from ending
    for name in [n for n in (os.listdir(runtime.root) if os.path.isdir(runtime.root) else ()) if not n.startswith(".")]:
        done = runtime.run("delete", "--force", name)
        assert done.returncode == 0, done.stderr
    reap(0)
    assert leaks.check() == []
    left = os.listdir(runtime.root) if os.path.isdir(runtime.root) else []
    assert [name for name in left if name != ".seccomp"] == []


def reap(flags=os.WNOHANG):
    try:
        while os.waitpid(-1, flags)[0]:
            pass
    except ChildProcessError:
        pass


@pytest.fixture
def bundle(oci, rootfs):
    """A bundle whose root is its own overlay of busybox, so that it may be written to."""
    root = f"{oci.folder}/rootfs"
    subprocess.run(["cp", "-a", rootfs, root], check=True)
    made = Bundle(f"{oci.folder}/bundle", root)
    made.spec["root"]["readonly"] = False
    return made.save()


@pytest.fixture
def name(oci):
    return "c-" + os.path.basename(oci.folder)


def read(path):
    with open(path) as f:
        return f.read()


def until_exists(pid, path):
    """What the container's program makes when it is up; it must not end before that."""
    while not os.path.exists(path):
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        os.sched_yield()


def test_version_and_features():
    version = subprocess.run([PROGRAM, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert re.fullmatch(r"caisson-oci version \d+\.\d+\.\d+\nspec: 1\.\d+\.\d+\n", version)
    features = json.loads(subprocess.run([PROGRAM, "features"], stdout=subprocess.PIPE, check=True).stdout)
    assert features["ociVersionMin"] == "1.0.0" and features["linux"]["seccomp"]["enabled"] is True
    assert features["mountOptions"] == sorted(features["mountOptions"]) and "rbind" in features["mountOptions"]
    assert "CAP_NET_ADMIN" in features["linux"]["capabilities"]
    if os.path.exists(f"{BIN}/caisson"):  # it needs gRPC
        assert subprocess.run([f"{BIN}/caisson", "oci", "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout == version


def test_help_names_every_flag_once():
    for command in ("create", "run", "exec", "kill", "delete", "list", "ps", "update", "events", "spec"):
        text = subprocess.run([PROGRAM, command, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
        flags = re.findall(r"^  (--[a-z0-9-]+)", text, re.MULTILINE)
        assert flags and len(flags) == len(set(flags)), command


def test_spec_is_not_overwritten(oci):
    os.makedirs(f"{oci.folder}/new")
    oci.ok("spec", "--bundle", f"{oci.folder}/new")
    before = read(f"{oci.folder}/new/config.json")
    assert json.loads(before)["ociVersion"].startswith("1.")
    assert "config.json" in oci.refused("spec", "-b", f"{oci.folder}/new")
    assert read(f"{oci.folder}/new/config.json") == before


def test_run_prints_and_passes_the_exit_code(oci, bundle, name):
    done = oci.run("run", "-b", bundle.script("echo out; echo err >&2; cat; exit 7").path, name, input="typed\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\ntyped\n", "err\n")
    assert oci.ok("list", "-q") == ""
    assert oci.run("run", "--keep", "-b", bundle.script("exit 8").path, name).returncode == 8
    assert oci.status(name) == "stopped"
    oci.ok("delete", name)


def test_run_in_the_foreground_hands_on_signals(oci, bundle, name):
    run = subprocess.Popen(oci.command("run", "-b", bundle.script("trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done").path, name),
                           stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "up\n"
    run.terminate()
    assert run.wait(timeout=30) == 9
    run.stdout.close()
    run = subprocess.Popen(oci.command("run", "-b", bundle.script("echo up; while :; do sleep 0.05; done").path, name), stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "up\n"
    oci.ok("kill", name, "KILL")
    assert run.wait(timeout=30) == 128 + signal.SIGKILL
    run.stdout.close()


def test_life(oci, bundle, name):
    pid = oci.create(name, bundle.script(FOREVER))
    state = oci.state(name)
    assert (state["status"], state["pid"], state["bundle"], state["id"]) == ("created", pid, bundle.path, name)
    assert state["ociVersion"].startswith("1.") and state["rootfs"] == f"{oci.folder}/rootfs"
    assert not os.path.exists(f"{oci.folder}/rootfs/tmp/up")
    oci.ok("start", name)
    until_exists(pid, f"{oci.folder}/rootfs/tmp/up")
    assert oci.status(name) == "running"
    assert "it is running, not created" in oci.refused("start", name)
    assert "that is not stopped: running" in oci.refused("delete", name)
    assert "exists already" in oci.refused("create", "-b", bundle.path, name)
    assert oci.ok("list", "-q") == name + "\n"
    assert [one["status"] for one in json.loads(oci.ok("list", "--format", "json"))] == ["running"]
    assert re.search(rf"^{name} +{pid} +running ", oci.ok("list"), re.MULTILINE)
    oci.ok("kill", name)
    assert exit_code(pid) == 3
    assert (oci.state(name)["status"], oci.state(name)["pid"]) == ("stopped", 0)
    assert "container not running" in oci.refused("kill", name, "KILL")
    assert "container not running" in oci.refused("exec", name, "true")
    assert "it is stopped" in oci.refused("start", name)
    oci.ok("kill", "--all", name, "KILL")
    oci.ok("delete", name)
    for verb in ("state", "start", "kill", "delete", "pause"):
        assert "does not exist" in oci.refused(verb, name)
    oci.ok("delete", "--force", name)


def test_created_is_deleted_without_force(oci, bundle, name):
    pid = oci.create(name, bundle.script("true"))
    oci.ok("delete", name)
    assert exit_code(pid) == -signal.SIGKILL


def test_created_ends_by_a_signal(oci, bundle, name):
    pid = oci.create(name, bundle.script("true"))
    oci.ok("kill", name, "TERM")
    assert exit_code(pid) == 128 + signal.SIGTERM
    assert oci.status(name) == "stopped"


def test_delete_force_ends_all(oci, bundle, name):
    pid = oci.start(name, bundle.script("sleep 1000 & sleep 1000 & wait"))
    oci.ok("delete", "--force", name)
    assert exit_code(pid) == -signal.SIGKILL


@pytest.mark.parametrize("flags", [(), ("--all",)])
def test_kill_without_a_pid_namespace(oci, bundle, name, flags):
    bundle.spec["linux"]["namespaces"] = [one for one in bundle.spec["linux"]["namespaces"] if one["type"] != "pid"]
    pid = oci.start(name, bundle.script("sleep 1000 & echo $! > /tmp/child; echo > /tmp/up; wait"))
    until_exists(pid, f"{oci.folder}/rootfs/tmp/up")
    child = int(read(f"{oci.folder}/rootfs/tmp/child"))
    oci.ok("kill", *flags, name, "9")
    assert exit_code(pid) == -signal.SIGKILL and exit_code(child) == -signal.SIGKILL


def test_exec(oci, bundle, name):
    oci.start(name, bundle.script(FOREVER))
    done = oci.run("exec", "--env", "A=b", "-e", "C=d", "--cwd", "/tmp", "--user", "5:6", "-g", "7", name, "sh", "-c",
                   "id -u; id -g; id -G; pwd; echo $A $C; echo err >&2; exit 9")
    assert (done.returncode, done.stdout, done.stderr) == (9, "5\n6\n6 7\n/tmp\nb d\n", "err\n")
    assert oci.ok("exec", "-u", "web", name, "sh", "-c", "id -u; id -G; echo $HOME") == "1000\n1000 2000\n/tmp\n"
    assert "CapEff:\t0000000000000000" not in oci.ok("exec", name, "grep", "CapEff", "/proc/self/status")
    assert oci.ok("exec", "--cap", "CAP_NET_ADMIN", name, "grep", "CapEff", "/proc/self/status") \
        == "CapEff:\t" + f"{1 << 29 | 1 << 5 | 1 << 10 | 1 << 12:016x}\n"
    done = oci.run("exec", name, "nosuch")
    assert done.returncode == 255 and "executable file not found in PATH" in done.stderr
    assert "no program" in oci.refused("exec", name)
    assert "unknown flag '--what'" in oci.refused("exec", "--what", name, "true")
    # What a program of the container's own calls itself is not ours to read.
    assert oci.ok("exec", name, "echo", "--env", "-t", "--") == "--env -t --\n"


def test_exec_detached_by_a_process_file(oci, bundle, name):
    oci.start(name, bundle.script(FOREVER))
    with open(f"{oci.folder}/process.json", "w") as f:
        json.dump({"terminal": False, "user": {"uid": 1000, "gid": 1000}, "args": ["sh", "-c", "id -u > /tmp/who; exit 6"], "cwd": "/",
                   "env": ["PATH=/bin"]}, f)
    done = oci.quiet("exec", "--process", f"{oci.folder}/process.json", "--detach", "--pid-file", f"{oci.folder}/exec.pid", name)
    assert done.returncode == 0
    assert exit_code(int(read(f"{oci.folder}/exec.pid"))) == 6
    assert read(f"{oci.folder}/rootfs/tmp/who") == "1000\n"


def test_pause_and_resume(oci, bundle, name):
    pid = oci.start(name, bundle.script(FOREVER))
    oci.ok("pause", name)
    assert oci.status(name) == "paused"
    assert "it is paused" in oci.refused("pause", name) and "paused" in oci.refused("exec", name, "true")
    oci.ok("resume", name)
    assert oci.status(name) == "running" and "it is running" in oci.refused("resume", name)
    oci.ok("pause", name)
    oci.ok("kill", name, "KILL")  # which thaws it, or it would never die
    assert exit_code(pid) == -signal.SIGKILL


def test_ps_update_and_events(oci, bundle, name):
    pid = oci.start(name, bundle.script(FOREVER))
    assert pid in json.loads(oci.ok("ps", "--format", "json", name))
    assert re.search(rf"^\S+ +{pid} .*trap", oci.ok("ps", name), re.MULTILINE)
    assert str(pid) in oci.ok("ps", name, "-o", "pid,comm", "-e")
    oci.ok("update", "--memory", "64M", "--pids-limit", "50", name)
    stats = json.loads(oci.ok("events", "--stats", name))
    assert (stats["type"], stats["id"]) == ("stats", name)
    assert stats["data"]["memory"]["usage"]["limit"] == 64 << 20 and stats["data"]["pids"]["limit"] == 50
    assert stats["data"]["cpu"]["usage"]["total"] > 0
    with open(f"{oci.folder}/resources.json", "w") as f:
        json.dump({"memory": {"limit": 128 << 20}}, f)
    with open(f"{oci.folder}/resources.json") as f:
        oci.ok("update", "--resources", "-", name, stdin=f)
    stats = json.loads(oci.ok("events", "--stats", name))
    assert stats["data"]["memory"]["usage"]["limit"] == 128 << 20 and stats["data"]["pids"]["limit"] == 50
    assert "no number of bytes" in oci.refused("update", "--memory", "lots", name)
    # Reports until the container ends.
    events = subprocess.Popen(oci.command("events", "--interval", "10ms", name), stdout=subprocess.PIPE, text=True)
    assert json.loads(events.stdout.readline())["type"] == "stats"
    oci.ok("kill", name, "KILL")
    assert events.communicate(timeout=60)[0] is not None and events.returncode == 0
    exit_code(pid)


def test_events_tell_of_memory_that_is_out(oci, bundle, name):
    bundle.spec["linux"]["resources"]["memory"] = {"limit": 24 << 20}
    pid = oci.start(name, bundle.script("while [ ! -e /tmp/go ]; do sleep 0.05; done; tail -c 200000000 /dev/zero; echo $? > /tmp/died; sleep 1000"))
    events = subprocess.Popen(oci.command("events", "--interval", "20ms", name), stdout=subprocess.PIPE, text=True)
    assert json.loads(events.stdout.readline())["type"] == "stats"
    with open(f"{oci.folder}/rootfs/tmp/go", "w"):
        pass
    late = threading.Timer(60, events.kill)
    late.start()
    told = next(event for event in map(json.loads, events.stdout) if event["type"] != "stats")
    late.cancel()
    assert (told["type"], told["id"]) == ("oom", name)
    until_exists(pid, f"{oci.folder}/rootfs/tmp/died")
    oci.ok("kill", name, "KILL")
    events.communicate(timeout=60)
    exit_code(pid)


@pytest.mark.parametrize("own", [False, True])
def test_cgroup_path(oci, bundle, name, own):
    """As the spec says, or one of the driver's kind."""
    if own:
        bundle.spec["linux"]["cgroupsPath"] = f"caisson{os.getpid()}.slice:mine:{name}" if SYSTEMD else f"/caisson-mine-{name}"
    else:
        bundle.spec["linux"].pop("cgroupsPath", None)
    pid = oci.create(name, bundle.script("true"))
    paths = {line.rstrip().split(":", 2)[2] for line in read(f"/proc/{pid}/cgroup").splitlines()}
    unit = f"/{'mine' if own else 'caisson-oci'}-{name}.scope"
    if SYSTEMD:
        assert paths == {(f"/caisson{os.getpid()}.slice" if own else "/system.slice") + unit + "/container"}
        shown = subprocess.run(["systemctl", "show", "-P", "ActiveState", unit[1:]], stdout=subprocess.PIPE, text=True, timeout=60)
        assert shown.stdout == "active\n"
    else:
        assert (f"/caisson-mine-{name}" if own else f"/caisson-oci-{name}") in paths
    oci.ok("delete", name)
    exit_code(pid)


def test_terminal_in_the_foreground(oci, bundle, name):
    bundle.spec["process"]["terminal"] = True
    terminal = Terminal(oci.command("run", "--bundle", bundle.script("tty; stty size; read line; echo got $line; stty size; exit 4").path, name))
    terminal.until(b"/dev/pts/0")
    terminal.until(b"31 111")
    terminal.resize(20, 70)
    terminal.write(b"hello\r")
    terminal.until(b"got hello")
    terminal.until(b"20 70")
    assert terminal.finish() == 4


def receive_console(listener):
    connection, _ = listener.accept()
    text, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    connection.close()
    fds = array.array("i")
    fds.frombytes(ancillary[0][2][:4])
    assert text.startswith(b"/dev/pts/")
    return fds[0]


def until(fd, text):
    seen = b""
    while text not in seen:
        seen += os.read(fd, 4096)
    return seen


def test_terminal_by_a_console_socket(oci, bundle, name):
    bundle.spec["process"]["terminal"] = True
    bundle.script("read line; echo got $line; exit 5")
    path = f"{oci.folder}/console"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        pid = oci.create(name, bundle, "--console-socket", path)
        master = receive_console(listener)
        oci.ok("start", name)
        oci.quiet("exec", "--tty", "--detach", "--console-socket", path, "--pid-file", f"{oci.folder}/exec.pid", name, "sh", "-c", "echo $((6*7))",
                  check=True)
        other = receive_console(listener)
        until(other, b"42")
        assert exit_code(int(read(f"{oci.folder}/exec.pid"))) == 0
        os.close(other)
    os.write(master, b"hello\n")
    until(master, b"got hello")
    assert exit_code(pid) == 5
    os.close(master)


def test_console_flags_that_do_not_fit(oci, bundle, name):
    assert "--console-socket is for" in oci.refused("create", "-b", bundle.script("true").path, "--console-socket", "/x", name)
    bundle.spec["process"]["terminal"] = True
    bundle.save()
    assert "needs --console-socket" in oci.refused("create", "-b", bundle.path, name)
    assert "connect to console socket" in oci.refused("create", "-b", bundle.path, "--console-socket", f"{oci.folder}/none", name)
    assert oci.ok("list", "-q") == ""


def test_preserved_descriptors(oci, bundle, name):
    bundle.script("echo by three >&3; echo $LISTEN_FDS $LISTEN_PID >&3; (echo x >&4) 2>/dev/null && echo four >&3")

    def with_three(*flags, **env):
        return subprocess.run(["sh", "-c", 'exec 3>&1 4>&1; exec "$@"', "sh", *oci.command("run", *flags, "-b", bundle.path, name)],
                              stdout=subprocess.PIPE, text=True, timeout=60, env={**os.environ, **env}).stdout.split()
    assert with_three("--preserve-fds", "1") == ["by", "three"]
    assert with_three(LISTEN_FDS="1") == ["by", "three", "1", "1"]
    assert "is not open" in oci.refused("run", "--preserve-fds", "3", "-b", bundle.path, name)


def hook_script(folder, text):
    path = f"{folder}/hook-{len(os.listdir(folder))}"
    with open(path, "w") as f:
        f.write("#!/bin/sh\n" + text)
    os.chmod(path, 0o755)
    return path


def test_hooks(oci, bundle, name):
    log = f"{oci.folder}/hooks"
    script = hook_script(oci.folder, f'echo "$1 $(cat)" >> {log}\n')
    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    bundle.spec["hooks"] = {kind: [{"path": script, "args": ["hook", kind]}] for kind in kinds}
    inside = {"path": "/bin/sh", "args": ["sh", "-c", "cat > /tmp/started"]}
    bundle.spec["hooks"]["startContainer"] = [inside]
    bundle.spec["annotations"] = {"a.b": "c"}
    pid = oci.create(name, bundle.script("exit 0"))
    assert [line.split()[0] for line in read(log).splitlines()] == ["prestart", "createRuntime", "createContainer"]
    oci.ok("start", name)
    assert exit_code(pid) == 0
    oci.ok("delete", name)
    lines = read(log).splitlines()
    assert [line.split()[0] for line in lines] == list(kinds)
    states = [json.loads(line.partition(" ")[2]) for line in lines] + [json.loads(read(f"{oci.folder}/rootfs/tmp/started"))]
    assert {(one["id"], one["bundle"], one["annotations"]["a.b"]) for one in states} == {(name, bundle.path, "c")}
    assert [one["status"] for one in states[3:5]] == ["running", "stopped"]
    assert {one["pid"] for one in states[:4]} == {pid}


def test_hooks_that_fail(oci, bundle, name):
    fails = [{"path": "/bin/false"}]
    for kind in ("createRuntime", "createContainer"):
        bundle.spec["hooks"] = {kind: fails}
        assert "hook '/bin/false' ended with 1" in oci.refused("create", "-b", bundle.script(FOREVER).path, name)
        assert oci.ok("list", "-q") == ""
    bundle.spec["hooks"] = {"poststart": fails}
    pid = oci.create(name, bundle.save())
    assert "hook '/bin/false' ended with 1" in oci.refused("start", name)
    assert exit_code(pid) == -signal.SIGKILL
    oci.ok("delete", name)
    bundle.spec["hooks"] = {"poststop": fails * 2}
    done = oci.run("run", "-b", bundle.script("true").path, name)
    assert (done.returncode, done.stderr.count("ended with 1")) == (0, 2)


@pytest.mark.parametrize("change, message", [
    (lambda spec: spec["process"].update(args=["nosuch"]), "exec 'nosuch': executable file not found in PATH"),
    (lambda spec: spec["process"].update(args=["/nosuch"]), "exec '/nosuch': no such file or directory"),
    (lambda spec: spec["process"].update(args=["/etc"]), "exec '/etc': permission denied"),
    (lambda spec: spec["process"].update(args=["/etc/passwd"]), "exec '/etc/passwd': permission denied"),
    (lambda spec: spec["process"].update(args=[]), "process.args is empty"),
    (lambda spec: spec["process"].update(cwd="tmp"), "'tmp' is not absolute"),
    (lambda spec: spec["root"].update(path="/nosuch"), "/nosuch"),
    (lambda spec: spec.update(ociVersion="2.0.0"), "ociVersion '2.0.0' is not 1.x"),
    (lambda spec: spec["linux"].update(namespaces=[{"type": "network", "path": "/nosuch"}, {"type": "mount"}]), "open namespace '/nosuch'"),
    (lambda spec: spec["linux"].update(cgroupsPath="/../x"), "cgroup"),
    (lambda spec: spec["mounts"].append({"destination": "/x", "type": "nosuchfs", "source": "x"}), "nosuchfs"),
    (lambda spec: spec["linux"].update(seccomp={"defaultAction": "SCMP_ACT_WHAT"}), "SCMP_ACT_WHAT"),
])
def test_create_that_fails_leaves_nothing(oci, bundle, name, change, message):
    change(bundle.spec)
    assert message in oci.refused("create", "--bundle", bundle.save().path, "--pid-file", f"{oci.folder}/pid", name)
    assert oci.ok("list", "-q") == "" and not os.path.exists(f"{oci.folder}/pid")


def test_words_that_are_wrong(oci, bundle, name):
    assert "cannot be one" in oci.refused("create", "-b", bundle.path, "../x")
    assert "config.json" in oci.refused("create", "-b", oci.folder, name)
    assert "unknown command 'nosuch'" in oci.refused("nosuch")
    assert "create takes: ID" in oci.refused("create", "-b", bundle.path)
    assert "unknown signal 'WHAT'" in oci.refused("kill", name, "WHAT")
    assert "not supported" in oci.refused("checkpoint", "--image-path", "/x", name)
    with open(f"{oci.folder}/bundle/config.json", "w") as f:
        f.write("{")
    assert "config.json" in oci.refused("create", "-b", bundle.path, name)
    done = subprocess.run([PROGRAM, "--log", "/nosuch/log", "list"], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "/nosuch/log" in done.stderr


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer"])
def test_create_killed_while_a_hook_runs(oci, bundle, name, kind):
    # A hook that has begun and ends when it is told to.
    os.mkfifo(f"{oci.folder}/begun")
    os.mkfifo(f"{oci.folder}/end")
    bundle.spec["hooks"] = {kind: [{"path": hook_script(oci.folder, f"echo > {oci.folder}/begun; read x < {oci.folder}/end\n")}]}
    create = subprocess.Popen(oci.command("create", "-b", bundle.script(FOREVER).path, name), stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    read(f"{oci.folder}/begun")
    assert oci.status(name) == "creating"
    assert f"being created by process {create.pid}" in oci.refused("delete", name)
    if kind == "createRuntime":
        create.kill()
        create.wait()
        with open(f"{oci.folder}/end", "w"):
            pass
        assert oci.status(name) == "stopped"
        oci.ok("delete", name)
    else:
        with open(f"{oci.folder}/end", "w") as end:
            create.kill()
            create.wait()
            end.write("\n")
        oci.ok("delete", "--force", name)
    assert oci.ok("list", "-q") == ""


def test_create_killed_at_any_moment(oci, bundle, name):
    bundle.script(FOREVER)
    for number in range(40):
        create = subprocess.Popen(oci.command("create", "-b", bundle.path, name), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            create.wait(timeout=number / 2000)
        except subprocess.TimeoutExpired:
            create.kill()
            create.wait()
        oci.ok("delete", "--force", name)
        assert oci.ok("list", "-q") == ""


def test_a_folder_without_a_record_is_deleted(oci, name):
    os.makedirs(f"{oci.root}/{name}")
    assert "half made" in oci.refused("state", name)
    oci.ok("delete", name)


def test_seccomp_of_the_container_and_of_exec(oci, bundle, name):
    bundle.spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}
    bundle.spec["process"]["noNewPrivileges"] = False
    oci.start(name, bundle.script("mkdir /tmp/a 2> /tmp/said; " + FOREVER))
    done = oci.run("exec", name, "mkdir", "/tmp/b")
    assert done.returncode == 1 and "No space left" in done.stderr
    while not os.path.exists(f"{oci.folder}/rootfs/tmp/up"):
        os.sched_yield()
    assert "No space left" in read(f"{oci.folder}/rootfs/tmp/said")


def test_containers_share_namespaces(oci, bundle, name, rootfs):
    first = oci.start(name, bundle.script(FOREVER))
    other = Bundle(f"{oci.folder}/second", rootfs)
    for space in other.spec["linux"]["namespaces"]:
        if space["type"] in ("pid", "network", "ipc"):
            space["path"] = f"/proc/{first}/ns/{'net' if space['type'] == 'network' else space['type']}"
    pid = oci.start(f"{name}-2", other.args("sleep", "1000"))
    links = [os.readlink(f"/proc/{p}/ns/{kind}") for kind in ("net", "pid", "ipc") for p in (first, pid)]
    assert links[0] == links[1] and links[2] == links[3] and links[4] == links[5]
    assert "sleep 1000" in oci.ok("exec", name, "ps")
    # Not the init of its PID namespace: SIGKILL to one goes to all of the container's.
    oci.ok("kill", f"{name}-2", "KILL")
    assert exit_code(pid) == -signal.SIGKILL
    oci.ok("delete", f"{name}-2")
    assert oci.status(name) == "running"


def test_tmpfs_that_begins_with_what_it_covers(oci, bundle, name):
    os.makedirs(f"{oci.folder}/rootfs/var/a/b")
    with open(f"{oci.folder}/rootfs/var/a/b/file", "w") as f:
        f.write("below\n")
    os.chown(f"{oci.folder}/rootfs/var/a/b/file", 5, 6)
    os.chmod(f"{oci.folder}/rootfs/var/a/b/file", 0o644)
    os.symlink("a/b", f"{oci.folder}/rootfs/var/link")
    bundle.spec["mounts"].append({"destination": "/var", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "ro", "nosuid"]})
    out = oci.ok("run", "-b", bundle.script("cat /var/link/file; stat -c '%u %g %a' /var/a/b/file; echo x > /var/x || echo read-only").path, name)
    assert out == "below\n5 6 644\nread-only\n"


@pytest.mark.parametrize("word, field", [("shared", r" shared:\d+"), ("private", ""), ("unbindable", " unbindable")])
def test_root_propagation(oci, bundle, name, word, field):
    bundle.spec["linux"]["rootfsPropagation"] = word
    table = oci.ok("run", "-b", bundle.args("cat", "/proc/self/mountinfo").path, name).splitlines()
    assert re.fullmatch(rf"\S+ \S+ \S+ \S+ / \S+{field} - .*", next(line for line in table if line.split()[4] == "/"))


def test_user_namespace(oci, bundle, name):
    bundle.spec["linux"]["namespaces"].append({"type": "user"})
    bundle.spec["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 1000}]
    bundle.spec["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 1000}]
    os.chmod(oci.folder, 0o755)
    pid = oci.start(name, bundle.args("sleep", "1000"))
    assert os.stat(f"/proc/{pid}").st_uid == 100000
    assert oci.ok("exec", name, "cat", "/proc/self/uid_map").split() == ["0", "100000", "1000"]
    assert oci.ok("exec", "-u", "5", name, "id", "-u") == "5\n"


def test_rootless(oci, rootfs, name):
    """As a user who may do nothing on this host: one user and group in a user namespace, no cgroups."""
    os.chmod(oci.folder, 0o777)
    user = dict(user=65534, group=65534, extra_groups=[], cwd="/")
    os.makedirs(f"{oci.folder}/home")
    os.chown(f"{oci.folder}/home", 65534, 65534)
    oci.program = shutil.copy(PROGRAM, oci.folder)  # the build's folder may be closed to others
    subprocess.run([oci.program, "spec", "--rootless", "--bundle", f"{oci.folder}/home"], check=True, **user)
    with open(f"{oci.folder}/home/config.json") as f:
        spec = json.load(f)
    spec["root"]["path"] = rootfs
    spec["process"].update(terminal=False, args=["sh", "-c", "id -u; cat /proc/self/uid_map; read x < /proc/1/comm; echo $x"])
    with open(f"{oci.folder}/home/config.json", "w") as f:
        json.dump(spec, f)
    out = oci.ok("run", "--bundle", f"{oci.folder}/home", name, **user)
    assert out.split() == ["0", "0", "65534", "1", "sh"]
    spec["process"]["args"] = ["sleep", "1000"]
    with open(f"{oci.folder}/home/config.json", "w") as f:
        json.dump(spec, f)
    oci.quiet("run", "--detach", "--pid-file", f"{oci.folder}/home/pid", "--bundle", f"{oci.folder}/home", name, check=True, **user)
    pid = int(read(f"{oci.folder}/home/pid"))
    assert os.stat(f"/proc/{pid}").st_uid == 65534
    assert oci.ok("exec", name, "id", "-u", **user) == "0\n"
    oci.ok("kill", name, "KILL", **user)
    assert exit_code(pid) == -signal.SIGKILL
    oci.ok("delete", name, **user)


def test_the_programs_file_cannot_be_written_through_a_process(oci, bundle, name):
    """CVE-2019-5736: an image whose program is a link to /proc/self/exe."""
    before = os.stat(PROGRAM)
    os.symlink("/proc/self/exe", f"{oci.folder}/rootfs/bin/me")
    oci.run("run", "-b", bundle.args("/bin/me", "--version").path, name)
    oci.run("delete", "--force", name)
    bundle.script("for i in 1 2 3 4 5 6 7 8; do for p in /proc/[0-9]*; do echo x 2>/dev/null >> $p/exe; done; done; exit 0")
    oci.run("run", "-b", bundle.path, name)
    after = os.stat(PROGRAM)
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    assert stat.S_ISREG(after.st_mode)
