import numpy as np
import pytest
import torch

from latentclap.classes import CLASSES
from latentclap.embeddings import JudgeEmbedding
from latentclap.errors import InputError
from latentclap.pretrain import corpus as corpora
from latentclap.pretrain import quality


def test_shares_per_class():
    hit, labels = np.array([1, 1, 0, 1]) > 0, np.array([0, 0, 5, 5])
    out = quality.shares(hit, labels)
    assert out["accuracy"] == 0.75 and out["n"] == 4
    assert out["per_class"] == {CLASSES[0]: 1.0, CLASSES[5]: 0.5}
    # Wilson's interval: the textbook's figures for 15 of 20, and the ends
    fifteen = quality.shares(np.arange(20) < 15, np.zeros(20, int))["ci"]
    assert fifteen == [pytest.approx(0.5313, abs=1e-4), pytest.approx(0.8881, abs=1e-4)]
    none, all_ = (quality.shares(np.full(10, hit), np.zeros(10, int))["ci"] for hit in (False, True))
    assert none[0] == 0 and all_[1] == 1
    with pytest.raises(InputError, match="no clips"):
        quality.shares(np.zeros(0, bool), np.zeros(0, int))


def test_held_out_procedural_clips_are_nobodys():
    made = quality.procedural_clips(2, 10240)
    assert made.waves.shape == (14, 10240) and made.waves.dtype == np.float32
    assert np.abs(made.waves).max() <= 0.5 + 1e-6
    # a corpus begins at SEED_BASE and has at most a few hundred thousand clips
    assert quality.HELD_OUT_SEED - corpora.SEED_BASE > 1_000_000_000


def test_a_copy_is_nearest(tiny):
    rng = np.random.default_rng(0)
    training = (rng.uniform(-0.5, 0.5, (6, 10240)) * 32767).astype(np.int16)
    training[3, :5000] //= 50
    copies = training[[3]].astype(np.float32) / 32767
    others = rng.uniform(-0.5, 0.5, (1, 10240)).astype(np.float32)
    near, far = (quality.nearest(tiny, w, training) for w in (copies, others))
    assert near["mel"][0] < 1e-3 < far["mel"][0]
    assert near["clap"][0] < 1e-4


def test_all_figures_of_a_family(tiny_family, shared_data, tmp_path):
    """On real recordings: every figure is there, and the identity loses nothing."""
    corpus = corpora.load(tiny_family.parent / "work" / "corpus.safetensors")
    few = make_few(shared_data / "foley_real" / "permissive", tmp_path / "few")
    report = quality.measure_family(
        tiny_family,
        tiny_family / "judge",
        [few],
        corpus,
        clips=1,
        procedural=1,
        profile=fast(tmp_path),
        before=tiny_family,
    )
    assert set(report["reconstructions"]) == {
        "identity", "mel, Griffin-Lim", "mel, vocoder", "VAE, Griffin-Lim", "VAE, vocoder"
    }  # fmt: skip
    assert report["reconstructions"]["identity"]["mr_stft"] == pytest.approx(0, abs=1e-5)
    assert (
        report["reconstructions"]["mel, Griffin-Lim"]["mr_stft"]
        < report["reconstructions"]["mel, vocoder"]["mr_stft"]
    )
    assert report["generated"]["n"] == 7
    levels = report["levels"]
    assert levels["family"] == levels["before"] and [row["n"] for row in levels["family"]] == [
        *quality.LEVELS
    ]
    assert {side: row["n"] for side, row in report["judge"].items()} == {
        "real": report["held_out"]["clips"],
        "procedural": 7,
    }
    assert "shipped judge, real" in "\n".join(quality.lines(report))
    text = "\n".join(quality.lines(report))
    assert "generated" in text and "nearest training clip of held out" in text


def fast(folder):
    path = folder / "fast.toml"
    path.write_text("[generate]\nsteps = 2\n")
    return path


def make_few(folder, out):
    import shutil

    for cls in CLASSES:
        (out / cls).mkdir(parents=True)
        for clip in sorted((folder / cls).iterdir())[:2]:
            shutil.copy(clip, out / cls)
    return out


def test_a_perfect_model_has_no_error_and_a_blind_one_at_least_that_of_the_mean(tiny, monkeypatch):
    """In units of the mean's error: 0 for the true noise, 1 + var / spread ... for one that says s_0 = 0."""
    clips = quality.procedural_clips(1, tiny.samples)
    s_0 = tiny.encode(clips.waves, seed=0)
    spread = (s_0 - s_0.mean(0)).square().mean()

    def told(guess):
        def eps_theta(s_n, n, E):
            rows = [int((s_n[i] - x_n).square().sum(dim=(1, 2, 3)).argmin()) for i in range(len(s_n))]
            return tiny.schedule.predict_eps(s_n, n, guess[rows])

        n = torch.full((7,), 500)
        eps = torch.randn(s_0.shape, generator=torch.Generator().manual_seed(0))
        x_n = tiny.schedule.q_sample(s_0, n, eps)
        monkeypatch.setattr(tiny, "eps_theta", eps_theta)
        return quality.denoising_errors(tiny, clips, levels=(500,), batch=7)[0]["error"]

    assert told(s_0) == pytest.approx(0, abs=1e-4)
    assert told(s_0.mean(0).expand_as(s_0)) == pytest.approx(1, rel=1e-3)
    assert told(torch.zeros_like(s_0)) == pytest.approx((s_0.square().mean() / spread).item(), rel=1e-3)


