"""Figures of one width, each a link to its file: they are read at the size they are made for, and open in full.

Sphinx makes a picture that has a width a link to the file itself. Players' pictures are no such nodes: they stay.
"""

from typing import Any

from docutils import nodes

#: figures are 7.2 inches wide (latentclap.book.figures); at this width their text has 14 pixels
WIDTH = "44rem"


def widen(app: Any, doctree: nodes.document, page: str) -> None:
    """Give each picture its width and its class; called when the outputs of notebooks are in their places."""
    for image in doctree.findall(nodes.image):
        if image["uri"].endswith(".png") and "width" not in image:
            image["width"] = WIDTH
            image["classes"].append("lc-figure")


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("doctree-resolved", widen)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
