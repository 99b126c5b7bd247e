# SPDX-License-Identifier: Apache-2.0
"""Debian's docker-registry on a loopback port, with its data in a private folder."""
import http.client
import os
import socket
import subprocess
import time


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, condition, seconds=30):
    """Polls `condition` until it is true, and returns what it is; fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.02)
    return value


class Registry:
    def __init__(self, folder):
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        os.makedirs(folder, exist_ok=True)
        config = f"{folder}/config.yml"
        with open(config, "w") as f:
            f.write(f"version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {folder}/data}}\n"
                    f"  delete: {{enabled: true}}\nhttp: {{addr: '{self.host}'}}\n")
        self.log = open(f"{folder}/log", "wb")
        self.process = subprocess.Popen(["docker-registry", "serve", config], stdout=self.log, stderr=self.log)
        wait_for("the registry answers", self._answers)

    def _answers(self):
        try:
            return self.request("GET", "/v2/")[0] == 200
        except OSError:
            return False

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def push(self, image, name, tag="latest"):
        """Pushes and returns the full reference."""
        for key, data in image.blobs.items():
            if self.request("HEAD", f"/v2/{name}/blobs/{key}")[0] == 200:
                continue
            status, headers, body = self.request("POST", f"/v2/{name}/blobs/uploads/")
            assert status == 202, (status, body)
            location = headers["Location"].split(self.host, 1)[-1]
            status, _, body = self.request("PUT", f"{location}&digest={key}", data,
                                           {"Content-Type": "application/octet-stream"})
            assert status == 201, (status, body)
        self.put_manifest(name, tag, image.manifest, image.media_type)
        return f"{self.host}/{name}:{tag}"

    def put_manifest(self, name, tag, data, media_type):
        status, _, body = self.request("PUT", f"/v2/{name}/manifests/{tag}", data, {"Content-Type": media_type})
        assert status == 201, (status, body)

    def stop(self):
        self.process.terminate()
        self.process.wait(10)
        self.log.close()
