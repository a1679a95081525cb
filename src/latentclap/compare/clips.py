"""What is to be said of each clip of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from latentclap.compare.copying import Copying
from latentclap.compare.kernel import KernelDistance
from latentclap.compare.manifold import clip_vectors, radii
from latentclap.fad import ClipEmbeddings


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
        - ``training_index``, ``nearest_training`` and ``training_distance`` of the nearest training clip;
        - ``silent``: whether it is, where its embeddings know.

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
    if generated.silent is not None:
        out["silent"] = generated.silent
    return pd.DataFrame(out)
