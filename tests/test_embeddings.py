"""Embeddings: VGGish's front end and network, the training-free statistics, the judge."""

import copy
import re
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from latentclap.classes import CLASSES
from latentclap.embeddings import (
    CLAPEmbedding,
    JudgeEmbedding,
    JudgeNet,
    MelStatistics,
    VGGish,
    VGGishNet,
    dcase_scale,
    get_embedding,
    load_report,
    log_mel_patches,
    vggish_mel_matrix,
)
from latentclap.embeddings.base import weights_hash
from latentclap.embeddings.front_end import at_16k
from latentclap.errors import InputError
from latentclap.fad import ClipEmbeddings
from latentclap.files import file_sha256, write_json


def tone(hertz, seconds=4.0, sr=16_000, level=0.5):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * sr)) / sr)).astype(np.float32)


@pytest.fixture(scope="module")
def vggish():
    return VGGish(None, "dcase")


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    JudgeNet().save(folder)
    return folder


class TestFrontEnd:
    def test_mel_matrix(self):
        weights = vggish_mel_matrix()
        assert weights.shape == (257, 64) and (weights >= 0).all() and weights.max() <= 1
        assert (weights[0] == 0).all()
        hertz = np.arange(257) * 16_000 / 512
        inside = weights.sum(1) > 0
        assert hertz[inside].min() > 125 and hertz[inside].max() < 7500
        # neighbouring triangles sum to one between the first and the last centre
        assert weights.sum(1)[(hertz > 200) & (hertz < 7000)] == pytest.approx(1.0)

    def test_mel_matrix_by_hand(self):
        """64 triangles over equal parts of 125 ... 7500 Hz in HTK's mel, 2595 log10(1 + f / 700)."""

        def mel(hertz):
            return 2595 * np.log10(1 + hertz / 700)

        step = (mel(7500) - mel(125)) / 65
        expected = np.zeros((257, 64))
        for k in range(64):
            for b in range(1, 257):
                away = abs(mel(b * 31.25) - mel(125) - (k + 1) * step) / step
                expected[b, k] = max(0.0, 1 - away)
        np.testing.assert_allclose(vggish_mel_matrix(), expected, atol=1e-12)

    def test_a_short_wave_is_followed_by_silence(self):
        wave = np.random.default_rng(0).standard_normal(5_000)
        (patch,) = log_mel_patches(wave)
        long = np.concatenate([wave, np.zeros(11_000)])
        np.testing.assert_array_equal(patch, log_mel_patches(long)[0])
        assert patch[0].max() > 1 and patch[-1] == pytest.approx(np.log(0.01))

    def test_number_of_windows(self):
        # 4 s at 22.05 kHz read as 16 kHz: the organisers' 10 windows a clip (1000 for 100 clips)
        assert log_mel_patches(np.zeros(88_200)).shape == (10, 96, 64)
        assert log_mel_patches(np.zeros(64_000)).shape == (7, 96, 64)
        assert log_mel_patches(np.zeros(16_000)).shape == (1, 96, 64)
        assert log_mel_patches(np.zeros(5_000)).shape == (1, 96, 64)

    def test_one_frame_by_hand(self):
        wave = np.random.default_rng(0).standard_normal(24_000)
        frame = wave[8_000 + 5 * 160 :][:400]  # sixth frame of the second window
        window = 0.5 * (1 - np.cos(2 * np.pi * np.arange(400) / 400))
        spectrum = np.abs(np.fft.rfft(np.pad(frame * window, (0, 112))))
        expected = np.log(spectrum @ vggish_mel_matrix() + 0.01)
        np.testing.assert_allclose(log_mel_patches(wave)[1, 5], expected, rtol=1e-10)

    def test_silence_is_the_offset(self):
        np.testing.assert_allclose(log_mel_patches(np.zeros(16_000)), np.log(0.01))

    def test_scale_is_by_the_largest_positive_sample(self):
        assert dcase_scale(np.array([-8, 4], dtype=np.int16)).tolist() == [-2.0, 1.0]
        assert dcase_scale(np.array([0.05, -0.5])).tolist() == [0.5, -5.0]
        assert dcase_scale(np.array([-32768, 1], dtype=np.int16)).tolist() == [-32768.0, 1.0]


