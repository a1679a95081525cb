"""Clips and sounds as the page has them, and what it says of each."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentclap.checkpoints import Sampling
from latentclap.classes import LABELS
from latentclap.finish import Finish
from latentclap.wording import plural


@dataclass
class Item:
    """A clip or sound on the page.

    Attributes:
        id: its number.
        kind: "clip", "take" or "sound", which is one of the user's.
        title: its heading.
        file: the file's name, under which it is downloaded.
        path: what is played, and downloaded.
        picture: its spectrogram; of an earlier session's clip it is drawn when it is asked for.
        word: of its folder.
        root: what its takes' files are called after.
        source: the file that takes of it are made of: of a user's sound the one that was given.
        told: more for the page.
        record: what a record says of the clip; a sound of the user's has none.
        maker: what made it, for a record.
        starred: the user wants to keep it.
        within: of an earlier session's clip, the folder in which its file has to lie; None: this session made it.
    """

    id: int
    kind: str
    title: str
    file: str
    path: Path
    picture: Path
    word: str
    root: str
    source: Path
    told: dict[str, Any]
    record: Mapping[str, Any] | None = None
    maker: dict[str, Any] = field(default_factory=dict)
    starred: bool = False
    within: Path | None = None

    @property
    def name(self) -> str:
        """Where a clip lies below the folder of clips."""
        return f"{self.word}/{self.file}"

    @property
    def there(self) -> bool:
        """Whether its file is there, and in its folder, which links may have changed since the start."""
        return self.path.is_file() if self.within is None else lies_in(self.path, self.within)

    def read(self) -> bytes:
        """The file that is played.

        Raises:
            OSError: it is not there any more.
        """
        if not self.there:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        return self.path.read_bytes()

    def entry(self) -> dict[str, Any]:
        """A clip's entry in a record."""
        return {"file": self.name, **(self.record or {}), **({"starred": True} if self.starred else {})}

    def page(self) -> dict[str, Any]:
        """What the page gets."""
        return {
            "id": self.id,
            "kind": self.kind,
            "title": self.title,
            "file": self.file,
            "sound": f"/clips/{self.id}.wav",
            "picture": f"/clips/{self.id}.png",
            "starred": self.starred,
            **self.told,
        }


def lies_in(path: Path, folder: Path) -> bool:
    """Whether there is a file that lies in a folder, links followed."""
    try:
        return path.is_file() and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    except (OSError, ValueError):
        return False


@dataclass(frozen=True)
class Asked:
    """What was asked for when a clip was made.

    Attributes:
        cls: one of the seven classes; empty for a text of one's own, or a take.
        text: what it was conditioned on.
        seed: of this clip.
        sampling: how it was sampled.
        finish: how it was finished.
        strength: of a take, how far it goes from its sound; None: it is none.
        sound: of a take, its sound's file.
        source: of a take, its sound's number on the page; None: it is not there.
    """

    cls: str
    text: str
    seed: int
    sampling: Sampling
    finish: Finish
    strength: float | None = None
    sound: str = ""
    source: int | None = None

    @property
    def title(self) -> str:
        """What the clip is called on the page."""
        return title_of(self.cls, self.text, self.sound)

    def told(self) -> dict[str, Any]:
        """What the page gets: how the clip was made, in words, and as fields of its form."""
        words = {} if self.strength is None else {"towards": self.text, "strength": self.strength}
        return {
            "seed": self.seed,
            "how": self.how(),
            "text": self.text,
            "loop": bool(self.finish.loop),
            "asked": {
                "what": "sound" if self.sound else self.cls or "prompt",
                **(words or {"prompt": "" if self.cls else self.text}),
                **self.sampling.asdict(),
                **self.finish.asked(),
                "source": self.source,
            },
        }

    def how(self) -> str:
        """How it was sampled and finished, in a few words."""
        chosen, finish = self.sampling, self.finish
        words = [] if self.strength is None else [f"strength {self.strength:g}"]
        words += [f"{chosen.sampler}, {plural(chosen.steps, 'step')}, guidance {chosen.guidance_scale:g}"]
        words += [f"looped over {finish.loop:g} ms"] if finish.loop else []
        words += [f"fades of {finish.fade:g} ms"] if finish.fade else []
        words += [f"at {finish.lufs:g} LUFS"] if finish.lufs is not None else []
        return ", ".join(words)


def title_of(cls: str, text: str, sound: str) -> str:
    """What a clip of a class, of a text, or a take of a sound's file is called on the page."""
    if sound:
        return f"take of {Path(sound).stem}"
    return LABELS[cls] if cls else f"“{text}”"
