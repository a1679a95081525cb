"""A look at the first bytes of a file for which no checksum is published.

Before a first download is trusted: a page that asks for a login, or says that there is nothing, is no data.
"""

from __future__ import annotations

from pathlib import Path

_PICKLE = b"\x80"
_ZIP = b"PK\x03\x04"
_PAGE = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")
#: How a file of a kind begins; torch writes zips, and wrote pickles before.
_STARTS = {
    ".pth": ("a file of torch", (_ZIP, _PICKLE)),
    ".pt": ("a file of torch", (_ZIP, _PICKLE)),
    ".ckpt": ("a file of torch", (_ZIP, _PICKLE)),
    ".pkl": ("a pickle", (_PICKLE,)),
    ".gz": ("a gzip file", (b"\x1f\x8b",)),
    ".zip": ("a zip", (_ZIP, b"PK\x05\x06", b"PK\x07\x08")),
}


def implausible(path: Path, name: str) -> str:
    """Say why the bytes of ``path`` cannot be the file ``name``, or "" if they may be."""
    with open(path, "rb") as stream:
        start = stream.read(256)
    if not start:
        return "empty"
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGE):
        return "a web page and no data"
    kind, starts = _STARTS.get(Path(name).suffix.lower(), ("", (b"",)))
    return "" if start.startswith(starts) else f"not {kind}"
