"""The page of `latentclap play` in a real browser, with the tiny model behind it."""

import json
import subprocess
import sys
import time
import zipfile

import pytest

from browsing import CHROMIUM, DESK, PHONE, leaving, watched
from latentclap.audio import write_wave
from latentclap.foley import synthesize
from latentclap.play.maker import Maker
from playing import ask, make, playing

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


def test_several_sounds_are_dropped_at_once_and_the_bad_one_is_told(page):
    drop = (
        "const wave = new Uint8Array(44 + 16000); const view = new DataView(wave.buffer);"
        "[...'RIFF____WAVEfmt '].forEach((letter, k) => view.setUint8(k, letter.charCodeAt()));"
        "view.setUint32(4, 36 + 16000, true); view.setUint32(16, 16, true); view.setUint16(20, 1, true);"
        "view.setUint16(22, 1, true); view.setUint32(24, 16000, true); view.setUint32(28, 32000, true);"
        "view.setUint16(32, 2, true); view.setUint16(34, 16, true);"
        "[...'data'].forEach((letter, k) => view.setUint8(36 + k, letter.charCodeAt()));"
        "view.setUint32(40, 16000, true);"
        "for (let k = 44; k < wave.length; k += 1) wave[k] = k * 7919;"
        "const data = new DataTransfer(); const add = (body, name) => data.items.add(new File([body], name));"
        "add(wave, 'a.wav'); add('no sound', 'b.wav'); add(wave, 'c.wav');"
        "document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true }));"
    )
    page.evaluate(drop)
    error(page, "b.wav: no sound that")
    assert page.locator("h3").all_inner_texts() == ["your sound: c.wav", "your sound: a.wav"]
    assert page.inner_text("#source") == "Like c.wav."
    words = (
        "const data = new DataTransfer(); data.setData('text/plain', 'rain');"
        "const drop = new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });"
        "document.querySelector('[name=prompt]').dispatchEvent(drop); drop.defaultPrevented"
    )
    assert page.evaluate(words) is False  # words may be dropped into a field


def test_stars_and_keys(page, served):
    page.fill("[name=n]", "3")
    page.fill("[name=seed]", "1")
    page.click("#make")
    cards(page, 3)
    page.click("h1")
    page.keyboard.press("3")
    moves(page, 3)
    page.keyboard.press("s")  # the one heard last
    until(page, "document.querySelectorAll('#clips .starred').length === 1")
    page.keyboard.press("1")
    moves(page, 1)
    page.keyboard.press("x")  # and back to the one before
    until(page, f"!document.querySelector('{CARD}:nth-child(3) audio').paused")
    until(page, f"document.querySelector('{CARD}:nth-child(1) audio').paused")
    page.keyboard.press("x")
    until(page, f"!document.querySelector('{CARD}:nth-child(1) audio').paused")
    page.keyboard.press("1")
    page.click(f"{CARD}:nth-child(2) .star")
    until(page, "document.querySelectorAll('.star[aria-pressed=true]').length === 2")
    page.check("#only")
    numbers = f"{CARD}.starred h3[data-place]"
    assert page.locator(numbers).all_inner_texts() == ["dog bark seed 2", "dog bark seed 1"]
    assert page.locator(numbers).last.get_attribute("data-place") == "2"
    page.click("h1")
    page.keyboard.press("1")  # of those that are seen
    moves(page, 2)
    page.keyboard.press("1")
    with page.expect_download() as got:
        page.click("text=Download 2 starred (zip)")
    with zipfile.ZipFile(got.value.path()) as packed:
        assert packed.namelist() == ["dog_bark/dog_bark_1.wav", "dog_bark/dog_bark_2.wav", "generation.json"]
    page.uncheck("#only")
    page.uncheck("#keys")
    page.click("h1")
    page.keyboard.press("m")
    assert not page.is_checked("[value=sound]")
    page.check("#keys")
    page.click("h1")
    page.keyboard.press("m")
    assert page.inner_text("#source") == "Like dog bark, seed 2."
    assert not page.failures


