# SPDX-License-Identifier: Apache-2.0
"""docs/ttrpc.md is true: its client works as it stands, and the companion serves exactly the methods it lists."""
import os
import re
import socket
import struct

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
with open(f"{ROOT}/docs/ttrpc.md") as page:
    TEXT = page.read()
CLIENT = {}
exec(compile(re.search(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[1], "docs/ttrpc.md", "exec"), CLIENT)
call, field, fields = CLIENT["call"], CLIENT["field"], CLIENT["fields"]


def documented():
    """{service: {method}} of the table."""
    table = {}
    for line in re.findall(r"^\| (`[a-z]+\..*)$", TEXT, re.MULTILINE):
        names, _, methods = line.rstrip(" |").partition(" | ")
        if "." in names and not names.startswith(("`ttrpc", "`google")):
            for name in re.findall(r"`([^`]+)`", names):
                table[name] = set(methods.split(", "))
    return table


def declared():
    """{service: {method}} of the .proto files that a companion may serve."""
    services = {}
    for path in ("containerd/sandbox.proto", "containerd/task_v2.proto", "containerd/task_v3.proto", "caisson/pod/v1/pod.proto"):
        with open(f"{ROOT}/proto/{path}") as f:
            text = f.read()
        package = re.search(r"^package ([\w.]+);", text, re.MULTILINE)[1]
        for service, body in re.findall(r"^service (\w+) \{(.*?)^\}", text, re.MULTILINE | re.DOTALL):
            services[f"{package}.{service}"] = set(re.findall(r"rpc (\w+)\(", body))
    return services


@pytest.fixture
def pod(pods):
    """(socket, container id) of a running pod."""
    pod = pods.run_pod(host_network=True)
    container = pods.start(pod, ["sleep", "1000"])
    # The path of a test is too long for a socket address.
    link = f"{pods.daemon.folder}/c{len(pods.made)}-{pod[0][:8]}"
    os.symlink(f"{pods.daemon.state}/pods/{pod[0]}/shim.sock", link)
    return link, container


def test_the_documented_client_works(pod):
    path, container = pod
    with open(f"/proc/{CLIENT['container_pid'](path, container)}/cmdline", "rb") as f:
        assert f.read() == b"sleep\x001000\0"
    with pytest.raises(RuntimeError, match="NOT_FOUND.*nobody"):
        CLIENT["container_pid"](path, "nobody")


# They wait, or end what the others are asked of: known to be served by other tests.
NOT_CALLED = {"Wait", "WaitSandbox", "Shutdown", "ShutdownSandbox", "StopSandbox"}


def test_the_documented_methods_are_those_served(pod):
    path, _ = pod
    table, protos = documented(), declared()
    assert set(table) == set(protos) and len(table) == 4
    for service, methods in protos.items():
        assert table[service] <= methods, service
        for method in sorted(methods - NOT_CALLED):
            said = ""
            try:
                # The name of nothing: whatever is served fails or says something of the pod.
                call(path, service, method, field(1, b"nobody") if method != "Platform" else b"")
            except RuntimeError as error:
                said = str(error)
            assert said.startswith("UNIMPLEMENTED") == (method not in table[service]), (service, method, said)
    with pytest.raises(RuntimeError, match="UNIMPLEMENTED.*NoSuch"):
        call(path, "containerd.task.v3.Task", "NoSuch")
    with pytest.raises(RuntimeError, match="INVALID_ARGUMENT"):
        call(path, "containerd.task.v3.Task", "State", b"\xff\xff")


# Header fields; whether the server closes the connection.
BROKEN = {"too long": (4 << 20 | 1, 1, 1, 0), "type": (0, 1, 9, 0), "flag": (0, 1, 1, 8), "even stream": (0, 2, 1, 0),
          "response": (0, 1, 2, 0), "data of no stream": (0, 7, 3, 0)}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_frames_cost_the_connection_and_no_more(pod, what):
    path, container = pod
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.settimeout(20)
        connection.sendall(struct.pack(">IIBB", *BROKEN[what]))
        assert connection.recv(1) == b""
    assert CLIENT["container_pid"](path, container) > 0
