"""A listening test in a real browser, from file://, as raters open it.

Clips are half a second, and played 16 times faster.
"""

import csv
import io
import shutil
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from browsing import DESK, PHONE, Quiet, Whole, leaving, watched
from fake_book import tone
from latentclap import papers
from latentclap.audio import write_wave
from latentclap.stats import rated_classes, read_ratings
from latentclap.survey import RatedClip, make_survey, survey_form
from latentclap.survey.form import page as page_around

pytestmark = [pytest.mark.browser, pytest.mark.slow]
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

FAST = "document.addEventListener('play', (event) => { event.target.playbackRate = 16; }, true);"
NO_STORAGE = (
    "Object.defineProperty(window, 'localStorage',"
    " { get() { throw new DOMException('', 'SecurityError'); } });"
)
MODELS = ("Ground Truth", "LDM+Tuning")
STATUS = "document.querySelector('[role=status]').textContent"
NEXT, STOP, SAVE = "text=Next", "text=Stop here", "text=Save my ratings"


@pytest.fixture
def context(browser):
    context = browser.new_context(viewport=DESK)
    context.add_init_script(FAST)
    yield context
    context.close()


@pytest.fixture
def page(context):
    return watched(context)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> SimpleNamespace:
    """A blind survey of one class, two clips of each of two systems."""
    folder = tmp_path_factory.mktemp("survey")
    for k, model in enumerate(MODELS):
        for i in range(2):
            write_wave(folder / model / "rain" / f"{i}.wav", tone(300 + 200 * k + 70 * i, 0.6), 16000)
    made = make_survey(
        {model: folder / model for model in MODELS}, folder / "out", items=2, seconds=0.5, progress=False
    )
    return SimpleNamespace(
        page=made.pages["rain"], key=folder / "out" / "key.csv", pages=folder / "out" / "pages"
    )


def form_of(clips: list[RatedClip], folder: Path, **options) -> Path:
    """A page of a form of its own."""
    path = folder / "form.html"
    form = survey_form(clips, **{"study": "form", "title": "Listen", "intro": ["Hello."], **options})
    path.write_text(page_around(form, "Listen"), encoding="utf-8")
    return path


@pytest.fixture
def open_clips(tmp_path) -> list[RatedClip]:
    """Three clips of each of two systems that are named, in each of two classes."""
    write_wave(tmp_path / "a.wav", tone(440, 0.5), 16000)
    return [
        RatedClip(f"{cls}{k}{i}", cls, f"a.wav#{cls}{k}{i}", model, str(i))
        for cls in ("rain", "dog_bark")
        for k, model in enumerate(("LDM+Tuning", "Mine, <b>new</b>"))
        for i in range(3)
    ]


def begin(page, path: Path | str, rater: str = "") -> None:
    page.goto(path if isinstance(path, str) else path.as_uri())
    go_on(page, rater)


def go_on(page, rater: str = "", cls: str | None = None) -> None:
    """From the first screen on."""
    if rater:
        page.fill("[name=rater]", rater)
    if cls is not None:
        page.select_option("[name=class]", cls)
    page.click("button[type=submit]")


def rate(page, quality: int, relevance: int) -> str:
    """Answer as soon as the page lets one; return the clip's name."""
    name = clip(page)
    tick(page, "quality", quality)
    tick(page, "relevance", relevance)
    page.click(NEXT)
    return name


def tick(page, question: str, value: int) -> None:
    page.check(f"[name={question}][value='{value}']")


def ticked(page) -> dict[str, str]:
    return dict(
        page.locator("input:checked").evaluate_all("marks => marks.map(mark => [mark.name, mark.value])")
    )


def clip(page) -> str:
    return (
        page.locator("audio")
        .get_attribute("src")
        .rpartition("#")[2]
        .removeprefix("clips/")
        .removesuffix(".wav")
    )


def heading(page) -> str:
    return page.inner_text(".lc-rate h2")


def status(page) -> str:
    return page.inner_text("[role=status]")