def test_the_focus_stays_where_the_keyboard_goes_on(page):
    # from the start on: the browser learns some time after a wait begins that choosers are to be reported
    opened = []
    page.on("filechooser", lambda chooser: opened.append(chooser))
    page.fill("[name=n]", "2")
    page.focus("#make")
    page.keyboard.press("Enter")
    cards(page, 2)
    until(page, "document.activeElement.id === 'make'")
    page.focus(f"{CARD}:first-child .drop")
    page.keyboard.press("Enter")
    until(page, f"document.querySelectorAll('{CARD}').length === 1")
    until(page, "document.activeElement === document.querySelector('#clips .drop')")
    page.check("[value=sound]")
    page.focus("#file")
    page.keyboard.press("Enter")
    end = time.monotonic() + 60
    while not opened:
        assert time.monotonic() < end, "no file chooser"
        page.wait_for_timeout(30)
    assert page.is_enabled("#make") and page.locator(CARD).count() == 1


def test_the_address_keeps_what_is_chosen(page, browser, served):
    page.check("[value=prompt]")
    page.fill("[name=prompt]", "a <b>door</b> & 50 %")
    page.click("text=For a mix or a game")
    page.fill("[name=fade]", "5")
    page.select_option("[name=sampler]", "ddim")
    page.fill("[name=guidance_scale]", "3.5")
    page.fill("[name=seed]", "12")
    page.uncheck("#on")
    address = page.evaluate("location.href")
    assert "<b>" not in address
    for again in (page, watched(browser.new_context())):
        leaving(again, lambda again=again: again.goto("about:blank"))
        again.goto(address)
        again.wait_for_selector("#make:enabled")
        assert again.input_value("[name=prompt]") == "a <b>door</b> & 50 %"
        names = ("n", "fade", "sampler", "steps", "guidance_scale", "seed")
        assert [again.input_value(f"[name={name}]") for name in names] == [
            "1",
            "5",
            "ddim",
            "200",
            "3.5",
            "12",
        ]
        assert not again.is_checked("#on") and again.is_visible("[name=fade]")
    again.context.close()
    leaving(page, lambda: page.goto("about:blank"))
    page.goto(f"{served.url}#what=nonsense&sampler=euler&n=1e999&steps=%22%3E&x=1")
    page.wait_for_selector("#make:enabled")
    assert page.is_checked("[value=dog_bark]") and page.input_value("[name=sampler]") != "euler"
    assert page.input_value("[name=steps]") == "" and not page.failures


def test_a_reload_in_the_midst_of_a_job_loses_nothing(page):
    page.fill("[name=n]", "3")
    page.fill("[name=steps]", "120")
    page.fill("[name=seed]", "5")
    page.click("#make")
    page.wait_for_selector("#stop:enabled")
    leaving(page, page.reload)
    page.wait_for_selector("#stop:enabled")
    until(
        page,
        "/of 3, step \\d+ of 120; about \\d+ s left/.test(document.querySelector('#status').textContent)",
    )
    assert page.input_value("[name=seed]") == "8" and page.input_value("[name=steps]") == "120"
    cards(page, 3)
    assert not page.failures


def test_the_book_s_picture_can_be_taken_again(tmp_path, repo_root):
    from PIL import Image

    words = [sys.executable, str(repo_root / "data_scripts/play_picture.py"), str(tmp_path / "play.png")]
    ran = subprocess.run([*words, "--chromium", CHROMIUM], capture_output=True, text=True)
    assert not ran.returncode, ran.stderr
    taken, kept = tmp_path / "play.png", repo_root / "book/_static/play.png"
    assert Image.open(taken).size == Image.open(kept).size == (1160, 840)
    assert max(taken.stat().st_size, kept.stat().st_size) <= 120_000
    assert ran.stdout.startswith(f"{taken}: 1160 x 840 pixels")


