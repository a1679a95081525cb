"""Pages of the book that are made from files: the listening page's grids and the model card."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from latentclap.book.figures import SYSTEMS, canonical_system
from latentclap.book.grid import Listening, listening_grid
from latentclap.book.levels import Levelled, level_rows
from latentclap.book.markdown import cell, table, worded, words
from latentclap.book.media import Shelf
from latentclap.book.players import AudioFile
from latentclap.book.similarity import similarity_sentences
from latentclap.classes import CLASSES, LABELS, canonical_class, prompt
from latentclap.errors import InputError
from latentclap.files import read_json, write_json, write_text
from latentclap.recordings import REAL, copies, counted
from latentclap.recordings import heard as real_heard

#: Items of each class that the listening page must have, as many as notebook 04 has of the smallest set that it takes
MINIMUM_ITEMS = 2


@dataclasses.dataclass(frozen=True)
class Item:
    """One cell of the listening page: clip ``index`` of a class by a system."""

    cls: str
    system: str
    index: int
    audio: AudioFile
    score: float | None = None


def listening_item(audio: AudioFile, cls: str, system: str, index: int, score: float | None = None) -> Item:
    """Return an entry for :func:`write_listening_items`.

    Args:
        audio: what :func:`latentclap.book.save_player` returned, with its caption.
        cls: class, any spelling.
        system: a system of Table I, "real" or "reconstruction", any spelling.
        index: seed index of the clip; the same index is one row of the grid.
        score: CLAP similarity to the prompt.
    """
    return Item(canonical_class(cls), canonical_system(system), int(index), audio, score)


def write_listening_items(path: str | Path, items: Iterable[Item], *, rule: str) -> Path:
    """Write ``listening.json`` for the listening page; paths in it are relative to its folder.

    Args:
        path: the file, in the run folder, above the players.
        items: from :func:`listening_item`.
        rule: the sentence of :func:`latentclap.book.select_examples`.
    """
    path = Path(path)
    folder = path.parent.resolve()
    items = _levelled(items)

    def relative(file: Path | None) -> str | None:
        return None if file is None else Path(os.path.relpath(Path(file).resolve(), folder)).as_posix()

    entries = [
        {
            "cls": item.cls,
            "system": item.system,
            "index": item.index,
            "wave": relative(item.audio.path),
            "png": relative(item.audio.picture),
            "caption": item.audio.caption,
            "score": item.score,
        }
        for item in items
    ]
    write_json(path, {"rule": rule, "items": entries})
    return path


def _levelled(items: Iterable[Item]) -> list[Item]:
    """The items with the players of each class and index at one loudness: they become a row of the page."""
    items = list(items)
    rows: dict[tuple[str, int], list[int]] = {}
    for number, item in enumerate(items):
        rows.setdefault((item.cls, item.index), []).append(number)
    for key, row in level_rows({key: [items[i].audio for i in row] for key, row in rows.items()}).items():
        for i, audio in zip(rows[key], row.clips, strict=True):
            items[i] = dataclasses.replace(items[i], audio=audio)
    return items


# ----------------------------------------------------------------------------------- listening page


def listening_page(
    sources: Sequence[str | Path],
    out: str | Path = "book/generated/listening.md",
    static: str | Path = "book/_static",
    *,
    systems: Sequence[str] = SYSTEMS,
    classes: Sequence[str] = CLASSES,
    scale: str | Path | None = None,
) -> int:
    """Write the listening page's grids, a section per class, and copy their players; return how many.

    The file is included by ``listening.md`` in the parent folder of ``static``, from where its paths start.

    Args:
        sources: ``listening.json`` files; together they must hold every system for every class and index.
        out: the Markdown file to write.
        static: the book's ``_static``; players go to ``static/audio/listening/``.
        systems: the columns, in order.
        classes: the sections, in order.
        scale: what :func:`latentclap.book.similarity.measure_similarity` wrote; None: the page goes without.

    Raises:
        InputError: a source is missing or malformed, a cell is there twice, or one is missing.
    """
    cells, rules = read_items(sources)
    wanted = [canonical_system(system) for system in systems]
    _check_complete(cells, wanted, classes, sources)
    shelf, book = Shelf(static, "listening"), Path(static).parent
    told = similarity_sentences(scale) if scale else []
    # the first player in sight: what its numbers mean comes after the last one
    parts = [_links(LABELS[cls] for cls in classes), *(f"*{rule}*" for rule in rules), *told[:1]]
    levels: list[Levelled] = []
    for cls in classes:
        indices = sorted({index for c, _, index in cells if c == cls})
        clips = {(f"clip {i}", s): cells[cls, s, i].audio for i in indices for s in wanted}
        last = cls == classes[-1]
        grid = shelved_grid([f"clip {i}" for i in indices], wanted, clips, shelf, LABELS[cls], footnote=last)
        levels += grid.levels
        grid.levels = levels  # the line under the last grid speaks of all of them
        parts += [f"## {LABELS[cls].capitalize()}", f"Prompt: “{prompt(cls)}”", grid.html(book)]
    parts += ["## What the similarity means", *told[1:]] if told else []
    shelf.sweep()
    write_text(out, "\n\n".join(parts) + "\n")
    return shelf.players


def read_items(sources: Sequence[str | Path]) -> tuple[dict[tuple[str, str, int], Item], list[str]]:
    """Read listening.json files: (class, system, index) -> item, and the selection rules they state."""
    cells: dict[tuple[str, str, int], Item] = {}
    rules: list[str] = []
    for source in map(Path, sources):
        if not source.is_file():
            raise InputError(f"{source}: no such file; notebooks 03 and 04 write it into their run folder")
        content = read_json(source)
        entries = content.get("items") if isinstance(content, Mapping) else content
        if not isinstance(entries, list):
            raise InputError(f"{source}: expected a list of items, or an object with the key items")
        if isinstance(content, Mapping) and content.get("rule") and content["rule"] not in rules:
            rules.append(content["rule"])
        for number, entry in enumerate(entries):
            item = _item(entry, source, number)
            key = (item.cls, item.system, item.index)
            if key in cells:
                raise InputError(f"{source}, item {number}: {' / '.join(map(str, key))} is there twice")
            cells[key] = item
    return cells, rules


def _item(entry: Any, source: Path, number: int) -> Item:
    where = f"{source}, item {number}"
    try:
        cls, system = canonical_class(entry["cls"]), canonical_system(entry["system"])
        index, wave = int(entry["index"]), _existing(source.parent, entry["wave"], where)
    except (KeyError, TypeError) as error:
        raise InputError(f"{where}: needs cls, system, index and wave ({error})") from error
    except ValueError as error:  # an unknown class or system; InputError is one too
        raise InputError(f"{where}: {error}" if where not in str(error) else str(error)) from error
    png, score = entry.get("png"), entry.get("score")
    audio = AudioFile(wave, _existing(source.parent, png, where) if png else None, entry.get("caption") or "")
    if score is not None and "similarity" not in audio.caption:
        audio = audio.with_caption(audio.caption, score=score)
    return Item(cls, system, index, audio, score)


def _existing(folder: Path, name: str, where: str) -> Path:
    for path in (folder / name, Path(name)):
        if path.is_file():
            return path
    raise InputError(f"{where}: {name} is not there; run the notebook that writes {folder.name} again")


def _check_complete(
    cells: Mapping[tuple[str, str, int], Item], systems: Sequence[str], classes: Sequence[str], sources: Any
) -> None:
    names = ", ".join(str(source) for source in sources)
    missing = []
    for cls in classes:
        indices = sorted({index for c, _, index in cells if c == cls})
        if len(indices) < MINIMUM_ITEMS:
            missing.append(f"{cls}: {len(indices)} of at least {MINIMUM_ITEMS} clips")
        missing += [f"{cls} / {s} / {i}" for i in indices for s in systems if (cls, s, i) not in cells]
    if missing:
        raise InputError(f"listening page: {len(missing)} missing in {names}: {'; '.join(missing[:5])}")


def shelved_grid(
    rows: Sequence[str],
    columns: Sequence[str],
    clips: Mapping[tuple[str, str], AudioFile],
    shelf: Shelf,
    title: str,
    *,
    footnote: bool,
) -> Listening:
    """A grid with its players on the shelf; items of older runs may still have to be levelled."""
    with TemporaryDirectory() as folder:
        grid = listening_grid(rows, columns, clips, title=title, footnote=footnote, folder=folder)
        grid.cells = {key: _shelved(clip, shelf) for key, clip in grid.cells.items()}
    return grid


def _shelved(audio: AudioFile, shelf: Shelf) -> AudioFile:
    picture = shelf.put(audio.picture) if audio.picture else None
    return dataclasses.replace(audio, path=shelf.put(audio.path), picture=picture)


# --------------------------------------------------------------------------------------- model card


#: what the model card lets one hear
CARD_SYSTEMS = ("Real Audio", "Reconstruction", "Pretrained")


def model_card(
    card: str | Path,
    out: str | Path = "book/generated/model_card.md",
    *,
    times: str | Path | None = None,
    listen: str | Path | None = None,
    static: str | Path = "book/_static",
) -> Path:
    """Write the model card's page from the card that ships with the weights.

    Args:
        card: ``model_card.json``; a ``README.md`` beside it comes first, as text, then the figures of
            ``quality.json`` and ``samplers.json``.
        out: the Markdown file to write.
        times: what ``data_scripts/benchmarks/family.py`` wrote; may be absent.
        listen: a ``listening.json`` with the clips of :data:`CARD_SYSTEMS`, as notebook 03 writes it; may be absent.
        static: the book's ``_static``; players go to ``static/audio/model_card/``.

    Raises:
        InputError: the card is not there or not a JSON object.
    """
    card = Path(card)
    if not card.is_file():
        raise InputError(
            f"{card}: no such model card; data_scripts/pretrain_mini.py writes it with the weights"
        )
    content = read_json(card)
    if not isinstance(content, Mapping):
        raise InputError(f"{card}: a model card is a JSON object, not a {type(content).__name__}")
    from latentclap.book.quality import quality_sections, sampler_sections, speed_sections

    readme = card.with_name("README.md")
    measured = quality_sections(card.with_name("quality.json"))
    measured += sampler_sections(card.with_name("samplers.json"), Path(out).with_name("samplers.png"))
    measured += speed_sections(times) if times else []
    heard = _card_grid(listen, static) if listen and Path(listen).is_file() else []
    text = _as_section(readme.read_text(encoding="utf-8")) if readme.is_file() else ""
    parts = "\n\n".join(filter(None, (*heard, *measured, *_licence(content), *_sections(_once(content)))))
    links = _links(re.findall(r"^## (.+)$", parts, re.MULTILINE))
    # records of earlier versions count "1 threads"
    page = re.sub(r"\b1 threads\b", "1 thread", "\n\n".join(filter(None, (text, links, parts))))
    write_text(out, f"{page}\n")
    return Path(out)


def _links(sections: Iterable[str]) -> str:
    """A line of links to a page's sections, for pages that show no list of contents."""
    from docutils.nodes import make_id  # part of the extra [book], as Sphinx names the sections

    links = (f'<a href="#{make_id(name)}">{name}</a>' for name in sections)
    return f'<p class="lc-nav">{" · ".join(links)}</p>'


