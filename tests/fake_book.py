"""The real book's configuration and pages around small executed notebooks that are made here, not run.

Used where no `make book` has been run: everything but the notebooks' content is what readers get.
"""

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from latentclap.book import (
    SYSTEMS,
    AudioFile,
    figure_style,
    listening_grid,
    listening_item,
    paper_beside,
    provenance_line,
    save_player,
    select_examples,
    write_listening_items,
)
from latentclap.book.badinput import bad_input_page
from latentclap.book.collect import collect_notebook
from latentclap.book.commands import commands_page
from latentclap.book.compare import compare_page
from latentclap.book.fidelity import fidelity_tables
from latentclap.book.forgetting import forgetting_page
from latentclap.book.longer import longer_page
from latentclap.book.loops import loops_page
from latentclap.book.lora import lora_tables
from latentclap.book.own import own_page
from latentclap.book.pages import listening_page, model_card
from latentclap.book.predictions import predictions_page
from latentclap.book.rating import rating_page
from latentclap.book.scale import cache_table, cost_tables
from latentclap.book.speed import speed_page
from latentclap.book.start import start_page
from latentclap.book.vary import vary_page
from latentclap.classes import CLASSES
from latentclap.files import write_json

GLUE = re.compile(r"\{glue:text\}`notebooks/(\w+)\.ipynb::(\w+)(:[^`]*)?`")


def tone(frequency: float, seconds: float = 2.0, sr: int = 16000) -> np.ndarray:
    """A decaying tone (samples,)."""
    t = np.arange(round(seconds * sr)) / sr
    return (0.3 * np.sin(2 * np.pi * frequency * t) * np.exp(-t)).astype(np.float32)


def glue_keys(book: Path) -> dict[str, dict[str, str]]:
    """Notebook -> {key: format} of every number that a page's prose refers to."""
    keys: dict[str, dict[str, str]] = {}
    for page in book.glob("*.md"):
        for name, key, form in GLUE.findall(page.read_text(encoding="utf-8")):
            keys.setdefault(name, {})[key] = form
    return keys


def glued(key: str, value: object) -> dict:
    """What `myst_nb.glue(key, value, display=False)` leaves in a notebook."""
    prefix = "application/papermill.record/"
    return new_output(
        "display_data",
        data={prefix + "text/plain": repr(value)},
        metadata={"scrapbook": {"name": key, "mime_prefix": prefix}},
    )


def players(folder: Path, count: int = 3) -> list[AudioFile]:
    """A few players with pictures in a run's folder."""
    return [
        save_player(tone(220 * 2**k), 16000, folder / f"tone_{k}.{'ogg' if k % 2 else 'mp3'}").with_caption(
            prompt="This is a sound of rain.", seed=k, guidance_scale=2.0, score=0.31
        )
        for k in range(count)
    ]


def executed_notebook(path: Path, clips: list[AudioFile], keys: dict[str, str]) -> Path:
    """An executed notebook with a grid, a figure, mathematics, a table and glued values."""
    figure_style()
    picture = path.with_suffix(".png")
    figure, axis = plt.subplots()
    axis.plot([0, 1, 2], [3, 1, 2], label="LDM")
    axis.set(xlabel="step n", ylabel="w(n)")
    axis.legend()
    figure.savefig(picture)
    plt.close(figure)
    grid = listening_grid(
        ["clip 0", "clip 1"],
        list(SYSTEMS),
        {(f"clip {i}", s): clips[(i + k) % len(clips)] for i in range(2) for k, s in enumerate(SYSTEMS)},
        title="rain",
    )
    line = provenance_line(
        {"profile": "quick", "seed": 0, "device": "cpu", "commit": "0" * 40, "wall_s": 61.0}
    )
    ours = pd.DataFrame({cls: [1.234, 5.678] for cls in CLASSES}, index=["Real Audio", "LDM"])
    table = paper_beside(ours, ours + 1, ours_label="this run (quick)").to_html() + ours.style.to_html()
    png = base64.b64encode(picture.read_bytes()).decode()
    values = [glued(key, "quick" if form == ":s" else 1.5) for key, form in keys.items()]
    outputs = [
        [new_output("stream", name="stdout", text="resolved config: lam = 1000.0\n")],
        [
            new_output(
                "execute_result",
                {"text/html": grid.html(path.parent), "text/plain": "grid"},
                execution_count=2,
            )
        ],
        [new_output("display_data", {"image/png": png, "text/plain": "figure"})],
        [
            new_output(
                "execute_result",
                {"text/html": line._repr_html_(), "text/plain": str(line)},
                execution_count=4,
            )
        ],
        [new_output("execute_result", {"text/html": table, "text/plain": "table"}, execution_count=5)],
        values,
    ]
    sources = [
        "lam = 1000.0",
        "listening_grid(...)",
        "plot(...)",
        "provenance_line(...)",
        "paper_beside(...)",
        "glue",
    ]
    cells = [
        new_markdown_cell(
            f"# {path.stem}\n\nThe loss is $w(n) = 10^{{-n/200}}$ and $$L = L_1 + \\lambda L_2 .$$"
        ),
        *(
            new_code_cell(source, outputs=output, execution_count=k + 1)
            for k, (source, output) in enumerate(zip(sources, outputs, strict=True))
        ),
    ]
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
    return path


