# SPDX-License-Identifier: Apache-2.0
"""Our companion as the shim of a real containerd, by its own client `ctr`: docs/containerd.md."""
import json
import os
import pty
import select
import signal
import subprocess
import threading

import pytest

from harness.containerd import PROGRAMS, RUNTIME, check_log_uris, own_containerd
from harness.registry import wait_for

pytestmark = [pytest.mark.skipif(not os.path.exists(f"{PROGRAMS}/ctr"), reason="no containerd here: install Debian's containerd"),
              pytest.mark.native("containerd's containers are of processes")]

@pytest.fixture(scope="module")
def containerd():
    with own_containerd() as containerd:
        yield containerd


@pytest.fixture(autouse=True)
def nothing_left(containerd):
    """Each test ends its containers; no companion, socket or cgroup outlives them."""
    yield
    for left in containerd.tasks():
        containerd.ctr("task", "rm", "-f", left, check=False)
    for left in containerd.ctr("container", "ls", "-q").stdout.split():
        containerd.ctr("container", "rm", left)
    wait_for("no companion is left", lambda: not containerd.companions())


class Events:
    """`ctr events` from now on."""

    def __init__(self, containerd):
        self.lines = []
        self.process = subprocess.Popen([f"{PROGRAMS}/ctr", "events"], env=containerd.env, stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=lambda: self.lines.extend(map(str.strip, self.process.stdout)))
        self.thread.start()

    def topics(self, container):
        return [line.split()[5] for line in list(self.lines) if f'"container_id":"{container}"' in line]

    def content(self, topic):
        return [json.loads(line.split(topic, 1)[1]) for line in list(self.lines) if f" {topic} " in line]

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.thread.join()


@pytest.fixture
def events(containerd):
    events = Events(containerd)
    # Not before it is told of something can it be said to listen.
    wait_for("events arrive", lambda: containerd.ctr("namespace", "label", "default", f"n={len(events.lines)}") and events.lines)
    yield events
    events.stop()


def cgroups_of(path):
    return [base for base, names, _ in os.walk("/sys/fs/cgroup") if base.endswith(path)]


def sleeper(containerd, name, *args):
    containerd.run(name, "sh", "-c", 'trap "exit 5" TERM; echo up; while :; do sleep 0.05; done', args=("-d", *args))


def test_run_gives_output_and_exit_status(containerd, name):
    done = containerd.run(name, "sh", "-c", "echo out; echo err >&2; exit 7", args=("--rm",), check=False)
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert "err" in done.stderr
    assert containerd.tasks() == {} and not cgroups_of(f"/default/{name}")


def test_program_that_is_not_there(containerd, name):
    done = containerd.run(name, "/no/such/program", check=False)
    assert done.returncode != 0 and "/no/such/program" in done.stderr


def test_exec_ps_and_kill(containerd, name):
    sleeper(containerd, name)
    done = containerd.ctr("task", "exec", "--exec-id", "one", name, "sh", "-c", "echo in; cat; exit 3", check=False, input="more")
    assert (done.returncode, done.stdout) == (3, "in\nmore")
    with open(f"{containerd.bundle(name)}/init.pid") as f:
        init = f.read()
    assert init in containerd.ctr("task", "ps", name).stdout.split()
    containerd.ctr("task", "kill", "-s", "TERM", name)
    wait_for("it ends", lambda: containerd.tasks()[name] == "STOPPED")
    assert "exit code 5" in containerd.ctr("task", "rm", name, check=False).stderr