class TestMelStatistics:
    def test_shape_and_determinism(self):
        e = get_embedding("mel-statistics")
        wave = tone(440) + 0.01 * np.random.default_rng(0).standard_normal(64_000).astype(np.float32)
        assert e(wave, 16_000).shape == (7, e.dim) == (7, 40)
        np.testing.assert_array_equal(e(wave, 16_000), MelStatistics()(wave, 16_000))

    def test_level_does_not_matter_and_silence_is_finite(self):
        e = MelStatistics()
        np.testing.assert_allclose(e(tone(440), 16_000), e(tone(440, level=0.05), 16_000), atol=1e-3)
        assert np.isfinite(e(np.zeros(64_000, np.float32), 16_000)).all()

    def test_rate_is_heard_not_counted(self):
        e = MelStatistics()
        a, b = e(tone(440, sr=22_050), 22_050).mean(0), e(tone(440), 16_000).mean(0)
        assert np.abs(a - b).max() < 0.15 * np.abs(e(tone(3000), 16_000).mean(0) - b).max()

    def test_groups_see_spectrum_and_rhythm(self):
        e = MelStatistics()
        noise = np.random.default_rng(0).standard_normal(64_000).astype(np.float32)
        seconds = np.arange(64_000) / 16_000
        slow = noise * (1 + np.sin(2 * np.pi * 2 * seconds)).astype(np.float32)
        fast = noise * (1 + np.sin(2 * np.pi * 10 * seconds)).astype(np.float32)
        rhythm = (e(slow, 16_000).mean(0) - e(fast, 16_000).mean(0))[24:].reshape(4, 4)
        assert (rhythm[0] > 0).all() and (rhythm[2] < 0).all()  # 1-3 Hz, 7-16 Hz
        with pytest.raises(InputError, match="one channel"):
            e(np.zeros((2, 64_000)), 16_000)
        with pytest.raises(InputError, match="NaN"):
            e(np.full(64_000, np.nan), 16_000)

    def test_real_classes_are_told_apart(self, shared_data):
        """Half a class against the other half is far nearer than against any other class, at 16 clips."""
        e = MelStatistics()
        halves = {}
        for cls in CLASSES:
            paths = sorted((shared_data / "foley_real" / "permissive" / cls).glob("*.flac"))
            paths = paths[:: max(1, len(paths) // 24)][:24]
            rows = [e(*soundfile.read(p, dtype="float32")) for p in paths]
            halves[cls] = [ClipEmbeddings.from_clips(rows[k::2]).stats() for k in (0, 1)]
        table = np.array([[halves[a][0].distance(halves[b][1]) for b in CLASSES] for a in CLASSES])
        assert (table.argmin(1) == np.arange(7)).sum() >= 6
        assert np.diag(table).mean() < table[~np.eye(7, dtype=bool)].mean() / 8

    def test_every_number_by_its_description(self):
        """Cosine sums over mel of mean and deviation, and log amplitudes of four bands at four rates."""
        wave = np.random.default_rng(0).standard_normal(16_000) * (1 + np.sin(np.arange(16_000) / 900))
        (patch,) = log_mel_patches(at_16k(wave, 16_000))  # (96, 64)
        k = np.arange(64)
        basis = np.cos(np.pi * np.outer(k, 2 * k + 1) / 128) * np.where(k, 2**0.5, 1)[:, None] / 8
        mean, spread = (basis @ x / 8 for x in (patch.mean(0), patch.std(0)))
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(96) / 95)
        modulation = []
        for low, high in ((1, 3), (3, 7), (7, 16), (16, 49)):
            for band in range(4):
                x = patch[:, 16 * band : 16 * band + 16].mean(1)
                x = (x - x.mean()) * hann
                waves = np.exp(-2j * np.pi * np.outer(np.arange(low, high), np.arange(96)) / 96)
                modulation.append(np.log(np.linalg.norm(waves @ x) / 96 + 0.01))
        expected = [*mean[:16], *(spread[:8] / 0.5), *(np.array(modulation) / 2.4)]
        np.testing.assert_allclose(MelStatistics()(wave, 16_000)[0], expected, rtol=1e-6, atol=1e-8)


def test_the_largest_sample_may_be_below_zero():
    assert at_16k(np.array([0.1, -0.4, 0.2]), 16_000).tolist() == pytest.approx([0.25, -1.0, 0.5])
    assert at_16k(np.zeros(4), 16_000).tolist() == [0.0] * 4


def test_the_judge_s_head_by_hand():
    """Time is pooled by mean and maximum; classes see the embedding's positive part."""
    torch.manual_seed(0)
    net, seen = JudgeNet().eval(), []
    net.features.register_forward_hook(lambda m, args, out: seen.append(out))
    with torch.no_grad():
        e, logits = net(torch.randn(2, 1, 96, 64))
    x = seen[0].numpy()
    x = (x.mean(2) + x.max(2)).reshape(2, -1)
    expected = x @ net.embedding.weight.detach().numpy().T + net.embedding.bias.detach().numpy()
    np.testing.assert_allclose(e.numpy(), expected, rtol=1e-3, atol=1e-5)
    assert (expected < 0).any()
    heard = np.maximum(expected, 0) @ net.head.weight.detach().numpy().T + net.head.bias.detach().numpy()
    np.testing.assert_allclose(logits.numpy(), heard, rtol=1e-3, atol=1e-5)


def test_a_clip_s_class_is_the_mean_of_its_windows_probabilities():
    """Of logits the mean would be: the one sure window of three outvotes two that say nothing much."""
    judge = JudgeEmbedding.__new__(JudgeEmbedding)
    judge.device = torch.device("cpu")
    logits = torch.zeros(3, 7)
    logits[0, 2], logits[1:, 5] = 90.0, 2.0
    judge.net = lambda patches: (None, logits[: len(patches)])
    (told,) = judge.classify([np.ones(32_000)])
    share = np.exp(2) / (np.exp(2) + 6)
    assert told[2] == pytest.approx((1 + 2 * (1 - share) / 6) / 3)
    assert told[5] == pytest.approx(2 * share / 3)


@pytest.mark.parametrize("kind", [JudgeEmbedding, VGGish])
@pytest.mark.parametrize("level", [0.5, 0.01])
def test_networks_are_shown_16_khz_at_peak_one(kind, level):
    """The judge and the textbook's VGGish, whatever rate and level a file has."""
    e, seen = kind.__new__(kind), []
    e.device, e.mode, e.name = torch.device("cpu"), "textbook", "e"

    def net(patches):
        seen.append(patches)
        return torch.zeros(len(patches), 1)

    e.net = net if kind is VGGish else SimpleNamespace(embed=net)
    e(tone(440, sr=22_050, level=level), 22_050)
    np.testing.assert_allclose(seen[0][2:5, 0], log_mel_patches(tone(440, level=1.0))[2:5], atol=0.02)
    assert seen[0].shape == (7, 1, 96, 64) and seen[0].dtype == torch.float32


class TestVGGish:
    def test_structure_is_torchvggish(self):
        with torch.device("meta"):
            net = VGGishNet()
        keys = set(net.state_dict())
        expected = {f"features.{i}.{k}" for i in (0, 3, 6, 8, 11, 13) for k in ("weight", "bias")}
        expected |= {f"embeddings.{i}.{k}" for i in (0, 2, 4) for k in ("weight", "bias")}
        assert keys == expected
        assert sum(p.numel() for p in net.parameters()) == 72_141_184

    def test_layers_by_hand(self, vggish):
        """Hershey et al. 2017: four groups of 3x3 convolutions and ReLU, each halved by its maxima; three layers."""
        net, w = vggish.net, vggish.net.state_dict()
        g = torch.Generator().manual_seed(0)
        x = patches = torch.randn(1, 1, 16, 32, generator=g)
        y = flat = torch.randn(2, 12_288, generator=g)
        with torch.no_grad():
            for group in ((0,), (3,), (6, 8), (11, 13)):
                for i in group:
                    x = F.conv2d(x, w[f"features.{i}.weight"], w[f"features.{i}.bias"], padding=1).clamp(
                        min=0
                    )
                n, c, time, mel = x.shape
                x = x.reshape(n, c, time // 2, 2, mel // 2, 2).amax((3, 5))
            for i in (0, 2):
                y = (y @ w[f"embeddings.{i}.weight"].T + w[f"embeddings.{i}.bias"]).clamp(min=0)
            y = y @ w["embeddings.4.weight"].T + w["embeddings.4.bias"]
            torch.testing.assert_close(net.features(patches), x, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(net.embeddings(flat), y, rtol=1e-4, atol=1e-6)

    def test_flattens_in_tensorflow_order(self, vggish):
        net = vggish.net
        seen = {}
        hook = net.embeddings[0].register_forward_hook(lambda m, args, out: seen.update(flat=args[0]))
        x = torch.randn(1, 1, 96, 64)
        with torch.no_grad():
            net(x)
            maps = net.features(x)
        hook.remove()
        assert maps.shape == (1, 512, 6, 4)
        flat = seen["flat"].reshape(6, 4, 512)
        torch.testing.assert_close(flat[2, 3], maps[0, :, 2, 3])

    def test_dcase_mode_takes_only_the_challenges_clips(self, vggish):
        wave = (tone(440, sr=22_050) * 32767).astype(np.int16)
        out = vggish(wave, 22_050)
        assert out.shape == (10, 128) and out.dtype == np.float64
        assert (out < 0).any()  # no final ReLU
        assert vggish.name == "vggish-dcase-random"
        for bad, sr in [(wave[:-1], 22_050), (wave, 16_000), (wave[:64_000], 16_000)]:
            with pytest.raises(InputError, match="takes 88200 samples at 22050 Hz"):
                vggish(bad, sr)

    def test_dcase_mode_is_the_unresampled_wave(self, vggish):
        wave = (np.random.default_rng(0).standard_normal(88_200) * 3000).astype(np.int16)
        patches = torch.from_numpy(log_mel_patches(wave / wave.max())).float()[:, None]
        with torch.no_grad():
            expected = vggish.net(patches).numpy()
        np.testing.assert_allclose(vggish(wave, 22_050), expected, rtol=1e-5, atol=1e-6)

    def test_weights_file(self, vggish, tmp_path):
        state = vggish.net.state_dict()
        path = tmp_path / "vggish.pth"
        torch.save({**state, "pproc.pca_means": torch.zeros(128)}, path)
        loaded = VGGish(path, "textbook")
        assert re.fullmatch("vggish-textbook-[0-9a-f]{8}", loaded.name)
        assert loaded.report["unexpected"] == ["pproc.pca_means"] and loaded.report["missing"] == []
        wave = tone(440)
        assert loaded(wave, 16_000).shape == (7, 128)
        torch.testing.assert_close(loaded.net.state_dict()["features.0.weight"], state["features.0.weight"])

    def test_weights_are_of_their_seed_and_float32(self, tmp_path, monkeypatch):
        """A small network in the place of 72 million weights."""
        monkeypatch.setattr("latentclap.embeddings.vggish.VGGishNet", lambda: torch.nn.Linear(2, 2))
        one, same, other = (VGGish(None, seed=seed).net.weight for seed in (1, 1, 2))
        assert torch.equal(one, same) and not torch.equal(one, other)
        torch.save(torch.nn.Linear(2, 2).half().state_dict(), tmp_path / "half.pth")
        loaded = VGGish(tmp_path / "half.pth").net
        assert loaded.weight.dtype == loaded.bias.dtype == torch.float32

    def test_the_published_file_has_the_published_name(self, vggish, tmp_path, monkeypatch):
        path = tmp_path / "vggish.pth"
        torch.save(vggish.net.state_dict(), path)
        monkeypatch.setattr("latentclap.embeddings.vggish.PUBLISHED", file_sha256(path))
        assert VGGish(path).name == "vggish-dcase"

    def test_bad_weights(self, vggish, tmp_path):
        with pytest.raises(InputError, match="no such VGGish weights"):
            VGGish(tmp_path / "absent.pth")
        with pytest.raises(InputError, match="unknown VGGish mode"):
            VGGish(None, "fast")
        (tmp_path / "text.pth").write_text("hello")
        with pytest.raises(InputError, match="not a state dict"):
            VGGish(tmp_path / "text.pth")
        state = {k: v for k, v in vggish.net.state_dict().items() if k.startswith("features")}
        torch.save(state, tmp_path / "half.pth")
        torch.save({"embeddings.4.bias": torch.zeros(128)}, tmp_path / "bias.pth")
        with pytest.raises(InputError, match=r"only 0\.00% .* first missing: features\.0\.weight"):
            VGGish(tmp_path / "bias.pth")
        with pytest.raises(
            InputError, match=r"only 6\...% of VGGish's parameters match; first missing: embed"
        ):
            VGGish(tmp_path / "half.pth")

    def test_report_counts_shapes(self):
        net = torch.nn.Linear(2, 3)
        report = load_report(net, {"weight": torch.zeros(3, 3), "bias": torch.zeros(3), "x": torch.zeros(1)})
        assert report == {"matched": ["bias"], "missing": ["weight"], "unexpected": ["x"]}


class TestJudge:
    def test_size_and_shapes(self):
        net = JudgeNet().eval()
        assert 0.3e6 < sum(p.numel() for p in net.parameters()) < 0.5e6
        e, logits = net(torch.randn(3, 1, 96, 64))
        assert e.shape == (3, 64) and logits.shape == (3, 7)
        assert (e < 0).any()

    def test_one_training_step_lowers_the_loss(self):
        torch.manual_seed(0)
        net, x, y = JudgeNet(), torch.randn(7, 1, 96, 64), torch.arange(7)
        optimiser = torch.optim.Adam(net.parameters(), 1e-3)
        losses = []
        for _ in range(8):
            loss = torch.nn.functional.cross_entropy(net(x)[1], y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]

    def test_round_trip_and_classify(self, judge_folder):
        e = JudgeEmbedding(judge_folder)
        out = e(tone(440), 16_000)
        assert out.shape == (7, 64) == (7, e.dim)
        np.testing.assert_array_equal(out, get_embedding("judge", folder=judge_folder)(tone(440), 16_000))
        p = e.classify(np.stack([tone(440), tone(3000)]), 16_000)
        assert p.shape == (2, 7)
        np.testing.assert_allclose(p.sum(1), 1)

    def test_other_weights_are_another_embedding(self, judge_folder):
        """A distance between two judges' statistics means nothing; both were once called "judge"."""
        a, b = JudgeEmbedding(judge_folder), JudgeEmbedding()
        assert a.name == JudgeEmbedding(judge_folder).name != b.name
        sides = [ClipEmbeddings.from_clips([e(tone(440), 16_000)] * 2, e.name).stats() for e in (a, b)]
        with pytest.raises(InputError, match=f"different embeddings: '{a.name}' and '{b.name}'"):
            sides[0].distance(sides[1])

    def test_absent_weights(self, tmp_path):
        with pytest.raises(InputError, match=r"no config\.json; not a judge"):
            JudgeEmbedding(tmp_path)


class TestRegistry:
    def test_clap_asks_the_system(self):
        class System:
            sampling_rate = 16_000

            def encode_audio(self, waves):
                assert waves.shape == (1, 64_000)
                return torch.ones(1, 512)

        e = CLAPEmbedding(System())
        out = e(tone(440, sr=22_050), 22_050)
        assert out.shape == (1, 512) and out.dtype == np.float64  # covariances of float32 are of seven digits

    def test_another_clap_is_another_embedding(self, tiny):
        name = CLAPEmbedding(tiny).name
        assert re.fullmatch("clap-[0-9a-f]{8}", name)
        other = copy.copy(tiny)
        for part in ("audio_model", "audio_projection"):
            other.clap = copy.deepcopy(tiny.clap)
            assert CLAPEmbedding(other).name == name
            with torch.no_grad():
                next(getattr(other.clap, part).parameters()).add_(1e-3)
            assert CLAPEmbedding(other).name != name
        other.clap, other.feature_extractor = tiny.clap, copy.deepcopy(tiny.feature_extractor)
        other.feature_extractor.frequency_min += 1
        assert CLAPEmbedding(other).name != name

    def test_unknown_and_incomplete(self):
        with pytest.raises(InputError, match="unknown embedding 'clop'; use one of mel-statistics"):
            get_embedding("clop")
        with pytest.raises(InputError, match=r"embedding vggish-dcase: .*weights"):
            get_embedding("vggish-dcase")
        with pytest.raises(InputError, match="embedding mel-statistics"):
            get_embedding("mel-statistics", weights="x")


def test_a_hash_is_of_names_values_and_settings():
    """Whatever their order and type in memory."""
    a, b = torch.zeros(2), torch.ones(2)
    told = weights_hash({"x": a, "y": b}, {"rate": 1})
    assert told == weights_hash({"y": b.half(), "x": a.double()}, {"rate": 1})
    others = [
        ({"x": b, "y": a}, {"rate": 1}),
        ({"x": a, "z": b}, {"rate": 1}),
        ({"x": a, "y": b}, {"rate": 2}),
    ]
    assert told not in [weights_hash(*other) for other in others]


def test_a_pickle_is_not_executed(tmp_path):
    from badinput import Shelf

    for name in ("vggish_hostile", "vggish_text"):
        with pytest.raises(InputError, match="not a file of tensors"):
            VGGish(Shelf(tmp_path).get(name))


@pytest.mark.parametrize("config", [[], {"dim": 3}, {"dim": "x", "classes": [], "width": 0}])
def test_a_judge_whose_configuration_is_none(tmp_path, config):
    write_json(tmp_path / "config.json", config)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"weights and config\.json do not fit each other") as stop:
        JudgeEmbedding(tmp_path)
    assert "\n" not in str(stop.value)
