"""What went wrong on the way, in a few words."""

from __future__ import annotations

import contextlib
import errno
import time
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import requests

#: Status codes worth another try (those that huggingface_hub takes as well).
PASSING = frozenset({408, 429, 500, 502, 503, 504})
_NO_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
)


class Stopped(Exception):
    """Raised inside a download that has to end because of something outside it."""


def host(url: str) -> str:
    """The host of an address, with its port where it has one."""
    return urlsplit(url).netloc or url


def reason(error: BaseException, url: str, timeout: float) -> str:
    """Say in one phrase why a request failed, whichever of the libraries raised.

    huggingface_hub's transport (httpx or httpx2, by version) is told by the names of its classes.
    """
    names = {cls.__name__ for cls in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return http_status(status)
    if _stalled(error, names):
        return f"{host(url)} sent nothing for {timeout:g} s (--timeout)"
    if isinstance(error, requests.exceptions.SSLError):
        return f"no secure connection to {host(url)} ({_first(error)})"
    if isinstance(error, requests.exceptions.ChunkedEncodingError) or "RemoteProtocolError" in names:
        return "the connection was cut"
    if isinstance(error, requests.exceptions.ConnectionError) or "NetworkError" in names:
        cut = "reset" in str(error).lower() or "aborted" in str(error).lower()
        way = _proxy(url)
        return f"{host(url)} cut the connection{way}" if cut else f"{host(url)} cannot be reached{way}"
    if isinstance(error, _NO_ADDRESS):
        return "no web address: http:// or https:// is needed"
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return f"{host(url)} sends the request round in circles"
    return _first(error)


def _proxy(url: str) -> str:
    """The proxy that requests for an address go through, in words, without its password; empty for none."""
    proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    if not proxy:
        return ""
    return f" through the proxy {host(proxy).rpartition('@')[2]} (set in the environment, https_proxy or the like)"


def http_status(status: int) -> str:
    """A status code with the words a user needs."""
    words = {
        401: "not allowed without an account",
        403: "not allowed",
        404: "not there",
        410: "no longer there",
        429: "too many requests, wait a while",
    }
    return f"HTTP {status}: {words.get(status, 'the server has a problem' if status >= 500 else 'refused')}"


def passing(error: BaseException) -> bool:
    """Whether the same request may succeed a little later, whichever of the libraries raised (see :func:`reason`)."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in PASSING
    if isinstance(error, (requests.exceptions.SSLError, requests.exceptions.TooManyRedirects)):
        return False
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & {"TimeoutException", "NetworkError", "RemoteProtocolError"}:
        return "CERTIFICATE" not in str(error)  # which httpx counts among the failures to connect
    return isinstance(
        error,
        (
            requests.exceptions.ConnectionError,
            requests.exceptions.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ),
    )


def pause(error: BaseException, tries: int, wait: float) -> float:
    """Seconds until the next try: ``wait`` after the first, growing by powers of two, or what the server asks for."""
    return max(wait * 2 ** (tries - 1), asked_to_wait(error))


def asked_to_wait(error: BaseException, most: float = 300) -> float:
    """Seconds that a server asks us to wait (Retry-After, a number or a date), at most ``most``."""
    response = getattr(error, "response", None)
    text = response.headers.get("Retry-After", "").strip() if response is not None else ""
    seconds = 0.0
    if text.isdecimal():
        seconds = float(text)
    elif text:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
    return min(max(seconds, 0.0), most)


def disk_full(error: OSError) -> bool:
    """Whether a write failed for want of space or quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _stalled(error: BaseException, names: set[str]) -> bool:
    if isinstance(error, requests.exceptions.Timeout) or "TimeoutException" in names:
        return True
    # requests wraps urllib3's time-out in the middle of a body into a ConnectionError
    return any(type(part).__name__ == "ReadTimeoutError" for part in error.args)


def _first(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
