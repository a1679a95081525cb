"""The Latent CLAP encoder φ: PANN-10 over VAE latents (section III-D, Fig. 2), trained by eq. 2.

PANN-10 is the four-block Cnn10 of PANNs (Kong et al., 2020; facts C). What changes: the first convolution takes
the latent's channels, the input batch norm runs over the latent's frequency axis, and the classifier gives way to
a linear layer into CLAP's space. 2x2 pooling four times exhausts the 16 frequency bins exactly.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from latentclap.checkpoints import latent_clap_folder
from latentclap.errors import InputError
from latentclap.files import atomic_path, load_tensors, read_json, write_json


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, each with batch norm and ReLU, then average pooling (PANNs)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.bn2 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor, pool: tuple[int, int] = (2, 2)) -> Tensor:
        """(B, channels_in, T, F) -> (B, channels_out, T / pool, F / pool)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.avg_pool2d(x, pool)


class LatentCLAP(nn.Module):
    """Map latents (B, channels, T, freq) to CLAP's space (B, embed_dim).

    At full width it has 5,215,520 parameters (facts C). The output is not normalised: trained by eq. 2 it is
    the conditional mean of unit vectors, whose length is at most one.

    Args:
        channels: latent channels (AudioLDM 8).
        freq: latent frequency bins (AudioLDM 16); at least 2^(number of blocks).
        width: channels of the first block; PANN-10 has 64. Doubled from block to block.
        blocks: number of blocks; PANN-10 has 4.
        embed_dim: CLAP's dimension.
        dropout: after each block (PANNs 0.2).
        head_dropout: before and after the first linear layer (PANNs 0.5).
    """

    def __init__(
        self,
        *,
        channels: int = 8,
        freq: int = 16,
        width: int = 64,
        blocks: int = 4,
        embed_dim: int = 512,
        dropout: float = 0.2,
        head_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.config = {
            "channels": channels,
            "freq": freq,
            "width": width,
            "blocks": blocks,
            "embed_dim": embed_dim,
            "dropout": dropout,
            "head_dropout": head_dropout,
        }
        widths = [width * 2**i for i in range(blocks)]
        self.bn0 = nn.BatchNorm2d(freq)
        self.blocks = nn.ModuleList(
            ConvBlock(a, b) for a, b in zip([channels, *widths], widths, strict=False)
        )
        self.fc1 = nn.Linear(widths[-1], widths[-1])
        self.out = nn.Linear(widths[-1], embed_dim)
        self.dropout, self.head_dropout = dropout, head_dropout
        self.apply(_init)
        # Entries of a unit vector in 512 dimensions are near 0.04. With Xavier's weights the first outputs are some
        # twenty times that, and the cheapest way down is a dead ReLU before them: a constant for all latents.
        nn.init.normal_(self.out.weight, std=0.01)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, channels, T, freq) -> (B, embed_dim).

        Raises:
            InputError: the latent's channels or frequency bins are not this encoder's, or T is under 2^blocks.
        """
        c, f, blocks = self.config["channels"], self.config["freq"], self.config["blocks"]
        if latent.ndim != 4 or latent.shape[1] != c or latent.shape[3] != f or latent.shape[2] < 2**blocks:
            raise InputError(
                f"LatentCLAP takes latents (B, {c}, T >= {2**blocks}, {f}), got {tuple(latent.shape)}"
            )
        # PANNs normalise per frequency bin: BatchNorm2d counts axis 1, so frequency goes there and back
        x = self.bn0(latent.transpose(1, 3)).transpose(1, 3)
        for block in self.blocks:
            x = F.dropout(block(x), self.dropout, self.training)
        x = x.mean(3)
        # by index, as PANNs' own: amax finds its places again by comparing, in bf16 with values that a compiler keeps
        # in float32, finds none, and gives 0 / 0
        x = x.max(2).values + x.mean(2)
        x = F.dropout(x, self.head_dropout, self.training)
        x = F.dropout(F.relu(self.fc1(x)), self.head_dropout, self.training)
        return self.out(x)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` to a folder."""
        folder = Path(folder)
        write_json(folder / "config.json", self.config)
        with atomic_path(folder / "model.safetensors") as path:
            save_file({k: v.contiguous() for k, v in self.state_dict().items()}, path)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> LatentCLAP:
        """Read what :meth:`save_pretrained` wrote, in float32 and evaluation mode.

        Args:
            name_or_path: its folder, or a system that it comes with: "mini", or a system's folder.

        Raises:
            InputError: a file is missing or damaged, or the weights do not fit the configuration.
        """
        folder = latent_clap_folder(name_or_path)
        if not (folder / "config.json").is_file():
            raise InputError(f"no Latent CLAP encoder in {folder}: config.json is missing")
        config = read_json(folder / "config.json")
        try:
            model = cls(**config)
            model.load_state_dict(load_tensors(folder / "model.safetensors"))
        except InputError:
            raise
        except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{folder}: weights and config.json do not fit each other ({reason})") from None
        return model.float().eval()


def _init(module: nn.Module) -> None:
    """PANNs' initialisation: Xavier-uniform weights, zero biases, unit batch norms."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def latent_clap_loss(E_audio: Tensor, E_latent: Tensor) -> Tensor:
    """Eq. 2: the mean squared error between CLAP's audio embedding and φ's, both (B, D), as a mean over B and D."""
    return F.mse_loss(E_latent.float(), E_audio.float())


@torch.no_grad()
def cosine(E_a: Tensor, E_b: Tensor) -> Tensor:
    """Cosine similarity of two sets of embeddings, row by row: (B, D), (B, D) -> (B,)."""
    return F.cosine_similarity(E_a.float(), E_b.float(), dim=-1)