def test_a_browser_that_forbids_sound_is_no_silence(page, browser, served):
    """Safari asks for a press on the player, where nobody allowed a site to play by itself."""
    context = browser.new_context()
    strict = watched(context)
    strict.add_init_script(
        "HTMLMediaElement.prototype.play = () => Promise.reject(new DOMException('', 'NotAllowedError'));"
    )
    strict.goto(page.evaluate("location.href"))
    strict.wait_for_selector("#make:enabled")
    strict.check("#play")
    strict.fill("[name=n]", "1")
    strict.click("#make")
    error(strict, "The browser lets no page begin to play by itself: press the player")
    context.close()


def test_players_far_from_the_window_give_their_sound_back(page, served):
    page.fill("[name=n]", "80")
    page.fill("[name=steps]", "1")
    page.click("#make")
    cards(page, 80)
    loaded = f"document.querySelectorAll('{CARD} audio[src]').length"
    page.wait_for_timeout(500)
    assert page.evaluate(loaded) < 80
    last = f"document.querySelector('{CARD}:last-child audio')"

    def scroll():
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        until(page, f"{last}.duration > 0")
        until(page, f"{loaded} <= 60")
        page.evaluate("scrollTo(0, 0)")

    leaving(page, scroll)  # a player that is passed before its sound has come lets go of it
    page.click("h1")
    page.keyboard.press("1")
    moves(page, 1)
    assert not page.failures


def edit_record(out, change):
    record = json.loads((out / "generation.json").read_text())
    change(record)
    (out / "generation.json").write_text(json.dumps(record))


@pytest.fixture
def kept(maker, tmp_path):
    """A folder with three clips of an earlier session: one is starred, and another one has a strange maker."""
    with playing(maker, tmp_path / "earlier", tmp_path / "out") as served:
        fast = {"steps": 2, "sampler": "ddim"}
        make(served.url, **fast, **{"class": "rain", "seed": 41, "fade": 5})
        (star,) = make(served.url, **fast, prompt="a <b>door</b>", seed=42)
        (source,) = make(served.url, **fast, **{"class": "rain", "seed": 43})
        make(served.url, **fast, sound=source["id"], strength=0.3, seed=44)
        ask(served.url, "POST", "/api/star", {"id": star["id"], "starred": True})
        ask(served.url, "POST", "/api/remove", {"id": source["id"]})
    strange = {"model": "<img src=x onerror=alert(1)>", "weights": "0" * 12}
    edit_record(tmp_path / "out", lambda record: record["clips"][0].update(strange))
    return tmp_path / "out"


