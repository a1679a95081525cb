"""Players, grids, tables, and the steps between executed notebooks and the book."""

import ast
import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pyloudnorm
import pytest
import soundfile
import torch
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

import fake_book
from latentclap.book import (
    CLASS_COLOURS,
    SYSTEM_COLOURS,
    SYSTEMS,
    AudioFile,
    figure_style,
    listening_grid,
    listening_item,
    paper_beside,
    player_row,
    plot_averages,
    provenance_line,
    save_player,
    select_examples,
    spectrogram_png,
    write_listening_items,
)
from latentclap.book.collect import collect_notebook, self_contained
from latentclap.book.fidelity import fidelity_tables
from latentclap.book.figures import canonical_system, describe_figure
from latentclap.book.pages import CARD_SYSTEMS, listening_page, model_card
from latentclap.book.players import PICTURE_SIZE, spectrogram_levels
from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.files import read_json, write_json

SR = 16000


class Sources(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self, block: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.tags: list[tuple[str, dict]] = []
        self.feed(block)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.found += [(tag, value) for key, value in attrs if key in ("src", "href")]


@pytest.fixture
def clip(tmp_path) -> AudioFile:
    return save_player(fake_book.tone(440), SR, tmp_path / "audio" / "tone")


# ----------------------------------------------------------------------------------------- files


def test_a_player_is_small_at_one_loudness_and_reads_back(tmp_path):
    rng = np.random.default_rng(0)
    for name, level in (("quiet.mp3", 0.002), ("loud.ogg", 0.4)):
        wave = (level * rng.standard_normal(4 * SR)).astype(np.float32)
        player = save_player(wave, SR, tmp_path / name)
        heard, sr = soundfile.read(player.path)
        assert sr == SR
        assert len(heard) / sr == pytest.approx(4.0, abs=0.15)
        assert pyloudnorm.Meter(sr).integrated_loudness(heard) == pytest.approx(-23, abs=1)
        assert player.path.stat().st_size < 60_000
        assert player.picture.stat().st_size < 40_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["loud.ogg", "loud.png", "quiet.mp3", "quiet.png"]


def test_a_player_holds_what_is_scored_and_ends_without_a_click(tmp_path):
    """A real clip of 4 s is repeated to the system's length: its beginning is not heard again at the end."""
    wave = fake_book.tone(440, seconds=4.16)
    wave[4 * SR :] = 0.3
    player = save_player(wave, SR, tmp_path / "x.wav")
    heard, _ = soundfile.read(player.path)
    assert (len(heard), player.seconds) == (4 * SR, 4.0)
    assert np.abs(heard[-8:]).max() < 0.01 * np.abs(heard).max()
    gain = np.abs(heard).max() / np.abs(wave[: 4 * SR]).max()
    np.testing.assert_allclose(heard[: -SR // 50], gain * wave[: 4 * SR - SR // 50], atol=1e-3)


def test_players_of_a_page_may_be_whole_and_their_copies_too(tmp_path):
    """A row's louder clip is copied at the level of the weaker, with a picture as wide."""
    steady = 0.3 * np.sin(2 * np.pi * 440 * np.arange(6 * SR) / SR).astype(np.float32)
    waves = [steady, np.where(np.arange(6 * SR) % 4000, 0, 1).astype(np.float32)]
    clips = [save_player(w, SR, tmp_path / f"{i}.wav", seconds=6.5) for i, w in enumerate(waves)]
    assert [clip.seconds for clip in clips] == [6.0, 6.0]
    cells = dict(zip([("r", "a"), ("r", "b")], clips, strict=True))
    html = listening_grid(["r"], ["a", "b"], cells, folder=tmp_path, heard="whole clips").html(tmp_path)
    assert 'data-seconds="6.5"' in html
    assert "Heard and drawn are whole clips. Pictures share one scale: 6.5 s across" in html
    (copy,) = tmp_path.glob("0/*lufs.wav")
    assert soundfile.info(copy).duration == 6.0
    columns = np.asarray(Image.open(copy.with_suffix(".png")).convert("L")).max(0)
    bright = np.flatnonzero(columns > columns.max() / 2)
    assert bright[-1] / len(columns) == pytest.approx(6 / 6.5, abs=0.01)


@pytest.mark.parametrize(("sr", "written"), [(96_000, 48_000), (10_000, 11_025), (44_100, 44_100)])
def test_a_player_of_any_rate_is_one_that_browsers_play(tmp_path, sr, written):
    player = save_player(fake_book.tone(440, sr=sr), sr, tmp_path / "x.mp3")
    assert player.sampling_rate == soundfile.info(player.path).samplerate == written
    assert player.seconds == pytest.approx(2, abs=0.001)
    heard, _ = soundfile.read(player.path)
    spectrum = np.abs(np.fft.rfft(heard))
    assert spectrum.argmax() * written / len(heard) == pytest.approx(440, abs=2)
    assert save_player(fake_book.tone(440, sr=sr), sr, tmp_path / "x.wav").sampling_rate == sr


def test_a_player_takes_tensors_and_a_leading_channel(tmp_path):
    wave = torch.from_numpy(fake_book.tone(300))[None]
    assert save_player(wave, SR, tmp_path / "x").path.name == "x.mp3"


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (np.zeros((2, 100), np.float32), "one channel"),
        (np.zeros(0, np.float32), "one channel"),
        (np.zeros(100, np.int16), "not float"),
        (np.array([0.0, np.nan], np.float32), "NaN"),
    ],
)
def test_a_player_refuses_what_is_no_clip_and_leaves_no_file(tmp_path, wave, message):
    with pytest.raises(InputError, match=message):
        save_player(wave, SR, tmp_path / "bad.mp3")
    assert list(tmp_path.iterdir()) == []


def test_a_player_refuses_an_unknown_format(tmp_path):
    with pytest.raises(InputError, match=r"\.mp3"):
        save_player(fake_book.tone(300), SR, tmp_path / "clip.aiff")


def test_pictures_share_one_scale(tmp_path):
    low, high = (spectrogram_levels(fake_book.tone(f, seconds=1), SR) for f in (200, 3000))
    assert low.shape == high.shape == (64, 400)
    assert low[:, 20].argmax() < high[:, 20].argmax()  # frequency upwards from index 0
    assert low[:, 150:].max() == 0  # one second of sound in a four-second picture
    quieter = spectrogram_levels(0.1 * fake_book.tone(200, seconds=1), SR)
    lit = (low > 0.1) & (low < 0.99) & (quieter > 0)
    assert np.allclose((low - quieter)[lit], 20 / 80, atol=1e-4)  # 20 dB are 20 dB in every picture


def test_a_picture_is_a_palette_png_of_fixed_size(tmp_path):
    picture = Image.open(spectrogram_png(fake_book.tone(500), SR, tmp_path / "p.png"))
    assert (picture.mode, picture.size, picture.format) == ("P", PICTURE_SIZE, "PNG")


# ------------------------------------------------------------------------------- one loudness a row


def clicks(rate: float) -> np.ndarray:
    """Short clicks in silence: peaks far above the loudness, as steps have them."""
    wave = np.zeros(4 * SR, np.float32)
    wave[:: int(SR / rate)] = 1.0
    return wave


def heard(path: Path) -> float:
    return pyloudnorm.Meter(SR).integrated_loudness(soundfile.read(path)[0])


def spread(clips) -> float:
    levels = [heard(clip.path) for clip in clips]
    return max(levels) - min(levels)


@pytest.fixture
def uneven(tmp_path) -> dict[str, AudioFile]:
    """A row of which two clips cannot reach -23 LUFS."""
    waves = {"tone": fake_book.tone(440), "clicks": clicks(30), "few clicks": clicks(8)}
    return {name: save_player(wave, SR, tmp_path / "audio" / name) for name, wave in waves.items()}


def test_the_players_of_a_row_share_the_level_that_all_reach(uneven):
    """Also where the files alone are there, as on the listening page; the originals stay as they were."""
    assert spread(uneven.values()) > 4
    before = {path: path.read_bytes() for clip in uneven.values() for path in (clip.path, clip.picture)}
    from_files = {name: AudioFile(clip.path, clip.picture) for name, clip in uneven.items()}
    for row in (uneven, from_files):
        grid = player_row(row, footnote=True)
        assert spread(grid.cells.values()) < 1
        least = min(heard(clip.path) for clip in uneven.values())
        assert grid.levels[0].level == pytest.approx(least, abs=0.5)
        assert "All clips of a row play at one loudness" in grid.html()
        assert f"(here {grid.levels[0].level:.0f} LUFS)" in grid.html()
        assert all(clip.picture.is_file() for clip in grid.cells.values())
    assert all(path.read_bytes() == content for path, content in before.items())


def test_rows_are_levelled_apart_and_one_of_equal_clips_is_left_alone(uneven, tmp_path):
    other = save_player(fake_book.tone(300), SR, tmp_path / "audio" / "other")
    cells = {("a", "x"): uneven["tone"], ("a", "y"): uneven["few clicks"]}
    cells |= {("b", "x"): uneven["tone"], ("b", "y"): other}
    grid = listening_grid(["a", "b"], ["x", "y"], cells)
    assert grid.cells["b", "x"].path == uneven["tone"].path
    assert grid.cells["a", "x"].path != uneven["tone"].path
    assert re.search(r"here -\d+ to -23 LUFS", grid.html())


def test_nobody_follows_a_nearly_silent_clip(uneven, tmp_path):
    silent = save_player(np.zeros(4 * SR, np.float32), SR, tmp_path / "silent")
    faint = save_player(fake_book.tone(440), SR, tmp_path / "faint", lufs=-60)
    grid = player_row({"tone": uneven["tone"], "faint": faint, "silence": silent}, footnote=True)
    assert heard(grid.cells["", "tone"].path) == pytest.approx(-23, abs=1)
    assert "nearly silent clips stay quieter (1)" in grid.html()


def test_the_listening_page_and_the_card_have_rows_of_one_loudness(uneven, tmp_path):
    names = list(uneven)
    items = [
        listening_item(uneven[names[k % 3]], cls, system, i)
        for cls in CLASSES
        for k, system in enumerate([*SYSTEMS, "Pretrained"])
        for i in range(3)
    ]
    source = write_listening_items(tmp_path / "new.json", items, rule="All.")
    entries = read_json(source)["items"]
    row = [tmp_path / e["wave"] for e in entries if e["cls"] == CLASSES[0] and e["index"] == 0]
    assert spread(map(AudioFile, row)) < 1
    old = read_json(source)  # as an older run left it
    for entry, item in zip(old["items"], items, strict=True):
        entry["wave"] = f"audio/{item.audio.path.name}"
    write_json(tmp_path / "old.json", old)
    write_json(tmp_path / "model_card.json", {"name": "mini"})
    for source in ("new.json", "old.json"):
        static, out = tmp_path / "book" / source / "_static", tmp_path / "l.md"
        listening_page([tmp_path / source], out, static)
        files = {clip.name for clip in (static / "audio/listening").glob("*.mp3")}
        assert len(files) == 3 and not any(
            name.count("_at-") > 1 for name in files
        )  # encoded again once at most
        assert spread(AudioFile(static / "audio/listening" / f) for f in files) < 1
        card = model_card(tmp_path / "model_card.json", out, listen=tmp_path / source, static=static)
        assert "All clips of a row play at one loudness" in card.read_text()
        assert spread(map(AudioFile, (static / "audio/model_card").glob("*.mp3"))) < 1


# ----------------------------------------------------------------------------------------- grids


def test_captions_say_what_is_known_and_nothing_else(clip):
    words = clip.with_caption(prompt="rain", seed=3, guidance_scale=2.0, score=0.305).caption
    assert words == "“rain” · seed 3 · guidance 2 · similarity 0.30"
    assert clip.with_caption("after training").caption == "after training"


def test_a_grid_is_a_table_of_native_players(clip, tmp_path):
    cells = {(r, c): clip for r in ("a", "b") for c in SYSTEMS}
    page = Sources(listening_grid(["a", "b"], SYSTEMS, cells, title="rain").html(tmp_path))
    players = [attrs for tag, attrs in page.tags if tag == "audio"]
    assert len(players) == 12
    assert all(p["preload"] == "none" and "controls" in p for p in players)
    assert len({p["aria-label"] for p in players}) == 12
    assert {value for tag, value in page.found if tag == "audio"} == {"audio/tone.mp3"}
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 12
    assert all(p["alt"].startswith("Log-mel spectrogram: rain") for p in pictures)
    assert sum(tag == "a" and "download" in attrs for tag, attrs in page.tags) == 12


def test_a_grid_is_one_line_so_that_markdown_leaves_it_alone(clip, tmp_path):
    assert "\n" not in listening_grid(["a"], ["LDM"], {("a", "LDM"): clip}).html(tmp_path)


def test_text_is_escaped(clip, tmp_path):
    odd = clip.with_caption('<b>"x"</b>')
    html = player_row({'<i>"y"': odd}, title="<u>").html(tmp_path)
    assert "<b>" not in html
    assert "<i>" not in html
    assert "<u>" not in html


def test_a_row_takes_pairs_and_a_mapping(clip, tmp_path):
    assert player_row([("before", clip), ("after", clip)]).html(tmp_path) == player_row(
        {"before": clip, "after": clip}
    ).html(tmp_path)


def test_a_grid_refuses_gaps_and_duplicates(clip):
    with pytest.raises(InputError, match="no clip for a / LDM"):
        listening_grid(["a"], ["LDM"], {})
    with pytest.raises(InputError, match="differ"):
        listening_grid(["a", "a"], ["LDM"], {("a", "LDM"): clip})
    assert "lc-missing" in listening_grid(["a"], ["LDM"], {}, allow_missing=True).html()


def test_paths_start_from_the_notebook_in_jupyter_and_from_the_working_directory_elsewhere(
    clip, tmp_path, monkeypatch
):
    row = player_row({"x": clip})
    monkeypatch.chdir(tmp_path)
    assert ("audio", "audio/tone.mp3") in Sources(row._repr_html_()).found
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "notebooks" / "n.ipynb"))
    assert ("audio", "../audio/tone.mp3") in Sources(row._repr_html_()).found


