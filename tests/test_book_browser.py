"""The built book in a real browser, from file://, as a reader opens it.

Reads book/_build/html where `make book` has built it from the present sources; otherwise builds the real
configuration and pages around small notebooks made on the spot (fake_book.py).
"""

import json
import os
import re
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

import fake_book
from browsing import DESK, PHONE, Quiet, Whole, watched

pytestmark = [pytest.mark.browser, pytest.mark.slow]
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def site(repo_root, tmp_path_factory) -> Path:
    built = repo_root / "book" / "_build" / "html"
    if is_new(built / "listening.html", repo_root) and not os.environ.get("LATENTCLAP_FAKE_BOOK"):
        return built
    book = tmp_path_factory.mktemp("site") / "book"
    fake_book.make_sources(book, book.parent / "scratch", repo_root)
    done = fake_book.build(book)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return book / "_build" / "html"


def is_new(page: Path, repo_root: Path) -> bool:
    """Whether a page is there, and nothing that the book is written in has changed since it was built."""
    sources = [
        *(repo_root / "book").glob("*.*"),
        *(repo_root / "book" / "_ext").glob("*.py"),
        *(repo_root / "notebooks").glob("*.ipynb"),
        *(repo_root / "src" / "latentclap" / "book").rglob("*.py"),
    ]
    return page.is_file() and page.stat().st_mtime > max(path.stat().st_mtime for path in sources)


def test_a_book_of_older_sources_is_not_looked_at(tmp_path):
    for name in ("book/_ext/a.py", "book/intro.md", "notebooks/00_data.ipynb", "src/latentclap/book/grid.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (100, 100))
    page = tmp_path / "listening.html"
    assert not is_new(page, tmp_path)
    page.touch()
    assert is_new(page, tmp_path)
    os.utime(page, (99, 99))
    assert not is_new(page, tmp_path)


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport=DESK)
    yield watched(context)
    context.close()


def pages_of(site: Path) -> list[Path]:
    """Every page of the table of contents."""
    return sorted(
        path
        for path in [*site.glob("*.html"), *site.glob("notebooks/*.html"), *site.glob("reference/*.html")]
        if path.name not in ("index.html", "genindex.html", "search.html")
    )


def visit(page, path: Path) -> None:
    page.goto(path.as_uri(), wait_until="load")
    page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise")
    page.evaluate("() => window.MathJax && MathJax.startup ? MathJax.startup.promise : null")


def play(page, index: int) -> None:
    # a player that takes its copy breaks its first start off, and starts again by itself
    page.evaluate("i => { document.querySelectorAll('.lc-grid audio')[i].play().catch(() => {}) }", index)
    page.wait_for_function("i => document.querySelectorAll('.lc-grid audio')[i].currentTime > 0.1", arg=index)


def playing(page) -> list[int]:
    return page.evaluate(
        "() => [...document.querySelectorAll('.lc-grid audio')].flatMap((a, i) => a.paused ? [] : [i])"
    )


@pytest.fixture(scope="module")
def tour(browser, site) -> dict[str, dict]:
    """Every page opened once on a desk: page -> what was seen on it."""
    context = browser.new_context(viewport=DESK)
    page = watched(context)
    seen = {}
    for path in pages_of(site):
        page.goto("about:blank")  # what the page before was still loading is cut off here
        page.requests.clear()
        page.failures.clear()
        visit(page, path)
        page.evaluate("() => document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        page.wait_for_function("() => [...document.images].every(i => i.complete)")
        facts = page.evaluate(
            """() => {
                const prose = document.querySelector('article').cloneNode(true);
                prose.querySelectorAll('pre, code').forEach(code => code.remove());
                return {
                broken: [...document.images].filter(i => !i.naturalWidth).map(i => i.src),
                silent: [...document.querySelectorAll('.lc-grid img')].filter(i => !i.alt).length,
                formulas: document.querySelectorAll('article .math').length,
                typeset: document.querySelectorAll('article mjx-container svg').length,
                errors: document.querySelectorAll("[data-mml-node='merror']").length,
                raw: /\\\\\\(|\\\\\\[/.test(prose.textContent),
                lost: [...document.querySelectorAll("article a[href^='#']")].map(a => a.getAttribute('href'))
                    .filter(h => h.length > 1 && !document.getElementById(decodeURIComponent(h.slice(1)))),
            }}"""
        )
        seen[path.relative_to(site).as_posix()] = {
            **facts,
            "failures": list(page.failures),
            "elsewhere": [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))],
        }
    context.close()
    return seen


