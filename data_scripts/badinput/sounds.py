"""Data folders with one fault each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from badinput.material import Shelf, add, material
from latentclap.classes import CLASSES

RATE = 16_000


def noise(seed: int, seconds: float = 1.0) -> np.ndarray:
    """White noise, (samples,)."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE))


def clips(folder: Path, classes: Sequence[str] = ("rain",), n: int = 3) -> None:
    """A good folder: ``n`` clips of noise per class."""
    for cls in classes:
        (folder / cls).mkdir(parents=True)
        for i in range(n):
            wave = noise(100 * CLASSES.index(cls) + i)
            soundfile.write(folder / cls / f"{i}.wav", wave, RATE, subtype="PCM_16")


@material()
def good_clips(path: Path, _: Shelf) -> None:
    """Nothing wrong: all classes."""
    clips(path, CLASSES)


@material()
def rain_clips(path: Path, _: Shelf) -> None:
    """Nothing wrong: one class."""
    clips(path)


@material()
def other_rain(path: Path, _: Shelf) -> None:
    """Nothing wrong: other clips of that class."""
    clips(path)
    for i, file in enumerate(sorted(path.glob("*/*.wav"))):
        soundfile.write(file, noise(9_000 + i), RATE, subtype="PCM_16")


def _takes(path: Path, words: bool) -> None:
    path.mkdir(parents=True)
    for i in range(4):
        soundfile.write(path / f"take_{i}.wav", noise(i), RATE, subtype="PCM_16")
        if words:
            (path / f"take_{i}.txt").write_text("a hiss\n")


@material()
def takes(path: Path, _: Shelf) -> None:
    """Nothing wrong: sounds with a text beside each."""
    _takes(path, words=True)


@material()
def takes_without_words(path: Path, _: Shelf) -> None:
    """Sounds, and nothing that says what is in them."""
    _takes(path, words=False)


@material()
def one_clip(path: Path, _: Shelf) -> None:
    """A single clip."""
    clips(path, n=1)


@material()
def absent(path: Path, _: Shelf) -> None:
    """Nothing is there."""


@material()
def empty_folder(path: Path, _: Shelf) -> None:
    """A folder with nothing in it."""
    path.mkdir()


@material()
def no_classes(path: Path, _: Shelf) -> None:
    """Sounds that lie in no class folder."""
    path.mkdir()
    soundfile.write(path / "a.wav", noise(0), RATE)


def _table(name: str, text: str) -> None:
    """Register a folder with two sounds and a table of captions."""

    def make(path: Path, _: Shelf) -> None:
        path.mkdir()
        for i, sound in enumerate(("a.wav", "b.wav")):
            soundfile.write(path / sound, noise(i), RATE)
        (path / "metadata.csv").write_text(text)

    add(name, make)


for _name, _text_of in {
    "table_columns": "sound;words\na.wav;rain\nb.wav;wind\n",
    "table_outside": "file_name,caption\na.wav,rain\n../b.wav,wind\n",
    "table_comma": "file_name,caption\na.wav,rain, heavy\nb.wav,wind\n",
    "table_quote": 'file_name,caption\na.wav,"rain\nb.wav,wind\n',
    "table_absent": "file_name,caption\nx/a.wav,rain\nx/b.wav,wind\n",
    "table_empty": "file_name,caption\na.wav,\nb.wav,\n",
}.items():
    _table(_name, _text_of)


@material()
def archives(path: Path, _: Shelf) -> None:
    """Sounds that nobody has unpacked yet."""
    path.mkdir()
    for name in ("dev.zip", "eval.tar.gz"):
        (path / name).write_bytes(b"packed")


@material()
def parent_folder(path: Path, _: Shelf) -> None:
    """The folder above the data set."""
    clips(path / "sounds")


def _text(file: Path) -> None:
    file.write_text("a text that was renamed\n" * 50)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:20])


def _locked(file: Path) -> None:
    file.chmod(0)


#: what can be wrong with a file
FAULTS: dict[str, Callable[[Path], None]] = {
    "cut": _cut,
    "text": _text,
    "empty": lambda file: file.write_bytes(b""),
    "no_samples": lambda file: soundfile.write(file, np.zeros(0), RATE),
    "silent": lambda file: soundfile.write(file, np.zeros(RATE), RATE),
    "nan": lambda file: soundfile.write(file, np.full(RATE, np.nan), RATE, subtype="FLOAT"),
    "short": lambda file: soundfile.write(file, noise(1, 0.01), RATE),
    "locked": _locked,
}


def _register(fault: str, spoil: Callable[[Path], None]) -> None:
    def one(path: Path, _: Shelf) -> None:
        clips(path)
        spoil(path / "rain" / "1.wav")

    def every(path: Path, _: Shelf) -> None:
        clips(path)
        for file in sorted(path.glob("*/*.wav")):
            spoil(file)

    add(f"one_{fault}", one)
    add(f"all_{fault}", every)


for _name, _spoil in FAULTS.items():
    _register(_name, _spoil)


@material()
def wrong_class(path: Path, _: Shelf) -> None:
    """One class folder is misspelt."""
    clips(path, ("rain", "dog_bark"))
    (path / "dog_bark").rename(path / "dog_berk")


@material()
def foreign_classes(path: Path, _: Shelf) -> None:
    """Every class folder has another name."""
    clips(path)
    (path / "rain").rename(path / "cats")


@material()
def foreign_text(path: Path, _: Shelf) -> None:
    """Every class folder has another name, and one sound in them is a text."""
    clips(path)
    _text(path / "rain" / "1.wav")
    (path / "rain").rename(path / "cats")


@material()
def class_twice(path: Path, _: Shelf) -> None:
    """Two folders of one class of another name."""
    clips(path, ("rain", "dog_bark"))
    (path / "rain").rename(path / "Cats")
    (path / "dog_bark").rename(path / "cats")


@material()
def class_of_signs(path: Path, _: Shelf) -> None:
    """A class folder whose name has neither a letter nor a digit."""
    clips(path)
    (path / "rain").rename(path / "++")


@material()
def class_of_bytes(path: Path, _: Shelf) -> None:
    """A class folder whose name is no text in UTF-8."""
    clips(path)
    (path / "rain").rename(path / os.fsdecode(b"caf\xe9"))


@material()
def duplicate(path: Path, _: Shelf) -> None:
    """The same samples twice."""
    clips(path)
    shutil.copy(path / "rain" / "0.wav", path / "rain" / "copy.wav")


@material()
def locked_class(path: Path, _: Shelf) -> None:
    """A class folder that may not be read."""
    clips(path, ("rain", "footstep"))
    _locked(path / "rain")


@material()
def locked_folder(path: Path, _: Shelf) -> None:
    """A data folder that may not be read."""
    clips(path)
    _locked(path)


@material()
def readonly_folder(path: Path, _: Shelf) -> None:
    """A folder that nothing may be written to."""
    path.mkdir()
    path.chmod(0o555)
