"""Signatures of data classes in the reference: a default that a factory makes is "...", which Sphinx can read.

It cannot read ``<factory>``, and shows such a signature as it came, with the marks of its links.
"""

from typing import Any


def readable(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """What autodoc is to show in the place of a signature."""
    return (signature or "").replace("<factory>", "...") or None, returns


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("autodoc-process-signature", readable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
