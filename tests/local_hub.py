"""A hub on 127.0.0.1: the part of the Hugging Face hub's API by which a model is created, uploaded and downloaded.

Written after what huggingface_hub sends and reads: repositories with commits, git's digests of small files, git-lfs's
batch and uploads of large ones. Tokens, rights and faults are as a test sets them.
"""

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from threading import Lock, Thread
from urllib.parse import unquote

import yaml

import local_xet
from local_web import _Server

#: a user's token, one of the same user that may only read
GOOD, READ_ONLY = "hf_good", "hf_read"
USER = "jane"
#: what goes by git-lfs, as on the hub
LARGE = (".safetensors", ".flac")


@dataclass
class Repo:
    """A repository: its files by name, and how often it was committed to."""

    private: bool
    files: dict = field(default_factory=lambda: {".gitattributes": b"*.safetensors filter=lfs\n"})
    commits: int = 0

    @property
    def sha(self):
        return f"{self.commits:040x}"


class Hub:
    """What the server holds, and what it was asked.

    Attributes:
        repos: by name.
        objects: large files that were uploaded, by SHA-256; blocks: what hf_xet makes of them.
        asked: (method, path) of every request.
        faults: what is to happen to the next requests of a method and a path that a pattern matches: a status
            code, or "cut": the connection ends in the middle.
        before_commit: called just before a commit is looked at.
    """

    def __init__(self):
        self.repos, self.objects, self.blocks = {}, {}, {}
        self.asked, self.faults = [], []
        self.before_commit = lambda: None
        self.url, self.lock = "", Lock()

    def fail(self, method, pattern, *steps):
        self.faults.append((method, re.compile(pattern), list(steps)))

    def fault(self, method, path):
        for wanted, pattern, steps in self.faults:
            if steps and wanted == method and pattern.search(path):
                return steps.pop(0)
        return None

    def puts(self):
        return [path for method, path in self.asked if method == "PUT"]

    def put(self, name, files, private=False):
        """A repository that is there already."""
        self.repos[name] = Repo(private)
        self.repos[name].files |= files
        self.repos[name].commits = 1


