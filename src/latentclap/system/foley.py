"""FoleySystem: what generates, with its ways from and to files, and the copies that generate faster or otherwise."""

from __future__ import annotations

import copy
import functools
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from latentclap import storage
from latentclap.system.generator import Generator, one_pass
from latentclap.train.replay import Recorded

#: sizes of a batch whose passes are kept as CUDA graphs, each with the memory that a pass takes
SHAPES = 2


@dataclass
class FoleySystem(Generator):
    """A text-to-Foley latent diffusion system (Fig. 1).

    Its parts are given by name, see the attributes; :meth:`from_pretrained` loads them from a checkpoint.
    """

    # ---------------------------------------------------------------------------------------- copies

    def for_generation(self, *, compile: bool = True, cuda_graph: bool = True) -> FoleySystem:
        """A copy for many clips on a GPU: compiled, in fewer passes over memory, products in bf16.

        Clips differ from this system's by bf16's rounding, 200 steps of it; a seed still gives the same clip again.
        Without a GPU that has bf16, everything stays float32. The copy shares all but the UNet's weights; it is not
        for training.

        Args:
            compile: torch.compile the UNet: most of a minute at the first batch, and again for a batch of another
                size; worth it from some hundred clips on.
            cuda_graph: on a GPU, record the UNet's pass at a batch's fourth step, and replay it in all that follow:
                small batches are several times faster.

        Raises:
            InputError: there is no C compiler, which torch.compile needs.
        """
        from latentclap.fast import half_weights, speed_up
        from latentclap.train.compiler import need_compiler
        from latentclap.train.config import has_bf16

        if compile:
            need_compiler()

        fast = copy.copy(self)
        fast.unet = speed_up(copy.deepcopy(self.unet)).requires_grad_(False)
        fast.half, fast.sizes = self.device.type == "cuda" and has_bf16(), set()
        if fast.half:
            half_weights(fast.unet)
        if compile:
            fast.unet.compile(dynamic=False)
        fast.replay = None
        if cuda_graph and self.device.type == "cuda":
            # no closure: a copy of the system computes with its own UNet
            function = functools.partial(one_pass, fast.unet, fast.half)
            fast.replay = Recorded(function, kept=SHAPES, of=fast.unet)
        return fast

    def with_lora(self, path: str | Path) -> FoleySystem:
        """A copy with LoRA adapters merged into its UNet, and the tuning layer that was trained along.

        The copy is an ordinary system: it generates, trains and saves as any other.

        Args:
            path: the file that fine-tuning with ``lora_rank`` leaves, or its folder; or one that diffusers'
                ``save_lora_adapter`` wrote.

        Raises:
            InputError: no such file, one that is damaged, or adapters for another UNet. (For the same UNet with other
                weights there is a warning.)
        """
        from latentclap.lora import Adapter

        return Adapter.read(path).applied(self)

    # ------------------------------------------------------------------------------------- files

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, judge: str | Path | None = None, device: str = "cpu"
    ) -> FoleySystem:
        """Load a system.

        Args:
            name_or_path: "mini" (shipped with the package), a folder written by :meth:`save_pretrained` or by
                diffusers, a repository of the Hugging Face hub such as "cvssp/audioldm-m-full", or an original
                AudioLDM file (.ckpt; :func:`latentclap.convert.convert_audioldm` has the options).
            judge: the ``ClapModel`` that judges instead of the checkpoint's own, if it has one: a folder, a hub
                name, or LAION's file (630k-audioset-best.pt).
            device: where to put it.

        Raises:
            InputError: nothing to load there; the message says what is missing.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return storage.load_system(cls, name_or_path, judge=judge).to(device)

    def save_pretrained(
        self, folder: str | Path, *, dtype: torch.dtype | None = None, pipeline: bool = True
    ) -> Path:
        """Write the system to a folder that ``diffusers.AudioLDMPipeline.from_pretrained`` opens.

        The tuning layer survives exactly: AudioLDM feeds E_text to one linear layer of the UNet, so a linear
        tuning layer folds into it, W' = W W_t and b' = W b_t + b. The folded UNet is what the pipeline opens;
        the factors are kept in ``tuning/``, so that :meth:`from_pretrained` gives both back for further training.

        Args:
            folder: written whole or not at all; an existing system there is replaced.
            dtype: e.g. torch.float16 to halve the size; None keeps it.
            pipeline: also write what only diffusers' pipeline needs (a second copy of the text encoder).

        Returns:
            The folder.
        """
        self.need_own_weights("to save it")
        return storage.save_system(self, Path(folder), dtype=dtype, pipeline=pipeline)
