"""Take the picture of latentclap play that the book shows: its page, with clips that the shipped model makes now.

It needs the extra "test" (playwright) and a Chromium.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from latentclap.errors import InputError, run_app
from latentclap.files import atomic_path, check_place
from latentclap.options import application
from latentclap.wording import file_size

#: class, number and first seed of the clips, in the order in which they are made: none was picked by ear
CLIPS = (("gunshot", 1, 0), ("rain", 1, 0), ("dog_bark", 1, 0), ("footstep", 1, 0))
WINDOW = {"width": 1160, "height": 840}
COLOURS = 192

app = application()


@contextmanager
def played(folder: Path) -> Iterator[str]:
    """Serve the page on a free port of this machine; yields its address."""
    from latentclap.play.command import about
    from latentclap.play.jobs import Session
    from latentclap.play.maker import Maker
    from latentclap.play.server import Server
    from latentclap.play.shelf import Shelf

    maker = Maker.load("mini", None, "cpu")
    session, server = Session(maker, Shelf(folder, None)), Server("127.0.0.1", 0)
    server.about, server.session = about(maker, None), session
    worker = threading.Thread(target=session.run, daemon=True)
    worker.start()
    try:
        with server.answering():
            yield server.url
    finally:
        session.close()
        worker.join(60)


def photograph(page: Any, url: str, out: Path) -> None:
    """Make the clips on the page, star one, play another a little, and write the picture of the window.

    Args:
        page: of playwright.
        url: of the page.
        out: PNG to write.
    """
    page.goto(url)
    page.wait_for_selector("#make:enabled")
    for cls, number, seed in CLIPS:
        page.check(f"[value={cls}]")
        page.fill("[name=n]", str(number))
        page.fill("[name=seed]", str(seed))
        page.click("#make")
        page.wait_for_selector("#make:disabled")
        page.wait_for_selector("#make:enabled", timeout=600_000)
    page.click("#clips li:nth-child(2) .star")
    page.wait_for_selector("#zip:not([hidden])")
    picture = page.locator("#clips li:nth-child(3) .lc-picture").bounding_box()
    page.mouse.click(picture["x"] + picture["width"] / 3, picture["y"] + picture["height"] / 2)
    page.eval_on_selector("#clips li:nth-child(3) audio", "player => player.pause()")
    page.mouse.move(2, 2)
    page.wait_for_timeout(500)
    page.screenshot(path=out)


@app.command(help=__doc__)
def main(
    out: Annotated[Path, typer.Argument(help="PNG to write.")] = Path("book/_static/play.png"),
    chromium: Annotated[str, typer.Option(help="The browser's command, or its place.")] = "chromium",
) -> None:
    """Write the picture."""
    if out.suffix != ".png":
        raise InputError(f"{out}: the picture is a PNG; give it a name that ends so")
    check_place(out)
    found = shutil.which(chromium)
    if found is None:
        raise InputError(f"--chromium {chromium}: no such command (apt-get install chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise InputError("playwright is not installed: pip install 'latentclap[test]'") from None
    from PIL import Image

    with (
        tempfile.TemporaryDirectory() as folder,
        played(Path(folder)) as url,
        sync_playwright() as playwright,
    ):
        flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--mute-audio"]
        browser = playwright.chromium.launch(executable_path=found, args=flags)
        taken = Path(folder) / "taken.png"
        photograph(browser.new_page(viewport=WINDOW, color_scheme="light"), url, taken)
        browser.close()
        # few colours: a third of the bytes, and nobody sees the difference
        small = Image.open(taken).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        with atomic_path(out) as temporary:
            small.save(temporary, optimize=True)
    print(f"{out}: {small.width} x {small.height} pixels, {file_size(out)}")


if __name__ == "__main__":
    sys.exit(run_app(app))
