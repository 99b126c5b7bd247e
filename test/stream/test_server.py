# SPDX-License-Identifier: Apache-2.0
"""The streaming server alone (server.cc): its "containers" are processes of this host, its "pods" the host's loopback."""
import os
import socket
import subprocess
import threading

import pytest

from harness.daemon import BIN
from harness.memory import anonymous, kept_when_freed
from harness.registry import wait_for
from harness.streams import Forward, Refused, Session, WebSocket


class Server:
    def __init__(self):
        self.process = subprocess.Popen([f"{BIN}/stream_test_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *words):
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def exec(self, flags, *command, **options):
        return Session(self.ask("exec", "c", flags, *command), **options)


@pytest.fixture(scope="module")
def server():
    if not os.path.exists(f"{BIN}/stream_test_server"):
        pytest.skip("this build has no stream_test_server (CAISSON_TESTS is off)")
    server = Server()
    yield server
    server.process.stdin.close()
    assert server.process.wait(30) == 0


@pytest.fixture(autouse=True)
def nothing_left(server):
    yield
    wait_for("all processes are ended", lambda: server.ask("running") == "0")
    wait_for("all connections are closed", lambda: server.ask("connections") == "0")


def test_output_and_exit_code(server):
    session = server.exec("oe", "/bin/ls", "/", "/none")
    code, out, err = session.finish()
    assert code == 2 and b"etc" in out and b"/none" in err
    assert session.status["reason"] == "NonZeroExitCode"


@pytest.mark.parametrize("protocol", ["v4.channel.k8s.io", "v5.channel.k8s.io"])
def test_input(server, protocol):
    session = server.exec("io", "/bin/cat", protocol=protocol)
    session.write(b"there")
    session.until(b"there")
    if protocol.startswith("v5"):
        session.end_input()
        assert session.finish()[0] == 0
    session.vanish()


def test_a_terminal_has_the_size_that_came_last(server):
    session = server.exec("tio", "/bin/cat")
    for width in range(1, 200):
        session.resize(width, 24)
    wait_for("the size is set", lambda: server.ask("resized") == "199x24")
    session.vanish()


def test_urls_are_good_once_and_for_their_verb(server):
    url = server.ask("exec", "c", "o", "/bin/true")
    assert Session(url).finish()[0] == 0
    other = server.ask("exec", "c", "o", "/bin/true")
    for bad in (url, other.replace("/exec/", "/portforward/"), other):
        with pytest.raises(Refused):
            Session(bad)


def test_a_client_that_does_not_read_costs_a_bounded_amount(server):
    sessions = [server.exec("o", "/usr/bin/yes") for _ in range(20)]
    for session in sessions:
        session.until(b"y\n")
    # 256 KiB are queued for each, in the kernel some more that is not the server's.
    wait_for("each process waits", lambda: all(state == "S" for state in states("yes", server)))
    assert anonymous(server.process.pid) < (120 << 20) + kept_when_freed()
    for session in sessions:
        session.vanish()


def states(name, server):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as f:
                head, _, rest = f.read().rpartition(")")
        except OSError:
            continue
        if head.endswith("(" + name) and int(rest.split()[1]) == server.process.pid:
            found.append(rest.split()[0])
    return found


def test_many_clients_that_die(server):
    def die(kind):
        if kind == 0:
            session = server_exec_locked("oe", "/bin/sleep", "1000")
            session.vanish()
        elif kind == 1:
            link = WebSocket(url_locked("exec", "c", "io", "/bin/cat"))
            link.send(b"\0" + b"x" * 100000)
            link.vanish()
        else:
            raw = socket.create_connection(("127.0.0.1", int(url_locked("forward", "p", "1").split(":")[2].split("/")[0])))
            raw.sendall(b"GET /exec/x HTTP/1.1\r\nHost")
            raw.close()

    lock = threading.Lock()

    def url_locked(*words):
        with lock:
            return server.ask(*words)

    def server_exec_locked(flags, *command):
        return Session(url_locked("exec", "c", flags, *command))

    fds = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    threads = [threading.Thread(target=lambda: [die(n % 3) for n in range(60)]) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for("all is given back", lambda: server.ask("running") == "0" and server.ask("connections") == "0")
    assert len(os.listdir(f"/proc/{server.process.pid}/fd")) <= fds


def test_forward(server):
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def serve():
        client = listener.accept()[0]
        while data := client.recv(1 << 16):
            client.sendall(data)
        client.close()

    thread = threading.Thread(target=serve)
    thread.start()
    forward = Forward(server.ask("forward", "p", str(port)))
    data = os.urandom(1 << 20)
    forward.write(data)
    forward.until(lambda f: len(f.got[0]) == len(data))
    assert forward.got[0] == data and forward.ports == {0: port, 1: port}
    forward.vanish()
    thread.join()
    listener.close()
    forward = Forward(server.ask("forward", "p", str(port)))
    forward.until(lambda f: f.got[1])
    assert b"connect to port" in forward.got[1]
    forward.vanish()
