"""A local stand-in for the Hugging Face Hub: one repository, the requests that reading and writing it need."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from typing_extensions import override


class Hub(http.server.ThreadingHTTPServer):
    """The files of the repository `name`; `exists` is set when it is created."""

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.name, self.files, self.exists, self.denies = name, dict[str, bytes](), False, False
        self.gated = False
        self.seen: list[str] = []
        self.private = False  # whether the last request to create it asked for that

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def sha(self) -> str:
        """The name of the current commit."""
        return hashlib.sha1(b"".join(name.encode() + data for name, data in self.files.items())).hexdigest()


class _Requests(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, Hub)
        return self.server

    @override
    def log_message(self, format: str, *args: object) -> None:
        self.hub.seen.append(f"{self.command} {self.path}")

    def _send(self, status: int, body: bytes | dict[str, Any] | list[Any], **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, urlsplit(self.path).path
        api = f"/api/models/{hub.name}"
        if not hub.exists or not (path.startswith((f"/{hub.name}/", api))):
            self._send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif hub.gated:
            self._send(403, {"error": "Access to model is restricted"}, X_Error_Code="GatedRepo")
        elif "no-such" in path:
            self._send(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        elif path.startswith(f"{api}/tree/"):
            self._send(200, [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in hub.files.items()
            ])  # fmt: skip
        elif path.startswith(api):
            siblings = [{"rfilename": name} for name in hub.files]
            self._send(200, {"_id": "1", "id": hub.name, "modelId": hub.name, "sha": hub.sha, "private": False,
                             "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})  # fmt: skip
        else:
            name = path.partition("/resolve/")[2].partition("/")[2]
            data = hub.files.get(name)
            if data is None:
                self._send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            else:
                self._send(200, data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=hub.sha)

    def do_POST(self) -> None:
        hub, path = self.hub, urlsplit(self.path).path
        size = self.headers.get("Content-Length")
        body = self.rfile.read(int(size)) if size else self._chunks()
        if hub.denies:
            self._send(401, {"error": "Invalid credentials"})
        elif path == "/api/repos/create":
            asked = json.loads(body)  # newer versions of the client send `visibility`, older ones `private`
            hub.exists, hub.private = True, asked.get("visibility") == "private" or bool(asked.get("private"))
            self._send(200, {"url": f"{hub.address}/{hub.name}", "name": hub.name, "id": hub.name})
        elif "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._send(200, {"files": files})
        elif "/commit/" in path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._send(
                200, {"success": True, "commitOid": hub.sha, "commitUrl": f"{hub.address}/{hub.name}/commit/{hub.sha}"}
            )
        else:
            self._send(200, {})

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


@contextmanager
def hub_serving(name: str) -> Iterator[Hub]:
    """A running stand-in with the repository `name`, which does not exist yet."""
    hub = Hub(name)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
