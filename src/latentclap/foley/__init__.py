"""Procedural Foley: the embedded data set. Each family is a small physical picture of its source.

``synthesize(cls, seed)`` makes one clip, ``make_dataset(folder)`` a data set in DCASE 2023 Task 7's layout.
Further families are registered with the decorator :func:`family`.
"""

# imported because they register their families
from latentclap.foley import breath, broad_nature, broad_things, dogs, guns, keys, rain, steps, vehicles  # noqa: F401
from latentclap.foley.dataset import make_dataset
from latentclap.foley.registry import FAMILIES, Family, Foley, Source, clip_seed, families, family, synthesize

__all__ = [
    "FAMILIES",
    "Family",
    "Foley",
    "Source",
    "clip_seed",
    "families",
    "family",
    "make_dataset",
    "synthesize",
]
