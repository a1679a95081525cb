"""The page of `latentclap play` in a real browser, with the tiny model behind it."""

import time

import pytest

from browsing import DESK, PHONE, watched
from latentclap.audio import write_wave
from latentclap.foley import synthesize
from latentclap.play.maker import Maker
from playing import playing

pytestmark = [pytest.mark.browser, pytest.mark.slow]
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CARD = "#clips li"
NO_SCROLL = "document.documentElement.scrollWidth <= window.innerWidth"


@pytest.fixture(scope="module")
def maker(tiny_family):
    return Maker.load(str(tiny_family), None, "cpu")


@pytest.fixture
def served(maker, tmp_path):
    with playing(maker, tmp_path / "play") as served:
        yield served


@pytest.fixture
def page(browser, served):
    context = browser.new_context(viewport=DESK)
    page = watched(context)
    page.goto(served.url)
    page.wait_for_selector("#make:enabled")
    page.click("text=Sampling")
    page.fill("[name=steps]", "2")
    page.fill("[name=n]", "1")
    yield page
    context.close()


def until(page, what):
    """Wait for an expression; the page's policy forbids playwright's own way, which is eval."""
    end = time.monotonic() + 60
    while not page.evaluate(what):
        assert time.monotonic() < end, what
        page.wait_for_timeout(30)


def error(page, begins):
    until(page, f"document.querySelector('#error').textContent.startsWith({begins!r})")


def cards(page, number):
    until(page, f"document.querySelectorAll('{CARD}').length === {number}")
    page.wait_for_selector("#make:enabled")


def moves(page, place=1):
    """Wait until a player's time has moved."""
    until(page, f"document.querySelector('{CARD}:nth-child({place}) audio').currentTime > 0.05")


def paused(page, place=1):
    return page.eval_on_selector(f"{CARD}:nth-child({place}) audio", "player => player.paused")


def test_make_plays_and_goes_on_to_the_next_seeds(page, served):
    page.check("[value=rain]")
    page.fill("[name=n]", "2")
    page.fill("[name=seed]", "41")
    page.click("#make")
    cards(page, 2)
    assert [text.split("·")[-1].strip() for text in page.locator("h3").all_inner_texts()] == [
        "rain seed 42",
        "rain seed 41",
    ]
    assert page.input_value("[name=seed]") == "43"
    command = page.inner_text(f"{CARD}:last-child code")
    assert command.startswith("latentclap generate --classes rain --seed 41 --steps 2 ")
    page.eval_on_selector(f"{CARD}:last-child audio", "player => player.play()")
    moves(page, 2)
    page.click("h1")
    page.keyboard.press("1")  # one player pauses the others
    moves(page, 1)
    assert paused(page, 2)
    page.keyboard.press("1")
    assert paused(page, 1)
    box = page.locator(f"{CARD}:first-child .lc-picture").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    middle = served.session.maker.system.seconds / 2
    until(page, f"document.querySelector('{CARD} audio').currentTime >= {0.8 * middle}")
    assert page.eval_on_selector(f"{CARD} img", "picture => picture.naturalWidth") == 480
    with page.expect_download() as got:
        page.click(f"{CARD}:first-child .get")
    assert got.value.suggested_filename == "rain_42.wav"
    newest = served.shelf.page()[0]
    assert got.value.path().read_bytes() == served.shelf.get(newest["id"]).path.read_bytes()
    assert not page.failures
    assert all(url.startswith((served.url, "data:", "blob:")) for url in page.requests)


def test_enter_makes_escape_stops_and_mistakes_are_told(page):
    page.check("[value=prompt]")
    page.fill("[name=prompt]", "")
    page.keyboard.press("Enter")
    error(page, "Words: say what")
    page.fill("[name=prompt]", "This is a sound of <b>rain</b>.")
    page.fill("[name=n]", "90")
    page.fill("[name=steps]", "300")
    page.press("[name=prompt]", "Enter")
    page.wait_for_selector("#stop:enabled")
    assert page.is_disabled("#make") and page.inner_text("#error") == ""
    until(page, "/clip \\d+ of 90, step \\d+ of 300/.test(document.querySelector('#status').textContent)")
    page.keyboard.press("Escape")
    page.wait_for_selector("#make:enabled")
    assert page.is_disabled("#stop")
    page.fill("[name=n]", "1")
    page.fill("[name=steps]", "2")
    page.press("[name=prompt]", "Enter")
    page.wait_for_selector(CARD)
    page.wait_for_selector("#make:enabled")
    assert "“This is a sound of <b>rain</b>.”" in page.inner_text(f"{CARD} h3")
    page.fill("[name=n]", "")
    page.locator("[name=n]").press_sequentially("1e")  # no number to a browser
    page.click("#make")
    error(page, "Clips: give a whole")


def test_more_like_this_and_a_sound_of_one_s_own(page, tmp_path):
    page.click("#make")
    cards(page, 1)
    page.click(".like")
    assert page.is_checked("[value=sound]") and "chosen" in page.get_attribute(CARD, "class")
    page.fill("[name=strength]", "0.3")
    page.keyboard.press("Enter")
    cards(page, 2)
    assert "--strength 0.3" in page.inner_text(f"{CARD} code")
    sound = tmp_path / "my step.wav"
    write_wave(sound, synthesize("footstep", 1, sr=16_000, split="eval").wave[:16_000], 16_000)
    page.set_input_files("#file", sound)
    cards(page, 3)
    assert page.inner_text("#source") == "Like my step.wav."
    page.click("#make")
    cards(page, 4)
    assert "latentclap vary 'my step.wav' -n 1" in page.inner_text(f"{CARD} code")
    drop = (
        "const data = new DataTransfer(); data.items.add(new File(['no sound'], 'a.wav'));"
        "document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true }));"
    )
    page.evaluate(drop)
    error(page, "a.wav: no sound that")
    page.click(f"{CARD}:nth-child(2) .drop")  # the sound that takes are made of
    until(page, "document.querySelector('#source').textContent === 'No sound yet.'")
    assert page.locator(CARD).count() == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_one_way_only(browser, served, scheme):
    context = browser.new_context(viewport=PHONE, color_scheme=scheme)
    page = watched(context)
    page.goto(served.url)
    page.wait_for_selector("#make:enabled")
    for summary in page.locator("summary").all():
        summary.click()
    page.fill("[name=steps]", "2")
    page.check("[value=prompt]")
    page.fill("[name=prompt]", "a" * 200)
    page.fill("[name=n]", "1")
    page.click("#make")
    cards(page, 1)
    assert page.evaluate(NO_SCROLL)
    page.check("[value=sound]")
    assert page.evaluate(NO_SCROLL)
    assert not page.failures
    context.close()


def test_a_page_whose_command_ended_says_so(browser, maker, tmp_path):
    context = browser.new_context()
    page = watched(context)
    with playing(maker, tmp_path / "a") as served:
        page.goto(served.url)
        page.wait_for_selector("#make:enabled")
        page.route("**/api/**", lambda route: route.abort())
        page.wait_for_selector("#make:disabled")
        said = page.inner_text("#error")
        page.unroute("**/api/**")
        page.wait_for_selector("#make:enabled")  # it was a moment's trouble
        assert not page.inner_text("#error")
    assert "start latentclap play again" in said
    context.close()