def test_measure_without_recordings(tiny_family):
    corpus = corpora.load(tiny_family.parent / "work" / "corpus.safetensors")
    with pytest.raises(InputError, match="--real FOLDER"):
        quality.measure_family(tiny_family, tiny_family / "judge", [], corpus)


def test_the_judge_is_the_families_own(tiny_family):
    judge = JudgeEmbedding(tiny_family / "judge")
    out = quality.judged(judge, np.zeros((7, 16000), np.float32), np.arange(7))
    assert out["accuracy"] == pytest.approx(1 / 7)  # one answer for equal clips


def test_the_card_shows_what_was_measured(tmp_path):
    """Every figure of a report reaches the page; without a report the page does without."""
    from latentclap.book.pages import model_card
    from latentclap.files import write_json

    share = {"accuracy": 0.75, "ci": [0.5313, 0.8881], "n": 20, "per_class": dict.fromkeys(CLASSES, 0.75)}
    share["per_class"]["rain"] = 0.1234
    way = share | {"mr_stft": 1.2345, "mel_l1": 0.3333}
    ways = ("identity", "mel, Griffin-Lim", "mel, vocoder", "VAE, Griffin-Lim", "VAE, vocoder")
    near = {"mel": [0.111, 0.222, 0.333], "clap": [0.011, 0.022, 0.033]}
    report = {
        "held_out": {"clips": 20, "recordings": 17},
        "sampling": {"steps": 8, "guidance_scale": 2.0},
        "reconstructions": dict.fromkeys(ways, way),
        "generated": share,
        "clap": {"real": {"zero_shot": share},
                 "procedural": {"zero_shot": share, "recall@1": 0.4, "recall@5": 0.8, "pool": 50}},
        "nearest": {"generated": near, "held out": near},
        "levels": {"family": [{"n": 900, "snr": 0.00087, "error": 0.456}],
                   "before": [{"n": 900, "snr": 0.00087, "error": 3.66}]},
        "seed": 0, "device": "CPU", "commit": "abc", "versions": {},
    }  # fmt: skip
    write_json(tmp_path / "model_card.json", {"name": "mini"})
    text = model_card(tmp_path / "model_card.json", tmp_path / "out.md").read_text()
    assert "What it can do" not in text
    write_json(tmp_path / "quality.json", report)
    text = model_card(tmp_path / "model_card.json", tmp_path / "out.md").read_text()
    for figure in ("17 real recordings", "1.234", "0.75 (0.53 to 0.89), n\xa0=\xa020",
                   "rain 0.12", "0.40 / 0.80 of 50",
                   "0.111 / 0.222 / 0.333", "steps 8", "Commit abc", "| 900 | 0.00087 | 0.46 | 3.7 |"):  # fmt: skip
        assert figure in text, figure
    assert "1.00 by log-mels and 1.00 by CLAP embeddings. They lie no nearer" in text
    report["nearest"]["generated"] = {"mel": [0.01, 0.2, 0.3], "clap": [0.011, 0.02, 0.03]}
    write_json(tmp_path / "quality.json", report)
    text = model_card(tmp_path / "model_card.json", tmp_path / "out.md").read_text()
    assert "0.09 by log-mels and 1.00 by CLAP embeddings. By log-mels that is much nearer" in text


def test_sampler_grid_has_two_curves_per_sampler():
    points = quality.sampler_grid((5, 25), (1, 2), ("ddim",), at_steps=25)
    assert [tuple(p.values()) for p in points] == [("ddim", 5, 2.0), ("ddim", 25, 2.0), ("ddim", 25, 1.0)]


def test_a_sampler_sweep_goes_on_and_is_drawn(tiny_family, shared_data, tmp_path):
    few = make_few(shared_data / "foley_real" / "permissive", tmp_path / "few")
    out, grid = tmp_path / "samplers.json", quality.sampler_grid((1, 2), (1, 2), at_steps=2)
    sweep = lambda points, **kw: quality.sampler_sweep(  # noqa: E731
        tiny_family, tiny_family / "judge", [few], out, clips=1, grid=points, **kw
    )
    first = sweep(grid[:1])
    points = sweep(grid)
    assert points[0] == first[0]  # seconds too: it was not made again
    assert len(points) == len(grid) and all(p["verdict"]["n"] == 7 and p["fad"] > 0 for p in points)
    with pytest.raises(InputError, match="other weights, seed or clips"):
        sweep(grid, seed=1)
    from latentclap.book.quality import sampler_sections

    text = "\n".join(sampler_sections(out, tmp_path / "generated" / "samplers.png"))
    assert "1 clips per class and point" in text and "generated/samplers.png" in text
    curve = {
        p["guidance_scale"]: p["fad"] for p in points if p["sampler"] == "dpmsolver++" and p["steps"] == 2
    }
    least = min(curve, key=curve.get)
    assert f"At 2 steps of dpmsolver++, FAD is lowest at guidance {least:g} ({curve[least]:.2f}," in text
    assert (tmp_path / "generated" / "samplers.png").stat().st_size > 10_000
