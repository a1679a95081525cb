"""A server on 127.0.0.1 that misbehaves as asked: cuts, stalls, lies. A hub and a Zenodo record can be put on it.

Also its counterpart: a process that is killed at any step (`kill_everywhere`).
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Resource:
    """One address. ``script`` tells what happens to each GET in turn; when it is used up, all is well.

    Its entries: an int (bytes until the connection is cut), "stall" (silence after half the body), or a string
    of digits (a status code). ``heads`` are the status codes of each HEAD in turn, ``later`` is the Retry-After.
    """

    body: bytes
    ranges: bool = True
    etag: str = '"1"'
    script: list = field(default_factory=list)
    location: str = ""
    head: int = 200
    heads: list = field(default_factory=list)
    later: str = "1"
    told: int | None = None
    told_first: int | None = None  # by HEAD
    kind: str = "application/octet-stream"
    encoding: str = ""
    modified: str = ""
    if_range: bool = True  # False: the header is not known, as to many a simple server
    length: bool = True  # False: as HTTP/1.0 does, the body's end is that of the connection


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
        head = found.heads.pop(0) if found.heads and method == "HEAD" else found.head
        if method == "HEAD" and head != 200:
            return self._status(head, found.later)
        step = found.script.pop(0) if found.script and method == "GET" else None
        if isinstance(step, str) and step.isdigit():
            return self._status(int(step), found.later)
        body, first = found.body, 0
        held = self.headers.get("If-Range", found.etag) in (found.etag, found.modified)
        valid = found.ranges and ranged and (held or not found.if_range)
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
        if found.encoding:
            self.send_header("Content-Encoding", found.encoding)
        told = found.told_first if method == "HEAD" else found.told
        if found.length:
            self.send_header("Content-Length", str(len(body) - first if told is None else told))
        else:
            self.send_header("Connection", "close")
        if found.modified:
            self.send_header("Last-Modified", found.modified)
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

    def _status(self, code, later=""):
        self.send_response(code)
        if code == 429:
            self.send_header("Retry-After", later)
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


# --- a process that is killed -----------------------------------------------------------------------------------

_STEPS = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.truncate",
    "shutil.rmtree",
}


def killed_at(moment, call):
    """Run ``call`` in a fork that gets a SIGKILL before its ``moment``-th step on a file (0: never).

    Returns its exit status (-9 if it was killed) and the number of its steps. The caller must have no other thread.
    """
    with tempfile.TemporaryFile() as told:
        pid = os.fork()
        if not pid:
            steps, busy = [0], []

            def hook(event, args):
                # reading is no step: the state on the disk is the same after it
                if (
                    busy
                    or event not in _STEPS
                    or (event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR))
                ):
                    return
                steps[0] += 1
                if steps[0] == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            status = 1
            try:
                call()
                status = 0
            except Exception as error:
                print(f"moment {moment}: {error!r}"[:500], flush=True)
            busy.append(True)
            os.pwrite(told.fileno(), str(steps[0]).encode(), 0)
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        told.seek(0)
        return status, int(told.read() or 0)


def state_of(folder):
    """All files below a folder with their bytes; of the manifest only what does not tell the time; no locks."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.endswith(".lock"):
            found[name] = path.read_bytes()
    raw = json.loads(found.pop("latentclap-get.json"))
    found["sums"] = {name: item["sha256"] for name, item in raw["files"].items()}
    return found | {"unpacked": raw["unpacked"], "hidden": [p.name for p in folder.rglob(".*") if p.is_dir()]}


def kill_everywhere(call, work, samples, begin="", seed=0):
    """Kill ``call(folder)`` at moments of its course, once or in a row; called again it has to end as if nothing was.

    ``samples`` moments are tried, 0 for every one; ``begin`` is what lies in the folder at first. Returns what went
    wrong.
    """
    rng, work = random.Random(seed), Path(work)
    work.mkdir(parents=True)

    def fresh(name):
        if begin:
            shutil.copytree(begin, work / name)
        return work / name

    whole = fresh("whole")
    status, steps = killed_at(0, lambda: call(whole))
    if status or not steps:
        print(f"not even without a kill: {status}, {steps} steps")
        return ["whole"]
    wanted, wrong = state_of(whole), []

    def complain(text):
        print(text, flush=True)  # at once: all steps of a run take minutes
        wrong.append(text)

    def ends_well(folder, what):
        status, _ = killed_at(0, lambda: call(folder))
        found = state_of(folder) if not status else {}
        if status or found != wanted:
            differ = [k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k)]
            complain(f"{what}: status {status}, differs in {differ[:5]}")

    moments = range(1, steps + 1)
    for moment in sorted(rng.sample(moments, samples) if samples else moments):
        folder = fresh(f"at{moment}")
        status, _ = killed_at(moment, lambda: call(folder))  # noqa: B023 - called at once
        if status != -signal.SIGKILL:
            complain(f"moment {moment}: was not killed but {status}")
        ends_well(folder, f"killed at step {moment} of {steps}")
        shutil.rmtree(folder)
    for row in range(2):
        folder, kills = fresh(f"row{row}"), 0
        while killed_at(rng.randint(1, steps // 2), lambda: call(folder))[0] and kills < 12:  # noqa: B023
            kills += 1
        ends_well(folder, f"killed {kills} times in a row")
    print(f"{steps} steps", flush=True)
    return wrong


def main():
    """What the tests start: everything imported first, then nothing but forks of a process with one thread."""
    told = json.loads(sys.argv[1])
    import pooch.downloaders
    from huggingface_hub import HfApi  # noqa: F401

    import latentclap.scan  # noqa: F401
    from latentclap.getting import Options, get

    pooch.downloaders.ZenodoRepository.base_api_url = told["api"]

    def call(folder):
        options = Options(
            folder,
            mirror=told["mirror"],
            quiet=True,
            keep_archives=told["keep"],
            timeout=20,
            workers=1,
            verify=told["verify"],
            replace=told["replace"],
        )
        get(told["name"], options, lambda _: None, subsets=tuple(told["subsets"]))

    wrong = kill_everywhere(call, told["work"], told["samples"], told["begin"])
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
