#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A registry that misbehaves: each repository name is one fault. What a real registry cannot be made to do.

Usage: registry_fault.py      listens on 127.0.0.1 and 127.0.0.2 (a free port, the same on both), prints the port.
GET /log returns what was asked so far, one JSON object a line: {"host", "path", "range", "auth"}.
Every repository has the manifest `latest` with one layer of 1 MiB, unless its fault says otherwise.
"""
import hashlib
import http.server
import json
import socketserver
import sys
import tarfile
import threading
import time

DATA = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(32768))


def tar(size):
    """A tar of one file, `size` bytes in all."""
    info = tarfile.TarInfo("data")
    info.size = size - 3 * tarfile.BLOCKSIZE
    return info.tobuf(tarfile.USTAR_FORMAT) + DATA[:info.size] + bytes(2 * tarfile.BLOCKSIZE)


BLOB = tar(1 << 20)
OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(data, kind):
    return {"mediaType": kind, "digest": digest(data), "size": len(data)}


CONFIG = json.dumps({"os": "linux", "architecture": "amd64",
                     "rootfs": {"type": "layers", "diff_ids": [digest(BLOB)]}}).encode()
MANIFEST = json.dumps({
    "schemaVersion": 2, "mediaType": OCI,
    "config": descriptor(CONFIG, "application/vnd.oci.image.config.v1+json"),
    "layers": [descriptor(BLOB, "application/vnd.oci.image.layer.v1.tar")]}).encode()
CONFUSED = json.dumps({**json.loads(MANIFEST), "manifests": []}).encode()


def nested(levels):
    """Documents by digest: an index of an index of … the manifest. The last is the outermost."""
    out = [MANIFEST]
    for _ in range(levels):
        kind = OCI if len(out) == 1 else INDEX
        entry = {**descriptor(out[-1], kind), "platform": {"os": "linux", "architecture": "amd64"}}
        out.append(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode())
    return out


NESTED = {"indexed": nested(1), "deep": nested(6)}
LOG = []
COUNTS = {}
LOCK = threading.Lock()


def count(key):
    with LOCK:
        COUNTS[key] = COUNTS.get(key, 0) + 1
        return COUNTS[key]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def other(self, path):
        """The same server under another host name."""
        host = "127.0.0.2" if self.connection.getsockname()[0] == "127.0.0.1" else "127.0.0.1"
        return f"http://{host}:{self.server.server_address[1]}{path}"

    def own(self, path):
        return f"http://127.0.0.1:{self.server.server_address[1]}{path}"

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        self.record(body)
        self.reply(200, json.dumps({"access_token": "posted"}).encode())

    def record(self, body=""):
        with LOCK:
            LOG.append({"host": self.connection.getsockname()[0], "path": self.path, "body": body,
                        "range": self.headers.get("Range", ""), "auth": self.headers.get("Authorization", "")})

    def do_GET(self):
        if self.path == "/log":
            with LOCK:
                text = "".join(json.dumps(entry) + "\n" for entry in LOG)
            return self.reply(200, text.encode())
        self.record()
        if self.path.startswith("/token"):
            return self.token()
        parts = self.path.split("?")[0].split("/")
        if len(parts) != 5 or parts[1] != "v2":
            return self.reply(404)
        _, _, repo, kind, name = parts
        fault = getattr(self, "repo_" + repo.replace("-", "_"), None)
        if fault is not None and fault(kind, name) is not False:
            return None
        return self.manifest(repo, name) if kind == "manifests" else self.blob(name)

    def manifest(self, repo, name, body=None, kind=OCI, **headers):
        for document in NESTED.get(repo, []):
            if name == "latest" or name == digest(document):
                body = document
                kind = INDEX if b'"manifests"' in document else OCI
        body = MANIFEST if body is None else body
        headers.setdefault("Docker_Content_Digest", digest(body))
        self.reply(200, body, Content_Type=kind, **headers)

    def blob(self, name, honour_range=True):
        if name == digest(CONFIG):
            return self.reply(200, CONFIG)
        if name != digest(BLOB):
            return self.reply(404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}')
        start = self.start() if honour_range else 0
        if start:
            return self.reply(206, BLOB[start:], Content_Range=f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}")
        return self.reply(200, BLOB)

    def start(self):
        asked = self.headers.get("Range", "")
        return int(asked[6:].split("-")[0]) if asked.startswith("bytes=") else 0

    def challenge(self, value):
        self.reply(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}',
                   WWW_Authenticate=value)

    def token(self):
        if "bad-token-server" in self.path:
            return self.reply(200, b"not json")
        if "slow-down" in self.path and count("slow-down") == 1:
            return self.reply(429, b"", Retry_After="0")
        if "refuses" in self.path:
            return self.reply(401, b'{"details":"incorrect username or password: %s"}' %
                              self.headers.get("Authorization", "").encode())
        return self.reply(200, b'{"token":"the-token","expires_in":300}')

    # Faults of manifests.
    def repo_lying_header(self, kind, name):
        return self.manifest("", name, Docker_Content_Digest=digest(b"other")) if kind == "manifests" else False

    def repo_other_bytes(self, kind, name):
        return self.manifest("", name, MANIFEST + b" ", Docker_Content_Digest="") if kind == "manifests" else False

    def repo_confused(self, kind, name):
        return self.manifest("", name, CONFUSED)

    def repo_mislabelled(self, kind, name):
        return self.manifest("", name, kind=INDEX)

    def repo_schema1(self, kind, name):
        return self.manifest("", name, b'{"schemaVersion":1}',
                             kind="application/vnd.docker.distribution.manifest.v1+prettyjws")

    def repo_huge(self, kind, name):
        return self.reply(200, b" " * (5 << 20), Content_Type=OCI)

    def repo_headers(self, kind, name):
        return self.manifest("", name, **{f"X_{i}": "a" * 4000 for i in range(40)})

    def repo_forbidden(self, kind, name):
        said = "denied: " + self.headers.get("Authorization", "")
        if not self.headers.get("Authorization"):
            return self.challenge("Basic realm=x")
        return self.reply(403, json.dumps({"errors": [{"code": "DENIED", "message": said}]}).encode())

    # Faults of blobs.
    def repo_broken(self, kind, name):
        """Each answer breaks after 300,000 bytes; Range is honoured."""
        if kind == "manifests" or name != digest(BLOB):
            return False
        start = self.start()
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BLOB) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}")
        self.end_headers()
        self.wfile.write(BLOB[start:start + 300000])
        self.close_connection = True

    def repo_broken_no_range(self, kind, name):
        """The first answer breaks half way; Range is ignored."""
        if kind == "manifests" or name != digest(BLOB):
            return False
        if count("broken_no_range") > 1:
            return self.blob(name, honour_range=False)
        self.send_response(200)
        self.send_header("Content-Length", str(len(BLOB)))
        self.end_headers()
        self.wfile.write(BLOB[:500000])
        self.close_connection = True

    def repo_wrong_range(self, kind, name):
        if self.start():
            return self.reply(206, BLOB[7:], Content_Range=f"bytes 7-{len(BLOB) - 1}/{len(BLOB)}")
        return self.repo_broken(kind, name)

    def repo_short(self, kind, name):
        return self.reply(200, BLOB[:-1]) if kind == "blobs" else False

    def repo_altered(self, kind, name):
        """As long as the manifest says, with one byte that is another."""
        return self.reply(200, BLOB[:5000] + b"?" + BLOB[5001:]) if name == digest(BLOB) else False

    def repo_long(self, kind, name):
        """Longer than the manifest says, with no Content-Length to tell."""
        if kind != "blobs":
            return False
        self.send_response(200)
        self.end_headers()
        self.wfile.write(BLOB + b"x")
        self.close_connection = True

    def repo_drip(self, kind, name):
        if kind != "blobs":
            return False
        self.send_response(200)
        self.send_header("Content-Length", str(len(BLOB)))
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            self.close_connection = True

    def repo_drip_layer(self, kind, name):
        return self.repo_drip(kind, name) if name == digest(BLOB) else False

    def repo_silent(self, kind, name):
        """Takes the request and never answers."""
        try:
            self.connection.settimeout(60)
            self.connection.recv(1)
        except OSError:
            pass
        self.close_connection = True

    # Busy servers.
    def repo_busy(self, kind, name):
        return self.reply(429, Retry_After="0") if count("busy" + kind) <= 2 else False

    def repo_failing(self, kind, name):
        return self.reply(503) if count("failing" + kind) <= 2 else False

    def repo_busy_for_hours(self, kind, name):
        count("busy_for_hours")
        return self.reply(429, Retry_After="7200")

    def repo_down(self, kind, name):
        return self.reply(500)

    # Redirects.
    def repo_loop(self, kind, name):
        return self.reply(307, Location=self.path)

    def repo_to_file(self, kind, name):
        return self.reply(307, Location="file:///etc/passwd")

    def repo_to_metadata(self, kind, name):
        return self.reply(307, Location="http://169.254.169.254/latest/meta-data/")

    def repo_moved(self, kind, name):
        """Wants a login, then sends blobs to another host, which must not see it."""
        if not self.headers.get("Authorization") and self.connection.getsockname()[0] == "127.0.0.1":
            return self.challenge('Basic realm="x"')
        if kind == "blobs" and self.connection.getsockname()[0] == "127.0.0.1":
            return self.reply(307, Location=self.other(self.path + "?signature=s3cr3t"))
        return False

    def repo_moved_asks(self, kind, name):
        """The other host asks for a login of its own."""
        if self.connection.getsockname()[0] == "127.0.0.1":
            return self.reply(307, Location=self.other(self.path))
        return self.challenge('Basic realm="give me"')

    # Tokens.
    def bearer(self, realm):
        if self.headers.get("Authorization") in ("Bearer the-token", "Bearer posted"):
            return False
        return self.challenge(f'Bearer realm="{realm}",service="fault"')

    def repo_token(self, kind, name):
        return self.bearer(self.own("/token"))

    def repo_token_elsewhere(self, kind, name):
        return self.bearer(self.other("/token"))

    def repo_token_file(self, kind, name):
        return self.bearer("file:///etc/passwd")

    def repo_token_metadata(self, kind, name):
        return self.bearer("http://169.254.169.254/token")

    def repo_token_garbage(self, kind, name):
        return self.bearer(self.own("/token/bad-token-server"))

    def repo_token_refused(self, kind, name):
        return self.bearer(self.own("/token/refuses"))

    def repo_token_busy(self, kind, name):
        return self.bearer(self.own("/token/slow-down"))


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64


def main():
    first = Server(("127.0.0.1", 0), Handler)
    second = Server(("127.0.0.2", first.server_address[1]), Handler)
    threading.Thread(target=second.serve_forever, daemon=True).start()
    print(first.server_address[1], flush=True)
    threading.Thread(target=first.serve_forever, daemon=True).start()
    sys.stdin.read()  # the test's end of the pipe closes with the test


if __name__ == "__main__":
    main()
