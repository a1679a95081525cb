"""LoRA: fine-tuning of small adapters beside the UNet's frozen weights, and the file in which they travel.

An option; in the paper all of the UNet's weights train (IV-B). peft's layers learn, diffusers puts them in and merges
them, and the file is in diffusers' own format. What is ours: where adapters go, how they begin, and the note of which
base they are of.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from latentclap.errors import InputError
from latentclap.files import add_weights, atomic_path, file_sha256, load_tensors
from latentclap.storage import fold

if TYPE_CHECKING:
    from latentclap.system import FoleySystem

#: the name that diffusers looks for in a folder
ADAPTER = "pytorch_lora_weights.safetensors"
#: Where adapters go. AudioLDM's UNet has no attention to text: the text enters by class_embedding, and each residual
#: block takes it in by time_emb_proj. Attention and what surrounds it are where pixels far apart meet. All of these
#: are matrix products; left out are the 3x3 convolutions, half of the weights.
TARGETS = (
    "class_embedding",
    "time_emb_proj",
    "proj_in",
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
    "proj_out",
)
#: keys of the file's header: diffusers' own, and ours
_CONFIG, _ABOUT = "lora_adapter_metadata", "latentclap"
#: no rank or alpha of a header is beyond: one that is would make weights that are not finite
_LARGEST = 1e6


def add_adapters(unet: nn.Module, rank: int, *, seed: int = 0) -> nn.Module:
    """Freeze a UNet and put adapters beside its :data:`TARGETS`, in place: W x becomes W x + B A x.

    B begins with zeros, so that the function stays what it is; A (rank, in) is of the seed, whatever was drawn
    before. The scale, peft's alpha / rank, is 1.

    Args:
        unet: diffusers' ``UNet2DConditionModel``.
        rank: rows of A and columns of B.
        seed: of A.

    Returns:
        ``unet`` itself; only A and B require gradients.

    Raises:
        InputError: it has adapters already.
    """
    from peft import LoraConfig

    if getattr(unet, "peft_config", None):
        raise InputError(
            "the UNet has adapters already: merge them first (unet.fuse_lora(), unet.unload_lora())"
        )
    with torch.random.fork_rng(devices=[]):  # peft draws too
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in unet.named_parameters():
            p.requires_grad_(".lora_A." in name or ".lora_B." in name)
            if ".lora_A." in name:  # as peft begins, and as a linear layer does
                drawn = torch.empty(p.shape, device="cpu", dtype=torch.float32)
                p.copy_(nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator))
    return unet


def take_adapters(unet: nn.Module) -> dict[str, Tensor]:
    """A and B of every adapter, float32 on the CPU: ``<module>.lora_A.weight`` (rank, in), ``lora_B`` (out, rank).

    Those of 1x1 convolutions have two more dimensions of 1.
    """
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(unet, adapter_name="default")
    return {k: v.detach().float().cpu().contiguous() for k, v in state.items()}


def merge_adapters(unet: nn.Module) -> nn.Module:
    """Add the adapters to the weights that they belong to, and take them away, in place: an ordinary UNet is left."""
    unet.fuse_lora()
    unet.unload_lora()
    return unet


def base_digest(system: FoleySystem) -> str:
    """Digest of what adapters are of: the UNet's weights, and the tuning layer's where there is one."""
    hasher = hashlib.sha256()
    add_weights(hasher, system.unet)
    if system.tuning is not None:
        add_weights(hasher, system.tuning, "tuning.")
    return hasher.hexdigest()[:16]


def save_adapter(
    path: str | Path, adapters: Mapping[str, Tensor], base: FoleySystem, tuning: nn.Module | None = None
) -> None:
    """Write an adapter file, whole or not at all.

    diffusers opens it, or its folder, by ``pipe.unet.load_lora_adapter(path, prefix="unet", use_safetensors=True)``;
    it takes no notice of a tuning layer.

    Args:
        path: :data:`ADAPTER` in a folder is what diffusers looks for.
        adapters: of :func:`take_adapters`.
        base: the system that they were trained on, as it was.
        tuning: the tuning layer that was trained along.
    """
    rank = _rank(adapters)
    config = {"r": rank, "lora_alpha": rank, "target_modules": list(TARGETS)}
    place = Path(base.name)
    # a place on this machine says nothing elsewhere
    name = Path(os.path.abspath(place)).name if place.is_absolute() or place.exists() else base.name
    about = {"rank": rank, "alpha": rank, "base": name, "base_digest": base_digest(base)}
    header = {
        "format": "pt",
        _CONFIG: json.dumps({f"unet.{k}": v for k, v in config.items()}),
        _ABOUT: json.dumps(about | {"tuning": tuning is not None}),
    }
    tensors = {f"unet.{k}": v for k, v in adapters.items()}
    if tuning is not None:
        tensors |= {
            f"tuning.{k}": v.detach().float().cpu().contiguous() for k, v in tuning.state_dict().items()
        }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def _rank(adapters: Mapping[str, Tensor]) -> int:
    return next(len(v) for k, v in adapters.items() if k.endswith(".lora_A.weight"))


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
                f"{path}: holds more than adapters of a UNet ({_line(others[0])}), which has no place here"
            )
        for key, value in sorted(tensors.items()):
            if not (value.is_floating_point() and value.float().isfinite().all()):
                raise InputError(f"{path}: {_line(key)} is not of finite floats: the file is damaged")
        return cls(path, unet, tuning, *_header(path, start))

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
                raise InputError(f"{self.path}: {pattern} in its header names no layer by {_line(key)}")
            if name == key.removeprefix("^") or name.endswith(f".{key}"):
                value = own
                break
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and abs(value) < _LARGEST):  # of NaN, too
            raise InputError(f"{self.path}: {_line(value)} in its header is no rank or alpha of {name}")
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


def _header(path: Path, start: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """peft's configuration of the modules named so, and our note; what others wrote there is not trusted."""
    try:
        with safe_open(path, "pt") as opened:
            header = opened.metadata() or {}
        config, about = (json.loads(header.get(key, "{}")) for key in (_CONFIG, _ABOUT))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({error}); copy or download it again") from None
    if not (isinstance(config, dict) and isinstance(about, dict)):
        raise InputError(f"{path}: damaged (its header holds no tables); copy or download it again")
    config = {k.removeprefix(start): v for k, v in config.items() if k.startswith(start)}
    about |= {key: _line(about[key]) for key in ("base", "base_digest") if key in about}
    return config or None, about


def _line(value: object, most: int = 100) -> str:
    """A file's text for a message: one line, not long, and nothing that a terminal obeys."""
    text = "".join(c if c.isprintable() else " " for c in str(value)[: most + 1])
    return text if len(text) <= most else f"{text[:most]}..."


def adapter_file(path: str | Path) -> Path:
    """The adapter file that a file or folder names.

    Raises:
        InputError: there is none.
    """
    path = Path(path)
    file = path / ADAPTER if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: no {ADAPTER} there" if path.is_dir() else f"{path}: no such adapter file")
    return file


def adapter_parameters(unet: Mapping[str, Any], rank: int) -> tuple[int, int]:
    """How many parameters train at a rank, and how many there are, without any memory.

    Args:
        unet: configuration of a diffusers ``UNet2DConditionModel``.
        rank: of the adapters; 0: all train.
    """
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        net = UNet2DConditionModel.from_config(unet)
    total = sum(p.numel() for p in net.parameters())
    if not rank:
        return total, total
    trained = 0
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and any(f".{name}".endswith(f".{t}") for t in TARGETS):
            trained += rank * (layer.weight.shape[0] + layer.weight.shape[1])
    return trained, total
