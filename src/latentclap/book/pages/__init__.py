"""Pages of the book that are made from files: the listening page's grids and the model card."""

from __future__ import annotations

from latentclap.book.pages.card import CARD_SYSTEMS, model_card
from latentclap.book.pages.items import Item, listening_item, read_items, write_listening_items
from latentclap.book.pages.listening import MINIMUM_ITEMS, listening_page
from latentclap.book.pages.shelved import shelved_grid

__all__ = [
    "CARD_SYSTEMS",
    "MINIMUM_ITEMS",
    "Item",
    "listening_item",
    "listening_page",
    "model_card",
    "read_items",
    "shelved_grid",
    "write_listening_items",
]
