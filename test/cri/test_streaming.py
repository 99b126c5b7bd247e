# SPDX-License-Identifier: Apache-2.0
"""Exec, Attach and PortForward as a client of the streaming server sees them."""
import os
import re
import subprocess
import threading
import time

import grpc
import pytest

from harness.memory import anonymous, kept_when_freed
from harness.pods import Pods
from harness.registry import free_port, wait_for
from harness.streams import STDOUT, Forward, Refused, Session, WebSocket


def exec_url(daemon, container, command, tty=False, stdin=False, stdout=True, stderr=None):
    return daemon.client.Exec(container_id=container, cmd=command, tty=tty, stdin=stdin, stdout=stdout,
                              stderr=not tty if stderr is None else stderr).url


def attach_url(daemon, container, tty=False, stdin=False, stdout=True):
    return daemon.client.Attach(container_id=container, tty=tty, stdin=stdin, stdout=stdout, stderr=not tty).url


def run(daemon, container, command, **options):
    return Session(exec_url(daemon, container, command, **options)).finish()


def code(error):
    return error.value.code()


def in_use(daemon):
    """Descriptors and threads of the daemon, and descriptors of its companions."""
    pid = daemon.process.pid
    companions = [p for p in os.listdir("/proc") if p.isdigit() and "containerd-shim-caisson" in command_of(p)
                  and daemon.marker in command_of(p)]
    return (len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")),
            sum(len(os.listdir(f"/proc/{p}/fd")) for p in companions))


def command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def folders(daemon):
    return os.listdir(f"{daemon.state}/streams")


def processes(pods, container):
    """The commands in the container, but for init and the listing itself. Init may be none that reaps: [name] is dead."""
    out = pods.exec(container, ["ps", "-o", "args"])[1].splitlines()[1:]
    return [line.strip() for line in out if not line.strip().startswith(("ps ", "sleep 100000", "["))]


@pytest.fixture
def sleeper(pods):
    pod = pods.run_pod()
    return pods.start(pod, ["sleep", "100000"])


@pytest.fixture(autouse=True)
def nothing_left(daemon, request):
    """Each test gives back every session's files."""
    yield
    wait_for("no session is left", lambda: not folders(daemon))


def test_streams_and_exit_code(daemon, sleeper):
    assert run(daemon, sleeper, ["sh", "-c", "echo out; echo err >&2; exit 7"]) == (7, b"out\n", b"err\n")
    assert run(daemon, sleeper, ["true"]) == (0, b"", b"")
    assert run(daemon, sleeper, ["sh", "-c", "kill -9 $$"])[0] == 137
    assert run(daemon, sleeper, ["sh", "-c", "echo out; echo err >&2"], stderr=False) == (0, b"out\n", b"")
    assert run(daemon, sleeper, ["sh", "-c", "echo out; echo err >&2"], stdout=False, stderr=True) == (0, b"", b"err\n")


def test_a_command_that_is_not_there(daemon, sleeper):
    session = Session(exec_url(daemon, sleeper, ["/no/such"]))
    assert session.finish()[0] is None
    assert session.status["status"] == "Failure" and "/no/such" in session.status["message"], session.status


def test_much_output_arrives_whole(daemon, sleeper):
    script = "i=0; while [ $i -lt 64 ]; do head -c 1048576 /dev/zero; i=$((i+1)); done; echo end >&2"
    result = run(daemon, sleeper, ["sh", "-c", script])
    assert (result[0], len(result[1]), result[2]) == (0, 64 << 20, b"end\n")


def test_stdin_and_its_end(daemon, sleeper):
    session = Session(exec_url(daemon, sleeper, ["sh", "-c", "wc -c; echo after"], stdin=True))
    data = os.urandom(3 << 20)
    session.write(data)
    session.end_input()
    assert session.finish() == (0, b"%d\nafter\n" % len(data), b"")
    session = Session(exec_url(daemon, sleeper, ["cat"], stdin=True))
    session.write(b"ping")
    session.until(b"ping")
    session.write(b"pong")
    session.until(b"pingpong")
    session.end_input()
    assert session.finish() == (0, b"pingpong", b"")


