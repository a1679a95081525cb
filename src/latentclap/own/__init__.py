"""Fine-tuning on sounds of one's own, in one command: ``latentclap finetune``.

A folder of sounds with words to them is encoded, a system is fine-tuned on it by eq. 4, and a page plays it before
and after. Every step is one of the package's own: the cache, the launcher, the held-out losses, the players.
"""