def test_clips_of_an_earlier_session(browser, maker, kept, tmp_path):
    page = watched(browser.new_context(viewport=DESK))
    with playing(maker, tmp_path / "play", kept) as served:
        page.goto(served.url)
        page.wait_for_selector("#make:enabled")
        heads = page.locator("#before h3").all_inner_texts()
        assert [text.split("·")[-1].strip() for text in heads] == [
            "take of rain_43 seed 44",
            "“a <b>door</b>” seed 42",
            "rain seed 41",
        ]
        assert page.inner_text("#earlier h2") == "Earlier sessions 3, the newest first"
        assert page.inner_text("#count") == "none yet" and "3 clips of earlier sessions" in page.inner_text(
            "#kept"
        )
        assert page.inner_text("#before li:last-child .by") == "made by <img src=x onerror=alert(1)>"
        assert (
            page.locator("#before .by:visible").count() == 1
            and not page.locator("#before img[src=x]").count()
        )
        assert page.get_attribute("#before li:nth-child(2)", "class") == "starred"
        until(page, "document.querySelector('#before img').naturalWidth === 480")
        page.click("h1")
        page.keyboard.press("1")
        until(page, "document.querySelector('#before li:nth-child(1) audio').currentTime > 0.05")
        page.keyboard.press("3")
        until(page, "document.querySelector('#before li:nth-child(3) audio').currentTime > 0.05")
        page.keyboard.press("x")  # and back to the one before
        until(page, "!document.querySelector('#before li:nth-child(1) audio').paused")
        page.keyboard.press("s")
        until(page, "document.querySelectorAll('#before .starred').length === 2")
        page.click("#before li:nth-child(2) .star")
        until(page, "document.querySelectorAll('#before .starred').length === 1")
        page.click("#before li:nth-child(3) .reuse")
        chosen = {"seed": "41", "steps": "2", "sampler": "ddim", "fade": "5", "loop": "", "n": "4"}
        assert {name: page.input_value(f"[name={name}]") for name in chosen} == chosen
        assert page.is_checked("[value=rain]") and page.is_visible("[name=fade]")
        page.fill("[name=n]", "1")
        page.click("#make")
        until(page, "document.querySelectorAll('#now li').length === 1")
        page.wait_for_selector("#make:enabled")
        assert page.inner_text("#count") == "1, the newest first" and page.locator("#before li").count() == 3
        page.click("#before li:nth-child(1) .reuse")  # a take, whose sound is not there any more
        assert page.inner_text("#source") == "No sound yet." and page.input_value("[name=strength]") == "0.3"
        page.click("#before li:nth-child(3) .like")
        assert page.inner_text("#source") == "Like rain, seed 41."
        page.click("#make")
        until(page, "document.querySelectorAll('#now li').length === 2")
        page.click("#before li:nth-child(2) .drop")
        until(page, "document.querySelectorAll('#before li').length === 2")
        leaving(page, page.reload)
        page.wait_for_selector("#make:enabled")
        assert page.locator("#now li").count() == page.locator("#before li").count() == 2
        with page.expect_download() as got:
            page.click("text=Download 1 starred (zip)")
        with zipfile.ZipFile(got.value.path()) as packed:
            assert packed.namelist() == ["rain/rain_43_take_44.wav", "generation.json"]
        assert not page.failures
    page.context.close()


def test_a_thousand_earlier_clips_do_not_make_the_page_slow(browser, maker, kept, tmp_path):
    def grow(record):
        entry, call = record["clips"][0], record["calls"][0]
        for seed in range(1000, 2000):
            one = json.loads(json.dumps(entry).replace("rain_41", f"rain_{seed}"))
            one["settings"]["seed"] = seed
            (kept / one["file"]).hardlink_to(kept / entry["file"])
            record["clips"].append(one)
            call["clips"].append(one["file"])

    edit_record(kept, grow)
    page = watched(browser.new_context(viewport=DESK))
    with playing(maker, tmp_path / "play", kept) as served:
        page.goto(served.url)
        page.wait_for_selector("#make:enabled")
        assert page.locator("#before li").count() == 1003
        assert page.locator("audio").count() < 60 and page.evaluate(NO_SCROLL)
        assert len([url for url in page.requests if url.endswith("/api/earlier")]) == 1

        def scroll():
            page.evaluate("scrollTo(0, document.body.scrollHeight)")
            until(page, "document.querySelector('#before li:last-child audio')?.duration > 0")
            until(page, "document.querySelector('#before li:last-child img').naturalWidth === 480")

        leaving(page, scroll)
        assert page.locator("audio").count() < 150
        leaving(page, lambda: page.evaluate("scrollTo(0, 0)"))
        page.click("#before li:first-child .star")
        until(page, "document.querySelector('#before li:first-child').classList.contains('starred')")
        assert len([url for url in page.requests if url.endswith("/api/earlier")]) == 1
        assert not page.failures
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_earlier_clips_in_one_column(browser, maker, kept, tmp_path, scheme):
    context = browser.new_context(viewport=PHONE, color_scheme=scheme)
    page = watched(context)
    edit_record(kept, lambda record: record["clips"][0].update(model="a" * 200))
    with playing(maker, tmp_path / "play", kept) as served:
        page.goto(served.url)
        page.wait_for_selector("#make:enabled")
        lefts = (
            "Array.from(document.querySelectorAll('#before li'), (item) => item.getBoundingClientRect().left)"
        )
        assert len(set(page.evaluate(lefts))) == 1 and page.evaluate(NO_SCROLL)
        assert not page.failures
    context.close()


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
