"""Quiet libraries: what they warn of is an error of ours, or nothing that a user could act on."""

from __future__ import annotations


def hush() -> None:
    """Let diffusers and transformers print no bars and no warnings while they load checkpoints."""
    import diffusers.utils.logging
    import transformers.utils.logging

    transformers.utils.logging.disable_progress_bar()
    # what they warn of (weights that are missing, say) is an error of ours
    transformers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.set_verbosity_error()
