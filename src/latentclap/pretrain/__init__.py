"""Training the mini family from nothing: CLAP, VAE, vocoder, LDM, φ and judge (``data_scripts/pretrain_mini.py``).

These stages stand in for what the paper downloads. Each is a :class:`latentclap.train.Task` over the one loop.
"""
