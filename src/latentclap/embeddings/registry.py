"""Embeddings by name."""

from __future__ import annotations

from typing import Any

from latentclap.embeddings.base import Embedding
from latentclap.embeddings.clap import CLAPEmbedding
from latentclap.embeddings.judge import JudgeEmbedding
from latentclap.embeddings.mel_statistics import MelStatistics
from latentclap.embeddings.vggish import VGGish
from latentclap.errors import InputError

#: Names that `get_embedding` knows, with what each needs.
EMBEDDINGS: dict[str, Any] = {
    "mel-statistics": MelStatistics,
    "judge": JudgeEmbedding,
    "vggish-dcase": lambda weights, **kw: VGGish(weights, "dcase", **kw),
    "vggish-textbook": lambda weights, **kw: VGGish(weights, "textbook", **kw),
    "clap": CLAPEmbedding,
}


def get_embedding(name: str, **kw: Any) -> Embedding:
    """Make an embedding by name; keywords go to it (``weights=`` for VGGish, ``system=`` for CLAP).

    Raises:
        InputError: unknown name, or a keyword it needs or does not know.
    """
    if name not in EMBEDDINGS:
        raise InputError(f"unknown embedding {name!r}; use one of {', '.join(EMBEDDINGS)}")
    try:
        return EMBEDDINGS[name](**kw)
    except TypeError as error:
        raise InputError(f"embedding {name}: {str(error).rpartition(') ')[2] or error}") from None
