"""The pages of a survey: one for each class, and the list of them."""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from latentclap import papers
from latentclap.files import write_text
from latentclap.survey.form import RatedClip, page, survey_form

#: Names of pages that are taken: that of the list, and what Windows keeps for devices.
RESERVED = frozenset(
    {"index", "con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
)

INTRO = (
    "You will hear {n} short sounds, one after the other, and rate each for its audio quality and for how well it"
    " fits “{label}”, from {low} to {high}. Use headphones, and set your volume with the first clips: all have one"
    " loudness.",
    "You may hear a clip as often as you like. Answers are kept in this browser: you may stop, and go on later.",
)
#: where one is
SILENT = "A clip may be silent, which is no fault of the page: rate it, too, as you hear it."
SAVING = "If you were asked for your ratings as a file, save it and send it to whoever invited you."


def _stem(cls: str) -> str:
    """What a class's page is called, without suffix: its own name, or a like one where that is none for a file."""
    if re.fullmatch(r"[a-z0-9_]{1,60}", cls) and cls not in RESERVED:
        return cls
    simple = unicodedata.normalize("NFKD", cls).encode("ascii", "ignore").decode()
    return f"{simple[:40].strip('_') or 'class'}-{hashlib.sha256(cls.encode()).hexdigest()[:8]}"


def write_page(
    folder: Path,
    cls: str,
    label: str,
    names: Sequence[str],
    intro: Sequence[str],
    thanks: Sequence[str],
    send_to: str,
    silent: bool = False,
) -> Path:
    """Write the page of a class; return where it is.

    Args:
        folder: of the pages, with ``clips/`` in it.
        cls: the class, by its `class_key`.
        label: the words for it that raters read.
        names: of its clips.
        intro: see `make_survey`, as ``thanks`` and ``send_to``.
        silent: whether one of its clips is; raters are told.
    """
    low, high = papers.LISTENING_DESIGN["scale_low"], papers.LISTENING_DESIGN["scale_high"]
    own = [text.format(n=len(names), label=label, low=low, high=high) for text in INTRO]
    title = f"Listening test: {label}"
    form = survey_form(
        [RatedClip(name, cls, f"clips/{name}.wav") for name in names],
        study=f"{_stem(cls)}-{names[0]}",
        title=title,
        intro=[*intro, *own, *([SILENT] if silent else [])],
        saving="" if send_to else SAVING,
        thanks=thanks,
        send_to=send_to,
        labels={cls: label},
    )
    path = folder / f"{_stem(cls)}.html"
    write_text(path, page(form, title))
    return path


def write_index(folder: Path, pages: Mapping[str, Path], labels: Mapping[str, str]) -> None:
    """Write the list of the pages, {class: page}, under the words for the classes."""
    links = "".join(
        f'<li><a href="{path.name}">{html.escape(labels[cls])}</a></li>\n' for cls, path in pages.items()
    )
    title = "Listening tests"
    body = f"<h1>{title}</h1>\n<p>One for each class of sounds.</p>\n<ul>\n{links}</ul>\n"
    write_text(folder / "index.html", page(body, title))
