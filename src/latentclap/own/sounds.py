"""The sounds of a folder: which train, which are held out, and what their captions say."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from latentclap.cache import Item, Part, list_clips
from latentclap.cache.exclude import EXCLUDED
from latentclap.cache.source import clips_source
from latentclap.errors import InputError
from latentclap.files import plain
from latentclap.generation import RECORD
from latentclap.scan.layout import SPLITS, find, visible

#: clips of a shard
PER_SHARD = 1000


@dataclass(frozen=True)
class Sounds:
    """Sounds of one's own.

    Attributes:
        folder: where they are.
        layout: how their captions were found, see ``cache.list_clips``.
        train: those that train, and those that cannot be used, which the cache lists with their reasons.
        held_out: those that are only measured.
    """

    folder: Path
    layout: str
    train: tuple[Item, ...]
    held_out: tuple[Item, ...]

    @property
    def usable(self) -> list[Item]:
        """Those that train, as far as the listing can tell."""
        return [item for item in self.train if not item.problem]

    @property
    def captions(self) -> list[str]:
        """The captions of those that train, each once: the most frequent first, then as they come."""
        return [text for text, _ in Counter(item.caption for item in self.usable).most_common()]

    @property
    def digest(self) -> str:
        """Of names, captions and sizes: of another one nothing that was made of these holds."""
        told = [clips_source(part)["digest"] for part in (self.train, self.held_out)]
        return hashlib.sha256(" ".join(told).encode()).hexdigest()

    def parts(self, side: str) -> list[Part]:
        """What the cache of a side, "train" or "held_out", is made of."""
        items = self.train if side == "train" else self.held_out
        return [
            Part(f"{i // PER_SHARD:05d}", clips=items[i : i + PER_SHARD])
            for i in range(0, len(items), PER_SHARD)
        ]


def find_sounds(folder: str | Path, hold_out: float = 0.1) -> Sounds:
    """List a folder's sounds and hold some of them out.

    Every k-th sound is held out, in order of its caption and then of its name's hash: so that each caption gives its
    share, whatever the sounds are called. Of a folder with sides, dev alone is used.

    Args:
        folder: sounds with captions, as ``cache.list_clips`` knows them.
        hold_out: the share, from 0 up to a half; of less than 1 / ``hold_out`` sounds none.

    Raises:
        InputError: a share that is none, no such folder, or no usable sound.
    """
    if not 0 <= hold_out <= 0.5:
        raise InputError(f"--hold-out {hold_out:g}: a share of the sounds, from 0 (none) to 0.5")
    folder = Path(folder)
    layout, items = list_clips(folder, side="dev" if _has_dev(folder) else "all")
    items = [item for item in items if item.problem != EXCLUDED]
    good = [item for item in items if not item.problem]
    if not good:
        raise InputError(
            f"{folder}: not one of its {len(items)} sounds can be used: {items[0].key}: {items[0].problem}"
        )
    chosen = _chosen(good, hold_out)
    return Sounds(
        folder,
        layout,
        tuple(item for item in items if item.key not in chosen),
        tuple(item for item in items if item.key in chosen),
    )


def made_by_models(sounds: Sounds) -> tuple[int, str]:
    """How many sounds lie where a record says that a model made clips, and the first such folder; (0, "") for none.

    Generated clips among recordings are learnt as if they were recordings, and nobody hears the reason later.
    """
    folders: dict[Path, Path | None] = {}

    def record_above(place: Path) -> Path | None:
        if place not in folders:
            inside = place != sounds.folder and place.is_relative_to(sounds.folder)
            found = place if (place / RECORD).is_file() else None
            folders[place] = found or (record_above(place.parent) if inside else None)
        return folders[place]

    made = [record_above(item.path.parent) for item in (*sounds.train, *sounds.held_out) if item.path]
    first = next((place for place in made if place), None)
    return sum(place is not None for place in made), "" if first is None else plain(first)


def _has_dev(folder: Path) -> bool:
    """Whether some of the sounds are there to be trained on, and others to be evaluated with."""
    if not folder.is_dir():
        return False
    tops = {SPLITS.get(path.name.lower()) for path in visible(folder) if path.is_dir()}
    return "dev" in tops | {found.split for found in find(folder)[0]}


def _chosen(items: list[Item], share: float) -> set[str]:
    count = int(share * len(items) + 1e-9)
    if not count:
        return set()
    order = sorted(
        items, key=lambda item: (item.caption, hashlib.sha256(item.key.encode("utf-8", "replace")).digest())
    )
    # the middles of equal runs
    return {order[int((k + 0.5) * len(order) / count)].key for k in range(count)}
