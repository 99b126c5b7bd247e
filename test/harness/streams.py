# SPDX-License-Identifier: Apache-2.0
"""A client of the streaming server: Kubernetes' WebSocket subprotocols over a plain socket, as little as tests need."""
import base64
import json
import os
import select
import socket
import ssl
import struct
import time
import urllib.parse

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10


class Refused(Exception):
    """The server has answered the upgrade with another status."""

    def __init__(self, status, text):
        super().__init__(f"{status}: {text}")
        self.status, self.text = status, text


class WebSocket:
    """WebSocket(url): connected and upgraded; raises Refused."""

    def __init__(self, url, protocol="v5.channel.k8s.io", timeout=60):
        parts = urllib.parse.urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout)
        if parts.scheme == "https":  # of a test's own server: nobody has signed its certificate
            self.socket = ssl._create_unverified_context().wrap_socket(self.socket)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\n"
                            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
                            f"Sec-WebSocket-Protocol: {protocol}\r\n\r\n".encode())
        self.buffer = bytearray()
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        if status != 101:
            self.socket.close()
            raise Refused(status, self.buffer.decode("utf-8", "replace"))

    def _more(self):
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError("the server has closed the connection")
        self.buffer += data

    def _take(self, count):
        while len(self.buffer) < count:
            self._more()
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]  # moves nothing: a bytearray remembers where it begins
        return taken

    def send(self, data, opcode=BINARY):
        size = len(data)
        head = bytes([0x80 | opcode])
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 1 << 16:
            head += b"\xfe" + struct.pack(">H", size)
        else:
            head += b"\xff" + struct.pack(">Q", size)
        # A mask of zeros is one.
        self.socket.sendall(head + b"\0\0\0\0" + data)

    def receive(self):
        """The next message, or None when the server has closed."""
        whole = bytearray()
        while True:
            try:
                first, size = self._take(2)
            except (EOFError, ConnectionError):
                return None
            opcode, size = first & 15, size & 127
            if size == 126:
                size = struct.unpack(">H", self._take(2))[0]
            elif size == 127:
                size = struct.unpack(">Q", self._take(8))[0]
            data = self._take(size)
            if opcode == PING:
                self.send(data, PONG)
            elif opcode == CLOSE:
                try:
                    self.send(data, CLOSE)
                except OSError:
                    pass
                self.socket.close()
                return None
            elif opcode != PONG:
                whole += data
                if first & 0x80:
                    return bytes(whole)

    def readable(self, seconds):
        if self.buffer or isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        return bool(select.select([self.socket], [], [], seconds)[0])

    def vanish(self):
        """As a client that is killed: the kernel closes the connection, nobody says goodbye."""
        self.socket.close()


class Session:
    """An exec or attach: what came so far by channel."""

    def __init__(self, url, **options):
        self.link = WebSocket(url, **options)
        self.got = {channel: bytearray() for channel in range(256)}
        self.over = False

    def write(self, data, channel=STDIN):
        for at in range(0, len(data), 1 << 16):
            self.link.send(bytes([channel]) + data[at:at + (1 << 16)])

    def end_input(self):
        self.link.send(bytes([255, STDIN]))

    def resize(self, width, height):
        self.write(json.dumps({"Width": width, "Height": height}).encode(), RESIZE)

    def pump(self):
        """One message; False at the end."""
        message = self.link.receive()
        if message is None:
            self.over = True
            return False
        self.got[message[0]] += message[1:]
        return True

    def until(self, text, channel=STDOUT, seconds=30):
        """Reads until `text` has come."""
        end = time.monotonic() + seconds
        while text not in self.got[channel]:
            left = end - time.monotonic()
            assert left > 0 and self.link.readable(left), f"no {text!r} within {seconds} s: {self.got[channel]!r}"
            assert self.pump(), f"over without {text!r}: {self.got[channel]!r} {self.got[ERROR]!r}"
        return bytes(self.got[channel])

    def finish(self):
        """Reads to the end: (exit code or None, stdout, stderr); the status is in `status`."""
        while self.pump():
            pass
        self.status = json.loads(self.got[ERROR]) if self.got[ERROR] else {}
        code = 0 if self.status.get("status") == "Success" else None
        for cause in self.status.get("details", {}).get("causes", []):
            if cause.get("reason") == "ExitCode":
                code = int(cause["message"])
        return code, bytes(self.got[STDOUT]), bytes(self.got[STDERR])

    def vanish(self):
        self.link.vanish()


class Forward:
    """A port-forward of one port: v4.channel.k8s.io, data on channel 0, errors on channel 1."""

    def __init__(self, url):
        self.link = WebSocket(url, protocol="v4.channel.k8s.io")
        self.got = {0: bytearray(), 1: bytearray()}
        self.ports = {}

    def write(self, data):
        for at in range(0, len(data), 1 << 16):
            self.link.send(b"\0" + data[at:at + (1 << 16)])

    def pump(self):
        message = self.link.receive()
        if message is None:
            return False
        channel, data = message[0], message[1:]
        if channel not in self.ports:  # the first message of each names the port
            self.ports[channel] = struct.unpack("<H", data[:2])[0]
            data = data[2:]
        self.got[channel] += data
        return True

    def until(self, done):
        while not done(self) and self.pump():
            pass
        return self

    def vanish(self):
        self.link.vanish()
