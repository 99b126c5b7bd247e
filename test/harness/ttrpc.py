# SPDX-License-Identifier: Apache-2.0
"""A ttRPC client of unary calls (docs/ttrpc.md), and the messages of containerd's shim protocol made from proto/."""
import socket
import struct

from .cri import Api


class Error(Exception):
    """The answer's status: code is gRPC's number."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class Caller:
    """Caller("unix:///path").call("containerd.task.v3.Task", "State", request, Response)"""

    _envelope = None

    def __init__(self, address, timeout=60):
        if Caller._envelope is None:
            Caller._envelope = Api("ttrpc/ttrpc.proto", "ttrpc")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(address.removeprefix("unix://"))
        self.reader = self.socket.makefile("rb")
        self.stream = -1

    def call(self, service, method, request, response):
        self.stream += 2
        payload = self._envelope.Request(service=service, method=method, payload=request.SerializeToString()).SerializeToString()
        self.socket.sendall(struct.pack(">IIBB", len(payload), self.stream, 1, 0) + payload)
        length, stream, kind, _ = struct.unpack(">IIBB", self.reader.read(10))
        assert (stream, kind) == (self.stream, 2)
        answer = self._envelope.Response.FromString(self.reader.read(length))
        if answer.status.code:
            raise Error(answer.status.code, answer.status.message)
        return response.FromString(answer.payload)

    def close(self):
        self.reader.close()
        self.socket.close()