def found(tour: dict[str, dict], what: str) -> dict:
    """The pages on which something was found."""
    return {name: facts[what] for name, facts in tour.items() if facts[what]}


def test_no_page_asks_another_machine_for_anything(tour):
    assert len(tour) >= 14
    assert found(tour, "elsewhere") == {}


def test_nothing_fails_to_load_and_no_script_complains(tour):
    assert found(tour, "failures") == {}


def test_pictures_load_and_spectrograms_have_a_text_alternative(tour):
    assert found(tour, "broken") == {}
    assert found(tour, "silent") == {}


def test_links_within_a_page_arrive(tour):
    assert found(tour, "lost") == {}


def test_mathematics_is_typeset(tour):
    assert found(tour, "errors") == {}
    assert found(tour, "raw") == {}
    assert {name for name, facts in tour.items() if facts["typeset"] < facts["formulas"]} == set()
    assert tour["eq3.html"]["typeset"] > 10


def test_the_reference_has_what_is_public_with_its_source_and_links(page, site):
    """A signature that Sphinx cannot read is shown as it came: with the marks of its links, and none."""
    for path in sorted(site.glob("reference/*.html")):
        text = path.read_text(encoding="utf-8")
        assert "~latentclap" not in text and "factory&gt;" not in text, path.name
        # the words before a colon are no type: those stand in the signature
        assert ">Type<span" not in text, path.name
    visit(page, site / "reference" / "losses.html")
    shown = page.evaluate(
        """() => { const loss = document.getElementById('latentclap.losses.LatentCLAPLoss'); return [
            loss.querySelector('a.reference[title$=".Process"]') !== null,
            loss.querySelector('a.viewcode-link, .viewcode-link')?.closest('a')?.getAttribute('href')] }"""
    )
    assert shown == [True, "../_modules/latentclap/losses/latent_clap.html#LatentCLAPLoss"]
    page.set_viewport_size({"width": 390, "height": 900})
    for path in sorted(site.glob("reference/*.html")):
        visit(page, path)
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), path.name


def test_every_player_decodes(page, site):
    visit(page, site / "listening.html")
    count = page.locator(".lc-grid audio").count()
    assert count >= 7 * 6 * 3
    assert page.evaluate("() => [...document.querySelectorAll('audio')].every(a => a.preload === 'none')")
    lengths = page.evaluate(
        """() => Promise.all([...document.querySelectorAll('.lc-grid audio')].map(a => new Promise(done => {
            a.onloadedmetadata = () => done(a.duration);
            a.onerror = () => done(a.src);
            a.preload = 'metadata'; a.load();
        })))"""
    )
    assert [length for length in lengths if isinstance(length, str) or not 0.5 < length < 60] == []


def test_one_player_plays_at_a_time_and_time_advances(page, site):
    visit(page, site / "listening.html")
    play(page, 0)
    assert playing(page) == [0]
    play(page, 7)
    assert playing(page) == [7]


def test_number_keys_switch_within_the_row_at_the_same_moment(page, site):
    visit(page, site / "listening.html")
    columns = page.locator(".lc-grid").first.locator("thead th").count()
    play(page, columns)  # the first player of the second row
    page.evaluate("i => { document.querySelectorAll('.lc-grid audio')[i].currentTime = 0.8 }", columns)
    page.keyboard.press("3")
    target = columns + 2
    page.wait_for_function("i => !document.querySelectorAll('.lc-grid audio')[i].paused", arg=target)
    assert playing(page) == [target]
    assert page.evaluate("i => document.querySelectorAll('.lc-grid audio')[i].currentTime", target) >= 0.75
    page.keyboard.press("9")  # no ninth system: nothing happens
    assert playing(page) == [target]


