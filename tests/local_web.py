"""A server on 127.0.0.1 that misbehaves as asked: cuts, stalls, lies. A hub and a Zenodo record can be put on it."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Resource:
    """One address. ``script`` tells what happens to each GET in turn; when it is used up, all is well.

    Its entries: an int (bytes until the connection is cut), "stall" (silence after half the body), or a string
    of digits (a status code).
    """

    body: bytes
    ranges: bool = True
    etag: str = '"1"'
    script: list = field(default_factory=list)
    location: str = ""
    head: int = 200
    told: int | None = None
    kind: str = "application/octet-stream"


class Web:
    """What the server holds, and what it was asked."""

    def __init__(self):
        self.resources = {}
        self.asked = []
        self.release = threading.Event()
        self.url = ""

    def put(self, path, body, **kw):
        self.resources[path] = Resource(body, **kw)
        return self.resources[path]

    def gets(self, path):
        """The Range header ("" for none) of each GET of a path."""
        return [ranged for method, asked, ranged in self.asked if (method, asked) == ("GET", path)]

    # --- a Zenodo record and a hub repository -----------------------------------------------------------

    def zenodo(self, record, files, base="/zenodo", **kw):
        """A record whose files have published MD5 sums; returns the API's base address."""
        listed = []
        for name, body in files.items():
            path = f"{base}/records/{record}/files/{name}/content"
            self.put(path, body, **kw)
            md5 = f"md5:{hashlib.md5(body).hexdigest()}"
            listed.append(
                {"key": name, "size": len(body), "checksum": md5, "links": {"self": self.url + path}}
            )
        answer = {"id": int(record), "files": listed}
        self.put(f"{base}/records/{record}", json.dumps(answer).encode(), kind="application/json")
        return f"{self.url}{base}/records"

    def hub(
        self, repo, files, repo_type="model", commit="c" * 40, lfs=lambda name: not name.endswith(".json")
    ):
        """A repository: large files are redirected to another path, as the hub sends them to its CDN."""
        siblings = []
        prefix = "datasets/" if repo_type == "dataset" else ""
        for name, body in files.items():
            sha = hashlib.sha256(body).hexdigest()
            blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
            item = {"rfilename": name, "size": len(body), "blobId": blob}
            path = f"/{prefix}{repo}/resolve/{commit}/{name}"
            if lfs(name):
                item["lfs"] = {"sha256": sha, "size": len(body), "pointerSize": 130}
                self.put(path, b"", location=f"/cdn/{sha}")
                self.put(f"/cdn/{sha}", body, etag=f'"{sha}"')
            else:
                self.put(path, body, etag=f'"{blob}"')
            siblings.append(item)
        answer = {
            "id": repo,
            "modelId": repo,
            "sha": commit,
            "siblings": siblings,
            "tags": [],
            "private": False,
        }
        kind = {"kind": "application/json"}
        for revision in ("main", commit):
            self.put(f"/api/{repo_type}s/{repo}/revision/{revision}", json.dumps(answer).encode(), **kind)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer("HEAD")

    def do_GET(self):
        self._answer("GET")

    def _answer(self, method):
        web = self.server.web
        path = self.path.partition("?")[0]
        ranged = self.headers.get("Range", "")
        web.asked.append((method, path, ranged))
        found = web.resources.get(path)
        if found is None:
            return self._status(404)
        if found.location:
            self.send_response(302)
            self.send_header("Location", found.location)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if method == "HEAD" and found.head != 200:
            return self._status(found.head)
        step = found.script.pop(0) if found.script and method == "GET" else None
        if isinstance(step, str) and step.isdigit():
            return self._status(int(step))
        body, first = found.body, 0
        valid = found.ranges and ranged and self.headers.get("If-Range", found.etag) == found.etag
        if valid:
            first = int(ranged.removeprefix("bytes=").rstrip("-"))
            if first >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
        self.send_response(206 if valid else 200)
        if valid:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Type", found.kind)
        self.send_header("Content-Length", str(len(body) - first if found.told is None else found.told))
        if found.etag:
            self.send_header("ETag", found.etag)
        self.end_headers()
        if method == "HEAD":
            return None
        if step == "stall":
            self.wfile.write(body[first : first + len(body[first:]) // 2])
            self.wfile.flush()
            web.release.wait(20)
            self.close_connection = True
        elif isinstance(step, int):
            self.wfile.write(body[first : first + step])
            self.wfile.flush()
            self.close_connection = True
        else:
            self.wfile.write(body[first:])
        return None

    def _status(self, code):
        self.send_response(code)
        if code == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A client that went away is what these tests are about."""


@contextmanager
def serving():
    """Run a server on a free port; yields its Web."""
    web = Web()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.web = web
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.release.set()
        server.shutdown()
        server.server_close()
