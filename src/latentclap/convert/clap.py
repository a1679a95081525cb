"""LAION-CLAP's towers as transformers' ClapModel (facts E): HTSAT audio and RoBERTa text, without fusion.

Every size but one is read from the tensors' shapes, so that a HTSAT-base file cannot be loaded as HTSAT-tiny
(facts G4). The one is the width of a text attention head: 64 channels, as in every RoBERTa.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from latentclap.convert.checkpoint import Checkpoint
from latentclap.convert.report import LoadReport, Mapped, compare, fill, map_names
from latentclap.errors import InputError

TEXT_HEAD = 64
#: Entries of a LAION checkpoint that no embedding depends on.
BENIGN = [
    (
        r"^audio_branch\.(spectrogram_extractor|logmel_extractor)\.",
        "mel front end, computed from its settings",
    ),
    (r"^audio_branch\.(tscam_conv|head)\.", "AudioSet classifier of HTSAT"),
    (r"^(text|audio)_transform\.", "second projection of CLAP's training loss"),
    (r"\.(attn_mask|relative_position_index)$", "index tables, computed from sizes"),
    (r"^text_branch\.embeddings\.(position_ids|token_type_ids)$", "index tables, computed from sizes"),
    (r"^attn_mask$", "index tables, computed from sizes"),
]
#: HTSAT's front end at 48 kHz (facts E), where transformers' own defaults differ in the last three.
FRONT_END = {
    "sampling_rate": 48_000,
    "hop_length": 480,
    "fft_window_size": 1024,
    "max_length_s": 10,
    "frequency_max": 14_000,
    "frequency_min": 50,
    "truncation": "rand_trunc",
    "padding": "repeatpad",
}
_BLOCK = {
    "attn.proj": "attention.output.dense",
    "attn.relative_position_bias_table": "attention.self.relative_position_bias_table",
    "attn.query": "attention.self.query",
    "attn.key": "attention.self.key",
    "attn.value": "attention.self.value",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


@dataclass(frozen=True)
class ConvertedClap:
    """A ``ClapModel`` with its front end, what was inferred, and the load report."""

    model: nn.Module
    feature_extractor: Any
    architecture: str
    report: LoadReport


def infer_clap(state: Mapping[str, Tensor]) -> Any:
    """The ``ClapConfig`` of a LAION checkpoint's tensors.

    Raises:
        InputError: a fusion checkpoint, or entries are absent without which there is no CLAP.
    """
    from transformers import ClapConfig

    if any("fusion" in name or "mel_conv2d" in name for name in state):
        raise InputError(
            "a CLAP with feature fusion; the paper's is without: 630k-audioset-best.pt, "
            "not 630k-audioset-fusion-best.pt"
        )
    try:
        audio, text = _infer_audio(state), _infer_text(state)
        dim = state["text_projection.2.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(
            f"not a LAION-CLAP with HTSAT and RoBERTa: {error} is missing or of another shape"
        ) from None
    shared = {"projection_dim": dim, "projection_hidden_act": "relu"}
    return ClapConfig(audio_config=audio | shared, text_config=text | shared, **shared)


def _infer_audio(state: Mapping[str, Tensor]) -> dict[str, Any]:
    first = state["audio_branch.patch_embed.proj.weight"]
    layers = _count(state, r"audio_branch\.layers\.(\d+)\.")
    tables = [
        state[f"audio_branch.layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(layers)
    ]
    width = first.shape[0]
    hidden = width * 2 ** (layers - 1)
    if state["audio_branch.norm.weight"].shape[0] != hidden:
        raise ValueError("audio_branch.norm.weight")
    return {
        "patch_embeds_hidden_size": width,
        "patch_size": first.shape[2],
        "patch_stride": [first.shape[2], first.shape[3]],
        "hidden_size": hidden,
        "num_mel_bins": state["audio_branch.bn0.weight"].shape[0],
        "spec_size": 256,
        # a table has (2 window - 1)^2 rows
        "window_size": (round(tables[0].shape[0] ** 0.5) + 1) // 2,
        "num_attention_heads": [table.shape[1] for table in tables],
        "depths": [_count(state, rf"audio_branch\.layers\.{i}\.blocks\.(\d+)\.") for i in range(layers)],
        "num_hidden_layers": layers,
        "enable_fusion": False,
        "drop_path_rate": 0.0,
    }


def _infer_text(state: Mapping[str, Tensor]) -> dict[str, Any]:
    words = state["text_branch.embeddings.word_embeddings.weight"]
    return {
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "num_attention_heads": words.shape[1] // TEXT_HEAD,
        "num_hidden_layers": _count(state, r"text_branch\.encoder\.layer\.(\d+)\."),
        "intermediate_size": state["text_branch.encoder.layer.0.intermediate.dense.weight"].shape[0],
        "max_position_embeddings": state["text_branch.embeddings.position_embeddings.weight"].shape[0],
        "type_vocab_size": state["text_branch.embeddings.token_type_embeddings.weight"].shape[0],
        "layer_norm_eps": 1e-5,  # RoBERTa's; transformers' default for CLAP is 1e-12
        "hidden_dropout_prob": 0.1,
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max(int(match[1]) for name in state if (match := re.match(pattern, name)))


def split_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """HTSAT's fused attention matrices as three."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[name.replace(".qkv.", f".{part}.")] = piece
        else:
            out[name] = tensor
    return out


