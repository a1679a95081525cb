"""The latent cache: everything that frozen parts compute, once (design: frozen parts run once).

For each clip: the VAE posterior (mean and log-variance, scaled), E_audio and E_text. Training reads nothing else.
One format for a thousand clips and for WavCaps' 400,000: safetensors shards, a journal entry with a checksum
beside each, and a manifest over all. :func:`build_cache` makes it of a data set's clips, in memory;
:func:`cache_parts` of any number of clips, in pieces, on any number of processes; :class:`ShardedCache` reads both.
"""

from latentclap.cache.build import Summary, cache_parts
from latentclap.cache.clips import SHARD, batches, build_cache, describe, encode_clips, read_waves
from latentclap.cache.items import Item
from latentclap.cache.listing import described, list_clips
from latentclap.cache.parts import Part, described_parts, find_parts
from latentclap.cache.reading import ShardedCache
from latentclap.cache.settings import fingerprint

__all__ = [
    "SHARD",
    "Item",
    "Part",
    "ShardedCache",
    "Summary",
    "batches",
    "build_cache",
    "cache_parts",
    "describe",
    "described",
    "described_parts",
    "encode_clips",
    "find_parts",
    "fingerprint",
    "list_clips",
    "read_waves",
]
