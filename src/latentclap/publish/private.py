"""What must not go out with weights: places of a machine, in configurations, headers and texts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from latentclap.checkpoints import header as check_header
from latentclap.checkpoints import json_or_nothing
from latentclap.errors import InputError
from latentclap.files import atomic_path, below, write_json
from latentclap.needs import on_a_hub
from latentclap.publish.records import base_of

#: of a configuration, what tells of the machine that it was loaded on
_HERE = ("_name_or_path", "name_or_path", "is_local", "local_files_only")
#: of a safetensors file's header, what whoever loads it needs: the format, peft's configuration and our note
_NEEDED, _ABOUT = ("format", "lora_adapter_metadata", "latentclap"), "latentclap"
#: lists of words, in which any letters may stand
_WORDS = ("tokenizer.json", "vocab.json", "merges.txt")
#: a whole text that is a place: /Users/jane/x, ~/x, C:\\x, \\\\server\\x, file://x; /m/06mb1 is a class of AudioSet
_PLACE = re.compile(r"(?!/[mgt]/\w+$)(?:/[^/\s]+){2,}/?|~[\w.-]*/.*|[A-Za-z]:[\\/].*|\\\\.+|file://.*")


def forget_machine(folder: Path) -> None:
    """Take out of the files below a folder where they were loaded from, and what a training tool left in a header."""
    for path in below(folder, (".json",)):
        if not (path.name.endswith("config.json") or path.name == "model_index.json"):
            continue
        told = json_or_nothing(path)
        kept = _without(told)
        if kept != told:
            write_json(path, kept)
    for path in below(folder, (".safetensors",)):
        _forget_header(path)


def _without(told: Any) -> Any:
    """A configuration without what tells of a machine, at any depth: a text branch has one of its own."""
    if isinstance(told, dict):
        return {key: _without(value) for key, value in told.items() if key not in _HERE}
    return [_without(value) for value in told] if isinstance(told, list) else told


def _forget_header(path: Path) -> None:
    """Write a safetensors file anew with nothing in its header but what is needed; the numbers stay as they are.

    Raises:
        InputError: it is damaged.
    """
    check_header(path)
    with open(path, "rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        told = header.get("__metadata__") or {}
        kept = {
            key: _note(value) if key == _ABOUT else value for key, value in told.items() if key in _NEEDED
        }
        if kept == told:
            return
        text = json.dumps(header | {"__metadata__": kept}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with atomic_path(path) as temporary, open(temporary, "wb") as written:
            written.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(stream, written, 1 << 24)


def _note(text: str) -> str:
    """Our note in a file of adapters, without the name of a folder that its base lay in."""
    try:
        told = json.loads(text)
    except ValueError:  # not ours
        return text
    base = told.get("base") if isinstance(told, dict) else None
    if isinstance(base, str) and not (base_of(base).get("licence") or on_a_hub(base)):
        told = {key: value for key, value in told.items() if key != "base"}
        return json.dumps(told)
    return text


def check_private(folder: Path, secrets: Iterable[str | Path]) -> None:
    """Make sure that no text below a folder names a place of this machine, and no setting one of any.

    Looked at are texts, configurations and the headers of safetensors; not a tokenizer's list of words.

    Args:
        folder: what is to be published.
        secrets: paths that must not be in it.

    Raises:
        InputError: one of them is, or a configuration or header has a value that is a place.
    """
    places = sorted({str(secret) for secret in secrets if len(str(secret)) > 3})  # not "/"
    # JSON has letters beyond ASCII in a form of its own
    needles = [(place, form) for place in places for form in dict.fromkeys((place, json.dumps(place)[1:-1]))]
    for path in below(folder):
        if path.name in _WORDS or not path.is_file():
            continue
        if path.suffix == ".safetensors":
            text, settings = _metadata(path)
        elif path.suffix in (".json", ".md", ".txt") or not path.suffix:
            text = path.read_text(encoding="utf-8", errors="replace")
            settings = json_or_nothing(path) if path.suffix == ".json" and path.parent != folder else {}
        else:
            continue
        found = next((place for place, form in needles if form in text), None)
        found = found or next((text for text in _texts(settings) if _PLACE.fullmatch(text)), None)
        if found:
            raise InputError(
                f"{path.relative_to(folder)} names {found}, a place of this machine or of another one: take it out"
                " and publish again"
            )


def _texts(value: Any) -> Iterator[str]:
    """All texts among settings, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, str):
        yield value


def _metadata(path: Path) -> tuple[str, list[Any]]:
    """A header's texts, as they are and as what those of them mean that are JSON."""
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        told = opened.metadata() or {}
    settings: list[Any] = []
    for value in told.values():
        try:
            settings.append(json.loads(value))
        except (ValueError, RecursionError):
            settings.append(value)
    return "\n".join([*told.values(), *_texts(settings)]), settings
