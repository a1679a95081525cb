"""An original AudioLDM checkpoint (.ckpt) as a FoleySystem: UNet, VAE, vocoder, CLAP, schedule and scale factor.

The file is a Lightning state dict: ``model.diffusion_model.*`` and its moving average ``model_ema.*``,
``first_stage_model.*`` with the vocoder inside, ``cond_stage_model.model.*`` (CLAP, both towers), the schedule's
tables and ``scale_factor`` (facts A).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latentclap.convert.checkpoint import Checkpoint, read_checkpoint
from latentclap.convert.clap import ConvertedClap, convert_clap, infer_clap
from latentclap.convert.report import LoadReport, Mapped, compare, fill, map_names
from latentclap.convert.unet import infer_unet, unet_names
from latentclap.convert.vae import (
    VAE_BENIGN,
    fold_weight_norm,
    infer_vae,
    infer_vocoder,
    linear_attention,
    vae_names,
    vocoder_name,
)
from latentclap.errors import InputError

if TYPE_CHECKING:
    from latentclap.system import FoleySystem

UNET, EMA, FIRST = "model.diffusion_model.", "model_ema.", "first_stage_model."
#: where the inference code and the training code keep the CLAP that conditions
CLAP = ("cond_stage_model.model.", "cond_stage_models.0.model.")
VOCODER = FIRST + "vocoder."
#: What a state dict holds beside its modules.
_REST = [
    (
        r"^(betas|alphas_cumprod|(log_|sqrt_).*alphas_cumprod.*|alphas_cumprod_prev)$",
        "tables of the schedule",
    ),
    (r"^sqrt_recip(m1)?_alphas_cumprod$|^posterior_|^lvlb_weights$|^logvar$", "tables of the schedule"),
    (r"^scale_factor$", "scale factor, read into the VAE's configuration"),
    (r"^(learning_rate|global_step|epoch)$", "state of the training"),
    (r"^clap\.", "the CLAP by which the training code ranks candidates"),
]


@dataclass(frozen=True)
class Converted:
    """A converted AudioLDM checkpoint.

    Attributes:
        system: the system, or None where only the report was asked for.
        reports: one per part: unet, vae, vocoder, clap, and "rest" for what belongs to none.
        facts: what was read from the file: weights taken, scale factor, architecture of its CLAP, heads, notes.
    """

    system: FoleySystem | None
    reports: list[LoadReport]
    facts: dict[str, Any] = field(default_factory=dict)


def convert_audioldm(
    source: str | Path | Checkpoint,
    *,
    tokenizer: str | Path = "roberta-base",
    ema: bool | None = None,
    scale_factor: float | None = None,
    head_channels: int | None = None,
    frames: int = 1024,
    report_only: bool = False,
) -> Converted:
    """Convert an original AudioLDM checkpoint.

    Args:
        source: the .ckpt file, or what :func:`read_checkpoint` made of it.
        tokenizer: RoBERTa's tokenizer, which no .ckpt holds: a folder, or a name on the hub.
        ema: take the UNet's moving average, as the original code does whenever it generates, or the weights that
            its training goes on from. None: the average where the file has one.
        scale_factor: of the latents, only for a file without the buffer; the buffer wins.
        head_channels: channels of an attention head in the UNet; None for AudioLDM's (32, and 64 in L).
        frames: mel frames of a clip; no .ckpt tells them (AudioLDM 1024).
        report_only: fill nothing and need no tokenizer.

    Raises:
        InputError: not such a file, a part not whole, a schedule that is not AudioLDM's, no scale factor, or no
            tokenizer.
    """
    file = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    where = str(file.path)
    unet_source, taken = _unet_source(file, ema)
    scale, notes = _scale_factor(file, scale_factor)
    config = infer_unet({n: t for n, (_, t) in unet_source.items()}, head_channels)
    unet, unet_mapped = _unet(unet_source, config)
    vae, vae_mapped = _vae(file, scale)
    vocoder, vocoder_mapped = _vocoder(file)
    parts = {"unet": (unet, unet_mapped), "vae": (vae, vae_mapped), "vocoder": (vocoder, vocoder_mapped)}
    reports = {name: compare(name, module, mapped) for name, (module, mapped) in parts.items()}
    schedule, prefix = _schedule(file), _clap_prefix(file)
    if not report_only:
        # before gigabytes are copied
        for report in reports.values():
            report.require(where)
        words = load_tokenizer(tokenizer, infer_clap(file.under(prefix)).text_config.vocab_size)
    clap = convert_clap(file, prefix, fill_weights=not report_only)
    facts = {
        "unet_weights": taken,
        "scale_factor": scale,
        "head_channels": config["block_out_channels"][-1] // config["attention_head_dim"][-1],
        "clap": clap.architecture,
        **schedule,
        "not_run": file.inert,
        "notes": notes,
    }
    everything = [*reports.values(), clap.report, _rest(file, taken, prefix)]
    if report_only:
        return Converted(None, everything, facts)
    for name, (module, mapped) in parts.items():
        fill(module, mapped, reports[name])
    modules = {name: module for name, (module, _) in parts.items()}
    return Converted(_assemble(where, modules, clap, schedule, words, frames), everything, facts)


# ------------------------------------------------------------------------------------------------ parts


def _unet_source(file: Checkpoint, ema: bool | None) -> tuple[dict[str, tuple[str, Tensor]], str]:
    """The UNet's entries, name -> (name in the file, tensor), and which weights they are: "ema" or "training"."""
    plain = {name: (UNET + name, tensor) for name, tensor in file.under(UNET).items()}
    if not plain:
        raise InputError(f"{file.path}: no UNet in it (model.diffusion_model.*)")
    # LitEma takes the dots out of a name, so the training weights' names are needed to read the average
    flat = {name: EMA + ("diffusion_model." + name).replace(".", "") for name in plain}
    absent = [name for name in plain if flat[name] not in file.state]
    if ema is None:
        ema = not absent
    if not ema:
        return plain, "training"
    if absent:
        raise InputError(
            f"{file.path}: no moving average of {len(absent)} of the UNet's {len(plain)} entries; say --no-ema"
        )
    return {name: (flat[name], file.state[flat[name]]) for name in plain}, "ema"


