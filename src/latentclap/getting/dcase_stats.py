"""Reading the DCASE 2023 Task 7 reference statistics (gt_embedding.pkl) without TensorFlow.

The organisers' evaluation repository (dcase2023_task7_eval_fad) keeps, per class, a pickled dict of
TensorFlow ``Feature`` messages. The numbers are read out of them and nothing is executed that a pickle might
hold: the one class it names is mapped to an inert stand-in, and any other global is refused.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

from latentclap.classes import canonical_class
from latentclap.errors import InputError
from latentclap.fad import GaussianStats, frechet_distance
from latentclap.files import listed

_FEATURE = ("tensorflow.core.example.feature_pb2", "Feature")
_CLIPS = 100  # the organisers' sets are 100 clips a class, 10 windows each


class Feature:
    """Stands in for TensorFlow's Feature: keeps the serialized bytes of its state and nothing else."""

    def __init__(self) -> None:
        self.serialized = b""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict) or not isinstance(state.get("serialized"), bytes):
            raise pickle.UnpicklingError("a Feature without serialized bytes")
        self.serialized = state["serialized"]


class FeatureUnpickler(pickle.Unpickler):
    """Knows one global, TensorFlow's Feature, and refuses every other."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in, or refuse."""
        if (module, name) == _FEATURE:
            return Feature
        raise pickle.UnpicklingError(f"refused to load {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse: these files have no persistent objects."""
        raise pickle.UnpicklingError("refused a persistent object")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read one protobuf varint: (value, next position)."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise InputError("protobuf: number runs past its end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7


def _field(data: bytes, tags: tuple[int, ...]) -> tuple[int, bytes]:
    """The single length-delimited field that ``data`` is: (tag, content)."""
    if not data or data[0] not in tags:
        raise InputError(f"protobuf: field {data[:1].hex() or 'empty'}, expected {[hex(t) for t in tags]}")
    size, at = _varint(data, 1)
    if at + size != len(data):
        raise InputError(f"protobuf: field of {size} bytes in {len(data) - at}")
    return data[0], data[at:]


def decode_feature(serialized: bytes) -> np.ndarray:
    """Decode a serialized tensorflow.Feature with a packed Int64List or FloatList: int64 or float32 (n,).

    Raises:
        InputError: any other message.
    """
    kind, body = _field(serialized, (0x12, 0x1A))  # field 2 FloatList, field 3 Int64List
    _, packed = _field(body, (0x0A,))  # field 1, packed
    if kind == 0x12:
        if len(packed) % 4:
            raise InputError(f"protobuf: {len(packed)} bytes are no float32 values")
        return np.array(struct.unpack(f"<{len(packed) // 4}f", packed), dtype=np.float32)
    values, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        values.append(value)
    return np.array(values, dtype=np.int64)


def read_gt_embedding(path: str | Path) -> GaussianStats:
    """Read one gt_embedding.pkl.

    Raises:
        InputError: unreadable, something else than four Features, or sizes that do not agree.
    """
    try:
        record = FeatureUnpickler(io.BytesIO(Path(path).read_bytes())).load()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a hostile or broken pickle may raise anything
        raise InputError(f"{path}: not a reference statistics pickle ({error})") from None
    keys = ("embedding_count", "embedding_length", "mu", "sigma")
    if not isinstance(record, dict) or not all(isinstance(record.get(k), Feature) for k in keys):
        raise InputError(f"{path}: expected a dict of Features {', '.join(keys)}")
    try:
        values = {key: decode_feature(record[key].serialized) for key in keys}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    d = int(values["embedding_length"].reshape(-1)[0]) if values["embedding_length"].size else 0
    sizes = {key: value.size for key, value in values.items()}
    if d == 0 or (sizes["embedding_count"], sizes["mu"], sizes["sigma"]) != (1, d, d * d):
        raise InputError(f"{path}: mu of {sizes['mu']} and sigma of {sizes['sigma']} values for length {d}")
    mu = values["mu"].astype(np.float64)
    sigma = values["sigma"].astype(np.float64).reshape(d, d)
    n = int(values["embedding_count"][0])
    # 10 windows of a 4 s clip; say so only where the number fits
    clips = n // 10 if n == 10 * _CLIPS else 0
    return GaussianStats(mu, (sigma + sigma.T) / 2, n, clips, "vggish-dcase")


def convert(folder: Path) -> dict[str, GaussianStats]:
    """Read <class>/gt_embedding.pkl of every class in a folder.

    Raises:
        InputError: there is none, a folder is no class, or a file is not what it should be.
    """
    folders = [place for place in listed(folder) if place.is_dir()]
    paths = [path for place in folders for path in listed(place) if path.name == "gt_embedding.pkl"]
    if not paths:
        raise InputError(f"{folder}: no <class>/gt_embedding.pkl in it")
    stats = {}
    for path in paths:
        try:
            name = canonical_class(path.parent.name)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from None
        stats[name] = read_gt_embedding(path)
        # a covariance that is none would only be noticed when a distance is taken
        frechet_distance(stats[name].mu, stats[name].sigma, stats[name].mu, stats[name].sigma)
    return stats


def values_digest(stats: GaussianStats) -> str:
    """SHA-256 of the numbers as float32, little-endian, mean before covariance; the files hold float32."""
    return hashlib.sha256(stats.mu.astype("<f4").tobytes() + stats.sigma.astype("<f4").tobytes()).hexdigest()
