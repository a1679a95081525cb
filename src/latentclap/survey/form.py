"""The form of a listening test as HTML: its data, style and script in one block, which asks no other machine."""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from latentclap import papers
from latentclap.errors import InputError
from latentclap.naming import spoken

#: The two questions, as the page asks them: {column: (text, what 0 means, what 10 means)}. The paper names what was
#: rated and the scale (V-C), its authors' repository that 0 stood for the lowest possible quality or fit and 10 for
#: the highest; the wording is not public.
QUESTIONS: dict[str, tuple[str, str, str]] = {
    "quality": ("How good is the audio quality?", "very bad", "excellent"),
    "relevance": ("How well does the clip fit “{class}”?", "not at all", "perfectly"),
}


@dataclasses.dataclass(frozen=True)
class RatedClip:
    """A clip of a listening test.

    Attributes:
        id: its name in the ratings, which tells nothing of the system.
        cls: class.
        src: URL of the sound file, from the page.
        model: the system; empty in a blind survey, whose key says it.
        item: number of the clip among those of its system and class; empty as ``model``.
    """

    id: str
    cls: str
    src: str
    model: str = ""
    item: str = ""


def survey_form(
    clips: Sequence[RatedClip],
    *,
    study: str,
    title: str,
    intro: Sequence[str],
    saving: str = "",
    thanks: Sequence[str] = (),
    send_to: str = "",
    caveat: str = "",
    labels: Mapping[str, str] | None = None,
) -> str:
    """Return the HTML of a form that plays clips one by one and asks :data:`QUESTIONS` of each.

    Where the clips name their systems, the page shows a rater's means per system at the end, beside the paper's.

    Args:
        clips: of one class or several; each class is gone through by itself, in an order of the rater's own.
        study: name of the study in the ratings, and of what the browser keeps of them.
        title: heading of the first screen.
        intro: its paragraphs.
        saving: what to do with a saved file, said wherever a rater stops.
        thanks: paragraphs of the last screen, once nothing is left: a code of completion, say.
        send_to: address to which complete ratings are sent as text/csv by POST; empty: raters save a file.
        caveat: a sentence under the table of means.
        labels: {class: the words that raters read}; of others, those of its name.

    Raises:
        InputError: no clips, an id that is there twice, or systems that are named for some clips only.
    """
    ids = [clip.id for clip in clips]
    if not clips or len(set(ids)) != len(ids):
        raise InputError(
            f"a listening test takes at least one clip, each with an id of its own, not {len(ids)}"
        )
    known = {bool(clip.model) for clip in clips}
    if len(known) > 1:
        raise InputError("a listening test names the systems of all of its clips or of none")
    classes = list(dict.fromkeys(clip.cls for clip in clips))
    low, high = papers.LISTENING_DESIGN["scale_low"], papers.LISTENING_DESIGN["scale_high"]
    data: dict[str, Any] = {
        "study": study,
        "title": title,
        "intro": list(intro),
        "saving": saving,
        "thanks": list(thanks),
        "send": send_to,
        "caveat": caveat,
        "scale": [low, high],
        "questions": [
            {"name": name, "text": text, "low": worst, "high": best}
            for name, (text, worst, best) in QUESTIONS.items()
        ],
        "classes": [{"name": cls, "label": (labels or {}).get(cls) or spoken(cls)} for cls in classes],
        "clips": [
            {key: value for key, value in dataclasses.asdict(clip).items() if value != ""} for clip in clips
        ],
    }
    if known == {True}:
        data |= {"paper": _published(), "t": _t_quantiles(len(clips))}
    # "</script>" in a text must not end the block, nor "<!--<script>" keep it from ending
    told = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    script, style = (_part(name) for name in ("rate.js", "rate.css"))
    # in Markdown, a block that begins with <div> ends at an empty line, one that begins with <script> at its end
    return (
        f'<style>\n{style}</style>\n\n<div class="lc-rate"><noscript><p>This page asks by a script; allow it, and'
        f" load the page again.</p></noscript>\n"
        f'<script type="application/json">{told}</script></div>\n\n'
        f"<script>\n{script}</script>\n"
    )


def page(form: str, title: str) -> str:
    """A page of its own around a form."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="robots" content="noindex">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n"
        "<style>body { margin: 1rem auto; max-width: 50rem; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif;"
        " overflow-wrap: break-word; }</style>\n</head>\n"
        f"<body>\n<main>\n{form}</main>\n</body>\n</html>\n"
    )


def _part(name: str) -> str:
    return files("latentclap.survey").joinpath(name).read_text(encoding="utf-8")


def _published() -> dict[str, dict[str, float]]:
    """Table II: {model: {question: mean}}."""
    return {
        model: {question: papers.TABLE_2[question][k] for question in papers.QUESTIONS}
        for k, model in enumerate(papers.MODELS)
    }


def _t_quantiles(n: int) -> list[float]:
    """97.5 % quantiles of Student's t for 1 to n degrees of freedom: the script has none."""
    from scipy.stats import t

    return [round(float(value), 4) for value in t.ppf(0.975, range(1, max(2, n)))]
