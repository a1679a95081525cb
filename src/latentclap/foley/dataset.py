"""Writing a procedural data set: DCASE layout, meta tables, resumable, the same for any number of workers."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from joblib import Parallel, delayed

from latentclap.errors import InputError
from latentclap.files import append_line, atomic_path, file_sha256, write_text
from latentclap.foley.registry import RATES, SECONDS, SPLITS, check_number, clip_seed, families, synthesize
from latentclap.tables import csv_text

#: The columns of DCASE's tables (facts D1), then ours.
COLUMNS = (
    "category",
    "current_file_path",
    "original_dataset",
    "original_file_name",
    "caption",
    "seed",
    "params",
    "sha256",
    "licence",
)
#: Of procedural clips: the package makes them and gives them its own.
LICENCE = "Apache-2.0"
#: Raised whenever the sound of a given seed changes: files of another version are made anew.
VERSION = 1
META = {"dev": "DevMeta.csv", "eval": "EvalMeta.csv"}


@dataclass(frozen=True)
class Job:
    """One clip to make."""

    cls: str
    split: str
    index: int
    seed: int
    seconds: float
    sr: int

    @property
    def path(self) -> str:
        """Return the path inside the data set."""
        return f"{self.split}/{self.cls}/{self.index:05d}.wav"

    @property
    def origin(self) -> str:
        """Return the name of the recording, which no other clip shares."""
        return f"foley-v{VERSION}/{self.cls}/{self.split}/{self.seed}-{self.seconds:g}s-{self.sr}"


def pcm16(wave: np.ndarray) -> np.ndarray:
    """Round a wave within +-1 to 16 bits, (samples,) int16."""
    return np.round(np.asarray(wave, np.float64) * 32767.0).astype(np.int16)


def write_clip(folder: Path, job: Job) -> dict[str, Any]:
    """Make one clip, write it whole or not at all, and return its row of the table."""
    clip = synthesize(job.cls, job.seed, seconds=job.seconds, sr=job.sr, split=job.split)
    with atomic_path(folder / job.path) as temporary:
        try:
            sf.write(temporary, pcm16(clip.wave), job.sr, subtype="PCM_16")
        except sf.LibsndfileError as error:
            raise InputError(
                f"{folder / job.path}: cannot be written ({error.error_string}); is the disk full?"
            ) from None
    digest = file_sha256(folder / job.path)
    params = json.dumps(clip.params, sort_keys=True)
    values = (
        job.cls,
        job.path,
        "procedural",
        job.origin,
        clip.caption,
        str(job.seed),
        params,
        digest,
        LICENCE,
    )
    return dict(zip(COLUMNS, values, strict=True))


def journal_path(folder: Path) -> Path:
    """Return the file that remembers finished clips while a data set is being made."""
    return folder / ".foley-journal.jsonl"


def _table(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a meta table of ours.

    Raises:
        InputError: it is another data set's, and would be lost.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
        if all(row["original_dataset"] == "procedural" and row["current_file_path"] for row in rows):
            return [row for row in rows if None not in row.values()]
    except (KeyError, UnicodeDecodeError, csv.Error):
        pass
    raise InputError(f"{path} is another data set's, and would be replaced: choose another folder")


def finished(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of earlier runs by path, from the tables and from the journal of a broken run.

    Raises:
        InputError: a table is another data set's.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name in META.values():
        if (folder / name).is_file():
            rows |= {row["current_file_path"]: row for row in _table(folder / name)}
    if journal_path(folder).is_file():
        for line in journal_path(folder).read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                rows[row["current_file_path"]] = row
            except (json.JSONDecodeError, KeyError, TypeError):
                continue  # the last line of a run that was killed while writing it
    return rows


def is_whole(folder: Path, job: Job, row: Mapping[str, Any] | None) -> bool:
    """Tell whether a clip of an earlier run is the one wanted, unchanged on disk."""
    if row is None or row.get("original_file_name") != job.origin or not row.get("sha256"):
        return False
    path = folder / job.path
    return path.is_file() and file_sha256(path) == row["sha256"]


def counts(value: int | Mapping[str, int], classes: Sequence[str], name: str) -> dict[str, int]:
    """Return clips per class from one number or a mapping; classes that a mapping leaves out get none."""
    given = {families([k])[0]: v for k, v in value.items()} if isinstance(value, Mapping) else None
    table = dict.fromkeys(classes, value) if given is None else {cls: given.get(cls, 0) for cls in classes}
    for cls, count in table.items():
        check_number(f"{name} for {cls}", count, 0, 10_000_000, whole=True)
    extra = set(given or ()) - set(classes)
    if extra:
        raise InputError(
            f"{name} names {', '.join(sorted(extra))}, which is not among the classes to be made"
        )
    return table


def run_jobs(folder: Path, jobs: list[Job], workers: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of finished clips in order, made by ``workers`` processes."""
    if workers == 1 or len(jobs) < 2:
        yield from (write_clip(folder, job) for job in jobs)
        return
    # joblib's processes are neither forked, which may hang where torch's threads run, nor do they run the caller's
    # script again, which would wait for the lock that it holds itself unless it says `if __name__ == "__main__"`
    pool = Parallel(workers, backend="loky", batch_size=4, return_as="generator", idle_worker_timeout=5)
    yield from pool(delayed(write_clip)(folder, job) for job in jobs)


