# SPDX-License-Identifier: Apache-2.0
"""A registry of one image whose answers stop in the middle of chosen blobs until they are let go."""
import http.server
import socketserver
import threading


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """A daemon that was killed has left: nothing to report."""


class StallingRegistry:
    """Serves `image` as any name at any tag. stall(digest, n): after n bytes of that blob nothing more is sent until
    release(); `stalled` is set once an answer has come to that point. `asked` lists (path, Range)."""

    def __init__(self, image):
        self.image, self.asked = image, []
        self.points, self.stalled, self.go = {}, threading.Event(), threading.Event()
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                try:
                    registry.answer(self)
                except OSError:
                    self.close_connection = True  # the daemon was killed

            do_HEAD = do_GET

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        self.reference = f"{self.host}/stalling:1"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def stall(self, digest, after):
        self.stalled.clear()
        self.go.clear()
        self.points = {digest: after}

    def release(self):
        self.points = {}
        self.go.set()

    def answer(self, handler):
        name = handler.path.rsplit("/", 1)[1]
        self.asked.append((handler.path, handler.headers.get("Range", "")))
        if "/manifests/" in handler.path:
            name, body, kind = self.image.digest, self.image.manifest, self.image.media_type
        else:
            body, kind = self.image.blobs[name], "application/octet-stream"
        start = int(handler.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Type", kind)
        handler.send_header("Docker-Content-Digest", name)
        handler.send_header("Content-Length", str(len(body) - start))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if name in self.points:
            middle = max(start, self.points[name])
            handler.wfile.write(body[start:middle])
            self.stalled.set()
            self.go.wait()
            start = middle
        handler.wfile.write(body[start:])

    def stop(self):
        self.release()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
