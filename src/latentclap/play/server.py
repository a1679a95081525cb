"""The page's server: a few known paths on this machine, and nothing else."""

from __future__ import annotations

import errno
import ipaddress
import json
import re
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from latentclap.book.standalone import STYLE
from latentclap.errors import InputError, reason
from latentclap.play.bundle import bundle
from latentclap.play.given import MOST_BYTES
from latentclap.play.guard import asks_range, byte_range, is_foreign, is_ours
from latentclap.play.jobs import Busy, Session
from latentclap.play.wish import read_field, read_json_object

#: Bytes of a request in JSON.
MOST_JSON = 16_384
#: Path -> file of this package and its kind.
PAGE = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/play.css": ("play.css", "text/css; charset=utf-8"),
    "/play.js": ("play.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_CLIP = re.compile(r"/clips/([0-9]{1,9})\.(wav|png)")


class Refused(Exception):
    """A request that is not answered: status and one line."""

    def __init__(self, status: int, says: str) -> None:
        super().__init__(says)
        self.status = status


class Server(ThreadingHTTPServer):
    """Listens from the moment it is made; answers within :meth:`answering`.

    Args:
        host: name or address to listen on.
        port: 0 for any that is free.

    Raises:
        InputError: no such address here, or the port is in use.
    """

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, host: str, port: int) -> None:
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        except (socket.gaierror, UnicodeError):
            raise InputError(f"--host {host}: there is no such address") from None
        self.address_family = family
        self.host = host
        self.loopback = ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
        self.session: Session | None = None
        self.about: dict[str, Any] = {}
        try:
            super().__init__(address[:2], Handler)
        except PermissionError:
            raise InputError(f"--port {port}: no permission to use it; choose one above 1023") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise InputError(
                    f"--port {port}: in use, by another latentclap play, say; choose another, or 0 for any that is"
                    " free"
                ) from None
            raise InputError(f"--host {host}: {error.strerror or error}") from None

    def server_bind(self) -> None:
        """Bind; http.server's own way asks for the host's name, which takes long without a network."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.host, self.server_address[1]

    @property
    def url(self) -> str:
        """The page's address."""
        host = "127.0.0.1" if self.host == "0.0.0.0" else "::1" if self.host == "::" else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server."""
        return is_ours(host, self.host, self.loopback)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Answer requests in threads while the block runs."""
        thread = threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers one request after the other of a connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "latentclap", ""
    timeout = 60

    def log_message(self, *_: Any) -> None:
        """Say nothing in the terminal."""

    def do_GET(self) -> None:
        """The page, its parts, what goes on, and clips."""
        self._answer(self._get)

    def do_HEAD(self) -> None:
        """As for GET, without the content."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """What the page asks for."""
        self._answer(self._post)

    # --------------------------------------------------------------------------------------- ways

    def _answer(self, way: Callable[[str], None]) -> None:
        length = self.headers.get("Content-Length", "0")
        chunked = "Transfer-Encoding" in self.headers or not re.fullmatch(r"[0-9]{1,15}", length)
        self._unread = MOST_BYTES if chunked else int(length)
        try:
            path = self.path.partition("?")[0]
            self._check_sender(path)
            way(path)
        except Refused as refused:
            self._json({"error": str(refused)}, refused.status)
        except Busy as busy:
            self._json({"error": str(busy)}, 409)
        except InputError as error:
            self._json({"error": " ".join(str(error).split())}, 400)
        except (ConnectionError, TimeoutError):  # it went away, or stopped sending
            raise
        except Exception as error:
            said = reason(error)
            if said is None:  # a bug
                traceback.print_exception(error)
                said = f"{type(error).__name__} (the terminal says more)"
            self._json({"error": said}, 500)

    def _check_sender(self, path: str) -> None:
        """Refuse what another site's page asks for; a link to this page may be anywhere."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not self.server.knows(hosts[0]):
            raise Refused(403, "this name is not this server's: open the address that latentclap play prints")
        linked = path in PAGE and self.command != "POST"
        if is_foreign(hosts[0], self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site"), linked):
            raise Refused(403, "only the page itself may ask for this")

    def _get(self, path: str) -> None:
        session = self.server.session
        if path in PAGE:
            name, kind = PAGE[path]
            self._send(page_file(name), kind)
        elif session is None:
            if path != "/api/about":
                raise Refused(503, "the model is being loaded")
            self._json({"loading": True})
        elif path == "/api/about":
            self._json(self.server.about | {"session": session.name, "found": session.found.said()})
        elif path == "/api/state":
            self._json(session.state())
        elif path == "/api/clips":
            shelf = session.shelf
            self._json({"revision": shelf.revision, "clips": shelf.page(), "earlier": shelf.marks()})
        elif path == "/api/earlier":
            self._json({"clips": session.shelf.earlier()})
        elif path == "/starred.zip":
            self._send(bundle(session.shelf.starred()), "application/zip")
        elif found := _CLIP.fullmatch(path):
            self._clip(int(found[1]), found[2])
        else:
            raise Refused(404, "there is nothing of this name")

    def _post(self, path: str) -> None:
        session = self.server.session
        if session is None:
            raise Refused(503, "the model is being loaded")
        if path == "/api/sound":
            content = self._body(MOST_BYTES, "application/octet-stream")
            names = parse_qs(urlsplit(self.path).query).get("name", [""])
            self._json({"id": session.give(names[0], content)})
            return
        if path not in ("/api/make", "/api/stop", "/api/remove", "/api/star"):
            raise Refused(404, "there is nothing of this name")
        told = read_json_object(self._body(MOST_JSON, "application/json"))
        if path == "/api/make":
            session.ask(told)
        elif path == "/api/stop":
            session.stop()
        elif path == "/api/remove":
            session.remove(read_field(told, "id", int))
        else:
            session.shelf.star(read_field(told, "id", int), read_field(told, "starred", bool))
        self._json(session.state())

    def _body(self, most: int, kind: str) -> bytes:
        """A request's content, which is of one kind and has its length told."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,15}", length) or self.headers.get("Transfer-Encoding"):
            raise Refused(411, "the request does not tell its length")
        if int(length) > most:
            raise Refused(
                413, f"too much: at most {most / 1e6:g} MB" if most >= 1e6 else "the request is too long"
            )
        # a form of another site can send none of these kinds
        if self.headers.get_content_type() != kind:
            raise Refused(415, f"the request is not {kind}")
        content = self.rfile.read(int(length))
        if len(content) < int(length):
            raise Refused(400, "the request was cut short")
        self._unread = 0
        return content

    def _leave_body(self) -> None:
        """Read what was sent and not asked for, or close the connection: the next request begins behind it."""
        if self._unread and self._unread <= MOST_JSON:
            self.rfile.read(self._unread)
        elif self._unread:
            self.close_connection = True
            self.send_header("Connection", "close")

    # ------------------------------------------------------------------------------------ answers

    def _clip(self, number: int, suffix: str) -> None:
        session = self.server.session
        item = session.shelf.get(number)
        try:
            content = session.picture(number) if suffix == "png" else item.read() if item else b""
        except (OSError, InputError):
            content = b""
        if not content:
            raise Refused(404, "there is no such clip any more")
        self._send(content, "image/png" if suffix == "png" else "audio/wav", ranged=True)

    def _json(self, told: dict[str, Any], status: int = 200) -> None:
        self._send(json.dumps(told).encode(), "application/json", status)

    def _send(self, content: bytes, kind: str, status: int = 200, *, ranged: bool = False) -> None:
        """Send it, or the part that a player asks for to begin there."""
        more = {"Content-Type": kind}
        if ranged:
            more["Accept-Ranges"] = "bytes"
            part = byte_range(self.headers.get("Range", ""), len(content))
            if part is None:
                more["Content-Range"] = f"bytes */{len(content)}"
                content, status = b"", 416
            elif asks_range(self.headers.get("Range", "")):  # Safari takes a 200 for a server of no parts
                more["Content-Range"] = f"bytes {part[0]}-{part[1] - 1}/{len(content)}"
                content, status = content[part[0] : part[1]], 206
        self.send_response(status)
        for name, value in (HEADERS | more | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self._leave_body()
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@cache
def page_file(name: str) -> bytes:
    """A part of the page; its style begins with that of our other pages."""
    text = files("latentclap.play").joinpath(name).read_text(encoding="utf-8")
    return (STYLE + text if Path(name).suffix == ".css" else text).encode()
