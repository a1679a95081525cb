"""What a request's headers say: whether it comes from the page itself, and which part of a file it is about.

Whoever may use the machine's own address may use the page; pages of other sites may not, neither by a request across
sites (Origin, Sec-Fetch-Site) nor under a name of theirs that leads here (Host).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


def is_ours(host: str, named: str, loopback: bool) -> bool:
    """Whether a Host header is this machine's: a name of another site that leads here is not.

    The port is not looked at: behind a tunnel it is another one.

    Args:
        host: the header.
        named: what the server was told to listen on.
        loopback: that is this machine's own address, and no other one leads here.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in ("localhost", "127.0.0.1", "::1", named.lower()):
        return True
    if loopback:
        return False
    try:
        ipaddress.ip_address(name)  # nobody can make a number lead elsewhere
        return True
    except ValueError:
        return name == socket.gethostname().lower()


def is_foreign(host: str, origin: str | None, site: str | None, linked: bool) -> bool:
    """Whether another site's page asks.

    Args:
        host: the Host header.
        origin: the Origin header, of a browser's request for more than a page or picture.
        site: the Sec-Fetch-Site header, of newer browsers.
        linked: it is for what a link anywhere may lead to, the page and its parts.
    """
    if origin is not None and origin.lower() != f"http://{host.lower()}":
        return True
    return not linked and site not in (None, "same-origin", "none")


def asks_range(asked: str) -> bool:
    """Whether a Range header asks for one part of a file; one that we do not understand means the whole."""
    found = _RANGE.fullmatch(asked.strip())
    return bool(found) and found.groups() != ("", "")


def byte_range(asked: str, size: int) -> tuple[int, int] | None:
    """First byte and the one behind the last that a Range header asks for; None: there is no such part.

    Args:
        asked: the header; what is none means the whole.
        size: of the file.
    """
    if not asks_range(asked):
        return 0, size
    first, last = _RANGE.fullmatch(asked.strip()).groups()
    if not first:
        return (max(0, size - int(last)), size) if int(last) else None
    end = min(int(last) + 1, size) if last else size
    return (int(first), end) if int(first) < end else None