def test_tty_and_its_size(daemon, sleeper):
    session = Session(exec_url(daemon, sleeper, ["sh"], tty=True, stdin=True))
    session.resize(123, 45)
    session.write(b"tty; echo $TERM\n")
    session.until(b"/dev/pts/")
    session.until(b"xterm")
    session.write(b"until [ \"$(stty size)\" = '45 123' ]; do usleep 10000; done; echo fi''rst\n")
    session.until(b"first")
    for width in range(1, 300):
        session.resize(width, 50)
    session.write(b"until [ \"$(stty size)\" = '50 299' ]; do usleep 10000; done; echo la''st\n")
    session.until(b"last")
    session.write(b"exit 3\n")
    assert session.finish()[0] == 3


def test_several_at_once(daemon, sleeper):
    sessions = [Session(exec_url(daemon, sleeper, ["cat"], stdin=True)) for _ in range(40)]
    for number, session in enumerate(sessions):
        session.write(b"%d" % number)
        session.end_input()
    for number, session in enumerate(sessions):
        assert session.finish() == (0, b"%d" % number, b"")


def test_what_cannot_be_asked_for(daemon, pods, sleeper):
    for verb, extra in (("Exec", {"cmd": ["true"]}), ("Attach", {})):
        call = getattr(daemon.client, verb)
        with pytest.raises(grpc.RpcError) as error:
            call(container_id=sleeper, tty=True, stdout=True, stderr=True, **extra)
        assert code(error) == grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as error:
            call(container_id=sleeper, **extra)
        assert code(error) == grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as error:
            call(container_id="0" * 64, stdout=True, **extra)
        assert code(error) == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.Exec(container_id=sleeper, stdout=True)
    assert code(error) == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.PortForward(pod_sandbox_id="0" * 64, port=[80])
    assert code(error) == grpc.StatusCode.NOT_FOUND
    url = exec_url(daemon, sleeper, ["true"])
    daemon.client.StopContainer(container_id=sleeper, timeout=0)
    for call in (lambda: exec_url(daemon, sleeper, ["true"]), lambda: attach_url(daemon, sleeper)):
        with pytest.raises(grpc.RpcError) as error:
            call()
        assert code(error) == grpc.StatusCode.FAILED_PRECONDITION
    session = Session(url)  # given out while it ran
    assert session.finish()[0] is None and "not running" in session.status["message"]


def test_tokens(daemon, sleeper):
    url = exec_url(daemon, sleeper, ["echo", "once"])
    assert Session(url).finish() == (0, b"once\n", b"")
    with pytest.raises(Refused) as refused:
        Session(url)
    assert refused.value.status in (403, 404)
    fresh = exec_url(daemon, sleeper, ["echo", "once"])
    with pytest.raises(Refused):
        Session(fresh.replace("/exec/", "/attach/"))
    with pytest.raises(Refused):
        Session(fresh[:-1] + ("0" if fresh[-1] != "0" else "1"))
    assert fresh.startswith("http://127.0.0.1:")
    assert len(fresh.rsplit("/", 1)[1]) >= 43  # 256 bits


def test_the_audit_line_names_the_command_and_not_its_arguments(daemon, pods, sleeper):
    run(daemon, sleeper, ["echo", "sesame-open"])
    log = daemon.log_text()
    assert re.search(f"exec in container {sleeper} of pod default/pod-.* for 127.0.0.1:.*: echo", log)
    assert "sesame-open" not in log


