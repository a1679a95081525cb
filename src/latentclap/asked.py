"""What the commands that make clips are asked for in the same way: texts and their folders, and the way of a clip."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latentclap.classes import CLASSES, canonical_class, prompt
from latentclap.errors import InputError
from latentclap.finish import Finish

if TYPE_CHECKING:
    from latentclap.lora import Adapter


#: the form of the paper's prompts; what is between is what a folder of such sounds is called
_FRAME = re.compile(r"this is a sound of (?P<what>.*\w.*)", re.IGNORECASE | re.DOTALL)


def named_texts(classes: str, prompts: Sequence[str]) -> dict[str, str]:
    """Folder name -> text: classes under their own name, prompts under a name made from their words.

    Of a prompt in the paper's form, "This is a sound of door slam.", the name is what is heard, ``door_slam``: as a
    folder of recordings has it from which such a prompt was made, so that the two can be compared.

    Args:
        classes: names with commas between them, or "all"; empty where there are prompts.
        prompts: texts instead.

    Raises:
        InputError: both or none of the two, an unknown class, or prompts without words of their own.
    """
    if bool(classes) == bool(prompts):
        raise InputError(f"give --classes (of {', '.join(CLASSES)}, or all) or --prompt, one of the two")
    if prompts:
        names = {_name(heard(text)): text for text in prompts}
        if len(names) < len(prompts):  # "rooster" and "This is a sound of rooster."
            names = {_name(text): text for text in prompts}
        if "" in names or len(names) < len(prompts):
            raise InputError("each --prompt needs words, and words that differ from the other prompts'")
        return names
    wanted = CLASSES if classes.strip() == "all" else [c for c in re.split(r"[,\s]+", classes) if c]
    try:
        return {cls: prompt(cls) for cls in map(canonical_class, wanted)}
    except ValueError as error:
        raise InputError(f"--classes: {error}") from None


def heard(text: str) -> str:
    """What a prompt in the paper's form names, "door slam." of "This is a sound of door slam."; else the text."""
    return found["what"] if (found := _FRAME.fullmatch(text.strip())) else text


def _name(words: str) -> str:
    """Words as the name of a folder."""
    return re.sub(r"\W+", "_", words.lower()).strip("_")[:60]


def way_of(finish: Finish, adapter: Adapter | None) -> dict[str, Any]:
    """What is asked beside sampler and seed, as plans and records have it: how clips are finished, and adapters."""
    lora = {"lora": {"file": adapter.path.name, "digest": adapter.digest}} if adapter else {}
    return finish.asked() | lora