def saved(page, folder: Path) -> list[dict[str, str]]:
    """Save the file into a folder; return its rows."""
    with page.expect_download() as download:
        page.click(SAVE)
    return rows_of(into(folder, download.value).read_text(encoding="utf-8"))


def into(folder: Path, download) -> Path:
    path = folder / download.suggested_filename
    download.save_as(path)
    return path


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_whole_survey_becomes_a_table_of_ratings(page, study, tmp_path):
    begin(page, study.page, 'Zoë "O’Brien", </script>')
    given = {}
    for k in range(4):
        assert heading(page) == f"Clip {k + 1} of 4: rain"
        given[rate(page, k, 10 - k)] = [k, 10 - k]
    assert (heading(page), status(page)) == ("Thank you", "4 clips rated.")
    rows = saved(page, tmp_path)
    assert [row["order"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["plays"] for row in rows] == ["1"] * 4
    assert page.failures == []
    table = read_ratings(tmp_path, key=study.key)
    assert set(table.rater) == {'Zoë "O’Brien", </script>'}
    key = pd.read_csv(study.key, dtype=str).set_index("clip")
    expected = {(key.model[name], key.item[name]): values for name, values in given.items()}
    read = {(row.model, row.item): [row.quality, row.relevance] for row in table.itertuples()}
    assert read == expected and len(read) == 4


def test_a_page_that_is_loaded_again_goes_on_where_it_was(page, study):
    begin(page, study.page, "Ann")
    rate(page, 1, 2)
    rate(page, 3, 4)
    third = clip(page)
    tick(page, "quality", 5)  # an answer counts from when it is given, not from Next on
    page.reload()
    assert page.input_value("[name=rater]") == "Ann"
    assert page.inner_text("button[type=submit]") == "Go on"
    assert "2 of 4 clips rated" in page.inner_text(".lc-rate")
    go_on(page)
    assert heading(page) == "Clip 3 of 4: rain"
    assert (clip(page), ticked(page)) == (third, {"quality": "5"})


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("other", ["Bob", "__proto__"])
def test_two_raters_in_one_browser_do_not_see_each_others_answers(page, study, tmp_path, other, kept):
    if not kept:
        page.add_init_script(NO_STORAGE)
    begin(page, study.page, "Ann")
    assert ("keeps nothing" in page.inner_text(".lc-rate")) is not kept
    rate(page, 1, 1)
    page.click(STOP)
    page.click("text=To the start")
    page.fill("[name=rater]", other)
    assert page.inner_text("button[type=submit]") == "Begin"
    go_on(page)
    assert heading(page).startswith("Clip 1 of 4")
    for _ in range(4):
        rate(page, 9, 9)
    assert {(row["rater"], row["quality"]) for row in saved(page, tmp_path)} == {(other, "9")}
    page.click("text=To the start")
    go_on(page, "Ann")
    assert heading(page).startswith("Clip 2 of 4")
    page.click(STOP)
    assert [(row["rater"], row["quality"]) for row in saved(page, tmp_path)] == [("Ann", "1")]


@pytest.mark.parametrize(
    ("memory", "answers"),
    [
        ("null", "null"),
        ("{", "{"),
        ("5", "[]"),
        ('{"rater": "Ann", "cls": {}}', '{"CLIP": 7}'),
        ('{"rater": null}', '{"CLIP": {"quality": "x", "relevance": 99, "when": "now"}}'),
    ],
)
def test_what_others_left_in_the_browsers_memory_is_no_answer(page, study, memory, answers):
    begin(page, study.page, "Ann")
    tick(page, "quality", 1)
    keys = page.evaluate("() => Object.keys(localStorage).sort()")
    assert [key.endswith("/Ann") for key in keys] == [False, True]
    left = zip(keys, (memory, answers.replace("CLIP", clip(page))), strict=True)
    page.evaluate("left => left.forEach(([key, text]) => localStorage.setItem(key, text))", list(left))
    leaving(page, page.reload)
    assert page.input_value("[name=rater]") == ("Ann" if "Ann" in memory else "")
    go_on(page, "Ann")
    assert (heading(page), ticked(page)) == ("Clip 1 of 4: rain", {})
    rate(page, 2, 3)
    assert heading(page) == "Clip 2 of 4: rain"
    assert page.failures == []


def test_answers_are_forgotten_on_demand(page, study):
    begin(page, study.page, "Ann")
    rate(page, 1, 2)
    page.click(STOP)
    page.click("text=To the start")
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    page.click("text=Forget my answers")
    assert asked == ["Forget what Ann has rated?"]
    page.reload()
    assert "0 of 4 clips rated" in page.inner_text(".lc-rate")


def test_a_clip_that_does_not_play_is_left_out_and_tried_again_later(page, study, tmp_path):
    pages = shutil.copytree(study.pages, tmp_path / "pages")
    begin(page, pages / "rain.html", "Ann")
    rate(page, 5, 5)
    second = clip(page)
    sound = pages / "clips" / f"{second}.wav"
    sound.rename(tmp_path / "away.wav")
    page.reload()
    go_on(page)
    page.wait_for_function(f"() => {STATUS}.includes('cannot be played')")
    assert clip(page) == second
    tick(page, "quality", 5)
    tick(page, "relevance", 5)  # of what was not heard: no rating
    page.click(NEXT)
    for _ in range(2):
        rate(page, 5, 5)
    assert status(page) == "3 clips rated, 1 could not be played."
    assert second not in {row["clip"] for row in saved(page, tmp_path)}
    (tmp_path / "away.wav").rename(sound)
    page.reload()
    go_on(page)
    assert rate(page, 5, 5) == second
    assert status(page) == "4 clips rated."


def test_back_keeps_answers_and_a_change_counts(page, study, tmp_path):
    begin(page, study.page, "Ann")
    first = rate(page, 3, 7)
    second = clip(page)
    tick(page, "quality", 6)
    page.click("text=Back")
    assert (clip(page), ticked(page)) == (first, {"quality": "3", "relevance": "7"})
    tick(page, "quality", 4)
    page.click(NEXT)
    assert (clip(page), ticked(page)) == (second, {"quality": "6"})
    rate(page, 6, 8)
    page.click(STOP)
    rows = saved(page, tmp_path)
    assert [(row["clip"], row["quality"], row["relevance"], row["order"]) for row in rows] == [
        (first, "4", "7", "1"),
        (second, "6", "8", "2"),
    ]


def test_who_moves_to_the_end_has_not_heard_the_clip(page, study):
    page.add_init_script(
        "document.addEventListener('loadedmetadata', (event) => {"
        " event.target.currentTime = 0.9 * event.target.duration; }, true);"
    )
    begin(page, study.page, "Ann")
    tick(page, "quality", 5)
    tick(page, "relevance", 5)
    page.wait_for_function("() => document.querySelector('audio').ended")
    page.wait_for_timeout(100)
    assert page.locator(NEXT).is_disabled()
    assert status(page).startswith("Hear the clip to its end")
    page.evaluate("() => { document.querySelector('audio').play(); }")
    page.wait_for_selector("button:enabled >> " + NEXT)
    assert status(page) == ""


def test_the_keyboard_does_it_all(page, study, tmp_path):
    def tab_to(selector: str) -> None:
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        pytest.fail(f"Tab does not come to {selector}")

    def answer(question: str, value: int) -> None:
        tab_to(f"[name={question}]")
        page.keyboard.press("Space")
        for _ in range(value):
            page.keyboard.press("ArrowRight")

    page.goto(study.page.as_uri())
    tab_to("[name=rater]")
    page.keyboard.type("Ann")
    page.keyboard.press("Enter")
    for k in range(4):
        assert page.evaluate("() => document.activeElement.textContent") == f"Clip {k + 1} of 4: rain"
        answer("quality", 3)
        answer("relevance", 4)
        page.wait_for_selector("button:enabled >> " + NEXT)
        page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.textContent") == "Thank you"
    tab_to("button")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    rows = rows_of(into(tmp_path, download.value).read_text())
    assert [(row["quality"], row["relevance"]) for row in rows] == [("3", "4")] * 4


def test_a_screen_reader_is_told_what_the_scale_means(page, study):
    begin(page, study.page, "Ann")
    for question, worst, best in (
        ("How good is the audio quality?", "very bad", "excellent"),
        ("How well does the clip fit “rain”?", "not at all", "perfectly"),
    ):
        marks = page.get_by_role("group", name=question).get_by_role("radio")
        assert marks.count() == 11
        assert page.get_by_role("group", name=question).get_by_role("radio", name=f"0, {worst}").count() == 1
        assert page.get_by_role("group", name=question).get_by_role("radio", name=f"10, {best}").count() == 1
        assert (
            page.get_by_role("group", name=question).get_by_role("radio", name="7", exact=True).count() == 1
        )
    assert page.get_by_role("progressbar", name="clips rated").count() == 1


class Post(BaseHTTPRequestHandler):
    """Takes ratings from any page, as an address for them must; `server.answer` is what it says."""

    def do_OPTIONS(self):
        self.reply(204)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((self.path, self.headers["Content-Type"], body.decode("utf-8")))
        self.reply(self.server.answer)

    def reply(self, code: int) -> None:
        self.send_response(code)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Allow-Headers", "Content-Type")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def served(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.posts, server.answer = [], 200
    Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def post():
    with served(Post) as server:
        yield server
        server.shutdown()


@pytest.fixture
def sending(post, tmp_path):
    """A page of two clips that sends ratings to `post`."""
    write_wave(tmp_path / "a.wav", tone(440, 0.5), 16000)
    clips = [RatedClip(name, "rain", f"a.wav#{name}") for name in ("x", "y")]
    return form_of(clips, tmp_path, send_to=f"http://127.0.0.1:{post.server_port}/take?study=1")


def test_ratings_are_sent_when_all_clips_are_rated(page, post, sending, tmp_path):
    page.goto(sending.as_uri())
    assert f"sent to http://127.0.0.1:{post.server_port}/take?study=1" in page.inner_text(".lc-rate")
    go_on(page, "Zoë")
    rate(page, 1, 2)
    page.click(STOP)
    assert post.posts == []
    page.click("text=Go on")
    rate(page, 3, 4)
    page.wait_for_function(f"() => {STATUS}.includes('and sent')")
    ((path, kind, body),) = post.posts
    assert (path, kind) == ("/take?study=1", "text/csv")
    assert [(row["rater"], row["quality"]) for row in rows_of(body)] == [("Zoë", "1"), ("Zoë", "3")]
    assert rows_of(body) == saved(page, tmp_path)


def test_ratings_that_were_not_taken_are_saved_or_sent_again(page, post, sending, tmp_path):
    post.answer = 500
    begin(page, sending, "Ann")
    rate(page, 1, 2)
    rate(page, 3, 4)
    page.wait_for_function(f"() => {STATUS}.includes('could not')")
    assert "could not be sent (the server answers 500): save the file and send it" in status(page)
    assert len(saved(page, tmp_path)) == 2
    post.answer = 200
    page.click("text=try again")
    page.wait_for_function(f"() => {STATUS}.includes('and sent')")
    assert len(post.posts) == 2


def test_a_page_on_a_web_server_asks_no_other_machine(page, study):
    with served(partial(Quiet, directory=str(study.pages))) as server:
        here = f"http://127.0.0.1:{server.server_port}/"
        page.goto(f"{here}index.html")
        page.click("text=rain")
        go_on(page, "Ann")
        for _ in range(4):
            rate(page, 5, 5)
        assert heading(page) == "Thank you"
        assert len(page.requests) >= 6
        assert [url for url in page.requests if not url.startswith(here)] == []
        assert page.failures == []
        server.shutdown()


def test_a_clip_that_gets_no_parts_is_played_from_a_copy(page, study):
    """Safari plays nothing from a server that gives whole files only, and raters were told to go on without it."""
    with served(partial(Whole, directory=str(study.pages))) as server:
        begin(page, f"http://127.0.0.1:{server.server_port}/rain.html", "Ann")
        for k in range(4):
            assert heading(page) == f"Clip {k + 1} of 4: rain"
            rate(page, 5, 5)
        assert status(page) == "4 clips rated."
        server.shutdown()


#: folders of the classes of one's own, as its owner and `latentclap generate` call them
OWN = {"Recorded": "Door & <b>Slam<b> $&", "After": "door_b_slam_b"}


@pytest.mark.parametrize("shape", [PHONE, DESK])
def test_a_survey_of_a_class_of_ones_own(page, tmp_path, shape):
    """From folders over the list of pages and a rater's file to the table, by the words of the folder."""
    for k, (model, cls) in enumerate(OWN.items()):
        for name, pitch in ((cls, 300), ("x" * 200, 500)):
            write_wave(tmp_path / model / name / "0.wav", tone(pitch + 90 * k, 0.5), 16000)
    folders = {model: tmp_path / model for model in OWN}
    made = make_survey(folders, tmp_path / "study", items=1, progress=False)
    words = "door & <b>slam<b> $&"
    page.set_viewport_size(shape)
    fits = "() => document.documentElement.scrollWidth <= innerWidth"
    page.goto((made.folder / "pages" / "index.html").as_uri())
    assert page.locator("li").all_inner_texts() == [words, "x" * 200] and page.evaluate(fits)
    page.get_by_role("link", name="xxx").click()
    go_on(page, "Ann")
    assert page.evaluate(fits)
    leaving(page, page.go_back)
    page.get_by_role("link", name=words).click()
    assert page.title() == heading(page) == f"Listening test: {words}"
    assert f"how well it fits “{words}”, from 0 to 10" in page.inner_text(".lc-rate")
    go_on(page, "Ann")
    given = {}
    for k in range(2):
        assert heading(page) == f"Clip {k + 1} of 2: {words}"
        assert page.locator("legend").all_inner_texts() == [
            "How good is the audio quality?",
            f"How well does the clip fit “{words}”?",
        ]
        assert page.evaluate(fits)
        given[rate(page, k, 9)] = k
    (tmp_path / "answers").mkdir()
    rows = saved(page, tmp_path / "answers")
    assert {row["class"] for row in rows} == {"door_b_slam_b"}
    table = read_ratings(tmp_path / "answers", key=made.folder / "key.csv")
    key = pd.read_csv(made.folder / "key.csv", dtype=str).set_index("clip")
    assert dict(zip(table.model, table.quality, strict=True)) == {key.model[c]: q for c, q in given.items()}
    assert rated_classes(table) == "1 class (door b slam b)"
    assert page.failures == []


@pytest.mark.parametrize("shape", [PHONE, {"width": 320, "height": 568}])
def test_nothing_is_wider_than_a_phone(page, open_clips, tmp_path, shape):
    page.set_viewport_size(shape)
    path = form_of(
        open_clips,
        tmp_path,
        intro=["https://lab.example/" + 80 * "x"],
        send_to="https://l.example/" + 80 * "y",
    )

    def check() -> None:
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), heading(page)
        marks = page.locator("input[type=radio]").evaluate_all(
            "marks => marks.map(mark => mark.closest('label').getBoundingClientRect())"
            ".map(box => [box.width, box.height, box.right, box.top])"
        )
        assert all(w >= 20 and h >= 24 and right <= shape["width"] for w, h, right, _ in marks)
        assert len({top for *_, top in marks}) in (0, 2)  # a line for each question

    page.goto(path.as_uri())
    check()
    go_on(page, 40 * "W", "rain")
    check()
    for _ in range(2):
        rate(page, 10, 10)
    page.click(STOP)
    assert page.locator("table").is_visible()
    check()