def test_players_can_carry_their_own_bytes(clip, monkeypatch):
    monkeypatch.setenv("LATENTCLAP_PLAYERS", "embed")
    kinds = {value.split(";")[0] for _, value in Sources(player_row({"x": clip}).html()).found}
    assert kinds == {"data:audio/mpeg", "data:image/png"}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.mp3"):
        player_row({"x": AudioFile(tmp_path / "gone.mp3")}).html()


def test_examples_are_chosen_by_a_stated_rule():
    assert select_examples(20, 3) == ([0, 1, 2], select_examples(20, 3)[1])
    assert "first 3 of 20" in select_examples(20, 3)[1]
    drawn, rule = select_examples(20, 3, seed=7)
    assert (drawn, rule) == select_examples(20, 3, seed=7)
    assert drawn == sorted(set(drawn)) and "seed 7" in rule
    with pytest.raises(InputError):
        select_examples(2, 3)


# --------------------------------------------------------------------------- figures and tables


def test_every_class_and_system_has_a_colour_of_its_own():
    assert list(CLASS_COLOURS) == list(CLASSES)
    assert len(set(CLASS_COLOURS.values())) == 7
    assert len({SYSTEM_COLOURS[s] for s in SYSTEMS}) == 6


@pytest.mark.parametrize(
    ("name", "system"),
    [
        ("real", "Real Audio"),
        ("ldm_tuning_latent", "LDM+Tuning+Latent"),
        ("+Latent", "LDM+Latent"),
        ("LDM", "LDM"),
    ],
)
def test_systems_go_by_several_spellings(name, system):
    assert canonical_system(name) == system