def _remove(folder: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Take away clips that an earlier run made, before the tables forget them."""
    for name, row in rows.items():
        path = folder / name
        ours = re.fullmatch(r"(dev|eval)/\w+/\d+\.wav", name) and row.get("sha256")
        if ours and path.is_file() and file_sha256(path) == row["sha256"]:
            path.unlink()
            with contextlib.suppress(OSError):  # others lie there
                path.parent.rmdir()


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one meta table, whole or not at all."""
    write_text(path, csv_text([COLUMNS, *([row.get(name, "") for name in COLUMNS] for row in rows)]))


def make_dataset(
    folder: str | Path,
    *,
    per_class: int | Mapping[str, int] = 100,
    eval_per_class: int | Mapping[str, int] = 20,
    seed: int = 0,
    workers: int = 1,
    classes: Sequence[str] | None = None,
    seconds: float = 4.0,
    sr: int = 22050,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a procedural data set: ``{dev,eval}/<class>/*.wav`` with DevMeta.csv and EvalMeta.csv, as DCASE.

    A clip depends on (seed, class, split, index) only, so that a larger data set contains the smaller one.
    The same command goes on after an interruption: whole files are kept if their hash is the recorded one, all
    others are made anew. Clips of an earlier set in this folder that are not of this one go, unless they were changed
    since: whoever loads the folder takes what lies in it.

    Args:
        folder: where to write.
        per_class: development clips per class, one number or a mapping class -> number.
        eval_per_class: evaluation clips per class, likewise.
        seed: seed of the whole set.
        workers: processes; the result does not depend on it.
        classes: families to make, by default the seven classes.
        seconds: length of each clip.
        sr: sampling rate in Hz.
        progress: called with (clips ready, clips in all).

    Returns:
        The folder.

    Raises:
        InputError: unknown class, a count, seed or number of workers out of range, or a folder with the tables of
            another data set.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the data set")
    check_number("seed", seed, 0, 2**64 - 1, whole=True)
    check_number("workers", workers, 1, 256, whole=True)
    check_number("seconds", seconds, *SECONDS)
    check_number("sr", sr, *RATES, whole=True)
    names = families(classes)
    wanted = {
        "dev": counts(per_class, names, "per_class"),
        "eval": counts(eval_per_class, names, "eval_per_class"),
    }
    jobs = [
        Job(cls, split, i, clip_seed(seed, cls, split, i), seconds, sr)
        for split in SPLITS
        for cls in names
        for i in range(wanted[split][cls])
    ]
    if not jobs:
        raise InputError("per_class and eval_per_class are both zero: there is nothing to make")
    old = finished(folder)
    # tables of earlier versions tell no licence
    rows = {
        job.path: {**old[job.path], "licence": LICENCE}
        for job in jobs
        if is_whole(folder, job, old.get(job.path))
    }
    todo = [job for job in jobs if job.path not in rows]
    for row in run_jobs(folder, todo, workers):
        rows[row["current_file_path"]] = row
        append_line(journal_path(folder), json.dumps(row))
        if progress:
            progress(len(rows), len(jobs))
    _remove(folder, {path: row for path, row in old.items() if path not in rows})
    for split, name in META.items():
        write_table(folder / name, [rows[job.path] for job in jobs if job.split == split])
    journal_path(folder).unlink(missing_ok=True)
    return folder