def entry(name, body):
    """What the hub tells of a file."""
    told = {"size": len(body), "blobId": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()}
    if name.endswith(LARGE):
        told["lfs"] = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
    return told


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._handle("GET")

    def do_HEAD(self):
        self._handle("HEAD")

    def do_POST(self):
        self._handle("POST")

    def do_PUT(self):
        self._handle("PUT")

    # --- answers --------------------------------------------------------------------------------------------------

    def _handle(self, method):
        hub, self.path = self.server.hub, unquote(self.path.partition("?")[0])
        with hub.lock:
            hub.asked.append((method, self.path))
            step = hub.fault(method, self.path)
        if step == "cut":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self.close_connection = True
            self.connection.close()
            return None
        body = self._body()
        if step:
            return self._say(step, {"error": "as the test asked"})
        for wanted, pattern, answer in ROUTES:
            if method in wanted and (found := re.fullmatch(pattern, self.path)):
                with hub.lock:
                    return answer(self, hub, body, *found.groups())
        return self._say(404, {"error": "no such route"})

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _say(self, status, told, **headers):
        self._send(status, json.dumps(told).encode(), **{"Content-Type": "application/json"}, **headers)

    def _send(self, status, body, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status >= 400 and "X_Error_Message" not in headers:
            self.send_header("X-Error-Message", json.loads(body)["error"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _token(self):
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _refused(self, owner=USER):
        """Whether the token may not write; then that is said."""
        if self._token() not in (GOOD, READ_ONLY):
            self._say(401, {"error": "Invalid username or password."})
        elif self._token() == READ_ONLY or owner != USER:
            self._say(403, {"error": f"You don't have the rights to create a model under {owner}"})
        else:
            return False
        return True

    def _repo(self, hub, name):
        """A repository that the token may see; else what the hub says of one that is not there."""
        repo = hub.repos.get(name)
        if self._token() and self._token() not in (GOOD, READ_ONLY):
            self._say(401, {"error": "Invalid credentials in Authorization header"})
        elif repo is None or (repo.private and not self._token()):
            self._say(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        else:
            return repo
        return None

    # --- routes ---------------------------------------------------------------------------------------------------

    def create(self, hub, body):
        told = json.loads(body)
        owner = told.get("organization") or USER
        name = f"{owner}/{told['name']}"
        if self._refused(owner):
            return
        url = {"url": f"{hub.url}/{name}", "name": name, "id": name}
        if name in hub.repos:
            return self._say(409, url | {"error": "You already created this model repo"})
        private = told.get("visibility") == "private" or told.get("private") is True
        hub.repos[name] = Repo(private)
        return self._say(200, url)

    def validate(self, hub, body):
        text = json.loads(body)["content"]
        try:
            told = yaml.safe_load(text.split("---\n")[1])
        except yaml.YAMLError as error:
            return self._say(400, {"error": "Bad YAML", "errors": [{"message": str(error)}], "warnings": []})
        if not told.get("license"):
            return self._say(400, {"error": "x", "errors": [{"message": "no license"}], "warnings": []})
        return self._say(200, {"errors": [], "warnings": []})

    def info(self, hub, body, name, revision=None):
        if repo := self._repo(hub, name):
            siblings = [{"rfilename": n, **entry(n, b)} for n, b in sorted(repo.files.items())]
            about = {"id": name, "modelId": name, "sha": repo.sha, "private": repo.private, "tags": []}
            self._say(200, about | {"siblings": siblings})

    def tree(self, hub, body, name, revision):
        if repo := self._repo(hub, name):
            rows = []
            for path, content in sorted(repo.files.items()):
                told = entry(path, content)
                row = {"type": "file", "path": path, "size": told["size"], "oid": told["blobId"]}
                if "lfs" in told:
                    row["lfs"] = told["lfs"] | {"oid": told["lfs"]["sha256"]}
                rows.append(row)
            self._say(200, rows)

    def preupload(self, hub, body, name, revision):
        if self._refused(name.partition("/")[0]) or not (repo := self._repo(hub, name)):
            return
        rows = []
        for file in json.loads(body)["files"]:
            path = file["path"]
            large, there = path.endswith(LARGE), repo.files.get(path)
            told = entry(path, there) if there is not None else {}
            oid = told["lfs"]["sha256"] if "lfs" in told else told.get("blobId")
            mode = "lfs" if large else "regular"
            rows.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._say(200, {"files": rows})

    def batch(self, hub, body, name):
        rows = []
        for wanted in json.loads(body)["objects"]:
            row = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in hub.objects:
                upload, verify = f"{hub.url}/lfs/{wanted['oid']}", f"{hub.url}/{name}.git/verify"
                row["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
            rows.append(row)
        self._say(200, {"transfer": "basic", "objects": rows})

    def store(self, hub, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            return self._say(400, {"error": "another content"})
        hub.objects[oid] = body
        return self._send(200, b"", ETag=f'"{oid}"')

    def verify(self, hub, body, name):
        told = json.loads(body)
        there = len(hub.objects.get(told["oid"], b"")) == told["size"]
        self._say(200 if there else 404, {"error": "not there"})

    def commit(self, hub, body, name, revision):
        if self._refused(name.partition("/")[0]) or not (repo := self._repo(hub, name)):
            return
        hub.before_commit()
        lines = [json.loads(line) for line in body.splitlines()]
        if lines[0]["value"].get("parentCommit", repo.sha) != repo.sha:
            return self._say(412, {"error": "A commit has happened since. Please refresh and try again."})
        files = dict(repo.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
            else:
                files.pop(value["path"])
        repo.files, repo.commits = files, repo.commits + 1
        self._say(200, {"commitUrl": f"{hub.url}/{name}/commit/{repo.sha}", "commitOid": repo.sha})

    def resolve(self, hub, body, name, revision, path):
        if not (repo := self._repo(hub, name)):
            return
        if path not in repo.files:
            self._say(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return
        told = entry(path, repo.files[path])
        etag = told.get("lfs", {}).get("sha256") or told["blobId"]
        self._send(200, repo.files[path], X_Repo_Commit=repo.sha, ETag=f'"{etag}"')


_NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    (("POST",), "/api/repos/create", _Handler.create),
    (("POST",), "/api/validate-yaml", _Handler.validate),
    (("GET",), f"/api/models/{_NAME}", _Handler.info),
    (("GET",), f"/api/models/{_NAME}/revision/(.+)", _Handler.info),
    (("GET",), f"/api/models/{_NAME}/tree/(.+)", _Handler.tree),
    (("POST",), f"/api/models/{_NAME}/preupload/(.+)", _Handler.preupload),
    (("POST",), f"/{_NAME}.git/info/lfs/objects/batch", _Handler.batch),
    (("PUT",), r"/lfs/(\w+)", _Handler.store),
    (("POST",), f"/{_NAME}.git/verify", _Handler.verify),
    (("POST",), f"/api/models/{_NAME}/commit/(.+)", _Handler.commit),
    (("GET", "HEAD"), f"/{_NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
    *local_xet.ROUTES,
]


@contextmanager
def hub_on_this_machine():
    """Run a hub on a free port; yields it."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = hub
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
