"""The pages in Firefox and in WebKit, which is Safari's engine, for whoever asks with LATENTCLAP_ENGINES=1.

A Firefox that is there may be one that sees no other folder than its own, or that another version drives otherwise:
``make test`` is not to fail by that.

They play by their own rules: no page begins to play before somebody has pressed something on it.
"""

import csv
import os
import time
from functools import partial
from http.server import ThreadingHTTPServer
from threading import Thread

import pytest

import engines
from browsing import Quiet, Whole, watched
from fake_book import tone
from latentclap.audio import write_wave
from latentclap.book.grid import Listening
from latentclap.book.players import save_player
from latentclap.book.standalone import write_page
from latentclap.play.maker import Maker
from latentclap.survey import make_survey
from playing import playing

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SEEN = "window.failures = []; ['error', 'unhandledrejection', 'securitypolicyviolation'].forEach((name) =>"
WATCH = f"{SEEN} addEventListener(name, (event) => failures.push(String(event.message || event.reason || name))));"
AUDIO = "document.querySelectorAll('audio')"
STATUS = "document.querySelector('[role=status]').textContent"
CARDS = "document.querySelectorAll('#now li').length"


@pytest.fixture(scope="module", params=["Firefox", "WebKit"])
def engine(request, tmp_path_factory):
    if not os.environ.get("LATENTCLAP_ENGINES"):
        pytest.skip("LATENTCLAP_ENGINES=1 asks for these browsers")
    found = engines.start(request.param, tmp_path_factory.mktemp("engine") / "home")
    if not found:
        pytest.skip(f"{request.param}, its driver or a display for it is not on this machine")
    yield found
    found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, repo_root):
    """One grid in a page of its own, and in one with the book's script and style."""
    folder = tmp_path_factory.mktemp("pages")
    clips = {
        ("rain", name): save_player(tone(pitch, 4), 16000, folder / f"{name}.mp3") for name, pitch in TONES
    }
    grid = Listening(["rain"], [name for name, _ in TONES], clips).html(folder)
    write_page(folder / "own.html", "Listen", [grid])
    head = "<!doctype html><meta charset='utf-8'><title>Listen</title>"
    style, script = ((repo_root / "book/_static" / name).read_text() for name in ("listen.css", "listen.js"))
    (folder / "book.html").write_text(f"{head}<style>{style}</style>{grid}<script>{script}</script>")
    return folder


TONES = (("LDM", 300), ("LDM+Latent", 500))


@pytest.fixture(params=["disk", "server", "server of whole files"])
def address(request, pages):
    """Where the pages are."""
    if request.param == "disk":
        yield pages.as_uri()
        return
    handler = partial(Quiet if request.param == "server" else Whole, directory=str(pages))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("name", ["own.html", "book.html"])
def test_a_grid_is_played_by_pictures_and_keys(engine, address, name):
    engine.open(f"{address}/{name}")
    engine.script(WATCH)
    engine.point(".lc-picture", 0.5)
    # no length is asked for: WebKitGTK knows none of a player that was asked for it before it was to play
    # it moves, as for somebody who listens
    engine.until(f"{AUDIO}[0].currentTime >= 2.3 && !{AUDIO}[0].paused")
    engine.press("2")
    engine.until(f"{AUDIO}[1].currentTime > 0.1 && {AUDIO}[0].paused")
    if name == "book.html":  # goes on where the other one was
        assert engine.value(f"{AUDIO}[1].currentTime") >= 1.9
    engine.until(f"{AUDIO}[1].ended")
    assert engine.value("failures.filter((one) => one !== 'error')") == []


