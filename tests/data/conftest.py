"""A loopback server that archives are downloaded from."""

import contextlib
import itertools
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fcnseg.data import download


class Mirror(BaseHTTPRequestHandler):
    """Answers /<behaviour>/<name>; the server notes every request and how many bytes it sent."""

    def do_GET(self):
        behaviour = self.path.split("/")[1]
        start = int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
        data = {"wrong": self.server.archive[::-1], "html": b"<html>"}.get(behaviour, self.server.archive)
        cuts = behaviour == "dying" or (behaviour in ("cut", "stall") and not self.server.requests)
        if behaviour == "norange":
            start = 0
        body = data[start:]
        status = 404 if behaviour == "404" else 416 if start and not body else 206 if start else 200
        if status >= 400:
            body = b""
        sent = body[:1000] if cuts else body
        # Before the answer, after which the next request may come at once.
        self.server.requests.append((behaviour, self.headers.get("Range"), len(sent)))
        if behaviour == "slowly":
            self.send_for_long([bytes([byte]) for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200], 0.05)
            return
        self.send_response(status)
        lengths = {"letters": "many", "negative": "-1", "huge": str(10**13)}
        if behaviour != "endless":
            self.send_header("Content-Length", lengths.get(behaviour, str(len(body))))
        self.send_header("Content-Type", "text/html" if behaviour == "html" else "application/x-tar")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        self.server.meanwhile()
        if behaviour == "endless":
            self.send_for_long(itertools.repeat(sent, 100), 0)
        elif behaviour in ("trickle", "tiring"):
            quickly = sent[: 2000 * (behaviour == "tiring")]
            slowly = sent[len(quickly) :][:100]
            self.send_for_long([quickly, *(bytes([byte]) for byte in slowly)], 0.05)
        else:
            self.wfile.write(sent)
        if behaviour == "stall" and cuts:
            self.server.patient = not self.server.resumed.wait(3)
        elif behaviour == "stall":
            self.server.resumed.set()

    def send_for_long(self, parts, pause):
        with contextlib.suppress(OSError):  # the client goes
            for part in parts:
                self.wfile.write(part)
                if self.server.resumed.wait(pause):
                    return

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server of `server.archive` by the name `server.name`; it notes the requests."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "_PAUSE", 0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        server.archive, server.name, server.requests, server.meanwhile = b"", "archive", [], lambda: None
        server.resumed = threading.Event()
        server.url = lambda behaviour: f"http://127.0.0.1:{server.server_port}/{behaviour}/{server.name}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
