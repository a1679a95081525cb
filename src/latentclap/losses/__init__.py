"""The losses of the paper: eq. 1 (DDPM), w(n), eq. 3 (Latent CLAP) in each of its readings, and eq. 4.

Eq. 3 says that the Latent CLAP encoder "operates on the noisy, compressed representation s_n, which is the output
of the LDM model at step n" and leaves open which tensor that is. :data:`READINGS` holds every reading through
which a gradient reaches the LDM; :class:`LatentCLAPLoss` takes the choice as an argument. The encoder φ, CLAP and
the VAE are frozen: no gradient reaches their parameters.

The paper's LDM predicts noise in AudioLDM's schedule, and that is what everything here takes where nothing is said.
Other outputs (``prediction``: v, the clean latent, a flow) and other processes (``schedule``) are for the training of
other models; the derivatives of every reading are at :func:`gradient_factor`.
"""

from latentclap.diffusion import append_dims
from latentclap.losses import readings, weights
from latentclap.losses.latent_clap import LatentCLAPLoss
from latentclap.losses.pull import gradient_factor, mean_pull
from latentclap.losses.readings import latent_reading
from latentclap.losses.terms import ddpm_loss, total_loss
from latentclap.losses.weights import step_weight

# named here with their words, for the reference: it takes what is said of a value from the module that shows it
#: What φ is given, by the name of the reading (facts H, a, b, d and e). Reading (c), the forward-noised s_n, has no
#: gradient.
#:
#: :meta hide-value:
READINGS = readings.READINGS
#: Names that :func:`step_weight` knows; the two with a colon take any positive number.
WEIGHTINGS = weights.WEIGHTINGS

__all__ = [
    "READINGS",
    "WEIGHTINGS",
    "LatentCLAPLoss",
    "append_dims",
    "ddpm_loss",
    "gradient_factor",
    "latent_reading",
    "mean_pull",
    "step_weight",
    "total_loss",
]