def test_an_unknown_system_is_refused():
    with pytest.raises(InputError, match="unknown system 'GAN'"):
        canonical_system("GAN")


def test_averages_are_drawn_training_by_training_with_their_mean():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    plot_averages(
        axes, {"LDM": [(10.0, (9.0, 12.0)), (11.0, (11.0, 11.5))], "LDM+filter": [(9.5, (9.0, 10.0))]}
    )
    points = [
        line.get_xydata().tolist()
        for line in axes.lines
        if len(line.get_xydata()) == 1 and line.get_marker() in "os"
    ]
    assert [x for ((x, _),) in points] == [10.0, 11.0, 9.5]
    assert [round(y, 2) for ((_, y),) in points] == [-0.08, 0.08, 1.0]
    bars = [part.get_segments()[0][:, 0].tolist() for part in axes.collections]
    assert bars == [[9.0, 12.0], [11.0, 11.5], [9.0, 10.0]]
    means = [line.get_xdata()[0] for line in axes.lines if len(line.get_xydata()) == 2]
    assert means == [10.5, 9.5]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["LDM", "LDM+filter"]
    assert axes.yaxis_inverted()


def test_the_figure_style_draws(tmp_path):
    with plt.rc_context():
        figure_style()
        figure, axis = plt.subplots()
        axis.plot([1, 2])
        figure.savefig(tmp_path / "f.png")
        plt.close(figure)
    corner = Image.open(tmp_path / "f.png").convert("RGB").getpixel((1, 1))
    assert corner == (255, 255, 255)  # opaque: legible on a dark page too


