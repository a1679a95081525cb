"""torch.compile writes C and C++ and has it compiled: what has to be there for that."""

from __future__ import annotations

import os
import shutil

from latentclap.errors import InputError

#: what Triton (for GPUs) and inductor (for CPUs) look for, in this order, where no variable names one
COMPILERS = ("gcc", "clang", "g++", "clang++", "cc")


def need_compiler() -> None:
    """Look for a C compiler before minutes of loading; without one torch says so in a hundred lines.

    Raises:
        InputError: there is none.
    """
    named = [os.environ[name] for name in ("CC", "CXX") if os.environ.get(name)]
    if not any(shutil.which(name.split()[0]) for name in (*named, *COMPILERS)):
        raise InputError(
            "torch.compile needs a C compiler, and there is none: install gcc (or name one in CC), or train without"
            " compilation (leave out --compile; in a profile: [speed] compile = false)"
        )
