"""The clips that were starred, in one file: the sounds as they lie in their folders, and the record of them."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Iterable

from latentclap.errors import InputError
from latentclap.generation import RECORD
from latentclap.play.items import Item
from latentclap.play.record import record_of

_FIRST, _LAST = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58)


def bundle(items: Iterable[Item]) -> bytes:
    """Pack clips into a zip: ``<class>/<class>_<seed>.wav``, and ``generation.json`` with how each was made.

    Sounds are stored as they are: noise does not become smaller.

    Raises:
        InputError: there are none, or their files were removed meanwhile.
    """
    packed: list[Item] = []
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as file:
        for item in items:
            try:
                sound, when = item.read(), item.path.stat().st_mtime
            except OSError:  # removed by hand
                continue
            file.writestr(_entry(item.name, when), sound)
            packed.append(item)
        if not packed:
            raise InputError("no clip is starred, so that there is nothing to download")
        record = record_of([item.entry() for item in packed], {item.name: item.maker for item in packed})
        file.writestr(_entry(RECORD, time.time()), json.dumps(record, indent=2) + "\n")
    return content.getvalue()


def _entry(name: str, when: float) -> zipfile.ZipInfo:
    """A file in a zip, readable by everybody who unpacks it."""
    # a zip knows the years from 1980 to 2107 alone; a machine whose clock was never set is in 1970
    entry = zipfile.ZipInfo(name, min(max(time.localtime(when)[:6], _FIRST), _LAST))
    entry.external_attr = 0o644 << 16
    return entry