# A client that dies takes its process along, with all that came of it.
def test_a_dying_client_ends_the_process(daemon, pods, sleeper):
    before = in_use(daemon)
    script = "trap '' HUP TERM; (setsid sleep 4321 &) ; sleep 4322 & while :; do echo x; usleep 10000; done"
    session = Session(exec_url(daemon, sleeper, ["sh", "-c", script], stdin=True))
    session.until(b"x")
    assert any("4322" in line for line in processes(pods, sleeper))
    session.vanish()
    wait_for("all are gone", lambda: not processes(pods, sleeper))
    session = Session(exec_url(daemon, sleeper, ["sh"], tty=True, stdin=True))
    session.write(b"sleep 4323\n")
    wait_for("it runs", lambda: any("4323" in line for line in processes(pods, sleeper)))
    session.vanish()
    wait_for("all are gone", lambda: not processes(pods, sleeper))
    wait_for("nothing is kept", lambda: all(now <= then for now, then in zip(in_use(daemon), before)))


def test_a_dying_client_whose_input_nobody_reads(daemon, pods, sleeper):
    session = Session(exec_url(daemon, sleeper, ["sh", "-c", "echo on; exec sleep 4324"], stdin=True))
    session.until(b"on\n")  # with bytes unread the kernel would reset the connection, which is seen at once
    # More than the server queues for the process; the rest waits in its socket, and the client's goodbye behind it.
    session.write(b"x" * (1300 << 10))
    session.vanish()
    wait_for("it is gone", lambda: not processes(pods, sleeper))


def test_what_a_command_leaves_running_lives_on(daemon, pods, sleeper):
    assert run(daemon, sleeper, ["sh", "-c", "sleep 4325 > /dev/null 2>&1 & echo started"]) == (0, b"started\n", b"")
    assert any("4325" in line for line in processes(pods, sleeper))


def test_exec_ends_with_its_container(daemon, pods, sleeper):
    session = Session(exec_url(daemon, sleeper, ["sh", "-c", "echo on; exec sleep 4326"]))
    session.until(b"on")
    daemon.client.StopContainer(container_id=sleeper, timeout=0)
    assert session.finish()[0] in (137, None)


def test_attach_two_at_once(daemon, pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sh", "-c", "while read line; do echo \"got $line\"; echo err >&2; done; echo eof; exit 4"],
                           stdin=True)
    first, second = (Session(attach_url(daemon, container, stdin=True)) for _ in range(2))
    # Only its own line's answer tells a client that its attachment has begun.
    for session, word in ((first, b"a"), (second, b"b")):
        session.write(word + b"\n")
        session.until(b"got " + word + b"\n")
    first.write(b"one\n")
    first.until(b"got one\n"), second.until(b"got one\n")
    second.write(b"two\n")
    first.until(b"got two\n"), second.until(b"got two\n")
    first.end_input()  # without stdin_once the container's stdin stays open
    second.write(b"three\n")
    first.until(b"got three\n")
    first.vanish()
    second.write(b"four\n")
    second.until(b"got four\n")
    third = Session(attach_url(daemon, container, stdin=True))
    third.write(b"five\n")
    third.until(b"got five\n")
    assert b"four" not in third.got[STDOUT]
    # What the container says after its answer: stopped before that, it says it to nobody.
    for session in (second, third):
        session.until(b"err\n", channel=2)
    daemon.client.StopContainer(container_id=container, timeout=0)
    for session in (second, third):
        assert session.finish()[0] == 0 and session.got[2].endswith(b"err\n")
    log = [line.text for line in pods.log(pods.status(container).log_path) if line.stream == "stdout"]
    assert log == [f"got {word}" for word in ("a", "b", "one", "two", "three", "four", "five")]