def test_ours_and_the_papers_numbers_stay_apart():
    ours = pd.DataFrame({"rain": [1.0], "new": [2.0]}, index=["LDM"])
    paper = pd.DataFrame({"rain": [9.75, 7.84], "Average": [8.74, 7.1]}, index=["LDM", "LDM+Latent"])
    table = paper_beside(ours, paper, ours_label="this run (quick)")
    assert list(table.data.columns) == [
        ("this run (quick)", "rain"),
        ("this run (quick)", "new"),
        ("paper", "rain"),
        ("paper", "Average"),
    ]
    assert table.data.loc["LDM", ("paper", "rain")] == 9.75
    assert np.isnan(table.data.loc["LDM+Latent", ("this run (quick)", "rain")])
    assert "–" in table.to_html()
    under = paper_beside(ours, paper, ours_label="this run (quick)", stacked=True).data
    assert list(under.index) == [
        (block, row) for block in ("this run (quick)", "paper") for row in paper.index
    ]
    assert list(under.columns) == ["rain", "new"] and np.isnan(under.loc[("paper", "LDM"), "new"])
    assert under.loc[("paper", "LDM"), "rain"] == 9.75
    with pytest.raises(InputError, match="label them apart"):
        paper_beside(ours, paper, ours_label="paper")
    with pytest.raises(InputError, match="share no row"):
        paper_beside(ours.rename(index={"LDM": "x"}), paper)


def test_the_provenance_line_names_the_run():
    line = provenance_line(
        {"profile": "quick", "seeds": [0, 1], "device": "cpu", "commit": "abcdef0123456789", "wall_s": 90.0,
         "versions": {"torch": "2.14.1", "scipy": "1.17.1"}, "started": "2026-11-23T06:00:00+00:00", "hostname": "x"},
        clips_per_class=20,
    )  # fmt: skip
    assert str(line) == (
        "This run: profile quick · seeds 0, 1 · 20 clips a class · on cpu · commit abcdef0123"
        " · 2026-11-23 · torch 2.14.1 · 1.5 min"
    )
    assert "<script" not in provenance_line({"profile": "<script>"})._repr_html_()
    one = str(provenance_line({"profile": "quick", "clips": 1}, clips_per_class=1))
    assert one == "This run: profile quick · 1 clip · 1 clip a class"
    with pytest.raises(InputError, match="no profile"):
        provenance_line({"seed": 0})


# --------------------------------------------------------------------------------------- collect


def notebook_with(path: Path, *outputs, executed: bool = True) -> Path:
    cells = [
        new_code_cell("x", outputs=[output], execution_count=1 if executed else None) for output in outputs
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)
    return path


def html_output(block: str):
    return new_output("execute_result", {"text/html": block, "text/plain": "grid"}, execution_count=1)


@pytest.mark.parametrize("start", ["notebook", "working directory"])
def test_collect_moves_players_and_the_page_finds_them(clip, tmp_path, start):
    ran = tmp_path / "somewhere" / "03_finetune.ipynb"
    base = ran.parent if start == "notebook" else tmp_path
    ran.parent.mkdir()
    notebook_with(ran, html_output(player_row({"x": clip}).html(base)))
    done = collect_notebook(ran, tmp_path / "book/notebooks", tmp_path / "book/_static", base=tmp_path)
    assert (done.players, done.removed) == (1, 0)
    block = nbformat.read(done.notebook, 4).cells[0].outputs[0].data["text/html"]
    for _, source in Sources(block).found:
        assert source.startswith("../_static/audio/03_finetune/tone-")
        assert (done.notebook.parent / source).is_file()


def test_collect_rewrites_glued_copies_and_sweeps_old_files(clip, tmp_path):
    prefix = "application/papermill.record/"
    glued = new_output(
        "display_data",
        data={prefix + "text/html": player_row({"x": clip}).html(tmp_path)},
        metadata={"scrapbook": {"name": "row", "mime_prefix": prefix}},
    )
    notebook = notebook_with(tmp_path / "n.ipynb", glued)
    old = tmp_path / "_static/audio/n/old-00000000.mp3"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"x")
    done = collect_notebook(notebook, tmp_path / "nb", tmp_path / "_static", base=tmp_path)
    assert done.removed == 1 and not old.exists()
    assert "../_static/audio/n/" in done.notebook.read_text()
    again = collect_notebook(notebook, tmp_path / "nb", tmp_path / "_static", base=tmp_path)
    assert (again.players, again.removed) == (1, 0)


def test_a_downloaded_notebook_carries_its_players(clip, tmp_path):
    """Saved from the book and opened elsewhere, it has nothing beside it."""
    foreign = '<img src="x.png">'
    ran = notebook_with(
        tmp_path / "n.ipynb", html_output(player_row({"x": clip}).html(tmp_path)), html_output(foreign)
    )
    built = tmp_path / "html"
    done = collect_notebook(ran, tmp_path / "book", built / "_static", base=tmp_path)
    text = done.notebook.read_text().replace("../html/_static", "../_static")  # as from the book's folder
    given = built / "_sources" / "notebooks" / "n.ipynb"
    given.parent.mkdir(parents=True)
    (built / "notebooks").mkdir()
    given.write_text(text)
    (given.parent / "other.ipynb").write_text(notebook_with(tmp_path / "o.ipynb").read_text())
    before = (given.parent / "other.ipynb").stat().st_mtime_ns
    assert self_contained(built) == 1
    block, other = (cell.outputs[0].data["text/html"] for cell in nbformat.read(given, 4).cells)
    found = [source for _, source in Sources(block).found]
    assert found and all(source.startswith("data:") for source in found) and other == foreign
    sound = next((built / "_static" / "audio" / "n").glob("*.mp3")).read_bytes()
    assert base64.b64encode(sound).decode() in block
    assert (given.parent / "other.ipynb").stat().st_mtime_ns == before
    given.write_text(text)
    next((built / "_static" / "audio" / "n").glob("*.mp3")).unlink()
    with pytest.raises(InputError, match=r"n\.ipynb: .*\.mp3 is not in .*build the book again"):
        self_contained(built)


