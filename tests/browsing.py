"""Pages in a real browser: what the tests of the book and of surveys share."""

import shutil
from http.server import SimpleHTTPRequestHandler

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--mute-audio",
]
#: Two windows: a phone and a desk.
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1400, "height": 900}


def watched(context):
    """A page that notes its requests, and what failed or complained."""
    page = context.new_page()
    page.set_default_timeout(120_000)  # a busy machine is no failure
    page.requests, page.failures = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("requestfailed", lambda request: page.failures.append(f"{request.url}: {request.failure}"))
    page.on("console", lambda message: message.type == "error" and page.failures.append(message.text))
    page.on("pageerror", lambda error: page.failures.append(str(error)))
    return page


def leaving(page, go):
    """Leave a page by `go` (a reload, another address): what it was asking for is cut off, and no failure."""
    before = len(page.failures)
    go()
    page.failures[before:] = [f for f in page.failures[before:] if not f.endswith("net::ERR_ABORTED")]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Whole(Quiet):
    """A server that gives no parts of a file, to a browser that plays nothing without them, as Safari does."""

    def do_GET(self):
        if "Range" in self.headers:
            self.send_error(416)
        else:
            super().do_GET()