def test_terminal(containerd, name):
    sleeper(containerd, name)
    ours, theirs = pty.openpty()
    client = subprocess.Popen([f"{PROGRAMS}/ctr", "task", "exec", "-t", "--exec-id", "tty", name, "sh", "-c", "tty; read line; echo got $line"],
                              env=containerd.env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""

    def read_until(text):
        nonlocal seen
        while text not in seen:
            assert select.select([ours], [], [], 30)[0], seen
            seen += os.read(ours, 4096)
    read_until(b"/dev/pts/0")
    os.write(ours, b"hello\n")
    read_until(b"got hello")
    assert client.wait(30) == 0
    os.close(ours)


def test_pause_resume_and_events_in_order(containerd, name, events):
    sleeper(containerd, name)
    containerd.ctr("task", "pause", name)
    assert containerd.tasks()[name] == "PAUSED"
    containerd.ctr("task", "resume", name)
    assert containerd.tasks()[name] == "RUNNING"
    containerd.ctr("task", "exec", "--exec-id", "two", name, "true")
    containerd.ctr("task", "kill", "-s", "KILL", name)
    wait_for("it ends", lambda: containerd.tasks()[name] == "STOPPED")
    containerd.ctr("task", "rm", name, check=False)
    wait_for("its last event", lambda: "/tasks/delete" in events.topics(name))
    assert events.topics(name) == ["/tasks/create", "/tasks/start", "/tasks/paused", "/tasks/resumed", "/tasks/exec-added",
                                   "/tasks/exec-started", "/tasks/exit", "/tasks/exit", "/tasks/delete"]
    ends = {event["id"]: event.get("exit_status", 0) for event in events.content("/tasks/exit")}
    assert (ends["two"], ends[name]) == (0, 137)
    created = events.content("/tasks/create")[-1]
    assert created["bundle"] == containerd.bundle(name) and created["rootfs"][0]["type"] == "overlay"


def test_metrics_and_limits(containerd, name):
    sleeper(containerd, name, "--memory-limit", "67108864")
    metrics = json.loads(containerd.ctr("task", "metrics", "--format", "json", name).stdout)
    memory = metrics["memory"]
    assert memory.get("usage_limit") == 67108864 or memory["usage"]["limit"] == 67108864
    assert metrics["pids"]["current"] >= 1 and metrics["cpu"]
    containerd.ctr("task", "exec", "--exec-id", "touch", name, "sh", "-c", "dd if=/dev/zero of=/tmp/f bs=1M count=4")
    assert json.loads(containerd.ctr("task", "metrics", "--format", "json", name).stdout)["memory"].get("cache", 1) > 0


def test_oom_is_told(containerd, name, events):
    containerd.run(name, "sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1", args=("-d", "--memory-limit", "8388608"))
    wait_for("it ends", lambda: containerd.tasks()[name] == "STOPPED")
    wait_for("its end is told", lambda: "/tasks/exit" in events.topics(name))
    assert events.topics(name) == ["/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit"]


def test_log_file_and_log_program(containerd, name):
    check_log_uris(containerd, name, containerd.run)


def test_log_program_that_does_not_start(containerd, name):
    done = containerd.run(name, "true", args=("-d", "--log-uri", "binary:///no/such/logger"), check=False)
    assert done.returncode != 0 and "/no/such/logger" in done.stderr
    assert containerd.tasks() == {}


def test_containerd_restarts_under_live_tasks(containerd, name):
    """What ends while it is away is told when it is back."""
    sleeper(containerd, f"{name}-a")
    gate = f"{containerd.folder}/gate"
    os.mkfifo(gate)
    containerd.run(f"{name}-b", "sh", "-c", "read x < /gate; exit 9", args=("-d", "--mount", f"type=bind,src={gate},dst=/gate,options=rbind:rw"))
    containerd.kill()
    with open(gate, "w") as f:
        f.write("go\n")
    containerd.start()
    events = Events(containerd)
    if containerd.is_two():
        # It takes a companion whose container has ended meanwhile for one that was left behind, as it does with runc's shim.
        wait_for("only one lives", lambda: [task for task, state in containerd.tasks().items() if state == "RUNNING"] == [f"{name}-a"])
        return events.stop()
    wait_for("the end that it has missed", lambda: containerd.tasks() == {f"{name}-a": "RUNNING", f"{name}-b": "STOPPED"})
    done = containerd.ctr("task", "exec", "--exec-id", "later", f"{name}-a", "echo", "alive")
    assert done.stdout == "alive\n"
    done = containerd.ctr("task", "rm", f"{name}-b", check=False)
    assert "exit code 9" in done.stderr
    wait_for("its events", lambda: "/tasks/delete" in events.topics(f"{name}-b"))
    events.stop()


def test_companion_that_is_killed(containerd, name, events):
    sleeper(containerd, name)
    with open(f"{containerd.bundle(name)}/init.pid") as f:
        init = int(f.read())
    os.kill(containerd.companion(name), signal.SIGKILL)
    wait_for("containerd has cleaned up", lambda: "/tasks/delete" in events.topics(name))
    end = events.content("/tasks/exit")[-1]
    assert (end["container_id"], end["exit_status"], end["pid"]) == (name, 137, init)
    assert not cgroups_of(f"/default/{name}") and not os.path.exists(f"/proc/{init}/root/bin")
    assert not os.path.exists(containerd.bundle(name))


def test_checkpoint_of_a_paused_container_is_refused(containerd, name):
    """containerd pauses what it checkpoints; criu cannot then be the one who stops it. Nothing is lost by the refusal."""
    sleeper(containerd, name)
    done = containerd.ctr("task", "checkpoint", "--image-path", f"{containerd.folder}/images", name, check=False)
    assert done.returncode != 0 and "it is paused" in done.stderr
    assert containerd.tasks()[name] == "RUNNING"


def test_version_and_flags():
    from harness.daemon import BIN
    program = f"{BIN}/containerd-shim-caisson-v2"
    done = subprocess.run([program, "-v"], stdout=subprocess.PIPE, text=True, check=True)
    assert "Version" in done.stdout
    done = subprocess.run([program, "-namespace", "default", "-id", "../x", "start"], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "no container's id" in done.stderr
    done = subprocess.run([program, "-nonsense", "x", "start"], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "-nonsense" in done.stderr
