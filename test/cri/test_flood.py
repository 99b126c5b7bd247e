# SPDX-License-Identifier: Apache-2.0
"""Clients that ask for too much: large configurations, lists past a message's limit, and connections that only cost."""
import os
import socket
import struct
import threading

import grpc
import pytest
from harness.cri import MAX_MESSAGE
from harness.pods import Pods
from harness.registry import wait_for

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RST_STREAM, SETTINGS = 1, 3, 4  # RFC 9113, section 6
CANCEL = 8


def test_large_configurations_come_back_whole(alone):
    pods = Pods(alone)
    labels = {f"label-{i}": "x" * 1000 for i in range(1000)}
    annotations = {f"example.com/annotation-{i}": str(i) for i in range(100_000)}
    pod = pods.run_pod(pods.pod_config(host_network=True, labels=labels, annotations=annotations))
    container = pods.start(pod, ["sleep", "1000"], labels=labels, annotations=annotations)
    for _ in range(2):
        status = alone.client.PodSandboxStatus(pod_sandbox_id=pod[0]).status
        assert dict(status.labels) == labels and dict(status.annotations) == annotations
        status = alone.client.ContainerStatus(container_id=container).status
        assert dict(status.labels) == labels and dict(status.annotations) == annotations and status.state == 1
        alone.kill()
        alone.start()


def test_a_request_past_the_limit_is_refused(alone):
    pods = Pods(alone)
    with pytest.raises(grpc.RpcError) as error:
        pods.run_pod(pods.pod_config(host_network=True, labels={"l": "x" * (17 << 20)}))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not alone.client.ListPodSandbox().items


def test_a_list_past_the_limit_comes_in_parts(alone):
    pods = Pods(alone)
    made = {pods.run_pod(pods.pod_config(host_network=True, labels={"l": "x" * (1 << 20)}))[0] for _ in range(20)}
    with grpc.insecure_channel(f"unix://{alone.socket}", options=[("grpc.max_receive_message_length", 16 << 20)]) as kubelet:
        request, _ = alone.client._calls["ListPodSandbox"]
        response = alone.client.api.message("runtime.v1.ListPodSandboxResponse")
        call = kubelet.unary_unary("/runtime.v1.RuntimeService/ListPodSandbox", request_serializer=request.SerializeToString,
                                   response_deserializer=response.FromString)
        with pytest.raises(grpc.RpcError) as error:
            call(request(), timeout=60)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    parts = list(alone.client.StreamPodSandboxes())
    assert {pod.id for part in parts for pod in part.pod_sandboxes} == made
    assert max(part.ByteSize() for part in parts) < 4 << 20 < MAX_MESSAGE


def frame(kind, flags, stream, payload=b""):
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def literal(text):
    return bytes([len(text)]) + text


# RFC 7541: POST, http, then fields that are not indexed.
HEADER_BLOCK = (b"\x83\x86" + b"\x04" + literal(b"/runtime.v1.RuntimeService/ListPodSandbox") + b"\x01" + literal(b"x") +
                b"\x0f\x10" + literal(b"application/grpc") + b"\x00" + literal(b"te") + literal(b"trailers"))


def connect(daemon):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(60)
    client.connect(daemon.socket)
    return client


def use(daemon):
    """(descriptors, threads) of the daemon."""
    pid = daemon.process.pid
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


def test_rapid_reset(alone):
    """CVE-2023-44487: requests that are taken back as soon as they are made."""
    alone.client.Version()
    before = use(alone)
    client = connect(alone)
    reader = threading.Thread(target=lambda: [None for _ in iter(lambda: drain(client), b"")])
    client.sendall(PREFACE + frame(SETTINGS, 0, 0))
    reader.start()
    try:
        for burst in range(100):
            streams = range(burst * 400 + 1, burst * 400 + 401, 2)
            client.sendall(b"".join(frame(HEADERS, 5, s, HEADER_BLOCK) + frame(RST_STREAM, 0, s, struct.pack("!I", CANCEL)) for s in streams))
    except OSError:
        pass  # it has hung up on us, which is its right
    # Others may be refused while all threads are at work (max_threads), not longer.
    wait_for("it answers others again", lambda: answers(alone), 60)
    client.shutdown(socket.SHUT_RDWR)
    reader.join()
    client.close()
    wait_for("descriptors and threads are given back", lambda: all(now <= then + 4 for now, then in zip(use(alone), before)), 60)


def answers(daemon):
    try:
        return daemon.client.Version().version
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
        return None


def drain(client):
    try:
        return client.recv(1 << 16)
    except OSError:
        return b""


def test_connections_that_say_nothing(alone):
    alone.client.Version()
    descriptors, _ = use(alone)
    clients = [connect(alone) for _ in range(300)]
    for client in clients[:150]:
        client.sendall(PREFACE[:7])
    for client in clients[150:250]:
        client.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 1, 1, HEADER_BLOCK)[:20])
    for client in clients[250:]:
        try:
            client.sendall(PREFACE + b"\xff" * 100_000)
        except OSError:
            pass
    alone.client.Version()
    for client in clients:
        client.close()
    wait_for("descriptors are given back", lambda: use(alone)[0] <= descriptors + 4, 60)
