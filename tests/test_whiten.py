import copy

import torch

from latentclap.pretrain.whiten import principal_axes, whiten


def test_same_reconstructions_and_white_latents(tiny):
    """decode(encode(x)) does not change; latents get zero mean and identity covariance over the channels."""
    vae = copy.deepcopy(tiny.vae)
    mel = torch.randn(6, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 5
    with torch.no_grad():
        before = vae.encode(mel).latent_dist
        picture = vae.decode(before.mean).sample
        _, variances, _ = principal_axes(before.mean)
        assert variances.max() / variances.min() > 2
        whiten(vae, before.mean, before.logvar)
        after = vae.encode(mel).latent_dist
        torch.testing.assert_close(vae.decode(after.mean).sample, picture, atol=2e-4, rtol=1e-3)
    centre, variances, _ = principal_axes(after.mean)
    torch.testing.assert_close(centre, torch.zeros_like(centre), atol=1e-3, rtol=0)
    torch.testing.assert_close(variances, torch.ones_like(variances), atol=1e-2, rtol=0)
    # the posterior's noise is the same cloud, seen along the new axes
    x = before.mean.double().permute(0, 2, 3, 1).flatten(0, 2)
    values, axes = torch.linalg.eigh(torch.cov((x - x.mean(0)).T))
    noise = before.logvar.double().exp().mean((0, 2, 3))
    expected = ((axes / values.sqrt() @ axes.T).square() @ noise).float()
    torch.testing.assert_close(after.logvar.exp()[0, :, 0, 0], expected, rtol=1e-3, atol=1e-6)
    # what is white already stays where it is, so that a diffusion model of it stays right
    with torch.no_grad():
        whiten(vae, after.mean, after.logvar)
        again = vae.encode(mel).latent_dist
    torch.testing.assert_close(again.mean, after.mean, atol=1e-2, rtol=1e-2)