def _licence(content: Mapping[str, Any]) -> list[str]:
    """What may be done with the weights, and whose recordings they heard; nothing for a card without recordings."""
    sources = content.get("real_sources")
    if not sources:
        return []
    listed = sorted({row.get("licence", "not stated") for row in sources})
    return [
        "## Licence",
        "The weights are released by us under Apache-2.0. They were trained on procedural sounds and on recordings"
        f" ({real_heard(content.get('corpus', []), sources)}), and each recording keeps the licence that it has:"
        f" {', '.join(listed)}. The table under *Real sources* lists them all, with their authors. Neither this"
        " repository nor the weights' files contain the recordings.",
        "What the licence of a recording means for weights that were trained on it is not settled, and some of these"
        " ask for attribution, for the same licence on derived works, or leave open what they allow. Look at the list"
        " before you redistribute the weights or use them commercially.",
    ]


def _once(content: Mapping[str, Any]) -> dict[str, Any]:
    """The card with recordings counted once: rows of its corpora hold each of them several times."""
    out, corpus, sources = {}, content.get("corpus", []), content.get("real_sources", [])
    for key, value in content.items():
        if key in ("real_clips", "real_copies"):
            if "recordings" not in out and (told := real_heard(corpus, sources)):
                out["recordings"] = told
        elif key == "corpus":
            out[key] = _corpus_once(value, sources)
        elif key == "stages":
            out[key] = _stages_once(value, sources)
        elif key == "earlier":
            out[key], had = [], sources
            for told in value:
                had = told.get("real_sources", had)
                again = {"corpus": _corpus_once(told["corpus"], had)} if "corpus" in told else {}
                out[key].append({**told, "stages": _stages_once(told.get("stages") or {}, had), **again})
        else:
            out[key] = value
    return out


