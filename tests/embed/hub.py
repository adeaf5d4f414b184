"""A small Hugging Face hub on this machine: the part of its file API that downloads need.

Source: huggingface_hub/file_download.py, get_hf_file_metadata() and _get_metadata_or_catch_error(). Small files are
answered at once; large ones live on another host, and the answer that leads there has their ETag and size.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", COMMIT)
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
LARGE = 100_000


class Hub:
    """Serves a folder of OWNER/NAME/FILE. requests: what was asked for, as 'METHOD PATH'."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[str] = []
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[Hub]:
        server = ThreadingHTTPServer(("127.0.0.1", self.port), partial(_Answer, self))
        self.port = server.server_port
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Answer(BaseHTTPRequestHandler):
    def __init__(self, hub: Hub, *arguments: object) -> None:
        self.hub = hub
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Silence."""

    def _answer(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        if self.path.startswith("/storage/"):
            file = self.hub.folder / self.path.removeprefix("/storage/")
            return self._send(200, file.read_bytes(), {})
        asked = FILE.fullmatch(self.path)
        if not asked or not (self.hub.folder / asked[1]).is_dir():
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        if asked[2] not in REVISIONS:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        file = self.hub.folder / asked[1] / asked[3]
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        content = file.read_bytes()
        etag = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if len(content) < LARGE:
            return self._send(200, content, etag)
        linked = {"X-Linked-ETag": etag["ETag"], "X-Linked-Size": str(len(content))}
        place = {"Location": f"http://localhost:{self.hub.port}/storage/{asked[1]}/{asked[3]}"}
        return self._send(302, b"", {**etag, **linked, **place})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