def test_attach_stdin_once(daemon, pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sh", "-c", "cat; echo eof; exit 4"], stdin=True, stdin_once=True)
    session = Session(attach_url(daemon, container, stdin=True))
    session.write(b"text\n")
    session.until(b"text\n")
    session.end_input()
    assert session.finish() == (0, b"text\neof\n", b"")
    assert pods.wait_exit(container).exit_code == 4
    # The same if the client dies.
    container = pods.start(pod, ["sh", "-c", "cat; echo eof; exit 5"], stdin=True, stdin_once=True)
    session = Session(attach_url(daemon, container, stdin=True))
    session.write(b"text\n")
    session.until(b"text\n")
    session.vanish()
    assert pods.wait_exit(container).exit_code == 5


def test_attach_to_a_tty(daemon, pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sh"], stdin=True, tty=True)
    session = Session(attach_url(daemon, container, tty=True, stdin=True))
    session.resize(77, 33)
    session.write(b"until [ \"$(stty size)\" = '33 77' ]; do usleep 10000; done; echo si''zed\n")
    session.until(b"sized")
    session.write(b"exit 6\n")
    assert session.finish()[0] == 0
    assert pods.wait_exit(container).exit_code == 6


def test_attach_to_a_container_without_stdin(daemon, pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sh", "-c", "read x; echo \"<$x>\"; exec sleep 100000"])
    session = Session(attach_url(daemon, container, stdin=True))
    session.write(b"ignored\n")
    session.end_input()
    assert "<>" in wait_log(pods, container)
    session.vanish()


def wait_log(pods, container):
    path = pods.status(container).log_path
    wait_for("the log has a line", lambda: os.path.exists(path) and os.path.getsize(path) > 0)
    return [line.text for line in pods.log(path)]


def test_a_slow_client_does_not_hold_up_the_container(daemon, pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sh", "-c", "read x; i=0; while [ $i -lt 40 ]; do head -c 1048575 /dev/zero | tr '\\0' a; "
                                 "echo; i=$((i+1)); done; echo done"], stdin=True)
    slow = Session(attach_url(daemon, container, stdin=True))
    slow.write(b"go\n")  # and reads nothing
    assert pods.wait_exit(container, 120).exit_code == 0
    log = pods.log(pods.status(container).log_path)
    assert sum(len(line.text) for line in log) == 40 * 1048575 + 4
    assert slow.finish()[0] is None
    assert "behind" in slow.status["message"], slow.status


def test_last_words_reach_an_attached_client(daemon, pods):
    pod = pods.run_pod()
    container = pods.start(pod, ["sh", "-c", "read x; head -c 700000 /dev/zero; echo end"], stdin=True)
    session = Session(attach_url(daemon, container, stdin=True))
    session.write(b"go\n")
    pods.wait_exit(container)
    result = session.finish()
    assert result[0] == 0 and len(result[1]) == 700004 and result[1].endswith(b"end\n")


ECHO = """
import socket, sys, threading
def serve(client):
    while data := client.recv(1 << 16): client.sendall(data)
    client.close()
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=128,
                                family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print("listening", flush=True)
while True: threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.fixture
def server(daemon):
    """server(pod, port, address): an echo server in the pod's network namespace."""
    made = []

    def make(pod, port, address="0.0.0.0"):
        netns = f"{daemon.state}/netns/{pod[0]}"
        enter = ["nsenter", f"--net={netns}"] if os.path.exists(netns) else []
        made.append(subprocess.Popen([*enter, "python3", "-c", ECHO, address, str(port)], stdout=subprocess.PIPE))
        assert made[-1].stdout.readline() == b"listening\n"
        return made[-1]

    yield make
    for process in made:
        process.kill()
        process.wait()
        process.stdout.close()


def echo(daemon, pod, port, data):
    forward = Forward(daemon.client.PortForward(pod_sandbox_id=pod, port=[port]).url)
    forward.write(data)
    forward.until(lambda f: len(f.got[0]) >= len(data) or f.got[1])
    assert not forward.got[1], forward.got[1]
    forward.vanish()
    return forward.got[0]


def test_port_forward(daemon, pods, server):
    pod = pods.run_pod()
    server(pod, 7007)
    assert echo(daemon, pod[0], 7007, b"hello") == b"hello"
    data = os.urandom(2 << 20)
    failures = []

    def one():
        try:
            assert echo(daemon, pod[0], 7007, data) == data
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_port_forward_to_ipv6_only(daemon, pods, server):
    pod = pods.run_pod()
    server(pod, 7008, "::1")
    assert echo(daemon, pod[0], 7008, b"six") == b"six"


