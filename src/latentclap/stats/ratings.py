"""Ratings of a listening study: read, and simulated around published means."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats as sps

from latentclap.classes import class_key
from latentclap.errors import InputError
from latentclap.files import listed, plain
from latentclap.naming import spoken
from latentclap.tables import table_text
from latentclap.wording import plural

RATING_COLUMNS = ("rater", "class", "model", "item")
#: What a survey's page (`latentclap.survey`) writes in the place of class, model and item, and when it was rated.
CLIP, WHEN = "clip", "when"
#: The survey of a rating, as its page names it; and, while files are read, the file.
STUDY, FILE = "study", "\0file"


def read_ratings(
    path: str | Path, questions: Sequence[str] = ("quality", "relevance"), *, key: str | Path = ""
) -> pd.DataFrame:
    """Read a long table of ratings (csv): rater, class, model, item, and one column a question.

    Commas, semicolons or tabs may separate the columns, as spreadsheets write them. Classes may have any names; a
    class that is spelt in several ways, "Door Slam" and ``door_slam``, is one.

    Where a clip was rated several times at times that are known (``when``: a survey's page was gone through twice,
    or its file was saved half-way and again), the last rating counts.

    A name is one rater, who may rate several classes. Whether two of one name are two people cannot be told: where a
    name is in the files of several surveys (``study``), or rated a clip again in another file, a warning says so.

    Args:
        path: the file, or a folder of such files, one from each rater.
        questions: columns of ratings.
        key: of a blind survey, whose files name clips by ``clip`` alone: the key.csv that `latentclap survey` wrote.

    Raises:
        InputError: no such file, not a table, columns missing, a row without a class, a clip that the key does not
        have (the answers are to another survey), or ratings that are not numbers.
    """
    wanted = f"ratings are a csv file with columns {', '.join((*RATING_COLUMNS, *questions))}"
    path = Path(path)
    files = [path]
    if path.is_dir():  # a Mac leaves ._1.csv beside 1.csv
        files = [f for f in listed(path) if f.suffix.lower() == ".csv" and not f.name.startswith(".")]
    if not files:
        raise InputError(f"{path}: no .csv in this folder; {wanted}")
    names = _key(key) if key else None
    read = [
        _one_file(file, wanted, questions, names, key).assign(**{FILE: plain(file.name)}) for file in files
    ]
    table = pd.concat(read, ignore_index=True)
    _tell_of_names(table)
    return _last(table.drop(columns=FILE))


#: Columns of a survey's key.
KEY_COLUMNS = (CLIP, *RATING_COLUMNS[1:])


def _one_file(
    path: Path, wanted: str, questions: Sequence[str], names: pd.DataFrame | None, key: str | Path
) -> pd.DataFrame:
    table = _read(path, wanted)
    if names is not None and CLIP in table:
        known = table[CLIP].fillna("").isin(names[CLIP])
        if not known.all():
            raise InputError(f"{path}: {_of_another(table[~known], names, key)}")
        table = table.drop(columns=[c for c in KEY_COLUMNS[1:] if c in table]).merge(names[list(KEY_COLUMNS)])
    missing = [c for c in (*RATING_COLUMNS, *questions) if c not in table]
    if missing:
        hint = "; give the survey's key.csv, too" if CLIP in table and names is None else ""
        raise InputError(f"{path}: no column {', '.join(missing)}; it has {', '.join(map(str, table))}{hint}")
    for question in questions:
        if len(table) and not pd.api.types.is_numeric_dtype(table[question]):
            raise InputError(f"{path}: column {question} is not numeric")
    table["class"] = _classes(table["class"], path)
    return table


def _classes(names: pd.Series, path: Path) -> list[str]:
    """Classes under the one name of each."""
    if names.isna().any():
        row = names.isna().to_numpy().argmax() + 1
        raise InputError(f"{path}: row {row} below the header has no class; fill it in, or leave the row out")
    try:
        keys = {name: class_key(name) for name in names.unique()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return [keys[name] for name in names]


def _of_another(rows: pd.DataFrame, names: pd.DataFrame, key: str | Path) -> str:
    """Words for answers to clips that a key does not have: what they are of, and what the key is of."""

    def of(table: pd.DataFrame) -> str:
        found = sorted(set(table["class"].dropna())) if "class" in table else []
        return ", ".join(found[:3]) + (", ..." if len(found) > 3 else "") or "no class"

    clip = min(rows[CLIP].fillna(""))
    return (
        f"clip {clip!r} is not in {key}; these are answers to another survey, or its key (answers: {of(rows)}; key:"
        f" {of(names)})"
    )


def rated_classes(table: pd.DataFrame, key: str | Path = "") -> str:
    """Words for the classes that were rated: "2 of 3 classes (door slam, sword; no answers of glass break)".

    Args:
        table: from `read_ratings`.
        key: the survey's key.csv, as for `read_ratings`: some of its classes may have no answers yet.
    """
    rated = list(dict.fromkeys(table["class"]))
    asked = list(dict.fromkeys(_classes(_key(key)["class"], Path(key)))) if key else rated
    lacking = [cls for cls in asked if cls not in rated]
    many = f"{len(rated)} of " if lacking else ""
    none = f"; no answers of {', '.join(map(spoken, lacking))}" if lacking else ""
    return f"{many}{plural(len(asked), 'class', 'classes')} ({', '.join(map(spoken, rated))}{none})"


def _key(path: str | Path) -> pd.DataFrame:
    return _read(Path(path), "the key of a survey is key.csv beside its pages", KEY_COLUMNS)


def _read(path: Path, wanted: str, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A table, from any spreadsheet (`latentclap.tables`), whose names are texts even where they look like numbers.

    Raises:
        InputError: no such file, no table, or a column of ``columns`` is missing.
    """
    try:
        # a rater may be called NA: nothing but an empty cell is missing
        texts = dict.fromkeys(("rater", "class", "item", "model", CLIP), str)
        text, delimiter = table_text(path)
        table = pd.read_csv(
            io.StringIO(text), sep=delimiter, dtype=texts, keep_default_na=False, na_values=[""]
        )
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; {wanted}") from None
    except ValueError as error:
        raise InputError(f"{path}: not a table of ratings ({str(error).splitlines()[0]}); {wanted}") from None
    missing = [c for c in columns if c not in table]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; {wanted}")
    return table


