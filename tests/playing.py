"""The page of `latentclap play` served in this process: what its tests and those in a browser share."""

import http.client
import json
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace
from urllib.parse import urlsplit

from latentclap.play.command import about
from latentclap.play.jobs import Session
from latentclap.play.server import Server
from latentclap.play.shelf import Shelf

JSON = {"Content-Type": "application/json"}


@contextmanager
def playing(maker, folder, out=None):
    """Serve the page with a model that is loaded; yields its address, session and shelf."""
    shelf = Shelf(folder, out)
    session, server = Session(maker, shelf), Server("127.0.0.1", 0)
    server.about, server.session = about(maker, out), session
    worker = threading.Thread(target=session.run, daemon=True)
    worker.start()
    try:
        with server.answering():
            yield SimpleNamespace(url=server.url.rstrip("/"), session=session, shelf=shelf, server=server)
    finally:
        session.close()
        worker.join(60)


def ask(url, method, path, body=None, headers=None):
    """One request over real HTTP: status, headers and content (JSON as what it means)."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    if isinstance(body, dict):
        body, headers = json.dumps(body).encode(), JSON | (headers or {})
    connection.putrequest(method, path, skip_host="Host" in (headers or {}))
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    if body is not None and "Content-Length" not in (headers or {}):
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.getheader("Content-Type") == "application/json":
        content = json.loads(content)
    return answer.status, dict(answer.getheaders()), content


def done(url, seconds=120):
    """Wait until no job is being done; the state then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = ask(url, "GET", "/api/state")[2]
        if not state["job"]:
            return state
        time.sleep(0.02)
    raise TimeoutError("the job does not end")


def make(url, **wish):
    """Ask for clips and wait for them; the newest clips, in the order in which they were made."""
    status, _, told = ask(url, "POST", "/api/make", wish)
    assert status == 200, told
    state = done(url)
    assert not state["error"], state
    return list(reversed(ask(url, "GET", "/api/clips")[2]["clips"][: wish.get("n", 1)]))
