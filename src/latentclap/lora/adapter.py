"""An adapter file that was read: what is in it, whether it fits a system, and the system with it."""

from __future__ import annotations

import copy
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from latentclap.errors import InputError
from latentclap.files import file_sha256, load_tensors
from latentclap.lora.files import adapter_file, one_line, read_header
from latentclap.lora.layers import base_digest, merge_adapters
from latentclap.storage import fold

if TYPE_CHECKING:
    from latentclap.system import FoleySystem


#: no rank or alpha of a header is beyond: one that is would make weights that are not finite
_LARGEST = 1e6


@dataclass(frozen=True)
class Adapter:
    """An adapter file that was read.

    Attributes:
        path: the file.
        unet: ``<module>.lora_A.weight`` and ``lora_B.weight``, as :func:`take_adapters` gives them.
        tuning: weight (512, 512) and bias (512,) of the tuning layer that was trained along; empty: none was.
        config: peft's values for the UNet (r, lora_alpha, ...); None where the file tells none.
        about: what we wrote of it: rank, alpha, base, base_digest; empty in others' files.
    """

    path: Path
    unet: dict[str, Tensor]
    tuning: dict[str, Tensor]
    config: dict[str, Any] | None
    about: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> Adapter:
        """Read a file, or the one named :data:`ADAPTER` in a folder.

        Raises:
            InputError: there is none, it is damaged, or it holds no adapters of a UNet in peft's format, or others
                besides.
        """
        path = adapter_file(path)
        tensors = load_tensors(path)
        prefixed = any(key.startswith("unet.") for key in tensors)
        start = "unet." if prefixed else ""
        tuning = {k.removeprefix("tuning."): v for k, v in tensors.items() if k.startswith("tuning.")}
        unet = {
            k.removeprefix(start): v
            for k, v in tensors.items()
            if k.startswith(start) and not k.startswith("tuning.")
        }
        if not unet or not all(k.endswith((".lora_A.weight", ".lora_B.weight")) for k in unet):
            raise InputError(
                f"{path}: no LoRA adapters of a UNet (<module>.lora_A.weight, .lora_B.weight) are in it"
            )
        others = sorted(k for k in tensors if not k.startswith((start, "tuning.")))
        if others:  # of a text encoder, say: the UNet's by themselves are not what was trained
            raise InputError(
                f"{path}: holds more than adapters of a UNet ({one_line(others[0])}), which has no place here"
            )
        for key, value in sorted(tensors.items()):
            if not (value.is_floating_point() and value.float().isfinite().all()):
                raise InputError(f"{path}: {one_line(key)} is not of finite floats: the file is damaged")
        return cls(path, unet, tuning, *read_header(path, start))

    @property
    def digest(self) -> str:
        """Of the file's content."""
        return file_sha256(self.path)[:16]

    def applied(self, system: FoleySystem) -> FoleySystem:
        """A copy of a system with the adapters merged into its UNet, and with the tuning layer of the file.

        A tuning layer of the system's own is replaced by the file's, or where that has none folded into the UNet:
        this is how :func:`latentclap.finetune.finetune` begins. A warning says so where the file is of another base.

        Raises:
            InputError: the adapters do not fit the system's UNet, the file's header does not fit them, or the system
                has rounded weights.
        """
        from latentclap.system import tuning_layer

        system.need_own_weights("to merge an adapter")
        self._check(system)
        scales = self._peft()
        told = self.about.get("base_digest")
        if told and told != base_digest(system):
            warnings.warn(
                f"{self.path} was trained on other weights ({self.about.get('base', 'unnamed')}) than those of"
                f" {system.name}: what comes out was not tried by anybody",
                stacklevel=2,
            )
        tuned = copy.copy(system)
        tuned.sizes = set()
        if system.tuning is not None and not self.tuning:
            tuned.unet, tuned.tuning = fold(system.unet, system.tuning), None
        else:
            tuned.unet = copy.deepcopy(system.unet)
        if self.tuning:
            tuned.tuning = tuning_layer(system.embed_dim)
            tuned.tuning.load_state_dict(self.tuning)
            tuned.tuning.to(system.device)
        trains = any(p.requires_grad for p in tuned.unet.parameters())
        try:
            tuned.unet.load_lora_adapter(dict(self.unet), prefix=None, metadata=scales)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise InputError(f"{self.path}: diffusers cannot open it ({reason})") from None
        merge_adapters(tuned.unet).requires_grad_(trains)
        return tuned.eval()

    def _peft(self) -> dict[str, Any]:
        """The configuration for peft: rank and scale of each layer by its whole name, alike in all versions."""
        scales = self._scales()
        (rank, alpha), *_ = scales.values()
        return {
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": {f"^{name}": r for name, (r, _) in scales.items() if r != rank},
            "alpha_pattern": {f"^{name}": a for name, (_, a) in scales.items() if a != alpha},
            "use_rslora": bool(self.config and self.config.get("use_rslora")),
            "target_modules": list(scales),
        }

    def _scales(self) -> dict[str, tuple[int, float]]:
        """Layer -> rank, which its shape tells, and alpha.

        Raises:
            InputError: the file's configuration contradicts the shapes, or cannot be understood.
        """
        names = sorted({key.rpartition(".lora_")[0] for key in self.unet})
        ranks = {name: len(self.unet[f"{name}.lora_A.weight"]) for name in names}
        if self.config is None:  # nothing but A and B: W + B A
            return {name: (rank, rank) for name, rank in ranks.items()}
        scales: dict[str, tuple[int, float]] = {}
        for name, rank in ranks.items():
            told = self._told("rank_pattern", name, self.config.get("r", rank))
            if told != rank:
                raise InputError(f"{self.path}: {name} has rank {rank}, by the header {told:g}")
            # where no alpha is told peft takes 8
            scales[name] = rank, self._told("alpha_pattern", name, self.config.get("lora_alpha", 8))
        return scales

    def _told(self, pattern: str, name: str, value: object) -> float:
        """A layer's number: by a pattern the one of its own, else a value."""
        patterns = (self.config or {}).get(pattern) or {}
        if not isinstance(patterns, dict):
            raise InputError(f"{self.path}: {pattern} in its header is no table")
        for key, own in patterns.items():
            # peft takes them for regular expressions; one that was made for it would never come to an end
            if not re.fullmatch(r"\^?[\w.-]+", key):
                raise InputError(f"{self.path}: {pattern} in its header names no layer by {one_line(key)}")
            if name == key.removeprefix("^") or name.endswith(f".{key}"):
                value = own
                break
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and abs(value) < _LARGEST):  # of NaN, too
            raise InputError(f"{self.path}: {one_line(value)} in its header is no rank or alpha of {name}")
        return value

    def _check(self, system: FoleySystem) -> None:
        """That each adapter has a layer, of its size."""
        wrong = [f"{key} {problem}" for key, problem in self._problems(system)]
        if wrong:
            more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            named = f", which is of {self.about['base']}," if "base" in self.about else ""
            raise InputError(f"{self.path}{named} does not fit {system.name}: {wrong[0]}{more}")

    def _problems(self, system: FoleySystem) -> list[tuple[str, str]]:
        layers, problems = dict(system.unet.named_modules()), []
        names = sorted({key.rpartition(".lora_")[0] for key in self.unet})
        for name in names:
            A, B = (self.unet.get(f"{name}.lora_{x}.weight") for x in "AB")
            layer = layers.get(name)
            if A is None or B is None:
                problems.append((name, "has A or B only"))
            elif not isinstance(layer, nn.Linear | nn.Conv2d):
                problems.append((name, "is no layer of its UNet"))
            else:
                out, into, *kernel = layer.weight.shape
                ours = (len(A), into, *kernel), (out, len(A), *[1] * len(kernel))
                if not len(A):
                    problems.append((name, "has rank 0"))
                elif (tuple(A.shape), tuple(B.shape)) != ours:
                    told = f"{B.shape[0]} x {A.shape[1]}" if A.ndim > 1 else str(tuple(A.shape))
                    problems.append((name, f"is of a layer of {told}, the UNet's has {out} x {into}"))
        dim = system.embed_dim
        needed = {"weight": (dim, dim), "bias": (dim,)}
        if self.tuning and {k: tuple(v.shape) for k, v in self.tuning.items()} != needed:
            problems.append(("tuning", f"is not a layer of {dim} x {dim} with bias"))
        return problems