def test_a_page_of_its_own_takes_copies_where_it_gets_no_parts(browser, pages):
    """As the test above in the browser that every machine of tests has: no part is no sound to Safari."""
    page = watched(browser.new_context())
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Whole, directory=str(pages))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_port}/own.html")
        page.locator(".lc-picture").first.click()
        page.wait_for_function(f"{AUDIO}[0].currentTime >= 1.9 && !{AUDIO}[0].paused")
        page.keyboard.press("2")
        page.wait_for_function(f"{AUDIO}[1].currentTime > 0.1 && {AUDIO}[0].paused")
        server.shutdown()
    page.context.close()


def test_a_survey_is_rated_by_keys_and_saved(engine, tmp_path):
    for k, model in enumerate(("Ground Truth", "LDM")):
        write_wave(tmp_path / model / "rain" / "0.wav", tone(300 + 200 * k, 0.6), 16000)
    folders = {model: tmp_path / model for model in ("Ground Truth", "LDM")}
    made = make_survey(folders, tmp_path / "out", items=1, seconds=0.5, progress=False)
    engine.open(made.pages["rain"].as_uri())
    engine.script(WATCH)
    engine.fill("[name=rater]", "Zoë")
    engine.press("Enter")
    for k in range(2):
        engine.until(f"document.querySelector('h2').textContent === 'Clip {k + 1} of 2: rain'")
        engine.until(f"{STATUS}.startsWith('Now')")  # it played by itself, after the key
        engine.script("document.querySelector('[name=quality]').focus()")
        engine.press("Space", "ArrowRight", "Tab", "Space", "Enter")
    engine.until(f"{STATUS} === '2 clips rated.'")
    engine.click(".lc-rate button")
    saved = wait_for(engine.folder, "ratings-*.csv")
    rows = list(csv.DictReader(saved.read_text(encoding="utf-8").splitlines()))
    assert [(row["rater"], row["quality"], row["relevance"]) for row in rows] == [("Zoë", "1", "0")] * 2
    assert engine.value("failures") == []


def wait_for(folder, pattern):
    """A download, wherever the browser puts it."""
    end = time.monotonic() + 30
    while not (found := [path for path in folder.rglob(pattern) if path.stat().st_size]):
        assert time.monotonic() < end, pattern
        time.sleep(0.1)
    return found[0]


def test_play_makes_and_plays(engine, tiny_family, tmp_path):
    sound = tmp_path / "my step.wav"
    write_wave(sound, tone(300, 1), 16000)
    with playing(Maker.load(str(tiny_family), None, "cpu"), tmp_path / "play") as served:
        engine.open(served.url)
        engine.script(WATCH)
        engine.until("!document.querySelector('#make').disabled")
        engine.fill("[name=n]", "2")
        engine.fill("[name=seed]", "5")
        engine.click("#play")  # clips as they come: after a click on the page, both browsers allow it
        engine.click("#make")
        engine.until(f"{CARDS} === 2 && !document.querySelector('#make').disabled")
        engine.until(f"[...{AUDIO}].some((one) => one.currentTime > 0)")
        assert engine.value("document.querySelector('#error').textContent") == ""
        engine.click("h1")
        engine.press("2")
        engine.until(f"{AUDIO}[1].currentTime > 0.05 && {AUDIO}[0].paused")
        engine.point("#now li .lc-picture", 0.5)
        half = served.session.maker.system.seconds / 2
        engine.until(f"{AUDIO}[0].currentTime >= {0.8 * half} && {AUDIO}[1].paused")
        engine.give("#file", sound)
        engine.until("document.querySelector('#source').textContent === 'Like my step.wav.'")
        engine.click("#now li:nth-child(2) .reuse")
        assert engine.value("document.querySelector('[name=seed]').value") == "6"
        engine.click("#now li:nth-child(2) .get")
        clip = next(one for one in served.shelf.page() if one.get("seed") == 6)
        got = wait_for(engine.folder, "dog_bark_6.wav")
        assert got.read_bytes() == served.shelf.get(clip["id"]).path.read_bytes()
        engine.view(390, 844)
        assert engine.value("document.documentElement.scrollWidth <= innerWidth")
        assert engine.value("failures") == []