def test_the_same_moment_is_heard_from_a_server_that_gives_whole_files_only(page, site):
    """Python's is one: its players cannot seek, and began from the start at each key."""
    handler = partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_port}/listening.html", wait_until="load")
        play(page, 0)
        page.evaluate("() => { document.querySelectorAll('.lc-grid audio')[0].currentTime = 0.8 }")
        page.keyboard.press("3")
        page.wait_for_function(
            "() => { const a = document.querySelectorAll('.lc-grid audio')[2];"
            " return !a.paused && a.currentTime >= 0.75 }"
        )
        assert playing(page) == [2]
        assert page.failures == []
        server.shutdown()


def test_a_player_that_gets_no_parts_plays_a_copy(page, site):
    """Safari plays nothing from a server that gives whole files only."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Whole, directory=str(site))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_port}/listening.html", wait_until="load")
        play(page, 0)
        page.evaluate("() => { document.querySelectorAll('.lc-grid audio')[0].currentTime = 0.8 }")
        page.keyboard.press("3")
        page.wait_for_function(  # moves: where it is to begin, a player says that it is from the start on
            "() => { const a = document.querySelectorAll('.lc-grid audio');"
            " return a[2].currentTime > 0.85 && a[0].paused }"
        )
        server.shutdown()


def test_a_change_of_volume_is_one_of_all_players(page, site):
    """The keys' up and down go to one player, and a clip that is louder is easily taken for a better one."""
    visit(page, site / "listening.html")
    page.locator(".lc-grid audio").first.focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.wait_for_function(
        "() => { const v = [...document.querySelectorAll('audio')].map(a => a.volume);"
        " return v[0] < 1 && new Set(v).size === 1 }"
    )


def test_a_picture_shows_the_moment_that_is_heard_and_takes_one_there(page, site):
    visit(page, site / "listening.html")
    # an MP3 file, as the book has: Chromium's demuxer now and then gives up where a short Ogg file is begun within
    i, other = page.evaluate(
        "() => [...document.querySelectorAll('.lc-grid audio')]"
        ".flatMap((a, i) => a.getAttribute('src').endsWith('.mp3') ? [i] : []).slice(0, 2)"
    )
    picture = page.locator(".lc-picture").nth(i)
    box = picture.bounding_box()
    picture.click(position={"x": box["width"] / 4, "y": 10})
    page.wait_for_function("i => document.querySelectorAll('.lc-grid audio')[i].currentTime >= 1", arg=i)
    assert playing(page) == [i]
    page.evaluate("i => document.querySelectorAll('.lc-grid audio')[i].pause()", i)
    page.wait_for_timeout(100)
    at, time = page.evaluate(
        "i => [document.querySelectorAll('.lc-picture')[i].style.getPropertyValue('--lc-at'),"
        " document.querySelectorAll('.lc-grid audio')[i].currentTime]",
        i,
    )
    assert float(at) == pytest.approx(time / 4, abs=0.02)
    play(page, other)
    assert page.locator(".lc-picture[style*='--lc-at']").count() == 1


def test_number_keys_leave_typing_alone(page, site):
    visit(page, site / "listening.html")
    play(page, 0)
    page.evaluate(
        "() => { const i = document.createElement('input'); i.id = 'q'; document.body.append(i); i.focus(); }"
    )
    page.keyboard.press("2")
    assert page.input_value("#q") == "2"
    assert playing(page) in ([0], [])  # unless it has ended meanwhile, on a busy machine


def test_players_and_grids_can_be_reached_and_are_named(page, site):
    visit(page, site / "listening.html")
    names = page.evaluate("() => [...document.querySelectorAll('.lc-grid audio')].map(a => a.ariaLabel)")
    assert all(names)
    assert len(set(names)) == len(names), "two players are read out alike"
    assert page.locator(".lc-scroll[tabindex='0'][role='region']").count() == 7
    page.locator(".lc-grid audio").first.focus()
    assert page.evaluate("() => document.activeElement.tagName") == "AUDIO"


