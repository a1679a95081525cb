"""FoleySystem: the whole of Fig. 1 at inference, text CLAP, tuning layer, UNet, VAE and vocoder.

Every part is a standard class of diffusers or transformers, so that a saved system opens in
``diffusers.AudioLDMPipeline`` and any AudioLDM checkpoint opens here.

The class is written in four layers, each on the one before: ``parts`` (what it is made of), ``encoders`` (CLAP, VAE,
vocoder), ``generator`` (sampling) and ``foley`` (files, and copies for other uses).
"""

import os

from latentclap.system.foley import FoleySystem
from latentclap.system.generator import item_seed
from latentclap.system.parts import tuning_layer

# transformers and diffusers announce deprecated pipelines and unused weights on import; none concerns a user here
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

__all__ = ["FoleySystem", "item_seed", "tuning_layer"]
