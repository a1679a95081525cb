"""A system before and after fine-tuning: losses on held-out clips, and the page."""

from __future__ import annotations

import functools
import gc
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentclap.checkpoints import own_sampling, resolve
from latentclap.own.parts import PARTS, Parts
from latentclap.own.run import TEXTS, Own
from latentclap.wording import plural

if TYPE_CHECKING:
    import numpy as np

    from latentclap.cache import ShardedCache
    from latentclap.finetune import FinetuneConfig
    from latentclap.system import FoleySystem

#: the page's columns: what the system makes of a caption
BEFORE, AFTER = "Before", "After"


def compare(
    own: Own, caches: Mapping[str, ShardedCache], config: FinetuneConfig, *, progress: bool = True
) -> dict[str, Any]:
    """Losses on held-out clips and the page, both before and after; what the record says of them.

    Losses and clips are kept as they are made, for a call that goes on; :func:`forget_parts` removes them.

    Args:
        own: the fine-tuning, whose training is finished.
        caches: what :meth:`Own.encode` returned.
        config: of the training.
        progress: show progress bars.

    Returns:
        ``used``, how many sounds were trained on; with held-out clips ``held_out_losses``; with a page its path from
        the run's folder on, ``page``.
    """
    from latentclap.own.heldout import chosen, measure, paired, sounds_of

    told: dict[str, Any] = {}
    phi = own.phi_of(config)
    made: dict[str, dict[str, np.ndarray]] = {}
    losses: list[dict[str, np.ndarray]] = []
    held_out = caches.get("held_out")
    sounds = sounds_of(held_out, own.crops) if held_out is not None else []
    clips = chosen(sounds)
    sampling_rate = 0
    parts = Parts(own.out / PARTS, _decides(own, config))
    for column, name in ((BEFORE, ""), (AFTER, str(own.out / "system"))):
        system = own.system(name)
        sampling_rate = system.sampling_rate
        if clips:
            bar = f"held-out losses, {column.lower()}" if progress else ""
            # under no name, which would keep this system in a GPU's memory beside the next
            losses.append(
                parts.get(
                    f"{column.lower()}_losses",
                    functools.partial(measure, system, phi, held_out, clips, bar=bar),
                )
            )
        if own.listen:
            made[column] = _clips(own, system, config.seed, column, progress, parts)
        del system
        _free()
    if losses:
        whose = [sounds[i] for i in clips]
        told["held_out_losses"] = {
            name: paired(losses[0][name], losses[1][name], whose) for name in losses[0]
        }
    used = set(sounds_of(caches["train"], own.crops))
    told["used"] = len(used)
    if own.listen:
        page = write_page(own, made, sampling_rate, config, used)
        told["page"] = str(page.relative_to(own.out))
    return told


def _decides(own: Own, config: FinetuneConfig) -> dict[str, Any]:
    """What decides losses and clips beside the run itself, whose folder it is: weights, texts and code."""
    from latentclap.generation import code, make_plan
    from latentclap.runs import CORE, code_hash

    after = str(own.out / "system")
    return {
        "about": own.about(),
        "training": vars(config),
        "weights": [make_plan(name, {}, {}, "")["weights"] for name in (own.model, after)],
        "texts": own.texts,
        "code": [code(), code_hash((*CORE, "own.heldout"))],
    }


def forget_parts(own: Own) -> None:
    """Remove what :func:`compare` keeps while it is not finished."""
    shutil.rmtree(own.out / PARTS, ignore_errors=True)


def _clips(
    own: Own, system: FoleySystem, seed: int, column: str, progress: bool, parts: Parts
) -> dict[str, np.ndarray]:
    from tqdm.auto import tqdm

    def make(text: str) -> dict[str, np.ndarray]:
        return {"clips": system.generate(prompts=[text], n=own.listen, seed=seed, progress=False)}

    def good(arrays: dict[str, np.ndarray]) -> bool:
        return len(arrays["clips"]) == own.listen

    bar = tqdm(own.texts, desc=f"clips, {column.lower()}", unit="text", disable=None if progress else True)
    return {
        text: parts.get(f"{column.lower()}_{i:02d}", functools.partial(make, text), good)["clips"]
        for i, text in enumerate(bar)
    }


def write_page(
    own: Own,
    made: Mapping[str, Mapping[str, np.ndarray]],
    sampling_rate: int,
    config: FinetuneConfig,
    used: set[str],
) -> Path:
    """Write the page that plays both beside the sounds of the folder.

    Args:
        own: the fine-tuning.
        made: column -> caption -> clips (n, samples).
        sampling_rate: of the clips, in Hz.
        config: of the training.
        used: keys of the sounds that were trained on.
    """
    from latentclap.own.page import listening_page

    # what the cache left out, silence say, was not trained on
    trained = [item for item in own.sounds.usable if item.key in used]
    yours = {text: [item for item in trained if item.caption == text] for text in own.texts}
    chosen = own_sampling(resolve(own.model))
    more = len(own.sounds.captions) - len(own.texts)
    left = f"{plural(more, 'text')} more {'is' if more == 1 else 'are'}"
    lines = [
        f"{own.model} before and after {plural(config.epochs, 'epoch')} on {plural(len(used), 'sound')} of"
        f" {own.sounds.folder.name}, with λ = {config.lam:g}.",
        f"Clips of a row have one text, one seed ({config.seed}) and one sampler ({chosen.sampler},"
        f" {chosen.steps} steps, guidance {chosen.guidance_scale:g}). Shown are the first {own.listen} of each"
        " text, and the first sounds of the folder or its table; none was picked by ear."
        + (f" {left} not on this page: the {TEXTS} most frequent are." if more else ""),
    ]
    return listening_page(own.out / "listen", own.texts, yours, made, sampling_rate, lines)


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
