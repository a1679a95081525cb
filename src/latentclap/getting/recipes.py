"""What each ``get.py`` command does: the recipe of every source."""

from __future__ import annotations

from collections.abc import Callable

from latentclap.getting.dcase import get_dcase, get_stats
from latentclap.getting.plain import get_plain
from latentclap.getting.plan import Options, Say
from latentclap.getting.sources import SOURCES
from latentclap.getting.wavcaps import get_wavcaps


def get(name: str, options: Options, say: Say = print, *, subsets: tuple[str, ...] = ()) -> None:
    """Get one source by its name in ``SOURCES``: say what it is, check the disk, download, unpack or convert.

    Interrupted or failed, the same call goes on where it was; with everything in place it only checks.

    Raises:
        InputError: anything in the way, in one line.
    """
    RECIPES[name](SOURCES[name], options, say, subsets)


#: What each source needs.
RECIPES: dict[str, Callable[..., object]] = {
    "dcase": get_dcase,
    "wavcaps": get_wavcaps,
    "audioldm": get_plain,
    "audioldm-ckpt": get_plain,
    "clap": get_plain,
    "clap-transformers": get_plain,
    "vggish": get_plain,
    "stats": get_stats,
}