def test_two_runs_may_use_one_file_name(tmp_path):
    rows = []
    for seed in range(2):
        clip = save_player(fake_book.tone(300 + 100 * seed), SR, tmp_path / f"run{seed}" / "rain_0.mp3")
        rows.append(html_output(player_row({"x": clip}).html(tmp_path)))
    notebook = notebook_with(tmp_path / "n.ipynb", *rows)
    assert collect_notebook(notebook, tmp_path / "nb", tmp_path / "_static", base=tmp_path).players == 2


def test_collect_leaves_other_html_and_data_urls_alone(clip, tmp_path, monkeypatch):
    foreign = '<img src="https://example.org/x.png"><a href="y.html">y</a>'
    monkeypatch.setenv("LATENTCLAP_PLAYERS", "embed")
    embedded = player_row({"x": clip}).html()
    notebook = notebook_with(tmp_path / "n.ipynb", html_output(foreign), html_output(embedded))
    done = collect_notebook(notebook, tmp_path / "nb", tmp_path / "_static")
    kept = [cell.outputs[0].data["text/html"] for cell in nbformat.read(done.notebook, 4).cells]
    assert kept == [foreign, embedded]


def test_collect_drops_widgets_and_this_machines_paths(tmp_path):
    widget = new_output(
        "display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "bar"}
    )
    stream = new_output("stream", name="stdout", text=f"saved {tmp_path.resolve()}/runs/x\n")
    notebook = notebook_with(tmp_path / "n.ipynb", widget, stream)
    content = nbformat.read(notebook, 4)
    content.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {"1": {}}}}
    content.metadata["papermill"] = {"input_path": str(tmp_path), "parameters": {"lam": 1}}
    nbformat.write(content, notebook)
    text = collect_notebook(
        notebook, tmp_path / "nb", tmp_path / "_static", base=tmp_path
    ).notebook.read_text()
    assert "widget" not in text
    assert '"bar"' not in text  # the progress bar's last words
    assert str(tmp_path) not in text
    assert "saved runs/x" in text
    assert '"lam": 1' in text


def test_collect_refuses_what_is_no_finished_run(clip, tmp_path):
    out = tmp_path / "nb", tmp_path / "_static"
    failed = notebook_with(
        tmp_path / "f.ipynb", new_output("error", ename="KeyError", evalue="lamm", traceback=[])
    )
    with pytest.raises(InputError, match="cell 0: failed with KeyError: lamm"):
        collect_notebook(failed, *out)
    idle = notebook_with(tmp_path / "i.ipynb", new_output("stream", name="stdout", text=""), executed=False)
    with pytest.raises(InputError, match="never executed"):
        collect_notebook(idle, *out)
    gone = notebook_with(tmp_path / "g.ipynb", html_output(player_row({"x": clip}).html(tmp_path)))
    clip.path.unlink()
    with pytest.raises(InputError, match=r"audio/tone\.mp3 is not there"):
        collect_notebook(gone, *out, base=tmp_path)
    with pytest.raises(InputError, match="no such notebook"):
        collect_notebook(tmp_path / "none.ipynb", *out)
    (tmp_path / "t.ipynb").write_text("{}")
    with pytest.raises(InputError, match="not a Jupyter notebook"):
        collect_notebook(tmp_path / "t.ipynb", *out)
    assert not (tmp_path / "nb").exists()


def test_sixteen_curves_can_be_told_apart():
    with plt.rc_context():
        figure_style()
        axis = plt.subplots()[1]
        lines = [axis.plot([0, i])[0] for i in range(16)]
        assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 16
        assert len({line.get_color() for line in lines[:8]}) == 8
        plt.close()


def test_a_figure_says_in_words_what_it_shows():
    figure, (left, right) = plt.subplots(1, 2)
    figure.suptitle("What $\\lambda$ does")
    left.plot([0, 1], label="$L_\\text{DDPM}$")
    left.plot([1, 0], label="held out")
    left.set(xlabel="step $n$", ylabel="loss")
    left.set_title("Training", loc="left")
    right.plot([0, 1])
    right.set(ylabel="FAD")
    words = describe_figure(figure)
    plt.close(figure)
    assert words == "What lambda does. Training: loss against step n (L_DDPM, held out). FAD"


def test_pictures_of_a_notebook_have_an_alternative_text(tmp_path, monkeypatch):
    """The figure's own words, from the kernel to the cell; the heading where an older run has none."""
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel has its own
    plot = "import matplotlib.pyplot as plt\nfrom latentclap.book import figure_style\nfigure_style()"
    plot += (
        "\nf, a = plt.subplots()\na.plot([1, 2], label='ours')\na.set(xlabel='n', ylabel='w(n)')\nplt.show()"
    )
    cells = [nbformat.v4.new_markdown_cell("# Weights\n\nText."), new_code_cell(plot), new_code_cell("1")]
    notebook = new_notebook(cells=cells)
    from nbclient import NotebookClient

    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    old = new_output("display_data", {"image/png": "aGk=", "text/plain": "<Figure size 1x1 with 1 Axes>"})
    notebook.cells[2].outputs = [old]
    nbformat.write(notebook, tmp_path / "a.ipynb")
    done = collect_notebook(tmp_path / "a.ipynb", tmp_path / "nb", tmp_path / "_static")
    alts = [
        c.metadata.mystnb.image.alt for c in nbformat.read(done.notebook, 4).cells if c.cell_type == "code"
    ]
    assert alts == ["w(n) against n (ours)", "Figure: Weights"]