def _tell_of_names(table: pd.DataFrame) -> None:
    """Warn of raters' names that may be of two people, who would be taken for one."""
    mend = "if those are two people, give them two names (column rater)"
    if STUDY in table:
        studies = table.groupby("rater")[STUDY].unique()
        shared = studies[studies.map(len) > 1]
        if len(shared):
            names = ", ".join(map(repr, shared.index[:3])) + (", ..." if len(shared) > 3 else "")
            where = ", ".join(map(str, shared.iloc[0][:3]))
            warnings.warn(
                f"ratings: {plural(len(shared), 'name')} in several surveys ({names}; the first in {where}), each"
                f" taken for one rater: {mend}",
                stacklevel=3,
            )
    if WHEN in table:
        again = table.dropna(subset=["rater"]).drop_duplicates([*RATING_COLUMNS, WHEN])
        again = again[again.duplicated(list(RATING_COLUMNS), keep=False)]
        files = again.groupby("rater")[FILE].unique()
        files = files[files.map(len) > 1]
        if len(files):
            warnings.warn(
                f"ratings: {files.index[0]!r} rated a clip in {' and in '.join(files.iloc[0][:2])}, at other times"
                f" ({plural(len(files), 'such name')}); the last rating counts: {mend}",
                stacklevel=3,
            )


def _last(table: pd.DataFrame) -> pd.DataFrame:
    """Of ratings of one clip by one rater whose times are known, the last."""
    if WHEN not in table:
        return table
    times = pd.to_datetime(table[WHEN], errors="coerce", utc=True, format="ISO8601")
    # nothing is later than a time that is not known, or that a spreadsheet made into another text
    known = table.loc[times.dropna().sort_values(kind="stable").index]
    earlier = known.index[known.duplicated(list(RATING_COLUMNS), keep="last")]
    return table.drop(index=earlier).reset_index(drop=True)