def test_port_forward_where_nobody_listens(daemon, pods):
    pod = pods.run_pod()
    forward = Forward(daemon.client.PortForward(pod_sandbox_id=pod[0], port=[7009]).url)
    forward.until(lambda f: f.got[1])
    assert b"Connection refused" in forward.got[1]
    forward.vanish()
    daemon.client.StopPodSandbox(pod_sandbox_id=pod[0])
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.PortForward(pod_sandbox_id=pod[0], port=[7009])
    assert code(error) == grpc.StatusCode.FAILED_PRECONDITION


def test_port_forward_to_a_pod_on_the_hosts_network(daemon, pods, server):
    pod = pods.run_pod(host_network=True)
    port = free_port()
    server(pod, port, "127.0.0.1")
    assert echo(daemon, pod[0], port, b"host") == b"host"


def test_a_pods_network_goes_although_ports_were_forwarded(daemon, pods, server):
    pod = pods.run_pod()
    serving = server(pod, 7010)
    forward = Forward(daemon.client.PortForward(pod_sandbox_id=pod[0], port=[7010]).url)
    forward.write(b"x")
    forward.until(lambda f: f.got[0])
    pods.remove_all()
    serving.kill()
    forward.until(lambda f: False)  # its peer's end is the forward's
    assert not os.path.exists(f"{daemon.state}/netns/{pod[0]}")


def test_exec_sync_brings_both_streams_whole(daemon, pods, sleeper):
    script = "head -c 9000000 /dev/zero; head -c 5000000 /dev/zero >&2; exit 3"
    reply = daemon.client.ExecSync(container_id=sleeper, cmd=["sh", "-c", script])
    assert (reply.exit_code, len(reply.stdout), len(reply.stderr)) == (3, 9000000, 5000000)
    reply = daemon.client.ExecSync(container_id=sleeper, cmd=["sh", "-c", "i=0; while [ $i -lt 400000 ]; do echo $i; "
                                                              "i=$((i+1)); done"])
    assert reply.stdout.decode().split() == [str(i) for i in range(400000)]
    reply = daemon.client.ExecSync(container_id=sleeper, cmd=["head", "-c", "40000000", "/dev/zero"])
    assert (reply.exit_code, len(reply.stdout)) == (0, 16 << 20)  # the rest is dropped, and the command goes on


def test_exec_sync_with_a_timeout_in_the_middle_of_much_output(daemon, pods, sleeper):
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.ExecSync(container_id=sleeper, cmd=["cat", "/dev/zero"], timeout=1)
    assert code(error) == grpc.StatusCode.DEADLINE_EXCEEDED
    assert not processes(pods, sleeper)


@pytest.mark.parametrize("script", ["sleep 4327 & sleep 4328", "sleep 4329 & cat /dev/zero"])
def test_a_client_that_leaves_ends_exec_sync(daemon, pods, sleeper, script):
    with pytest.raises(grpc.RpcError) as error:
        daemon.client.ExecSync(container_id=sleeper, cmd=["sh", "-c", script], deadline=1)
    assert code(error) == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for("all are gone", lambda: not processes(pods, sleeper))