def _unet(source: dict[str, tuple[str, Tensor]], config: dict[str, Any]) -> tuple[nn.Module, Mapped]:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    mapped = map_names({n: t for n, (_, t) in source.items()}, unet_names(config))
    names = {name: in_file for name, (in_file, _) in source.items()}
    mapped.origin = {ours: names[old] for ours, old in mapped.origin.items()}
    return unet, mapped


def _vae(file: Checkpoint, scale: float) -> tuple[nn.Module, Mapped]:
    from diffusers import AutoencoderKL

    state = {n: t for n, t in file.under(FIRST).items() if not n.startswith("vocoder.")}
    config = infer_vae(state, scale)
    with torch.device("meta"):
        vae = AutoencoderKL(**config)
    return vae, map_names(linear_attention(state), vae_names(config), VAE_BENIGN, FIRST)


def _vocoder(file: Checkpoint) -> tuple[nn.Module, Mapped]:
    from accelerate import init_empty_weights
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    state = fold_weight_norm(file.under(VOCODER))
    with init_empty_weights(include_buffers=False):
        vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**infer_vocoder(state)))
    return vocoder, map_names(state, vocoder_name, (), VOCODER)


def _clap_prefix(file: Checkpoint) -> str:
    """Where the file keeps the CLAP that conditions; the inference code's place where there is none."""
    return next((p for p in CLAP if any(n.startswith(p) for n in file.state)), CLAP[0])


