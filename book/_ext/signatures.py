"""What Sphinx does not read as it is meant, put right for the reference.

Signatures of data classes: a default that a factory makes is "...". It cannot read ``<factory>``, and shows such a
signature as it came, with the marks of its links. And what is said of an attribute: napoleon takes the words before a
colon for its type, and shows the rest alone.
"""

from typing import Any


def readable(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """What autodoc is to show in the place of a signature."""
    return (signature or "").replace("<factory>", "...") or None, returns


def whole(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Put the words that napoleon took for an attribute's type back before the rest of its first line.

    Types are in the signatures, and no docstring of ours gives one.
    """
    taken = [k for k, line in enumerate(lines) if line.startswith(":type: ")]
    if what in ("attribute", "data", "property") and taken:
        words = lines.pop(taken[-1]).removeprefix(":type: ")
        lines[0] = f"{words}: {lines[0]}"


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("autodoc-process-signature", readable)
    app.connect("autodoc-process-docstring", whole, priority=600)  # napoleon's is 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
