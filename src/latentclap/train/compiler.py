"""torch.compile writes C and C++ and has it compiled: what has to be there for that."""

from __future__ import annotations

import os
import shutil

from latentclap.errors import InputError

#: what Triton (for GPUs) and inductor (for CPUs) look for, in this order, where no variable names one
COMPILERS = ("gcc", "clang", "g++", "clang++", "cc")


#: of one UNet's code in a process: batch sizes, with gradients and without, trained and for generation
VARIANTS = 64


def need_compiler() -> None:
    """Look for a C compiler before minutes of loading; without one torch says so in a hundred lines.

    Also lets torch compile as many variants of a module as a process may ask for. To torch all UNets are one code;
    after eight variants of it, it compiles no more, and says so in its log only.

    Raises:
        InputError: there is none.
    """
    named = [os.environ[name] for name in ("CC", "CXX") if os.environ.get(name)]
    if not any(shutil.which(name.split()[0]) for name in (*named, *COMPILERS)):
        raise InputError(
            "torch.compile needs a C compiler, and there is none: install gcc (or name one in CC), or train without"
            " compilation (leave out --compile; in a profile: [speed] compile = false)"
        )
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, VARIANTS)
