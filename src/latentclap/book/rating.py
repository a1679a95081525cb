"""The page on which a reader rates the book's own clips blind, as the paper's listeners did (section V-C)."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from latentclap import papers
from latentclap.book.figures import canonical_system
from latentclap.book.pages import read_items
from latentclap.classes import CLASSES, LABELS
from latentclap.errors import InputError
from latentclap.files import atomic_path, file_sha256, write_text
from latentclap.survey import RatedClip, survey_form

INTRO = (
    "You will hear one clip after the other, of three systems in an order that is drawn for you, and rate each for"
    " its audio quality and for how well it fits its class, from 0 to 10. When you stop, you see your means of"
    " each system beside the paper's.",
    "Use headphones. A class takes a minute or two. Nothing is sent: your answers are kept in this browser.",
)
CAVEAT = (
    "One rater, small models, few clips: the 95 % intervals are over the clips that you rated, and tell how you hear"
    " these clips, not whether the systems differ. The paper's means are of 40 listeners a class and of its own"
    " systems."
)


def rating_page(
    sources: Sequence[str | Path],
    out: str | Path = "book/generated/rate.md",
    static: str | Path = "book/_static",
) -> int:
    """Write the form over the clips of the listening page that Table II compares; return how many there are.

    The sound files are copied under names that tell nothing.

    Args:
        sources: ``listening.json`` files of notebook 04.
        out: the Markdown file to write, included by a page in the parent folder of ``static``.
        static: the book's ``_static``; clips go to ``static/audio/rate/``.

    Raises:
        InputError: a source is missing or malformed, or has no clips of one of the systems.
    """
    cells, _ = read_items(sources)
    systems = {canonical_system(model): model for model in papers.MODELS}
    book, folder = Path(static).parent, Path(static) / "audio" / "rate"
    shutil.rmtree(folder, ignore_errors=True)
    clips = []
    for cls in CLASSES:
        own = sorted(key for key in cells if key[0] == cls and key[1] in systems)
        if {system for _, system, _ in own} != set(systems):
            named = ", ".join(str(source) for source in sources)
            raise InputError(f"{named}: {LABELS[cls]} lacks clips of {' or '.join(systems)}; run notebook 04")
        for key in own:
            wave = cells[key].audio.path
            told = f"{file_sha256(wave)}/{'/'.join(map(str, key))}"
            name = hashlib.sha256(told.encode()).hexdigest()[:8]
            target = folder / f"{name}{wave.suffix}"
            with atomic_path(target) as temporary:
                shutil.copyfile(wave, temporary)
            src = target.relative_to(book).as_posix()
            clips.append(RatedClip(name, cls, src, systems[key[1]], str(key[2])))
    clips.sort(key=lambda clip: (CLASSES.index(clip.cls), clip.id))
    every = hashlib.sha256("".join(clip.id for clip in clips).encode()).hexdigest()[:8]
    form = survey_form(clips, study=f"book-{every}", title="Which sounds better?", intro=INTRO, caveat=CAVEAT)
    write_text(out, form)
    return len(clips)