# ------------------------------------------------------------------------------ generated pages


def test_the_listening_page_has_every_class_system_and_clip(tmp_path):
    source = fake_book.listening_items(
        tmp_path / "run" / "listening.json", fake_book.players(tmp_path / "run/audio")
    )
    out = tmp_path / "book/generated/listening.md"
    count = listening_page([source], out, tmp_path / "book/_static")
    text = out.read_text()
    assert count == 3  # three files, shared by all cells of this test
    assert text.startswith('<p class="lc-nav">') and "\n\n*Shown are the first 3 of 20 clips" in text
    assert re.findall(r"^## (.+)$", text, re.MULTILINE)[0] == "Dog bark"
    assert "Prompt: “This is a sound of dog bark.”" in text
    page = Sources(text)
    assert sum(tag == "audio" for tag, _ in page.tags) == 7 * 6 * 3
    local = [value for _, value in page.found if not value.startswith("#")]
    assert all((tmp_path / "book" / value).is_file() for value in local)


def test_the_listening_page_gives_similarities_a_scale(tmp_path):
    source = fake_book.listening_items(tmp_path / "listening.json", fake_book.players(tmp_path / "audio"))
    told = {"judge": "mini", "embedded": True, "clips": 112, "commit": "abc"}
    told |= {"own": {"mean": 0.6, "low": 0.5, "high": 0.7}, "other": {"mean": 0.1, "low": -0.1, "high": 0.3}}
    write_json(tmp_path / "s.json", told)
    out = tmp_path / "l.md"
    listening_page([source], out, tmp_path / "_static", scale=tmp_path / "s.json")
    text = out.read_text()
    assert "*Real Audio* is a procedural sound" in text
    assert text.index("</table>") < text.index("## What the similarity means") < text.index("over 112 clips")
    assert "own prompt 0.60 on average (90 % lie between 0.50 and 0.70)" in text
    write_json(tmp_path / "s.json", told | {"embedded": False})
    listening_page([source], out, tmp_path / "_static", scale=tmp_path / "s.json")
    assert "is a recording of the data folder" in out.read_text() and "licences" in out.read_text()
    write_json(tmp_path / "s.json", {"judge": "mini"})
    for file, message in (("s.json", "run it again"), ("none.json", "no such file")):
        with pytest.raises(InputError, match=message):
            listening_page([source], out, tmp_path / "_static", scale=tmp_path / file)


def test_the_scale_of_similarities_is_that_of_the_system(tiny_profile, tmp_path, monkeypatch):
    from latentclap.book.similarity import measure_similarity
    from latentclap.classes import prompt
    from latentclap.lab import Lab
    from latentclap.profiles import load_profile

    monkeypatch.setenv("LATENTCLAP_RUNS", str(tmp_path / "runs"))
    lab = Lab(load_profile(tiny_profile), progress=False, device="cpu")
    told = read_json(measure_similarity(lab, tmp_path / "s.json", clips=2))
    waves = lab.waves("eval", 2)
    own = np.concatenate([lab.system.similarity(w, [prompt(c)] * 2) for c, w in waves.items()])
    assert told["clips"] == 14 and told["embedded"] is True
    assert told["own"]["mean"] == pytest.approx(own.mean(), abs=1e-5)
    rest = [lab.system.similarity(w, [prompt(d)] * 2) for c, w in waves.items() for d in CLASSES if d != c]
    assert told["other"]["mean"] == pytest.approx(np.concatenate(rest).mean(), abs=1e-5)


def test_listening_items_may_come_as_a_plain_list_from_two_files(tmp_path):
    clips = fake_book.players(tmp_path / "audio")
    items = read_json(fake_book.listening_items(tmp_path / "all.json", clips))["items"]
    write_json(tmp_path / "a.json", items[:50])
    write_json(tmp_path / "b.json", items[50:])
    listening_page([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "l.md", tmp_path / "_static")
    assert "similarity 0.3" in (tmp_path / "l.md").read_text()
    with pytest.raises(InputError, match=r"b\.json.*missing|missing in .*a\.json"):
        listening_page([tmp_path / "a.json"], tmp_path / "x.md", tmp_path / "_static")
    with pytest.raises(InputError, match="is there twice"):
        listening_page([tmp_path / "all.json", tmp_path / "b.json"], tmp_path / "x.md", tmp_path / "_static")
    assert not (tmp_path / "x.md").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items: items.pop(), "1 missing .*sneeze_cough / LDM"),
        (lambda items: items[0].update(wave="audio/none.mp3"), r"item 0: audio/none\.mp3 is not there"),
        (lambda items: items[0].update(cls="cat"), "item 0: unknown class 'cat'"),
        (lambda items: items[0].update(system="GAN"), "item 0: unknown system 'GAN'"),
        (lambda items: items[0].pop("index"), "item 0: needs cls, system, index and wave"),
        (lambda items: items.clear(), "dog_bark: 0 of at least 2"),
    ],
)
def test_an_incomplete_listening_file_is_named(tmp_path, change, message):
    path = fake_book.listening_items(tmp_path / "listening.json", fake_book.players(tmp_path / "audio"))
    content = json.loads(path.read_text())
    change(content["items"])
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        listening_page([path], tmp_path / "out.md", tmp_path / "_static")
    assert not (tmp_path / "out.md").exists()


