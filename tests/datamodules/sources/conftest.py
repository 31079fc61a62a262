"""An HTTP server on loopback that plays the hub, COCO's picture host and a bucket, with faults."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

CASES = Path(__file__).parents[1] / "cases"
COMMIT = "0123456789012345678901234567890123456789"


class Served:
    """What the server has, how it misbehaves, and what it was asked.

    Attributes:
        address: of the server.
        files: content by path.
        faults: by path, what to do at the next requests, first first: a status with headers, ``("cut", n)`` to end the
            connection after n bytes, or ``("stall", n)`` to send n bytes and wait.
        asked: path and ``Range`` of each request.
    """

    def __init__(self) -> None:
        self.address = ""
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Any]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.stalled = threading.Event()

    def add_hub(self, repository: str, files: dict[str, bytes]) -> None:
        """Files of a dataset on the hub."""
        for name, content in files.items():
            self.files[f"/datasets/{repository}/resolve/main/{name}"] = content
        listed = [{"type": "file", "path": name, "size": len(c), "oid": "0"} for name, c in files.items()]
        self.files[f"/api/datasets/{repository}/tree/main"] = json.dumps(listed).encode()

    def times(self, path: str) -> int:
        """How often a path was asked for."""
        return sum(asked == path for asked, _ in self.asked)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0].replace(f"/{COMMIT}/", "/main/")
        wanted = self.headers.get("Range")
        self.served.asked.append((path, wanted))
        faults = self.served.faults.get(path, [])
        fault = faults.pop(0) if faults and body else None
        if path not in self.served.files or (fault and isinstance(fault[0], int)):
            status, headers = fault if fault else (404, {})
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            return
        content = self.served.files[path]
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-.*", wanted or "")
        if match and self.headers.get("If-Range", tag) == tag and int(match[1]) < len(content):
            start = int(match[1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", tag)
        self.send_header("X-Repo-Commit", COMMIT)
        kind = "application/json" if path.startswith("/api") else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not body:
            return
        if fault is None:
            self.wfile.write(content[start:])
            return
        self.wfile.write(content[start : start + fault[1]])
        self.wfile.flush()
        if fault[0] == "stall":
            self.served.stalled.set()
            time.sleep(60)
        self.close_connection = True


@pytest.fixture
def served() -> Iterator[Served]:
    """A server for one test."""
    state = Served()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"served": state}))
    server.daemon_threads = True
    server.block_on_close = False
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()