def test_the_order_is_the_raters_own_and_stays(context, tmp_path):
    """Clips that are not there are gone through at once."""
    clips = [RatedClip(f"{k:02}", "rain" if k < 8 else "gunshot", f"none.wav#{k:02}") for k in range(16)]
    path = form_of(clips, tmp_path)

    def order(rater: str) -> list[str]:
        page = watched(context)
        begin(page, path, rater)
        names = []
        while heading(page) != "Thank you":
            names.append(clip(page))
            page.click(NEXT)
        page.close()
        return names

    ann, bob, again = order("Ann"), order("Bob"), order("Ann")
    assert ann == again
    assert ann != bob
    assert sorted(ann) == sorted(bob) == [c.id for c in clips]
    for names in (ann, bob):  # class after class
        assert sum((a < "08") != (b < "08") for a, b in pairwise(names)) == 1


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ('=HYPERLINK("x")', 'HYPERLINK("x")'),
        (" -1+1", "1+1"),
        ("Jose\u0301", "Jos\u00e9"),
        ("a\tb  c", "a b c"),
    ],
)
def test_a_name_is_one_spelling_and_no_formula(page, study, tmp_path, typed, name):
    page.goto(study.page.as_uri())
    page.evaluate("name => { document.querySelector('[name=rater]').value = name; }", typed)
    go_on(page)
    rate(page, 5, 5)
    page.click(STOP)
    assert saved(page, tmp_path)[0]["rater"] == name