def test_items_are_stored_relative_to_their_file(tmp_path, clip):
    path = write_listening_items(tmp_path / "l.json", [listening_item(clip, "DogBark", "real", 0)], rule="r")
    (entry,) = read_json(path)["items"]
    assert entry == {
        "cls": "dog_bark", "system": "Real Audio", "index": 0, "wave": "audio/tone.mp3",
        "png": "audio/tone.png", "caption": "", "score": None,
    }  # fmt: skip


def test_the_model_card_becomes_a_page(tmp_path):
    card = {
        "name": "mini",
        "parameters": 1234567,
        "frechet": 0.123456,
        "training": {"steps": 100, "device": "cpu"},
        "sources": [
            {"class": "rain", "licence": "CC0", "authors": ["ann", "bo"]},
            {"class": "dog|bark", "licence": "MIT", "authors": list("vwx|z")},
        ],
        "limits": ["small", "procedural"],
        "earlier": [
            {"stages": {"clap": {"step": 800, "lr": 4e-4}}},
            {"stages": {"vae": {"step": 1400}}, "corpus": [{"class": "rain", "clips": 7}]},
        ],
    }
    write_json(tmp_path / "model_card.json", card)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Mini\n\nSmall weights.\n")
    text = model_card(tmp_path / "model_card.json", tmp_path / "card.md").read_text()
    assert text.startswith("Small weights.")
    for part in (
        "| Parameters | 1,234,567 |",
        "| Frechet | 0.1235 |",
        "## Training",
        "| rain | CC0 | ann, bo |",
        "| dog\\|bark | MIT | <details><summary>5</summary>v, w, x, \\|, z</details> |",
        "- small",
        "## Earlier rounds",
        "| 1 | CLAP | 800 |  | 0.0004 |",
        "| 2 | VAE | 1400 |",
        "### Corpus of round 2\n\n| Class | Clips |",
    ):
        assert part in text
    with pytest.raises(InputError, match="no such model card"):
        model_card(tmp_path / "none.json")


def test_the_fidelity_page_tells_a_comparison_once(tmp_path):
    """A run with --full repeats what a plain one has compared at the same size."""
    row = {"what": "CLAP", "size": "base", "against": "laion-clap 1", "how": "live"}
    row |= {"difference": 5.2e-8, "scale": 0.13, "tolerance": 1e-5}
    write_json(tmp_path / "r.json", {"groups": {"base": [row], "full": [row]}, "notes": {}})
    fidelity_tables(tmp_path / "r.json", tmp_path / "f.md")
    text = (tmp_path / "f.md").read_text()
    assert text.count("| CLAP | base |") == 1
    assert "| --- | --- | ---: | ---: | ---: |" in text  # the style sheet keeps such columns in one line


def test_the_model_card_counts_a_recording_once_and_says_what_holds_of_licences(tmp_path):
    source = {
        "class": "rain",
        "licence": "GPL-3",
        "files": 2,
        "recordings": ["x/y/z/a", "a2"],
        "authors": ["ann"],
    }
    card = {
        "name": "mini",
        "machine": "x86_64, 1 threads, cpu",
        "real_clips": 6,
        "corpus": [
            {"kind": "procedural", "class": "rain", "clips": 5},
            {"kind": "real", "class": "rain", "clips": 6},
        ],
        "real_sources": [source],
        "stages": {"ldm": {"corpus_clips": 11, "corpus_real": 6}, "vae": {"corpus_real": 8}},
        "earlier": [{"stages": {"vae": {"step": 3, "corpus_clips": 9, "corpus_real": 4}}}],
        "files": {"unet/diffusion_pytorch_model.safetensors": "ab12"},
    }
    write_json(tmp_path / "model_card.json", card)
    text = model_card(tmp_path / "model_card.json", tmp_path / "card.md").read_text()
    for part in (
        "| Recordings | 2 clips of 2 recordings, each three times |",
        "| procedural | rain | 5 |",
        "| real | rain | 2 × 3 |",
        "| ldm | 11 | 2 × 3 |",
        "2 × 4",
        "| 1 | VAE | 3 |  |  |  | 9 | 2 × 2 |",
        "| file | SHA-256 |",
        "| `unet/diffusion_pytorch_model.safetensors` | `ab12` |",
        "released by us under Apache-2.0",
        "licence that it has: GPL-3.",
        "x86_64, 1 thread, cpu",
        "| Class | Licence | Files | Authors | Recordings |",
        "| rain | GPL-3 | 2 | ann | z/a, a2 |",
    ):
        assert part in text, part
    assert "Real clips" not in text


def test_the_model_card_says_how_long_it_takes(tmp_path):
    write_json(tmp_path / "model_card.json", {"name": "mini"})
    part = {"seconds": 101.6, "gb": 1.234}
    write_json(
        tmp_path / "family.json",
        {
            "generate": part | {"clips": 100, "steps": 25, "sampler": "ddim"},
            "finetune": part | {"steps": 300, "batch": 8, "lam": 1000.0},
            "commit": "abc",
            "device": "a CPU",
        },
    )
    page = tmp_path / "card.md"
    text = model_card(tmp_path / "model_card.json", page, times=tmp_path / "family.json").read_text()
    assert "| 100 clips, 25 steps of ddim, guidance 2, with loading | 102 | 1.23 |" in text
    assert "How long" not in model_card(tmp_path / "model_card.json", page, times=tmp_path / "no").read_text()


def test_the_model_card_can_be_heard(tmp_path, clip):
    """A row per class of real, reconstructed and generated sound, with the rule; no file, no such section."""
    write_json(tmp_path / "model_card.json", {"name": "mini"})
    items = [listening_item(clip, c, s, 0) for c in CLASSES for s in CARD_SYSTEMS]
    listen = write_listening_items(tmp_path / "listening.json", items, rule="The first clip.")
    where = {"static": tmp_path / "book" / "_static"}
    text = model_card(tmp_path / "model_card.json", tmp_path / "card.md", listen=listen, **where).read_text()
    assert text.count("<audio") == 21 and "The first clip." in text
    assert (tmp_path / "book" / "_static" / "audio" / "model_card").is_dir()
    without = model_card(
        tmp_path / "model_card.json", tmp_path / "card.md", listen=tmp_path / "absent.json", **where
    )
    assert "<audio" not in without.read_text()