@dataclass(frozen=True)
class RatingNoise:
    """Variance components of one rating, as standard deviations in scale units.

    Attributes:
        rater: of raters' general level.
        rater_model: of a rater's private taste for a model.
        item: of clips around their cell's mean (centred within a cell: published means are of those very
        clips). residual: of one rating.
    """

    rater: float
    rater_model: float
    item: float
    residual: float

    @classmethod
    def from_error_ms(
        cls, error_ms: float, items: int, *, rater: float = 1.2, item: float = 0.5, residual: float = 1.5
    ) -> RatingNoise:
        """Choose ``rater_model`` so that a rater's mean over ``items`` has the error mean square given.

        The other three are assumptions: published statistics do not fix them.
        """
        left = error_ms - residual**2 / items
        if left < 0:
            raise InputError(
                f"residual SD {residual:g} over {items} items already exceeds the error mean square {error_ms:.3g}"
            )
        return cls(rater, math.sqrt(left), item, residual)

    @property
    def total(self) -> float:
        """Standard deviation of one rating about its cell's mean."""
        return math.sqrt(self.rater**2 + self.rater_model**2 + self.item**2 + self.residual**2)


def _uncensored_mean(target: float, sd: float, low: float, high: float) -> float:
    """Mean of a normal whose values, clipped to [low, high], average to ``target``."""
    from scipy.optimize import brentq

    def clipped_mean(m: float) -> float:
        a, b = (low - m) / sd, (high - m) / sd
        inside = m * (sps.norm.cdf(b) - sps.norm.cdf(a)) + sd * (sps.norm.pdf(a) - sps.norm.pdf(b))
        return low * sps.norm.cdf(a) + high * sps.norm.sf(b) + inside

    return float(brentq(lambda m: clipped_mean(m) - target, low - 5 * sd, high + 5 * sd))


def simulate_ratings(
    class_means: Mapping[str, pd.DataFrame],
    noise: Mapping[str, RatingNoise],
    *,
    raters: int = 40,
    items: int = 15,
    scale: tuple[int, int] = (0, 10),
    seed: int = 0,
) -> pd.DataFrame:
    """Draw a long table of whole-number ratings around published means. SIMULATED: evidence of nothing but
    power.

    Args:
        class_means: {question: table of means, index class, columns model}.
        noise: {question: variance components}.
        raters: per class; each class has its own, as in the paper's seven surveys.
        items: clips per class and model.
        scale: lowest and highest rating; draws beyond are clipped, and the means are shifted to make up for
        it. seed: of everything.

    Returns:
        Columns rater, class, model, item, and one per question.
    """
    rng = np.random.default_rng(seed)
    low, high = scale
    columns: dict[str, np.ndarray] = {}
    for question, means in class_means.items():
        sd = noise[question]
        groups, k = means.shape
        shape = (groups, raters, k, items)
        centre = np.vectorize(lambda m, s=sd.total: _uncensored_mean(m, s, low, high))(means.to_numpy())
        item = sd.item * rng.standard_normal((groups, 1, k, items))
        item -= item.mean(-1, keepdims=True)
        values = (
            centre[:, None, :, None]
            + sd.rater * rng.standard_normal((groups, raters, 1, 1))
            + sd.rater_model * rng.standard_normal((groups, raters, k, 1))
            + item
            + sd.residual * rng.standard_normal(shape)
        )
        columns[question] = np.clip(np.round(values), low, high).astype(int).ravel()
    names = next(iter(class_means.values()))
    index = pd.MultiIndex.from_product(
        [names.index, range(raters), names.columns, range(items)], names=["class", "r", "model", "item"]
    )
    frame = pd.DataFrame(columns, index=index).reset_index()
    frame.insert(0, "rater", frame["class"] + "-" + frame.pop("r").astype(str).str.zfill(3))
    frame["item"] = frame["item"].astype(str)
    return frame
