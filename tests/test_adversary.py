import pytest
import torch
from torch import nn

from latentclap.errors import InputError
from latentclap.pretrain import adversary, tasks
from latentclap.pretrain.adversary import MelCritic, WaveCritic


def grads(module):
    return [p.grad for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    ("critic", "shape"), [(MelCritic(width=4), (2, 1, 32, 64)), (WaveCritic(width=4), (2, 2560))]
)
def test_each_side_trains_only_itself(critic, shape):
    """One backward pass for both: the generator's terms leave the critic alone, and the other way round."""
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, *shape, generator=generator)
    fake.requires_grad_(True)
    terms = adversary.adversarial_terms(critic, real, fake)
    (terms["deceive"] + terms["features"]).backward()
    assert fake.grad.abs().sum() > 0 and not grads(critic)
    fake.grad = None
    adversary.adversarial_terms(critic, real, fake)["critic"].backward()
    assert fake.grad is None and sum(g.abs().sum() for g in grads(critic)) > 0


def test_the_terms_at_their_ends():
    right = [(torch.ones(3, 1), [torch.ones(3, 2)])]
    wrong = [(torch.zeros(3, 1), [torch.zeros(3, 2)])]
    assert adversary.critic_loss(right, wrong) == 0 and adversary.critic_loss(wrong, right) == 2
    assert adversary.deceive_loss(right) == 0 and adversary.deceive_loss(wrong) == 1
    assert adversary.feature_loss(right, right) == 0 and adversary.feature_loss(right, wrong) == 1


def test_a_critic_learns_to_tell_noise_from_smooth():
    """What the VAE's critic is for: L1 gives a smooth mean where the real picture has texture."""
    torch.manual_seed(0)
    critic = MelCritic(width=8, layers=2)
    optimiser = torch.optim.Adam(critic.parameters(), 3e-3)
    for _ in range(60):
        real = torch.randn(8, 1, 16, 16) * 2 - 5
        fake = torch.full_like(real, -5) + 0.2 * torch.randn_like(real)
        loss = adversary.critic_loss(critic(real), critic(fake))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.2


def test_the_encoder_stands_still(tiny, tmp_path):
    """The critic phase of the VAE changes the decoder and no latent."""
    import copy

    from latentclap.train import TensorBatches, TrainConfig, train

    vae = copy.deepcopy(tiny.vae)
    vae.decoder.requires_grad_(True)
    mel = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(0)) - 5
    before = vae.encode(mel[:, None]).latent_dist.mean, vae.decode(torch.ones(1, 8, 16, 16)).sample
    task = tasks.DecoderTask(vae, crop_frames=32)
    assert set(task.trained()) == {"decoder", "critic"}
    config = TrainConfig(steps=2, batch_size=2, lr=1e-3, ema_decay=0.5)
    train(task, TensorBatches({"mel": mel}), config, tmp_path, progress=False)
    after = vae.encode(mel[:, None]).latent_dist.mean, vae.decode(torch.ones(1, 8, 16, 16)).sample
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_the_decoder_sees_latents_off_the_encoders(monkeypatch):
    """Noise of up to ``noise`` in units of 1 / scaling_factor, another level for each item; none by default."""
    from latentclap.models import random_system

    vae = random_system("tiny", seed=5).vae
    vae.register_to_config(scaling_factor=0.5)
    mel = torch.randn(64, 32, 64, generator=torch.Generator().manual_seed(0)) - 5
    seen, decode = [], vae.decode
    monkeypatch.setattr(vae, "decode", lambda z: seen.append(z) or decode(z))

    def rngs():
        return [torch.Generator().manual_seed(i) for i in range(64)]

    for noise in (0.0, 0.3):
        tasks.DecoderTask(vae, crop_frames=32, noise=noise)({"mel": mel}, rngs())
    level = (seen[1] - seen[0]).flatten(1).std(1)
    assert level.max() < 0.3 / 0.5 * 1.1
    assert level.mean() == pytest.approx(0.3 / 0.5 / 2, rel=0.2) and level.min() < 0.1
    with pytest.raises(InputError, match="noise=-1"):
        tasks.DecoderTask(vae, noise=-1)


def test_every_noise_level_counts(tiny):
    """Eq. 1's weight of the error of s_0 is the SNR; ours is min(SNR + 1, 5) until the bound of eps' weight."""

    class Nothing(nn.Module):
        def forward(self, s, n, *, encoder_hidden_states, class_labels):
            return type("Out", (), {"sample": torch.zeros_like(s)})

    schedule = tiny.schedule
    snr = schedule.snr(torch.arange(1000))
    w = tasks.level_weight(snr)
    torch.testing.assert_close((w * snr)[:780], (snr + 1).clamp(max=5)[:780])
    assert w.max() == w[-1] == 200
    batch = {
        "mean": torch.zeros(256, 8, 2, 2),
        "logvar": torch.full((256, 8, 2, 2), -30.0),
        "E": torch.zeros(256, 1, 512),
    }

    def terms(weighted):
        rngs = [torch.Generator().manual_seed(i) for i in range(256)]
        return tasks.LDMTask(Nothing(), torch.zeros(512), schedule, weighted=weighted)(batch, rngs)

    plain, weighted = terms(False), terms(True)
    assert torch.equal(plain["loss"], weighted["ddpm"])
    # the mean of the weight over uniform n is what is left of a loss that is one everywhere
    assert weighted["loss"] / weighted["ddpm"] == pytest.approx(w.mean().item(), rel=0.15)