def test_no_page_scrolls_sideways_on_a_phone(page, site):
    page.set_viewport_size(PHONE)
    wide = {}
    for path in pages_of(site):
        visit(page, path)
        page.evaluate("() => window.scrollTo(5000, 0)")
        excess = page.evaluate(
            "() => [window.scrollX, document.documentElement.scrollWidth - window.innerWidth]"
        )
        if max(excess) > 0:
            wide[path.name] = excess
    assert wide == {}


def test_cases_of_bad_input_are_folded_linked_and_printed(page, site):
    visit(page, site / "bad_input.html")
    folds = page.locator("details.lc-cases")
    count = folds.count()
    assert count > 20 and page.locator("details.lc-cases[open]").count() == 0
    assert page.locator(".lc-contents a").count() == count
    button = page.locator(".lc-folds button")
    button.click()
    assert page.locator("details.lc-cases[open]").count() == count
    button.click()
    assert page.locator("details.lc-cases[open]").count() == 0
    name = page.locator("details.lc-cases td a[id]").nth(40).get_attribute("id")
    page.evaluate("name => { location.hash = name }", name)
    page.wait_for_function("name => document.getElementById(name).closest('details').open", arg=name)
    assert page.locator("details.lc-cases[open]").count() == 1
    high = page.evaluate("() => document.querySelector('article').scrollHeight")
    page.emulate_media(media="print")
    assert page.evaluate("() => document.querySelector('article').scrollHeight") > 3 * high


def test_a_figure_is_as_wide_as_its_text_needs_and_a_link_to_its_file(page, site):
    for size in (DESK, PHONE):
        page.set_viewport_size(size)
        for path in (*sorted(site.glob("notebooks/*.html")), site / "longer.html"):
            visit(page, path)
            figures = page.evaluate(
                "() => [...document.querySelectorAll('img.lc-figure')].map(i => [i.clientWidth,"
                " i.closest('a')?.href === i.src, i.closest('a')?.scrollWidth >= i.clientWidth])"
            )
            assert figures and all(figure == [704, True, True] for figure in figures), (path.name, figures)


def test_boxes_that_scroll_sideways_show_it(page, site):
    """A phone shows no bar until it is touched: the side where there is more to see fades."""
    page.set_viewport_size(PHONE)
    for path in pages_of(site):
        visit(page, path)
        page.wait_for_function(
            """() => [...document.querySelectorAll('article *')].every(e =>
                e.scrollWidth <= e.clientWidth + 1 || !e.clientWidth || e.classList.contains('lc-more-right')
                || !['auto', 'scroll'].includes(getComputedStyle(e).overflowX))""",
            timeout=20_000,
        )
    visit(page, site / "longer.html")
    box = page.locator("a:has(> img.lc-figure)").first
    box.evaluate("box => box.scrollTo(5000, 0)")
    page.wait_for_function(
        "() => document.querySelector('a:has(> img.lc-figure)').className.includes('lc-more-left')"
    )
    assert "lc-more-right" not in box.get_attribute("class")


@pytest.mark.parametrize("width", [400, 800, 1300, 1920])
def test_no_player_is_out_of_sight_and_each_has_room_to_seek(page, site, width):
    page.set_viewport_size({"width": width, "height": 900})
    for path in (site / "listening.html", next(site.glob("notebooks/03*.html"))):
        visit(page, path)
        assert page.evaluate(
            "() => [...document.querySelectorAll('.lc-scroll')].every(b => b.scrollWidth <= b.clientWidth)"
        )
        players = page.evaluate(
            "() => [...document.querySelectorAll('.lc-grid audio')].map(a => a.clientWidth)"
        )
        assert min(players) >= 125, path.name
        left = page.evaluate(  # by lines that are full: not five players and a sixth below
            "() => [...document.querySelectorAll('.lc-row')].map(r => r.querySelectorAll('td').length"
            " % getComputedStyle(r).gridTemplateColumns.split(' ').length)"
        )
        assert set(left) == {0}
        headings = page.evaluate(
            "() => [...document.querySelectorAll('.lc-grid tbody td')].map("
            "c => getComputedStyle(c, '::before').content)"
        )
        assert not {"none", "normal", '""'} & set(headings)