def clap_name(name: str) -> str | None:
    """LAION's name in transformers, or None."""
    if name.startswith("text_branch."):
        return name.replace("text_branch.", "text_model.", 1)
    if name in ("logit_scale_a", "logit_scale_t"):
        return name
    match = re.match(r"(audio|text)_projection\.([02])\.(weight|bias)$", name)
    if match:
        return f"{match[1]}_projection.linear{1 + int(match[2]) // 2}.{match[3]}"
    if not name.startswith("audio_branch."):
        return None
    rest = name.removeprefix("audio_branch.")
    rest = re.sub(r"^bn0\.", "batch_norm.", rest)
    block = re.match(r"(layers\.\d+\.blocks\.\d+\.)(.+)", rest)
    if block:
        for old, new in _BLOCK.items():
            if block[2] == old or block[2].startswith(old + "."):
                rest = block[1] + new + block[2][len(old) :]
                break
    return f"audio_model.audio_encoder.{rest}"


def map_clap(state: Mapping[str, Tensor], prefix: str = "") -> Mapped:
    """A LAION checkpoint's entries under ClapModel's names; ``prefix`` as the file has it before them."""
    return map_names(split_qkv(state), clap_name, BENIGN, prefix)


def empty_clap(config: Any) -> nn.Module:
    """A ClapModel whose parameters are on the meta device, its index tables real."""
    from accelerate import init_empty_weights
    from transformers import ClapModel

    with init_empty_weights(include_buffers=False):
        return ClapModel(config)


def architecture(config: Any) -> str:
    """ "HTSAT-tiny", "HTSAT-base", or the sizes where it is neither."""
    audio = config.audio_config
    known = {(96, (2, 2, 6, 2)): "HTSAT-tiny", (128, (2, 2, 12, 2)): "HTSAT-base"}
    sizes = (audio.patch_embeds_hidden_size, tuple(audio.depths))
    return known.get(sizes, f"HTSAT of width {sizes[0]}, depths {sizes[1]}")


def convert_clap(source: Checkpoint, prefix: str = "", *, fill_weights: bool = True) -> ConvertedClap:
    """Convert LAION-CLAP's towers.

    Args:
        source: a LAION file, or an AudioLDM file with ``prefix`` "cond_stage_model.model.".
        prefix: what stands before the towers' names.
        fill_weights: False: only the report, the model stays empty.

    Raises:
        InputError: no CLAP there, a fusion one, or not whole.
    """
    from transformers import ClapFeatureExtractor

    state = source.under(prefix) if prefix else source.state
    config = infer_clap(state)
    mapped, model = map_clap(state, prefix), empty_clap(config)
    report = compare("clap", model, mapped)
    if fill_weights:
        fill(model, mapped, report.require(str(source.path)))
    extractor = ClapFeatureExtractor(feature_size=config.audio_config.num_mel_bins, **FRONT_END)
    return ConvertedClap(model, extractor, architecture(config), report)
