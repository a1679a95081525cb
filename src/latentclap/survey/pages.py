"""The pages of a survey: one for each class, and one that leads to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from latentclap import papers
from latentclap.classes import LABELS
from latentclap.files import write_text
from latentclap.survey.form import RatedClip, page, survey_form

INTRO = (
    "You will hear {n} short sounds, one after the other, and rate each for its audio quality and for how well it"
    " fits “{label}”, from {low} to {high}. Use headphones, and set your volume with the first clips: all have one"
    " loudness.",
    "You may hear a clip as often as you like. Answers are kept in this browser: you may stop, and go on later.",
)
SAVING = "If you were asked for your ratings as a file, save it and send it to whoever invited you."


def write_page(
    folder: Path, cls: str, names: Sequence[str], intro: Sequence[str], thanks: Sequence[str], send_to: str
) -> Path:
    """Write the page of a class; return it.

    Args:
        folder: of the pages; sound files are in ``clips/`` there.
        cls: the class.
        names: of its clips.
        intro: paragraphs before the page's own.
        thanks: paragraphs for whoever has rated every clip.
        send_to: address for complete ratings; empty: raters save a file.
    """
    low, high = papers.LISTENING_DESIGN["scale_low"], papers.LISTENING_DESIGN["scale_high"]
    own = [text.format(n=len(names), label=LABELS[cls], low=low, high=high) for text in INTRO]
    title = f"Listening test: {LABELS[cls]}"
    form = survey_form(
        [RatedClip(name, cls, f"clips/{name}.wav") for name in names],
        study=f"{cls}-{names[0]}",
        title=title,
        intro=[*intro, *own],
        saving="" if send_to else SAVING,
        thanks=thanks,
        send_to=send_to,
    )
    path = folder / f"{cls}.html"
    write_text(path, page(form, title))
    return path


def write_index(folder: Path, pages: Mapping[str, str]) -> None:
    """Write ``index.html``.

    Args:
        folder: of the pages.
        pages: {class: its page's name}.
    """
    links = "".join(f'<li><a href="{name}">{LABELS[cls]}</a></li>\n' for cls, name in pages.items())
    title = "Listening tests"
    body = f"<h1>{title}</h1>\n<p>One for each class of sounds.</p>\n<ul>\n{links}</ul>\n"
    write_text(folder / "index.html", page(body, title))