def listening_items(path: Path, clips: list[AudioFile], count: int = 3) -> Path:
    """A complete listening.json: every class, system and index, over a few files."""
    _, rule = select_examples(20, count)
    items = [
        listening_item(clips[(k + i) % len(clips)], cls, system, i, score=0.3)
        for cls in CLASSES
        for k, system in enumerate(SYSTEMS)
        for i in range(count)
    ]
    return write_listening_items(path, items, rule=rule)


def make_sources(book: Path, scratch: Path, repo_root: Path) -> None:
    """Copy the book's own sources and fill in what a run would have made."""
    made = shutil.ignore_patterns("_build", "notebooks", "generated", "audio", "figures", "runs")
    shutil.copytree(repo_root / "book", book, ignore=made)
    scratch.mkdir(parents=True, exist_ok=True)
    clips = players(scratch / "audio")
    keys = glue_keys(book)
    toc = yaml.safe_load((book / "_toc.yml").read_text())
    pages = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    for name in (page.split("/")[1] for page in pages if page.startswith("notebooks/")):
        executed = executed_notebook(scratch / f"{name}.ipynb", clips, keys.get(name, {}))
        collect_notebook(executed, book / "notebooks", book / "_static", base=scratch)
    items = [listening_items(scratch / "listening.json", clips)]
    listening_page(items, book / "generated/listening.md", book / "_static")
    table1, fig3 = (repo_root / f"book/runs/{name}_evening.json" for name in ("table1", "fig3"))
    start_page(items, table1, fig3, book / "generated/start.md", book / "_static")
    loops_page(items, book / "generated/loops.md", book / "_static")
    rating_page(items, book / "generated/rate.md", book / "_static")
    card = {
        "name": "mini",
        "parameters": 12345,
        "licence": "Apache-2.0",
        "data": [{"class": "rain", "clips": 3}],
    }
    write_json(scratch / "model_card.json", card)
    model_card(scratch / "model_card.json", book / "generated/model_card.md")
    # these results are the real ones: no run of the notebooks makes them
    fidelity_tables(repo_root / "tests/fidelity/results.json", book / "generated/fidelity.md")
    bad_input_page(repo_root / "book/runs/bad_input.json", book / "generated/bad_input.md")
    cost_tables(repo_root / "book/runs/rates.json", book / "generated/cost.md")
    cache_table(repo_root / "book/runs/cache_rate.json", book / "generated/cache_rate.md")
    commands_page(book / "generated/commands.md", {"latentclap": "latentclap.cli"})
    for page, record in (("longer", "table1"), ("longer_eq3", "ablation"), ("longer_fig3", "fig3")):
        longer_page(repo_root / f"book/runs/{record}_evening.json", book / f"generated/{page}.md")
    own_page(repo_root / "book/runs/own", book / "generated/own.md", book / "_static")
    vary_page(repo_root / "book/runs/vary", book / "generated/vary.md", book / "_static")
    compare_page(
        repo_root / "book/runs/compare_evening.json",
        repo_root / "book/runs/compare_real.json",
        repo_root / "book/runs/measures.json",
        book / "generated/compare.md",
    )
    forgetting_page(repo_root / "book/runs/forgetting.json", book / "generated/forgetting.md")
    lora_tables(repo_root / "book/runs/lora.json", book / "generated/lora.md")
    predictions_page(book / "generated/predictions.md")
    speed_page(sorted((repo_root / "book/runs").glob("speed*.json")), book / "generated/speed.md")


def build(book: Path) -> subprocess.CompletedProcess:
    """Build with warnings as errors, as `make book` does."""
    command = [
        str(Path(sys.executable).parent / "jupyter-book"),
        "build",
        str(book),
        "-W",
        "-n",
        "--keep-going",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)