def test_the_address_may_name_the_rater(page, study, tmp_path):
    begin(page, study.page, "Ann")
    rate(page, 5, 5)
    begin(page, study.page.as_uri() + "?rater=5f3c%2Fb")
    assert heading(page).startswith("Clip 1 of 4")
    rate(page, 6, 6)
    page.click(STOP)
    assert [(row["rater"], row["quality"]) for row in saved(page, tmp_path)] == [("5f3c/b", "6")]


def test_a_change_of_class_loses_nothing(page, open_clips, tmp_path):
    page.goto(form_of(open_clips, tmp_path).as_uri())
    go_on(page, "Ann", "rain")
    assert heading(page) == "Clip 1 of 6: rain"
    rate(page, 1, 1)
    page.click(STOP)
    page.click("text=To the start")
    go_on(page, "", "dog_bark")
    assert heading(page) == "Clip 1 of 6: dog bark"
    rate(page, 2, 2)
    page.click(STOP)
    rows = saved(page, tmp_path)
    assert [(row["class"], row["quality"], row["order"]) for row in rows] == [
        ("rain", "1", "1"),
        ("dog_bark", "2", "2"),
    ]


def test_the_means_of_named_systems_are_shown_beside_the_papers(page, open_clips, tmp_path):
    model_of = {c.id: c.model for c in open_clips}
    page.goto(form_of(open_clips, tmp_path, caveat="One rater.").as_uri())
    go_on(page, "Ann", "rain")
    given: dict[str, list[tuple[int, int]]] = {}
    for k in range(6):
        values = ((3 * k + 2) % 11, (5 * k + 1) % 11)
        given.setdefault(model_of[rate(page, *values)], []).append(values)
    shown = page.locator("tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    assert len(shown) == len(given) == 2
    for model, *cells in shown:
        expected = ["3"]
        for question, values in zip(papers.QUESTIONS, np.transpose(given[model]), strict=True):
            half = student.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
            paper = f"{papers.TABLE_2[question][1]:.2f}" if model == papers.MODELS[1] else "–"
            expected += [f"{values.mean():.1f} ± {half:.1f}", paper]
        assert cells == expected
    assert "One rater." in page.inner_text(".lc-rate")
    assert {row["model"] for row in saved(page, tmp_path)} == set(model_of.values())
    table = read_ratings(tmp_path / "ratings-form-Ann.csv")
    assert table.groupby("model").quality.mean().to_dict() == {
        model: pytest.approx(np.mean(values, axis=0)[0]) for model, values in given.items()
    }
