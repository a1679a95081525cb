"""Where the clips of a comparison lie, and what is to be said of each one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from latentclap.audio import FORMATS
from latentclap.compare.copying import Copying
from latentclap.compare.kernel import KernelDistance
from latentclap.compare.manifold import clip_vectors, radii
from latentclap.errors import InputError
from latentclap.evaluate.clips import clips_in_folder, in_order
from latentclap.fad import ClipEmbeddings
from latentclap.files import below, listed, plain
from latentclap.scan.layout import SPLITS, UNDECODABLE, find, packed

#: the one class of a folder whose clips lie in no folders
ALL = "clips"
T = TypeVar("T")


def find_clips(folder: str | Path, *, reference: bool = False) -> dict[str, list[Path]]:
    """Sound files of a folder by class.

    A folder in DCASE layout is looked through as `evaluate.clips_in_folder` does, and gives its evaluation side. Any
    other gives its folders under their own names; one without folders is one class, :data:`ALL`.

    Args:
        folder: with ``<class>/*.wav``, or with sounds.
        reference: copies of a clip are left out; among generated clips of the seven classes they are an error.

    Raises:
        InputError: no such folder, no sounds, or files that are bad; sounds that cannot be decoded, which would be
            missing from the figures without a word.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "a file, not a folder of clips" if folder.exists() else "no such folder of clips"
        raise InputError(f"{folder}: {what}")
    if find(folder)[2] or any(path.name.lower() in SPLITS for path in listed(folder) if path.is_dir()):
        return clips_in_folder(folder, duplicates_ok=reference)
    # a class's name is written into tables, and a folder's may be no text
    own = {
        plain(path.name): _sounds(path)
        for path in listed(folder)
        if path.is_dir() and not path.name.startswith(".")
    }
    own = {cls: files for cls, files in own.items() if files}
    loose = [path for path in _sounds(folder) if path.parent == folder]
    if own and loose:
        raise InputError(
            f"{folder}: sounds lie in folders and beside them ({loose[0].name}); move all into folders, or none"
        )
    if not own and not loose:
        archives = packed(below(folder))
        found = f", but {archives}: unpack them there" if archives else ""
        raise InputError(f"{folder}: no sounds{found}; expected {folder}/rain/*.wav, or sounds in {folder}")
    return {cls: own[cls] for cls in in_order(own)} if own else {ALL: loose}


def named_as(found: Mapping[str, T], classes: Iterable[str]) -> dict[str, T]:
    """The same clips, or statistics, with a class that is written otherwise as ``classes`` has it.

    A name that is there as it is asked for stays, and so does one that several would fit.
    """

    def forms(name: str) -> set[str]:
        # as a folder of generated clips is called, and with accents as one sign, which some disks take apart
        texts = (name, unicodedata.normalize("NFC", name))
        return {re.sub(r"[\W_]+", "_", text.lower()).strip("_") for text in texts} - {""}

    wanted = list(classes)
    others = [name for name in found if name not in wanted]
    names = {}
    for cls in wanted:
        like = [name for name in others if forms(name) & forms(cls)]
        if cls not in found and len(like) == 1 and like[0] not in names:
            names[like[0]] = cls
    return {names.get(name, name): files for name, files in found.items()}


def _sounds(folder: Path) -> list[Path]:
    """Sound files below a folder, sorted."""
    found = [path for path in below(folder, {*FORMATS, *UNDECODABLE}) if not path.is_dir()]
    if bad := [path for path in found if path.suffix.lower() in UNDECODABLE]:
        raise InputError(
            f"{bad[0]}: cannot be decoded ({len(bad)} such in {folder}); convert it to wav, flac, ogg or mp3"
        )
    return found


def clip_rows(
    generated: ClipEmbeddings,
    reference: ClipEmbeddings,
    names: Sequence[str],
    reference_names: Sequence[str],
    *,
    neighbours: int,
    kernel: KernelDistance | None = None,
    copying: Copying | None = None,
    training_names: Sequence[str] = (),
    similarity: np.ndarray | None = None,
) -> pd.DataFrame:
    """Tell of each generated clip of a class how far it lies from real clips, and which of them is nearest.

    Args:
        generated: embeddings of the n clips.
        reference: of real clips, more than ``neighbours``.
        names: (n,) file names of the generated clips.
        reference_names: of the real ones.
        neighbours: k: distances are taken to the k-th nearest clip.
        kernel: KAD of this class, for the column ``kad_part``.
        copying: what `data_copying` found, for the columns about training clips.
        training_names: file names of the training clips; with ``copying``.
        similarity: (n,) cosine of clip and text, passed on.

    Returns:
        One row for each generated clip, in order, with the columns

        - ``index`` (number in its class) and ``file``;
        - ``distance`` to its k-th nearest real clip, and ``oddness``: the share of real clips that are nearer to
          their own k-th nearest; 1 means further out than every real clip;
        - ``nearest`` (file name of the nearest real clip) and ``nearest_distance``;
        - ``kad_part``: what it adds to KAD, which is the mean of this column;
        - ``similarity``;
        - ``training_index``, ``nearest_training`` and ``training_distance`` of the nearest training clip.

        Columns whose argument was not given are left out.
    """
    g, r = clip_vectors(generated), clip_vectors(reference)
    apart = cdist(g, r)
    distance = np.partition(apart, neighbours - 1, axis=1)[:, neighbours - 1]
    own = np.sort(radii(r, neighbours))
    out = {
        "index": range(len(g)),
        "file": list(names),
        "distance": distance,
        "oddness": np.searchsorted(own, distance, side="left") / len(own),
        "nearest": [reference_names[i] for i in apart.argmin(1)],
        "nearest_distance": apart.min(1),
    }
    if kernel is not None:
        out["kad_part"] = kernel.parts
    if similarity is not None:
        out["similarity"] = similarity
    if copying is not None:
        out["training_index"] = copying.nearest
        out["nearest_training"] = [training_names[i] for i in copying.nearest]
        out["training_distance"] = copying.distances
    return pd.DataFrame(out)