def _rest(file: Checkpoint, taken: str, clap: str) -> LoadReport:
    """A report on everything that belongs to no part."""
    other = UNET if taken == "ema" else EMA
    reason = "training weights of the UNet" if taken == "ema" else "moving average of the UNet"
    taken_prefixes = (UNET if taken == "training" else EMA, FIRST, clap)
    entries = {n: t for n, t in file.state.items() if not n.startswith(taken_prefixes)}
    entries |= {n: file.state[n] for n in ("model_ema.decay", "model_ema.num_updates") if n in file.state}
    rules = [
        (r"^model_ema\.(decay|num_updates)$", "counters of the moving average"),
        ("^" + other.replace(".", r"\."), reason),
        *_REST,
    ]
    return compare("rest", nn.Module(), map_names(entries, lambda _: None, rules))


# --------------------------------------------------------------------------------------------- settings


def _scale_factor(file: Checkpoint, given: float | None) -> tuple[float, list[str]]:
    """The scale factor of the latents: the file's own buffer before any other source (facts A3)."""
    buffer = file.state.get("scale_factor")
    if buffer is None:
        if given is None:
            raise InputError(
                f"{file.path}: no scale_factor in it, and a wrong one ruins every latent; give --scale-factor"
            )
        return float(given), ["scale factor as given, the file has none"]
    own = float(buffer)
    if not own > 0:
        raise InputError(f"{file.path}: scale_factor is {own:g}; it must be positive")
    if given is not None and abs(given - own) > 1e-6 * own:
        return own, [f"scale factor {given:g} as given was not used: the file's own is {own:.7g}"]
    return own, []


def _schedule(file: Checkpoint) -> dict[str, Any]:
    """Steps and ends of the file's beta schedule, which must be AudioLDM's kind (facts A4)."""
    betas = file.state.get("betas")
    if betas is None:
        return {"num_train_timesteps": 1000, "beta_start": 0.0015, "beta_end": 0.0195}
    betas = betas.double()
    start, end = (round(float(beta), 7) for beta in (betas[0], betas[-1]))
    expected = torch.linspace(start**0.5, end**0.5, len(betas), dtype=torch.float64) ** 2
    if float((betas - expected).abs().max()) > 1e-6:
        raise InputError(f"{file.path}: its betas are not linear in their square root, as AudioLDM's are")
    return {"num_train_timesteps": len(betas), "beta_start": start, "beta_end": end}


def load_tokenizer(name: str | Path, vocabulary: int) -> Any:
    """RoBERTa's tokenizer from a folder or the hub, for a text tower with so many words.

    Raises:
        InputError: not to be had, empty, or of more words than the tower has.
    """
    from transformers import AutoTokenizer

    mend = "give --tokenizer, a folder with roberta-base's tokenizer files"
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the hub's many errors all mean: it is not to be had
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise InputError(f"no tokenizer at {str(name)!r} ({reason}); {mend}") from None
    if len(tokenizer) <= 100:
        raise InputError(f"the tokenizer at {str(name)!r} has only {len(tokenizer)} tokens; {mend}")
    if len(tokenizer) > vocabulary:
        raise InputError(
            f"the tokenizer at {str(name)!r} has {len(tokenizer)} tokens, the text tower {vocabulary}; {mend}"
        )
    return tokenizer


def _assemble(
    where: str,
    modules: dict[str, nn.Module],
    clap: ConvertedClap,
    schedule: dict[str, Any],
    words: Any,
    frames: int,
) -> FoleySystem:
    from diffusers import DDIMScheduler

    from latentclap.storage import text_encoder_of
    from latentclap.system import FoleySystem

    text = clap.model.config.text_config
    # RoBERTa counts positions from 2
    words.model_max_length = min(words.model_max_length, text.max_position_embeddings - 2)
    scheduler = DDIMScheduler(
        **schedule,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return FoleySystem(
        text_encoder=text_encoder_of(clap.model),
        tokenizer=words,
        scheduler=scheduler,
        clap=clap.model,
        feature_extractor=clap.feature_extractor,
        frames=frames,
        name=where,
        **modules,
    )
