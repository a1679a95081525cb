"""Samplers, networks and formulas against implementations that are not ours; and the table of the book."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "fidelity"))
import checks
import compare
import originals

from latentclap.files import read_json
from latentclap.latent_clap import LatentCLAP
from latentclap.models import random_system


def failing(rows):
    """Rows that do not hold; there must be some that do."""
    rows = list(rows)
    assert rows
    return [r for r in rows if not r.holds]


def test_ddim_is_diffusers_pipeline(tmp_path):
    assert not failing(checks.pipeline(random_system("tiny", seed=1), tmp_path / "system"))


def test_eta_matters():
    system = random_system("tiny", seed=1)
    a, b = (system.generate_latents(["rain"], [3], steps=5, eta=eta) for eta in (0.0, 1.0))
    assert not torch.allclose(a, b, atol=0.1)


def test_cnn10_is_panns():
    rows = list(checks.cnn10())
    assert len(rows) == 5
    assert not failing(rows)


def test_cnn10_by_the_published_numbers():
    """Facts C: parameters of each block, of the whole, and the shapes that 2x2 pooling gives."""
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    original = LatentCLAP(channels=1, freq=64)
    assert [count(b) for b in original.blocks] == [37_696, 221_696, 885_760, 3_540_992]
    # with 527 classes in the place of CLAP's 512 dimensions it is PANNs' Cnn10
    head = 527 * 512 + 527 - count(original.out)
    assert count(original) + head == 5_219_279
    shapes = []
    phi = LatentCLAP().eval()
    for block in phi.blocks:
        block.register_forward_hook(lambda m, args, out: shapes.append(tuple(out.shape[1:])))
    with torch.no_grad():
        phi(torch.zeros(1, 8, 256, 16))
    assert shapes == [(64, 128, 8), (128, 64, 4), (256, 32, 2), (512, 16, 1)]


def test_vggish_is_torchvggish_without_its_relu():
    rows = list(checks.vggish())
    assert not failing(rows)
    arrays, _ = originals.fixture("vggish")
    assert arrays["embedding"].shape == (10, 128)  # 100 clips x 10 windows = the organisers' 1000
    assert (arrays["embedding"] < 0).any() and (arrays["with_relu"] >= 0).all()


def test_fad_is_frechet_audio_distance_s():
    assert not failing(checks.fad())


def test_fad_is_the_organisers_formula(shared_data):
    assert not failing(checks.organisers(shared_data / "dcase_eval_vggish_stats.npz"))


# ------------------------------------------------------------------------------------------ the table


@pytest.fixture(scope="module")
def results():
    return read_json(compare.RESULTS)


def test_results_are_complete_and_hold(results):
    assert tuple(results["groups"]) == compare.ORDER
    rows = [checks.Row(**r) for group in results["groups"].values() for r in group]
    assert not failing(rows)


def test_results_are_of_these_checks(results):
    """The rows that the book shows are those that the code would make now."""
    for name, rows in {"mel": checks.mel(), "fad": checks.fad()}.items():
        now = [(r.what, r.size, r.against, r.tolerance) for r in rows]
        assert now == [(r["what"], r["size"], r["against"], r["tolerance"]) for r in results["groups"][name]]


def test_page_has_every_row(results, tmp_path):
    out = tmp_path / "fidelity.md"
    command = [sys.executable, "-m", "latentclap.book", "fidelity", str(compare.RESULTS), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    text = out.read_text()
    rows = [r for group in results["groups"].values() for r in group]
    assert sum(line.startswith("| ") for line in text.splitlines()) >= len(rows)
    for r in rows:
        assert r["what"] in text and r["against"].split(",")[0] in text


def test_fixtures_are_small(repo_root):
    sizes = [p.stat().st_size for p in (repo_root / "tests" / "fidelity").glob("*.npz")]
    assert sum(sizes) < 600_000