def _corpus_once(
    corpus: Sequence[Mapping[str, Any]], sources: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of a corpus with "14 × 3" in place of the 42 clips that 14 recordings are, each in it three times."""
    rows = sum(row.get("clips", 0) for row in corpus if row.get("kind") == REAL)
    often = copies(rows, counted(sources)[0])

    def once(row: Mapping[str, Any]) -> dict[str, Any]:
        n = row.get("clips", 0)
        if row.get("kind") != REAL or not often or n % often:
            return dict(row)
        return {**row, "clips": f"{n // often} × {often}"}

    return [once(row) for row in corpus]


def _stages_once(
    stages: Mapping[str, Mapping[str, Any]], sources: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    clips, _ = counted(sources)
    out = {}
    for name, stage in stages.items():
        often = copies(stage.get("corpus_real", 0), clips)
        out[name] = {**stage, "corpus_real": f"{clips} × {often}"} if often else dict(stage)
    return out


def _card_grid(source: str | Path, static: str | Path) -> list[str]:
    """One clip per class: real, reconstructed, generated, with the line that says how they were chosen."""
    cells, rules = read_items([source])
    shelf = Shelf(static, "model_card")
    clips = {(LABELS[c], s): item.audio for (c, s, _), item in cells.items() if s in CARD_SYSTEMS}
    rows = [LABELS[c] for c in CLASSES if (LABELS[c], CARD_SYSTEMS[0]) in clips]
    grid = shelved_grid(
        rows, CARD_SYSTEMS, clips, shelf, "what the shipped networks sound like", footnote=True
    )
    shelf.sweep()
    return [
        "## What it sounds like",
        f"Held-out clips of the data that this book was built with, the same through VAE and vocoder, and what the"
        f" networks generate from the paper's prompts without fine-tuning. {' '.join(rules)}",
        grid.html(Path(static).parent),
    ]


def _as_section(markdown: str) -> str:
    """A README as part of a page: no YAML front matter, no title of its own, code blocks untouched."""
    body = re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL).strip()
    return re.sub(r"\A# .*\n+", "", body)


def _sections(content: Mapping[str, Any]) -> list[str]:
    """Scalars of the card in one table, everything deeper under a heading of its own."""
    scalars = {key: value for key, value in content.items() if not isinstance(value, Mapping | list)}
    parts = ["## Facts", table(("entry", "value"), map(worded, scalars.items()))] if scalars else []
    for key, value in content.items():
        if key == "earlier" and value:
            parts += _rounds(value)
        elif key == "files" and isinstance(value, Mapping):
            rows = ((f"`{name}`", f"`{digest}`") for name, digest in value.items())
            parts += ["## Files", table(("file", "SHA-256"), rows)]
        elif key == "real_sources" and value:
            parts += [f"## {words(key)}", _sources(value)]
        elif isinstance(value, Mapping | list) and value:
            parts += [f"## {words(key)}", _render(value)]
    return parts


def _sources(rows: Sequence[Mapping[str, Any]]) -> str:
    """Recordings with their authors in sight, and no more of a recording's path than its last two names."""
    order = ("class", "source", "licence", "files", "authors", "recordings")
    columns = [*(c for c in order if any(c in row for row in rows)), *sorted({*rows[0]} - {*order})]
    told = (
        {**row, "recordings": ["/".join(str(r).split("/")[-2:]) for r in row.get("recordings", [])]}
        for row in rows
    )
    lines = _columns(columns, told)
    return f":::{{div}} lc-wrap\n\n{lines}\n\n:::"


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rounds of training before the last one, the latest first: their stages in one table, then data of their own."""
    columns = ("step", "batch_size", "lr", "seconds", "corpus_clips", "corpus_real")
    rows = [
        (i, words(name), *(stage.get(column, "") for column in columns))
        for i, entry in enumerate(rounds, 1)
        for name, stage in (entry.get("stages") or {}).items()
    ]
    parts = [
        "## Earlier rounds",
        "What each part began with: rounds of training before the one above, which is round 0; the latest first."
        " Unless stated below, round k used the corpus of round k - 1. *Corpus clips* counts a recording as often as"
        " the corpus holds it; *corpus real* is recorded clips × how often each is in it.",
        table(("round", "stage", *map(words, columns)), rows),
    ]
    for i, entry in enumerate(rounds, 1):
        for key in ("corpus", "real_sources"):
            if entry.get(key):
                show = _sources if key == "real_sources" else _render
                parts += [f"### {words(key)} of round {i}", show(entry[key])]
    return parts


def _render(value: Any) -> str:
    if isinstance(value, Mapping) and all(isinstance(entry, Mapping) for entry in value.values()):
        value = [{"name": key, **entry} for key, entry in value.items()]
    if isinstance(value, Mapping):
        return table(("entry", "value"), map(worded, value.items()))
    if all(isinstance(entry, Mapping) for entry in value):
        return _columns(list(dict.fromkeys(key for entry in value for key in entry)), value)
    return "\n".join(f"- {cell(entry)}" for entry in value)


def _columns(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table of entries under the same keys; classes in words."""

    def told(row: Mapping[str, Any], column: str) -> Any:
        value = row.get(column, "")
        return LABELS.get(value, value.replace("_", " ")) if column == "class" else value

    return table([words(c) for c in columns], ([told(row, c) for c in columns] for row in rows))
