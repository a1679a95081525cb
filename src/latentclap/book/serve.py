"""The built book on a local port, by tornado, which Jupyter brings along.

Players seek in it: Python's own ``http.server`` gives whole files only. From those no player can seek, and Safari
plays nothing.
"""

from __future__ import annotations

import asyncio
import errno
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from latentclap.errors import InputError, reason

#: nobody else on the network reads along
HOST = "127.0.0.1"
#: where `make book` puts the book
BOOK = Path("book/_build/html")


def serve(
    folder: Annotated[Path, typer.Argument(help="A folder of pages.")] = BOOK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
) -> None:
    """Serve the built book, or another folder of pages, on this machine until Ctrl-C."""
    if not (folder / "index.html").is_file():
        raise InputError(f"{folder}: {_missing(folder)}")
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(folder, port))


def _missing(folder: Path) -> str:
    """Why a folder cannot be served, and what to do."""
    if folder == BOOK:
        return "no index.html here; `make book` makes the book"
    if folder.is_file():
        return "a file; give the folder that it is in"
    if not folder.is_dir():
        return "no such folder of pages"
    inner = sorted(path.parent for path in folder.glob("*/index.html"))
    return f"no index.html here; {f'did you mean {inner[0]}?' if inner else 'give a folder of pages'}"


async def _serve(folder: Path, port: int) -> None:
    at = listen(folder, port)
    typer.echo(f"{folder} is at http://localhost:{at}; Ctrl-C ends it")
    await asyncio.Event().wait()


def listen(folder: Path, port: int) -> int:
    """Serve a folder from the running event loop, on a port of this machine alone; returns the port.

    Raises:
        InputError: the port is taken, or not ours to take.
    """
    from tornado.httpserver import HTTPServer
    from tornado.netutil import bind_sockets
    from tornado.web import Application, StaticFileHandler

    class Fresh(StaticFileHandler):
        """A book that is built again is read again: nothing is kept without asking."""

        def set_extra_headers(self, path: str) -> None:
            self.set_header("Cache-Control", "no-cache")

    options = {"path": str(folder.resolve()), "default_filename": "index.html"}
    try:
        sockets = bind_sockets(port, HOST)
    except OSError as error:
        busy = (
            "in use; give another, as in `make serve PORT=8001`" if error.errno == errno.EADDRINUSE else None
        )
        raise InputError(f"port {port}: {busy or reason(error)}") from None
    HTTPServer(Application([(r"/(.*)", Fresh, options)], log_function=lambda _: None)).add_sockets(sockets)
    return sockets[0].getsockname()[1]
