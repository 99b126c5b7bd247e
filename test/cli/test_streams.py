# SPDX-License-Identifier: Apache-2.0
"""caisson exec -i -t, attach and port-forward."""
import os
import signal
import subprocess
import urllib.request

import pytest

from harness.daemon import BIN, cli
from harness.registry import wait_for
from harness.terminal import Terminal


def command(daemon, *args):
    return [f"{BIN}/caisson", "--socket", daemon.socket, *args]


def run(daemon, *args, stdin=b""):
    done = subprocess.run(command(daemon, *args), input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def sleeper(pods):
    return pods.start(pods.run_pod(), ["sleep", "100000"])


def test_exec_with_stdin(daemon, sleeper):
    data = os.urandom(1 << 20)
    assert run(daemon, "exec", "-i", sleeper, "cat", stdin=data) == (0, data, b"")
    assert run(daemon, "exec", "-i", sleeper, "sh", "-c", "cat >&2; exit 9", stdin=b"x") == (9, b"", b"x")
    code, out, err = run(daemon, "exec", "-i", sleeper, "/no/such")
    assert code == 1 and out == b"" and b"/no/such" in err


def test_exec_on_a_terminal(daemon, sleeper):
    terminal = Terminal(command(daemon, "exec", "-it", sleeper, "sh"))
    terminal.until(b"# ")
    terminal.write(b"stty size\n")
    terminal.until(b"31 111")
    terminal.resize(40, 90)
    terminal.write(b"until [ \"$(stty size)\" = '40 90' ]; do usleep 10000; done; echo re''sized\n")
    terminal.until(b"resized")
    # Ctrl-C is for the command in there.
    terminal.write(b"sleep 1000\n")
    wait_for("it runs", lambda: "sleep 1000" in cli(daemon, "exec", sleeper, "ps").stdout.replace("sleep 100000", ""))
    terminal.write(b"\x03")
    terminal.write(b"echo sti''ll\n")
    terminal.until(b"still")
    terminal.write(b"exit 4\n")
    assert terminal.finish() == 4


def test_attach(daemon, pods):
    container = pods.start(pods.run_pod(), ["sh", "-c", "while read x; do echo got $x; done"], stdin=True, stdin_once=True)
    assert run(daemon, "attach", "-i", container, stdin=b"one\ntwo\n") == (0, b"got one\ngot two\n", b"")
    assert run(daemon, "attach", container)[0] == 1  # it has ended


def test_port_forward(daemon, pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sh", "-c", "echo page > /tmp/page; exec httpd -f -p 8080 -h /tmp"])
    wait_for("the server listens", lambda: ":1F90 " in pods.exec(container, ["cat", "/proc/net/tcp", "/proc/net/tcp6"])[1])
    forward = subprocess.Popen(command(daemon, "port-forward", pod[0], ":8080"), stdout=subprocess.PIPE)
    try:
        address = forward.stdout.readline().decode().split()[0]
        for _ in range(10):
            assert urllib.request.urlopen(f"http://{address}/page", timeout=30).read() == b"page\n"
    finally:
        forward.send_signal(signal.SIGINT)
        assert forward.wait(30) == 0
        forward.stdout.close()
    assert run(daemon, "port-forward", pod[0], "0")[0] == 1
    assert run(daemon, "port-forward", "nobody", "80")[0] == 1
