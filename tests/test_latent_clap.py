import json

import pytest
import torch

from latentclap.errors import InputError
from latentclap.latent_clap import LatentCLAP, cosine, latent_clap_loss


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_at_full_width():
    phi = LatentCLAP()
    assert count(phi) == 5_215_520  # facts C
    assert [count(b) for b in phi.blocks] == [41_728, 221_696, 885_760, 3_540_992]


def test_weights_begin_as_panns_do():
    """Xavier's bound sqrt(6 / (fan in + fan out)), no biases; the last layer near the size of what it has to give."""
    torch.manual_seed(0)
    phi = LatentCLAP()
    for weight, fans in ((phi.blocks[0].conv1.weight, 9 * (8 + 64)), (phi.fc1.weight, 512 + 512)):
        assert weight.abs().max().item() == pytest.approx((6 / fans) ** 0.5, rel=0.01)
    assert phi.out.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not phi.fc1.bias.any() and not phi.out.bias.any()
    norms = [m for m in phi.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 9 and {(m.momentum, m.eps, m.affine) for m in norms} == {(0.1, 1e-5, True)}


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_where_panns_have_it(monkeypatch, training):
    """Cnn10 of the public code: 0.2 after each block, 0.5 before and after the first linear layer."""
    seen, phi = [], LatentCLAP().train(training)
    monkeypatch.setattr(
        torch.nn.functional, "dropout", lambda x, p, on: seen.append((tuple(x.shape), p, on)) or x
    )
    phi(torch.randn(2, 8, 32, 16))
    blocks = [(2, 64, 16, 8), (2, 128, 8, 4), (2, 256, 4, 2), (2, 512, 2, 1)]
    assert seen == [(s, 0.2, training) for s in blocks] + [((2, 512), 0.5, training)] * 2


@pytest.mark.parametrize("frames", [256, 104, 16])
def test_shapes(frames):
    assert LatentCLAP(width=4)(torch.randn(2, 8, frames, 16)).shape == (2, 512)


@pytest.mark.parametrize("shape", [(2, 8, 15, 16), (2, 7, 32, 16), (2, 8, 32, 8), (8, 32, 16)])
def test_bad_latents(shape):
    with pytest.raises(InputError, match="LatentCLAP takes latents"):
        LatentCLAP(width=4)(torch.randn(shape))


def test_input_norm_runs_over_frequency():
    phi = LatentCLAP(width=4).train()
    offset = torch.arange(16.0).expand(4, 8, 32, 16)
    phi(offset + torch.randn(4, 8, 32, 16))
    # the running means move towards each frequency bin's own mean
    assert phi.bn0.running_mean.argsort().tolist() == list(range(16))


def test_save_and_load(tmp_path):
    own = {"width": 4, "blocks": 3, "embed_dim": 32, "dropout": 0.1, "head_dropout": 0.3}
    phi = LatentCLAP(**own).eval()
    phi.save_pretrained(tmp_path / "phi")
    again = LatentCLAP.from_pretrained(tmp_path / "phi")
    x = torch.randn(2, 8, 32, 16)
    assert torch.equal(again(x), phi(x))
    assert again.config == own | {"channels": 8, "freq": 16}  # with its dropout, for who trains on
    assert (again.dropout, again.head_dropout) == (0.1, 0.3)
    with pytest.raises(InputError, match="no Latent CLAP encoder"):
        LatentCLAP.from_pretrained(tmp_path)


def test_the_one_that_comes_with_a_system(tmp_path):
    mini = LatentCLAP.from_pretrained("mini")
    mini.save_pretrained(tmp_path / "system" / "latent_clap")
    again = LatentCLAP.from_pretrained(tmp_path / "system")
    assert again.config == mini.config
    assert torch.equal(again.out.weight, mini.out.weight)


def test_the_one_that_ships_is_found_by_name(tmp_path):
    from latentclap.checkpoints import shipped

    mini = LatentCLAP.from_pretrained("mini")
    again = LatentCLAP.from_pretrained(shipped("mini") / "latent_clap")
    in_a_system = LatentCLAP.from_pretrained(shipped("mini"))
    for other in (again, in_a_system):
        assert all(torch.equal(a, b) for a, b in zip(mini.parameters(), other.parameters(), strict=True))
    for name in ("maxi", "../mini", tmp_path / "mini"):
        with pytest.raises(InputError, match="no Latent CLAP encoder"):
            LatentCLAP.from_pretrained(name)


def test_compiled_in_bf16_its_gradient_is_finite():
    """What eq. 3 pulls by, where a compiler keeps in float32 what bf16 autocast would have rounded."""
    torch.manual_seed(0)
    phi = LatentCLAP(channels=2, freq=4, width=8, blocks=2, embed_dim=8).eval().requires_grad_(False)
    latents = torch.randn(4, 2, 16, 4)

    def gradient(half):
        x = latents.clone().requires_grad_(True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            phi(x).float().square().mean().backward()
        return x.grad

    exact, rounded = gradient(False), gradient(True)
    phi.compile(dynamic=False)
    try:
        compiled = gradient(True)
    except Exception as error:
        if "compiler" not in str(error).lower():
            raise
        pytest.skip("no C++ compiler here")
    noise = (rounded - exact).norm()
    assert torch.isfinite(compiled).all() and (compiled - exact).norm() < 2 * noise < exact.norm()


def test_eq_2_is_a_mean_square():
    a, b = torch.randn(2, 3, 512)
    torch.testing.assert_close(latent_clap_loss(a, b), (a - b).square().mean())
    # and added up in single precision, as a mean of small squares has to be
    a, b = a.half(), b.half()
    exact = (a.double() - b.double()).square().mean().item()
    assert latent_clap_loss(a, b).item() == pytest.approx(exact, rel=1e-6)


def test_a_cosine_is_one_of_directions():
    a, b = torch.tensor([[2.0, 0.0], [0.0, 0.5]]), torch.tensor([[3.0, 3.0], [0.0, 7.0]])
    assert cosine(a, b).tolist() == pytest.approx([0.5**0.5, 1.0])


def test_widths_are_doubled_from_block_to_block():
    phi = LatentCLAP(width=2, blocks=6, freq=64, embed_dim=8)
    assert [block.conv2.out_channels for block in phi.blocks] == [2, 4, 8, 16, 32, 64]
    assert phi(torch.randn(2, 8, 64, 64)).shape == (2, 8)


@pytest.mark.parametrize("config", [[], {"blocks": "x"}, {"width": 0}, {"nothing": 1}])
def test_a_configuration_that_gives_no_encoder(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"weights and config\.json do not fit each other"):
        LatentCLAP.from_pretrained(tmp_path)
