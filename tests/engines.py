"""Firefox and WebKit, Safari's engine: pages in the browsers that playwright's Chromium does not stand for.

Both are driven by WebDriver's commands and this file alone. Firefox takes them on its Marionette port, WebKitGTK
through WebKitWebDriver over HTTP. WebKitGTK needs a display, which Xvfb gives.
"""

import base64
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # what WebDriver calls an element by
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
WEBKIT = shutil.which("WebKitWebDriver")
DISPLAY = os.environ.get("DISPLAY") or shutil.which("Xvfb")
MINIBROWSER = next(Path("/usr").glob("lib*/**/webkit2gtk-4.1/MiniBrowser"), None) if WEBKIT else None
#: MiniBrowser's bar of tools is wider than a phone, were it not for this.
NARROW = "* { min-width: 0; padding: 0; margin: 0; font-size: 3px; } button, entry { border: 0; }\n"
KEYS = {
    "Enter": "\ue007",
    "Escape": "\ue00c",
    "Tab": "\ue004",
    "Space": " ",
    "ArrowDown": "\ue015",
    "ArrowRight": "\ue014",
}


class Failed(Exception):
    """What the browser answers to a command that it did not carry out."""


class Engine:
    """A browser with one page: `command(name, way, path, told)` is what the two differ in."""

    def open(self, url):
        self.command("WebDriver:Navigate", "POST", "url", {"url": url})

    def script(self, body, *args):
        told = {"script": body, "args": list(args)}
        return self.command("WebDriver:ExecuteScript", "POST", "execute/sync", told)

    def value(self, expression, *args):
        """Of an expression; `arguments` has what is given."""
        return self.script(f"return ({expression});", *args)

    def until(self, expression, *args, seconds=30):
        end = time.monotonic() + seconds
        while not (found := self.value(expression, *args)):
            assert time.monotonic() < end, f"{expression} {args}"
            time.sleep(0.05)
        return found

    def find(self, css):
        found = self.command(
            "WebDriver:FindElement", "POST", "element", {"using": "css selector", "value": css}
        )
        return found[ELEMENT]

    def click(self, css):
        element = self.find(css)
        self.command("WebDriver:ElementClick", "POST", f"element/{element}/click", {"id": element})

    def fill(self, css, text):
        element = self.find(css)
        self.command("WebDriver:ElementClear", "POST", f"element/{element}/clear", {"id": element})
        told = {"id": element, "text": text}
        self.command("WebDriver:ElementSendKeys", "POST", f"element/{element}/value", told)

    def give(self, css, path):
        """Choose a file."""
        element = self.find(css)
        told = {"id": element, "text": str(path)}
        self.command("WebDriver:ElementSendKeys", "POST", f"element/{element}/value", told)

    def press(self, *keys):
        """Keys by name (KEYS) or sign, one after the other."""
        steps = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.act({"type": "key", "id": "keys", "actions": steps})

    def point(self, css, x=0.5, y=0.5):
        """A click of the mouse at a place of an element, in parts of its width and height."""
        left, top, width, height = self.script(
            "const part = document.querySelector(arguments[0]);"
            "part.scrollIntoView({ block: 'center', behavior: 'instant' });"
            "const box = part.getBoundingClientRect(); return [box.left, box.top, box.width, box.height];",
            css,
        )
        move = {
            "type": "pointerMove",
            "duration": 0,
            "x": round(left + x * width),
            "y": round(top + y * height),
        }
        steps = [move, {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self.act({"type": "pointer", "id": "mouse", "actions": steps})

    def act(self, *actions):
        self.command("WebDriver:PerformActions", "POST", "actions", {"actions": list(actions)})

    def picture(self, path):
        got = self.command("WebDriver:TakeScreenshot", "GET", "screenshot", {"full": False})
        Path(path).write_bytes(base64.b64decode(got))

    def resize(self, width, height):
        told = {"x": 0, "y": 0, "width": width, "height": height}
        self.command("WebDriver:SetWindowRect", "POST", "window/rect", told)


class Firefox(Engine):
    """Firefox without a window. `prefs` are its settings of about:config."""

    def __init__(self, folder, prefs=None, **environment):
        folder.mkdir(parents=True)
        told = {
            "marionette.port": 0,
            "browser.shell.checkDefaultBrowser": False,
            "datareporting.policy.dataSubmissionEnabled": False,
            "browser.download.folderList": 2,
            "browser.download.dir": str(folder),
            "browser.download.alwaysOpenPanel": False,
            **(prefs or {}),
        }
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in told.items()]
        (folder / "user.js").write_text("\n".join(lines))
        words = [FIREFOX, "--headless", "--no-remote", "--marionette", "-remote-allow-system-access"]
        self.folder = folder
        self.process = subprocess.Popen(
            [*words, "--profile", str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(folder), **environment},
        )
        self.numbers = itertools.count()
        port = folder / "MarionetteActivePort"
        end = time.monotonic() + 120
        while not (port.is_file() and port.read_text()):
            assert time.monotonic() < end and self.process.poll() is None, "Firefox does not start"
            time.sleep(0.1)
        self.socket = socket.create_connection(("127.0.0.1", int(port.read_text())), timeout=120)
        self.stream = self.socket.makefile("rb")
        self._read()  # it says who it is
        self.version = self.command("WebDriver:NewSession", told={})["capabilities"]["browserVersion"]
        # a machine of tests may have no sound card: what is muted by the tab plays by the clock, and no page sees it
        self.chrome("gBrowser.selectedTab.toggleMuteAudio();")

    def _read(self):
        length = b""
        while not length.endswith(b":"):
            sign = self.stream.read(1)
            assert sign, "Firefox has ended"
            length += sign
        return json.loads(self.stream.read(int(length[:-1])))

    def command(self, name, way="", path="", told=None):
        message = json.dumps([0, next(self.numbers), name, told or {}]).encode()
        self.socket.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self._read()
        if error:
            raise Failed(f"{name}: {error['message']}")
        return result["value"] if isinstance(result, dict) and set(result) == {"value"} else result

    def chrome(self, body, *args):
        """A script of the browser's own."""
        self.command("Marionette:SetContext", told={"value": "chrome"})
        try:
            return self.script(body, *args)
        finally:
            self.command("Marionette:SetContext", told={"value": "content"})

    def complaints(self):
        """Errors of pages, since the last time."""
        return self.chrome(
            "const all = Services.console.getMessageArray(); Services.console.reset();"
            "return all.filter((one) => one instanceof Ci.nsIScriptError && !(one.flags & 1) && /^(file|http|blob)/"
            ".test(one.sourceName)).map((one) => `${one.category}: ${one.errorMessage} (${one.sourceName})`);"
        )

    def view(self, width, height):
        """The page's own size; a window is no narrower than 450 pixels."""
        self.resize(max(width, 500), height + 200)
        self.chrome(
            "const style = gBrowser.selectedBrowser.style;"
            "[style.minWidth, style.maxWidth, style.minHeight, style.maxHeight] = arguments;",
            *(f"{size}px" for size in (width, width, height, height)),
        )
        self.until(f"innerWidth === {width} && innerHeight === {height}")

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        self.socket.close()


class WebKit(Engine):
    """WebKitGTK's MiniBrowser by WebKitWebDriver, on a display of its own where there is none."""

    def __init__(self, folder, arguments=(), **environment):
        folder.mkdir(parents=True)
        style = folder / ".config" / "gtk-3.0" / "gtk.css"
        style.parent.mkdir(parents=True)
        style.write_text(NARROW)
        env = {**os.environ, "HOME": str(folder), **environment}
        self.folder = folder
        self.screen = None
        if "DISPLAY" not in os.environ:
            read, write = os.pipe()
            words = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1600x1200x24", "-nolisten", "tcp"]
            self.screen = subprocess.Popen(words, pass_fds=[write], stderr=subprocess.DEVNULL)
            os.close(write)
            with os.fdopen(read) as told:
                env["DISPLAY"] = f":{told.readline().strip()}"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.process = subprocess.Popen(
            [WEBKIT, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env
        )
        self.address = f"http://127.0.0.1:{port}/session"
        options = {"args": ["--automation", *arguments], "binary": str(MINIBROWSER)}
        told = {"capabilities": {"alwaysMatch": {"webkitgtk:browserOptions": options}}}
        end = time.monotonic() + 60
        while True:
            try:
                started = self.ask("POST", "", told)
                break
            except urllib.error.URLError:
                assert time.monotonic() < end and self.process.poll() is None, (
                    "WebKitWebDriver does not start"
                )
                time.sleep(0.1)
        self.session = started["sessionId"]
        self.version = started["capabilities"]["browserVersion"]

    def ask(self, way, path, told=None):
        body = None if way == "GET" else json.dumps(told or {}).encode()
        request = urllib.request.Request(self.address + path, body, method=way)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise Failed(f"{path}: {json.load(error)['value']['message']}") from None

    def command(self, name, way, path, told=None):
        return self.ask(way, f"/{self.session}/{path}", told)

    def view(self, width, height):
        """The page's own size."""
        self.resize(width, height)
        inner = self.value("[innerWidth, innerHeight]")
        self.resize(2 * width - inner[0], 2 * height - inner[1])
        self.until(f"innerWidth === {width} && innerHeight === {height}")

    def close(self):
        try:
            self.ask("DELETE", f"/{self.session}")
        finally:
            for process in filter(None, (self.process, self.screen)):
                process.terminate()
                process.wait(30)


def start(name, folder):
    """One of the two by its name, or None where it is not on this machine."""
    if name == "Firefox":
        return Firefox(folder) if FIREFOX else None
    return WebKit(folder) if MINIBROWSER and DISPLAY else None
