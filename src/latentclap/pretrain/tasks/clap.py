"""CLAP, by contrast of sounds and their texts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentclap.pretrain.tasks.draws import uniform
from latentclap.train import Task


class ClapTask(Task):
    """Symmetric contrastive training of a ClapModel on audio and each of its texts: caption, and class prompt.

    Several clips of a batch may carry the same text (the paper's class prompts): all of them are right answers,
    so the target is spread over equal texts instead of the diagonal. Captions are compared with captions and
    prompts with prompts: among both together, a prompt would be a wrong answer to another clip of its own class.

    Args:
        clap: the ClapModel.
        others: texts that the last column is compared with too, whatever the batch: tokens and mask (N, L), and
            text_id (N,). A batch of few classes holds few of their prompts to choose from.
        prompt_weight: weight of the last column's loss beside the other columns', whose weight is one.
        mask_time: longest masked span, as a share of the frames.
        mask_mel: widest masked band, as a share of the mel bands.
    """

    divisible = False

    def __init__(
        self,
        clap: nn.Module,
        *,
        others: dict[str, Tensor] | None = None,
        prompt_weight: float = 2.0,
        mask_time: float = 0.15,
        mask_mel: float = 0.15,
    ) -> None:
        super().__init__()
        self.clap = clap
        self.others, self.prompt_weight = others, prompt_weight
        self.mask_time, self.mask_mel = mask_time, mask_mel

    def forward(self, batch: dict[str, Tensor], rngs: list[torch.Generator]) -> dict[str, Tensor]:
        """Batch: features (B, 1, T, M), tokens and mask (B, K texts, L), text_id (B, K).

        Returns:
            loss, the weighted mean over the K texts; accuracy and prompt_accuracy, the share of clips whose first
            text (the caption) and last one is the likeliest of those it is compared with; scale of the logits.
        """
        audio = self.clap.get_audio_features(input_features=self.augment(batch["features"].float(), rngs))
        # batch by batch of one kind of text: (K B, L)
        tokens, mask = (batch[name].transpose(0, 1).flatten(0, 1) for name in ("tokens", "mask"))
        ids = list(batch["text_id"].T)
        if self.others:
            more = {name: value.to(tokens.device) for name, value in self.others.items()}
            tokens, mask = torch.cat([tokens, more["tokens"]]), torch.cat([mask, more["mask"]])
            ids[-1] = torch.cat([ids[-1], more["text_id"]])
        text = self.clap.get_text_features(input_ids=tokens.long(), attention_mask=mask.long())
        E_audio, E_text = (F.normalize(e.pooler_output, dim=-1) for e in (audio, text))
        scale = self.clap.logit_scale_a.exp().clamp(max=100)
        losses, hits = zip(
            *(
                contrastive(scale * E_audio @ E.T, of)
                for E, of in zip(E_text.split([len(of) for of in ids]), ids, strict=True)
            ),
            strict=True,
        )
        weights = torch.ones(len(losses), device=scale.device)
        weights[-1] = self.prompt_weight
        loss = (weights * torch.stack(losses)).sum() / weights.sum()
        return {"loss": loss, "accuracy": hits[0], "prompt_accuracy": hits[-1], "scale": scale}

    def augment(self, features: Tensor, rngs: list[torch.Generator]) -> Tensor:
        """Roll in time, change the level, and mask one span of time and one of mel bands."""
        u = uniform(rngs, 6)
        out = []
        for x, r in zip(features, u.tolist(), strict=True):
            frames, mels = x.shape[-2:]
            x = torch.roll(x, int(r[0] * frames), dims=-2) + 12 * (r[1] - 0.5)  # dB
            floor = x.amin()
            span = int(r[2] * self.mask_time * frames)
            start = int(r[3] * (frames - span))
            x[:, start : start + span] = floor
            span = int(r[4] * self.mask_mel * mels)
            start = int(r[5] * (mels - span))
            x[:, :, start : start + span] = floor
            out.append(x)
        return torch.stack(out)


def contrastive(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric cross entropy of audio against texts where equal texts are all right.

    Args:
        logits: (B audio, N >= B texts), the i-th text the i-th audio's own; texts beyond B are answers to choose
            from, and are not asked for audio themselves.
        ids: number of each text (N,), the same for equal ones.

    Returns:
        The loss, and the share of audio whose likeliest text is right; scalars.
    """
    size = len(logits)
    right = (ids[:size, None] == ids[None, :]).float()
    to_text = right / right.sum(1, keepdim=True)
    to_audio = right[:, :size] / right[:, :size].sum(1, keepdim=True)
    loss = (F.cross_entropy(logits, to_text) + F.cross_entropy(logits[:, :size].T, to_audio)) / 2
    rows = torch.arange(size, device=ids.device)
    return loss, right[rows, logits.argmax(1)].mean()