def test_the_command_line_reports_bad_input_in_one_line(tmp_path):
    command = [sys.executable, "-m", "latentclap.book", "collect", str(tmp_path / "none.ipynb")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_command_line_makes_all_three_pages(tmp_path):
    clips = fake_book.players(tmp_path / "runs/audio")
    fake_book.executed_notebook(tmp_path / "runs/01_x.ipynb", clips, {})
    fake_book.listening_items(tmp_path / "runs/listening.json", clips)
    write_json(tmp_path / "card.json", {"name": "mini"})
    for arguments in (
        ["collect", "runs/01_x.ipynb"],
        ["listening", "runs/listening.json"],
        ["modelcard", "card.json"],
    ):
        subprocess.run([sys.executable, "-m", "latentclap.book", *arguments], check=True, cwd=tmp_path)
    assert (tmp_path / "book/notebooks/01_x.ipynb").is_file()
    assert (tmp_path / "book/generated/listening.md").is_file()
    assert (tmp_path / "book/generated/model_card.md").is_file()


# -------------------------------------------------------------------------- the book's own files


def test_the_table_of_contents_is_complete(repo_root):
    toc = yaml.safe_load((repo_root / "book/_toc.yml").read_text())
    pages = {toc["root"], *(entry["file"] for part in toc["parts"] for entry in part["chapters"])}
    prose = {page.stem for page in (repo_root / "book").glob("*.md")}
    prose |= {f"reference/{page.stem}" for page in (repo_root / "book/reference").glob("*.md")}
    assert prose == {page for page in pages if not page.startswith("notebooks/")}
    notebooks = {page.split("/")[1][:2] for page in pages if page.startswith("notebooks/")}
    assert notebooks == {f"0{k}" for k in range(8)}


def test_the_reference_has_nothing_on_two_pages(repo_root):
    """A source's page leads to where its module is described: what another page took over would lead nowhere."""
    text = "".join(page.read_text() for page in sorted((repo_root / "book/reference").glob("*.md")))
    shown = dict(re.findall(r"automodule:: latentclap\.(\S+)\n((?: +:.*\n)*)", text))
    assert {"losses", "diffusion", "audio"} < set(shown)
    for name, options in shown.items():
        path = repo_root.joinpath("src/latentclap", *name.split(".")).with_suffix(".py")
        tree = ast.parse((path if path.is_file() else path.with_suffix("") / "__init__.py").read_text())
        names = {target.id: node.value for node in tree.body if isinstance(node, ast.Assign)
                 for target in node.targets if isinstance(target, ast.Name)}  # fmt: skip
        public = ast.literal_eval(names["__all__"]) if "__all__" in names else []
        left_out = "".join(re.findall(r":exclude-members: (.*)", options)).split(", ")
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module.removeprefix("latentclap.") in shown:
                taken = {alias.name for alias in node.names} & set(public) - set(left_out)
                assert not taken, f"{name} shows {taken}, which is on the page of {node.module} too"


def test_the_words_used_here_are_in_order_and_each_leads_on(repo_root):
    text = (repo_root / "book/glossary.md").read_text(encoding="utf-8").split("```{glossary}\n")[1]
    entries = re.findall(r"^(\S.*)\n((?:  .*\n)+)", text, re.M)
    words = [word.replace("λ (lambda)", "lambda").lower() for word, _ in entries]
    assert len(words) > 40 and words == sorted(words)
    # to a page, a source or another word
    assert [word for word, told in entries if not re.search(r"\]\(|\{cite\}|\{term\}|ITU-R", told)] == []


def test_every_citation_is_in_the_bibliography(repo_root):
    known = set(re.findall(r"@\w+\{(\w+),", (repo_root / "book/references.bib").read_text()))
    for page in (repo_root / "book").glob("*.md"):
        for group in re.findall(r"\{cite(?::\w+)?\}`([\w,]+)`", page.read_text(encoding="utf-8")):
            assert set(group.split(",")) <= known, page.name


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "book/reuse.md"])
def test_code_in_prose_runs_as_it_stands(repo_root, page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some of it saves what it made
    blocks = python_blocks(repo_root / page)
    assert blocks
    for block in blocks:
        torch.manual_seed(0)
        names: dict = {}
        exec(compile(block, page, "exec"), names)
        loss = names.get("loss")
        if isinstance(loss, torch.Tensor):
            assert torch.isfinite(loss)
            assert all(p.grad.abs().sum() > 0 for p in names["unet"].parameters())
            assert all(p.grad is None for p in names["latent_clap"].phi.parameters())


def test_citation_file_names_the_paper_and_its_authors(repo_root):
    citation = yaml.safe_load((repo_root / "CITATION.cff").read_text(encoding="utf-8"))
    (paper,) = citation["references"]
    assert paper["authors"][0]["family-names"] == "Karchkhadze"
    assert len(paper["authors"]) == 8
    assert citation["license"] == "Apache-2.0"


@pytest.mark.slow
def test_a_number_that_no_notebook_made_fails_the_build(tmp_path, repo_root):
    book = tmp_path / "book"
    fake_book.make_sources(book, tmp_path / "scratch", repo_root)
    page = book / "reuse.md"
    page.write_text(page.read_text() + "\n{glue:text}`notebooks/04_table1.ipynb::no_such_key:.2f`\n")
    done = fake_book.build(book)
    assert done.returncode != 0
    assert "no_such_key" in done.stdout + done.stderr