@pytest.mark.parametrize("width", [400, 1300])
def test_paths_in_tables_are_not_broken_into_letters(page, site, width):
    """What is too wide for the page scrolls in the table's own box."""
    page.set_viewport_size({"width": width, "height": 900})
    visit(page, site / "downloads.html")
    lines = page.evaluate(
        "() => [...document.querySelectorAll('article td code .pre')].map(word => word.getClientRects().length)"
    )
    assert set(lines) == {1}


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_links_in_striped_tables_are_legible(page, site, mode):
    page.add_init_script(f"localStorage.setItem('mode', '{mode}'); localStorage.setItem('theme', '{mode}')")
    visit(page, site / "downloads.html")
    pairs = page.evaluate(
        """() => [...document.querySelectorAll('article tr:nth-child(even) a')].map(a => {
            const dot = document.createElement('canvas').getContext('2d');
            const rgb = css => {
                dot.fillStyle = css; dot.fillRect(0, 0, 1, 1);
                return `rgb(${dot.getImageData(0, 0, 1, 1).data.slice(0, 3)})`;
            };
            let ground = a;
            while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
            return [rgb(getComputedStyle(a).color), rgb(getComputedStyle(ground).backgroundColor)];
        })"""
    )
    assert pairs
    for pair in pairs:
        ink, ground = (luminance(colour) for colour in pair)
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5, pair


def test_grids_are_legible_in_dark_mode(page, site):
    page.add_init_script("localStorage.setItem('mode', 'dark'); localStorage.setItem('theme', 'dark')")
    visit(page, site / "listening.html")
    colours = page.evaluate(
        """() => ['.lc-caption', '.lc-grid th', '.lc-note'].map(s => {
            const node = document.querySelector(s);
            let ground = node;
            while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
            return [getComputedStyle(node).color, getComputedStyle(ground).backgroundColor];
        })"""
    )
    for pair in colours:
        ink, ground = (luminance(colour) for colour in pair)
        assert (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) >= 4.5, pair


def test_it_plays_without_javascript(browser, site):
    context = browser.new_context(java_script_enabled=False, viewport=DESK)
    page = context.new_page()
    page.goto((site / "listening.html").as_uri())
    first = page.locator(".lc-grid audio").first
    assert first.is_visible()
    assert (site / first.get_attribute("src")).is_file()
    context.close()


def luminance(css: str) -> float:
    """Relative luminance (WCAG 2) of an `rgb(...)` colour."""
    channels = [float(part) / 255 for part in css[css.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))


def test_search_index_is_there(site):
    assert (site / "searchindex.js").stat().st_size > 1000
    assert json.loads(
        (site / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")")
    )


def test_a_reader_rates_clips_blind_and_sees_whose_they_were(page, site):
    visit(page, site / "rate.html")
    page.set_viewport_size(PHONE)
    page.fill(".lc-rate-box input[name=rater]", "a reader")
    page.get_by_role("button", name="Begin").click()
    for value in ("7", "3"):
        form = page.locator(".lc-rate-box")
        # nothing on the screen tells the system apart, the player's address included
        assert not re.search("LDM|Ground|latent|tuning|real", form.inner_html())
        page.evaluate("() => { document.querySelector('.lc-rate-box audio').playbackRate = 16 }")
        page.wait_for_function("() => document.querySelector('.lc-rate-box audio').ended")
        for question in ("quality", "relevance"):
            page.locator(f".lc-rate-box input[name={question}][value='{value}']").check()
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        heading = form.locator("h2").inner_text()
        form.get_by_role("button", name="Next").click()
        page.wait_for_function(
            "before => document.querySelector('.lc-rate-box h2').innerText !== before", arg=heading
        )
    page.get_by_role("button", name="Stop here").click()
    rows = page.locator(".lc-rate-table tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["Ground Truth", "LDM+Tuning", "LDM+Tuning+Latent"]
    assert sum(int(row.split("\t")[1]) for row in rows) == 2
    assert page.failures == []