def test_sessions_with_dying_clients_leave_no_trace(daemon, pods, server):
    """CVE-2025-64329 and its like. CAISSON_STREAM_SESSIONS=10000 for the long form."""
    count = int(os.environ.get("CAISSON_STREAM_SESSIONS", "1000"))
    pod = pods.run_pod()
    init = ["sh", "-c", "cat; exit"]  # reaps what becomes an orphan
    container = pods.start(pod, init, stdin=True)
    server(pod, 7011)

    def one(number):
        kind = number % 5
        if kind == 0:
            session = Session(exec_url(daemon, container, ["cat", "/dev/zero"]))
            session.until(b"\0")
        elif kind == 1:
            session = Session(exec_url(daemon, container, ["sh"], tty=True, stdin=True))
            session.until(b"# ")
            session.write(b"sleep 1000\n")
        elif kind == 2:
            session = Session(attach_url(daemon, container, stdin=True))
            session.write(b"x")
            session.until(b"x")
        elif kind == 3:
            session = Forward(daemon.client.PortForward(pod_sandbox_id=pod[0], port=[7011]).url)
            session.write(b"x" * 1000)
            session.until(lambda f: f.got[0])
        else:  # gone before its process is there
            session = WebSocket(exec_url(daemon, container, ["sleep", "1000"]))
        session.vanish()

    def left():
        """What is more than before, or {}."""
        now = {"folders": len(folders(daemon)), "processes": [line for line in processes(pods, container) if line not in ("cat", " ".join(init))]}
        now.update(zip(("descriptors", "threads", "companions' descriptors"), in_use(daemon)))
        return {what: (value, used.get(what)) for what, value in now.items() if what in used and value > used[what]}

    def settle(what):
        try:
            wait_for(what, lambda: not left(), 60)
        except TimeoutError:
            assert not left()

    used = {"folders": 0, "processes": []}
    for number in range(100):
        one(number)
    settle("the first have gone")
    # gRPC's own pollers and their descriptors come and go, by one or two.
    used.update(zip(("descriptors", "threads", "companions' descriptors"), (value + 8 for value in in_use(daemon))))
    before = anonymous(daemon.process.pid)
    done, failures = [], []

    def some(first):
        try:
            for number in range(first, count, 4):
                one(number)
                done.append(number)
        except Exception as error:
            failures.append((len(done), error))

    threads = [threading.Thread(target=some, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == count and not failures, failures
    settle("all have gone")
    assert anonymous(daemon.process.pid) < before + (8 << 20) + kept_when_freed()


def test_a_daemon_that_dies_takes_its_sessions_along(make_daemon, registry):
    daemon = make_daemon()
    daemon.pull_busybox(registry)
    pods = Pods(daemon)
    pod = pods.run_pod()
    container = pods.start(pod, ["sh", "-c", "while read x; do echo tick $x; done"], stdin=True, stdin_once=True)
    session = Session(exec_url(daemon, container, ["sh", "-c", "echo on; sleep 4330; sleep 4331"]))
    session.until(b"on")
    attached = Session(attach_url(daemon, container, stdin=True))
    attached.write(b"one\n")
    attached.until(b"tick one")
    sync = threading.Thread(target=lambda: pytest.raises(grpc.RpcError, pods.exec, container, ["sleep", "4332"]))
    sync.start()
    wait_for("it runs", lambda: any("4332" in line for line in processes(pods, container)))
    daemon.kill()
    sync.join()
    daemon.start()
    pods.client = daemon.client

    def left():
        return [line for line in processes(pods, container) if "433" in line]

    wait_for("what ran for the dead daemon's clients has ended", lambda: not left())
    assert not folders(daemon)
    assert pods.exec(container, ["echo", "well"])[1] == "well\n"
    # A daemon that ends in good order ends them itself.
    session = Session(exec_url(daemon, container, ["sh", "-c", "echo on; sleep 4333"]))
    session.until(b"on")
    attached = Session(attach_url(daemon, container, stdin=True))
    attached.write(b"two\n")
    attached.until(b"tick two")
    daemon.stop()
    session.finish()
    daemon.start()
    pods.client = daemon.client
    assert not left() and not folders(daemon)
    # The container's stdin has not ended with them: it was no client's doing.
    attached = Session(attach_url(daemon, container, stdin=True))
    attached.write(b"three\n")
    attached.until(b"tick three")
    attached.end_input()
    assert attached.finish()[0] == 0 and pods.wait_exit(container).exit_code == 0
    pods.remove_all()
