"""The front end against independent references, files, and bad input."""

import inspect
import math
from itertools import pairwise

import librosa
import numpy as np
import pytest
import soundfile
import torch

from latentclap import audio
from latentclap.audio import (
    FORMATS,
    MelConfig,
    decode,
    griffin_lim,
    log_mel,
    mel_to_magnitude,
    normalise_loudness,
    polish,
    read_wave,
    repeat_to,
    resample,
    to_model_rate,
    write_wave,
)
from latentclap.audio.files import LOSSY
from latentclap.audio.polish import MOMENTUM, no_louder
from latentclap.errors import InputError


def noise(samples=64_000, seed=0, scale=0.1):
    return (scale * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def sine(frequency, sr, seconds=2.0, level=0.5):
    return (level * np.sin(2 * np.pi * frequency * np.arange(int(sr * seconds)) / sr)).astype(np.float32)


def librosa_log_mel(wave, pad):
    mel = librosa.feature.melspectrogram(
        y=np.pad(wave, pad, mode="reflect"),
        sr=16_000,
        n_fft=1024,
        hop_length=160,
        center=False,
        power=1.0,
        n_mels=64,
        fmin=0,
        fmax=8000,
    )
    return np.log(np.maximum(mel, 1e-5)).T


@pytest.mark.parametrize(("variant", "pad", "frames"), [("training", 432, 400), ("inference", 512, 401)])
def test_log_mel_is_librosas(variant, pad, frames):
    wave = np.stack([noise(seed=1), sine(440, 16_000, 4.0), noise(seed=2, scale=1e-3)])
    ours = log_mel(torch.from_numpy(wave), variant=variant)
    assert ours.shape == (3, 1, frames, 64)
    assert ours.dtype == torch.float32
    for row, reference in zip(ours[:, 0].numpy(), wave, strict=True):
        expected = librosa_log_mel(reference, pad)
        # in the linear domain float32 STFTs of two libraries agree to 1e-4; near the floor the log magnifies
        np.testing.assert_allclose(np.exp(row), np.exp(expected), atol=1e-4)
        loud = expected > math.log(1e-3)
        assert loud.sum() > 1000
        np.testing.assert_allclose(row[loud], expected[loud], atol=1e-4)


def test_paper_frame_counts():
    wave = torch.from_numpy(noise(163_840))[None]
    assert log_mel(wave).shape == (1, 1, 1024, 64)
    assert log_mel(wave, variant="inference").shape == (1, 1, 1025, 64)


def test_variants_are_80_samples_apart():
    wave = noise(16_000)
    training = log_mel(torch.from_numpy(wave[None]))[0, 0, 10:80]
    # moved 80 samples earlier, the inference framing looks at the same samples
    inference = log_mel(torch.from_numpy(wave[None, 80:]), variant="inference")[0, 0, 10:80]
    torch.testing.assert_close(training, inference, atol=1e-4, rtol=0)


def test_silence_is_the_floor():
    mel = log_mel(torch.zeros(1, 16_000))
    torch.testing.assert_close(mel, torch.full_like(mel, math.log(1e-5)))
    assert MelConfig().log_floor == pytest.approx(-11.5129, abs=1e-4)


def test_gradient_reaches_the_wave():
    wave = torch.from_numpy(noise(8000)[None]).requires_grad_()
    log_mel(wave).mean().backward()
    assert torch.isfinite(wave.grad).all()
    assert wave.grad.abs().mean() > 0


def test_gradient_of_silence_is_finite():
    wave = torch.zeros(1, 8000, requires_grad=True)
    log_mel(wave).sum().backward()
    assert torch.isfinite(wave.grad).all()


def test_front_end_survives_inference_mode():
    """The cached window must not be an inference tensor: autograd refuses those."""
    audio.mel._window_and_matrix.cache_clear()
    with torch.inference_mode():
        log_mel(torch.from_numpy(noise(8000)[None]))
    wave = torch.from_numpy(noise(8000)[None]).requires_grad_()
    log_mel(wave).sum().backward()
    assert wave.grad is not None


def test_front_end_ignores_autocast():
    wave = torch.from_numpy(noise(8000)[None])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = log_mel(wave)
    torch.testing.assert_close(under, log_mel(wave))


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (torch.zeros(16_000), "batch, samples"),
        (torch.zeros(1, 16_000, dtype=torch.int16), "int16"),
        (torch.zeros(1, 300), "more than 432 samples"),
        (torch.full((1, 16_000), float("nan")), "NaN"),
    ],
)
def test_log_mel_refuses(wave, message):
    with pytest.raises(InputError, match=message):
        log_mel(wave)


def test_mel_config_refuses():
    with pytest.raises(InputError, match="not within 0-8000 Hz"):
        MelConfig(fmax=11_025)
    with pytest.raises(InputError, match="hop"):
        MelConfig(hop=2000)
    with pytest.raises(InputError, match="variant"):
        log_mel(torch.zeros(1, 16_000), variant="hifigan")


def test_dcase_clip_resamples_to_64000():
    assert resample(noise(88_200), 22_050, 16_000).shape == (64_000,)
    assert resample(np.stack([noise(88_200)] * 2), 22_050, 16_000).shape == (2, 64_000)


@pytest.mark.parametrize("frequency", [100.0, 1000.0, 6500.0])
def test_resampling_keeps_frequency_and_level(frequency):
    out = resample(sine(frequency, 22_050), 22_050, 16_000)
    middle = out[8000:24_000].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) == pytest.approx(frequency, abs=1)
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.5, rel=1e-3)


def test_resampling_removes_what_16_khz_cannot_hold():
    out = resample(sine(9500.0, 22_050), 22_050, 16_000)
    assert np.abs(out[2000:-2000]).max() < 1e-3


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_repeat_is_exact(kind):
    clip = kind(noise(64_000))
    long = repeat_to(clip, 163_840)
    assert long.shape == (163_840,)
    assert (long[:64_000] == clip).all()
    assert (long[64_000:128_000] == clip).all()
    assert (long[128_000:] == clip[:35_840]).all()
    assert repeat_to(clip[None], 100).shape == (1, 100)


def test_to_model_rate_order():
    stereo = np.stack([noise(88_200) + 0.2, noise(88_200, seed=1)])
    wave = to_model_rate(stereo, 22_050, seconds=10.24)
    assert wave.shape == (163_840,)
    assert wave.dtype == np.float32
    clip = wave[:64_000]
    assert np.abs(clip).max() == pytest.approx(0.5, abs=1e-5)
    assert clip.mean() == pytest.approx(0.0, abs=1e-6)
    first = resample(stereo[0], 22_050, 16_000)
    first = first - first.mean()
    np.testing.assert_allclose(clip, 0.5 * first / np.abs(first).max(), atol=1e-6)


def test_to_model_rate_cuts_before_it_normalises():
    wave = noise(32_000, scale=0.01)
    wave[20_000] = 1.0
    cut = to_model_rate(wave, 16_000, seconds=1.0)
    assert cut.shape == (16_000,)
    assert np.abs(cut).max() == pytest.approx(0.5, abs=1e-4)


def test_silence_stays_silence():
    assert not to_model_rate(np.zeros(8000, np.float32), 16_000).any()
    assert not normalise_loudness(np.zeros(8000, np.float32), 16_000).any()


def test_griffin_lim_inverts():
    rng = np.random.default_rng(0)
    envelope = np.repeat(rng.uniform(0.05, 1, 20), 1600)
    wave = 0.5 * sine(700, 16_000) * envelope + noise(32_000, scale=0.02) * envelope
    mel = log_mel(torch.from_numpy(wave.astype(np.float32)[None]))
    back = griffin_lim(mel)
    assert back.shape == (1, 32_000)
    again = log_mel(torch.from_numpy(back))
    assert (again - mel).abs().mean() < 0.15
    np.testing.assert_array_equal(back, griffin_lim(mel))
    assert griffin_lim(mel[0, 0], n_iter=1).shape == (32_000,)


def test_a_guess_fills_what_the_mel_leaves_open():
    """Two harmonics in one mel band: the mel alone cannot tell them apart, a guess that knows of them helps."""
    wave = torch.from_numpy((sine(6000, 16_000) + sine(6120, 16_000)).astype(np.float32))[None] * 0.2
    pad = MelConfig().padding("training")
    padded = torch.nn.functional.pad(wave, (pad, pad), mode="reflect")
    S = torch.stft(padded, 1024, 160, window=torch.hann_window(1024), center=False, return_complex=True)
    true, mel = S.abs(), log_mel(wave)[:, 0]

    def error(magnitude):
        return float((magnitude - true).norm() / true.norm())

    alone = error(mel_to_magnitude(mel, n_iter=20))
    helped = [error(mel_to_magnitude(mel, n_iter=20, guess=true, trust=t)) for t in (0.0, 0.3, 1.0)]
    assert helped[0] == pytest.approx(alone, rel=1e-4) and helped[2] < helped[1] < alone


def test_griffin_lim_of_the_floor_is_silence():
    assert np.abs(griffin_lim(torch.full((100, 64), math.log(1e-5)), n_iter=2)).max() < 1e-4
    with pytest.raises(InputError, match="64"):
        griffin_lim(torch.zeros(100, 80))


def smeared(wave):
    """What a small vocoder does: the phases of the wave, and magnitudes in which each band is as loud as its mean."""
    S = torch.stft(wave, 1024, 160, window=torch.hann_window(1024), return_complex=True)
    flat = torch.nn.functional.avg_pool1d(S.abs().transpose(1, 2), 33, 1, 16).transpose(1, 2)
    return torch.istft(
        flat * torch.exp(1j * S.angle()), 1024, 160, window=torch.hann_window(1024), length=wave.shape[1]
    )


def test_polish_gives_back_what_the_mel_tells():
    """A harmonic tone whose magnitudes were smeared comes back; each iteration agrees better with the mel."""
    wave = torch.from_numpy(sum(sine(440 * k, 16_000) / k for k in range(1, 6)).astype(np.float32))[None]
    wave = 0.3 * wave[:, : 160 * (wave.shape[1] // 160)]
    wave += torch.from_numpy(noise(wave.shape[1], scale=0.01).astype(np.float32))
    mel, bad = log_mel(wave), smeared(wave)

    def error(x):
        return (log_mel(x) - mel).abs().mean().item()

    errors = [error(bad)] + [error(polish(bad, mel, n)) for n in (0, 2, 8)]
    assert errors[1] < 0.5 * errors[0]
    assert errors[3] < errors[2] < errors[1]
    assert polish(bad, mel).shape == wave.shape and polish(bad, mel).dtype == torch.float32


def test_polish_leaves_a_true_wave_nearly_alone():
    """White noise keeps its phases: the polished wave correlates with the true one, Griffin-Lim's does not."""
    wave = torch.from_numpy(noise(32_000, scale=0.1).astype(np.float32))[None]
    mel = log_mel(wave)
    kept = torch.corrcoef(torch.cat([wave, polish(wave, mel, 0)]))[0, 1]
    lost = np.corrcoef(wave[0].numpy(), griffin_lim(mel)[0])[0, 1]
    assert kept > 0.7 > 0.3 > abs(lost)


def test_polish_keeps_the_silence_before_a_step():
    """Griffin-Lim spreads a burst over its window of 64 ms; a wave that knows when it began keeps it from that."""
    wave = torch.zeros(1, 32_000)
    wave[:, 16_000:20_000] = torch.from_numpy(noise(4_000, scale=0.3).astype(np.float32))
    mel = log_mel(wave)

    def before(x):  # energy from 35 to 15 ms before the burst: the short windows reach 12 ms
        return x[:, 15_440:15_760].square().sum().item()

    spread, kept = (polish(wave, mel, 8, headroom=h) for h in (float("inf"), 12.0))
    assert before(kept) < 0.1 * before(spread)
    burst = slice(16_400, 19_600)
    assert kept[:, burst].square().sum() > 0.9 * spread[:, burst].square().sum()


def test_no_louder_by_headroom():
    """20 dB too loud comes to 6 dB too loud; what is within the headroom stays."""
    than = torch.from_numpy(noise(16_000, scale=0.02).astype(np.float32))[None]
    down = no_louder(10 * than, than, 6.0)
    inner = slice(1_000, 15_000)
    assert down[:, inner].std() / than[:, inner].std() == pytest.approx(10 ** (6 / 20), rel=0.01)
    assert torch.allclose(no_louder(1.5 * than, than, 6.0)[:, inner], 1.5 * than[:, inner], atol=1e-5)


def test_polish_refuses_a_negative_headroom():
    with pytest.raises(InputError, match="headroom=-1"):
        polish(torch.zeros(1, 16_000), torch.zeros(1, 1, 100, 64), headroom=-1)


@pytest.mark.parametrize(
    ("wave", "mel", "n_iter", "says"),
    [
        (torch.zeros(1, 16_000), torch.zeros(1, 100, 64), 2, "log-mels"),
        (torch.zeros(1, 15_000), torch.zeros(1, 1, 100, 64), 2, "15000"),
        (torch.zeros(2, 16_000), torch.zeros(1, 1, 100, 64), 2, r"\(2, 16000\)"),
        (torch.zeros(1, 16_000), torch.zeros(1, 1, 100, 64), -1, "n_iter=-1"),
    ],
)
def test_polish_refuses(wave, mel, n_iter, says):
    with pytest.raises(InputError, match=says):
        polish(wave, mel, n_iter)


def test_mel_to_magnitude_has_the_mel():
    """The magnitudes it finds have that mel again, but for a few per cent; the floor has nothing."""
    from latentclap.audio.mel import _mel_matrix

    wave = torch.from_numpy(noise(16_000, scale=0.1).astype(np.float32))[None]
    mel = log_mel(wave)[:, 0]
    magnitude = mel_to_magnitude(mel)
    assert magnitude.shape == (1, 513, 100) and bool((magnitude >= 0).all())
    again = (torch.from_numpy(_mel_matrix(MelConfig())) @ magnitude).transpose(1, 2)
    assert ((again - mel.exp()).abs().mean() / mel.exp().mean()) < 0.03
    assert mel_to_magnitude(torch.full((1, 4, 64), MelConfig().log_floor)).max() < 1e-5


def test_loudness_and_peak():
    import pyloudnorm

    quiet = noise(32_000, scale=0.003)
    loud = normalise_loudness(quiet, 16_000, lufs=-23)
    assert pyloudnorm.Meter(16_000).integrated_loudness(loud.astype(float)) == pytest.approx(-23, abs=0.1)
    click = np.zeros(32_000, np.float32)
    click[::8000] = 0.2
    assert np.abs(normalise_loudness(click, 16_000, lufs=-10)).max() == pytest.approx(0.9, abs=1e-3)
    assert normalise_loudness(noise(2000), 16_000).shape == (2000,)
    assert normalise_loudness(np.stack([noise()] * 2), 16_000).shape == (2, 64_000)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_round_trip(tmp_path, suffix, channels):
    wave = np.stack([sine(440, 16_000), sine(880, 16_000)])[:channels]
    path = tmp_path / f"deep/clip{suffix}"
    write_wave(path, wave[0] if channels == 1 else wave, 16_000)
    back, sr = read_wave(path)
    assert back.dtype == np.float32
    assert back.shape[0] == channels
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    if suffix in (".wav", ".flac"):
        assert sr == 16_000
        np.testing.assert_allclose(back, wave, atol=1 / 32_767)
    else:
        for channel, frequency in zip(back, (440, 880), strict=False):
            middle = channel[sr // 2 : sr // 2 + sr]
            assert np.argmax(np.abs(np.fft.rfft(middle))) == frequency
            assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("suffix", LOSSY)
def test_noise_keeps_its_level_and_colour_in_lossy_files(tmp_path, suffix):
    """As soundfile writes them by itself, rain is 2 LU off, and too bright or too dull."""

    def bands(wave: np.ndarray, sr: int) -> np.ndarray:
        power, frequency = np.abs(np.fft.rfft(wave)) ** 2, np.fft.rfftfreq(len(wave), 1 / sr)
        edges = [0, 1000, 2000, 4000, 7000]  # LAME cuts at 7.3 kHz
        return 10 * np.log10([power[(frequency >= a) & (frequency < b)].sum() for a, b in pairwise(edges)])

    wave = noise(64_000)
    write_wave(tmp_path / f"rain{suffix}", wave, 16_000)
    back, sr = read_wave(tmp_path / f"rain{suffix}")
    np.testing.assert_allclose(bands(back[0], sr), bands(wave, 16_000) + 20 * np.log10(sr / 16_000), atol=0.5)


def test_long_vorbis_does_not_crash(tmp_path):
    write_wave(tmp_path / "long.ogg", noise(60 * 16_000), 16_000)
    assert read_wave(tmp_path / "long.ogg")[0].shape == (1, 60 * 16_000)


def test_clipping_is_said(tmp_path):
    with pytest.warns(UserWarning, match="2 samples beyond full scale"):
        write_wave(tmp_path / "a.wav", np.array([0.0, 1.5, -2.0, 0.1], np.float32), 16_000)
    assert np.abs(read_wave(tmp_path / "a.wav")[0]).max() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("suffix", [".flac", ".ogg"])
def test_what_is_beyond_full_scale_is_clipped_in_lossy_files_too(tmp_path, suffix):
    """Of a sine twice as high a third is left alone; Vorbis would keep it whole, for a player to cut."""
    wave = sine(440, 16_000, level=2.0)
    with pytest.warns(UserWarning, match="beyond full scale"):
        write_wave(tmp_path / f"a{suffix}", wave, 16_000)
    back = read_wave(tmp_path / f"a{suffix}")[0][0, 1000:-1000]
    expected = np.clip(wave, -1, 1)[1000:-1000]
    assert np.sqrt(np.mean(back**2)) == pytest.approx(np.sqrt(np.mean(expected**2)), rel=0.03)


@pytest.mark.parametrize(
    "function", [lambda w: resample(w, 22_050, 16_000), lambda w: to_model_rate(w, 22_050)]
)
@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (np.array([0.0, np.nan], np.float32), "NaN"),
        (np.array([0.0, np.inf], np.float32), "infinite"),
        (np.zeros(0, np.float32), "empty"),
        (np.zeros(100, np.int16), "int16, not float"),
    ],
)
def test_bad_waves(function, wave, message):
    with pytest.raises(InputError, match=message):
        function(wave)


@pytest.mark.parametrize("sr", [0, -16_000, 16, 22_050.5, float("nan"), True])
def test_bad_rates(sr, tmp_path):
    with pytest.raises(InputError, match="sampling rate"):
        to_model_rate(noise(100), sr)
    with pytest.raises(InputError, match="sampling rate"):
        write_wave(tmp_path / "a.wav", noise(100), sr)


def test_other_bad_arguments(tmp_path):
    with pytest.raises(InputError, match="duration"):
        to_model_rate(noise(100), 16_000, seconds=-1.0)
    with pytest.raises(InputError, match="repeat"):
        repeat_to(noise(0), 10)
    with pytest.raises(InputError, match="takes"):
        to_model_rate(np.zeros((2, 2, 10), np.float32), 16_000)
    with pytest.raises(InputError, match=r"unknown sound format '\.au'"):
        write_wave(tmp_path / "a.au", noise(100), 16_000)
    with pytest.raises(InputError, match="cannot write OPUS at 22050 Hz"):
        write_wave(tmp_path / "a.opus", noise(100), 22_050)
    assert not list(tmp_path.iterdir())


def test_bad_files(tmp_path):
    text = tmp_path / "text.wav"
    text.write_text("not a sound")
    with pytest.raises(InputError, match=r"text\.wav: cannot be read as sound"):
        read_wave(text)
    (tmp_path / "zero.flac").touch()
    with pytest.raises(InputError, match="cannot be read as sound"):
        read_wave(tmp_path / "zero.flac")
    with pytest.raises(InputError, match="no such sound file"):
        read_wave(tmp_path / "absent.wav")

    import soundfile

    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16_000)
    with pytest.raises(InputError, match="empty"):
        read_wave(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan], np.float32), 16_000, subtype="FLOAT")
    with pytest.raises(InputError, match="NaN"):
        read_wave(tmp_path / "nan.wav")
    assert np.isnan(decode(tmp_path / "nan.wav")[0]).any()


def test_a_file_without_permission_is_not_called_broken(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", noise(8000), 16_000)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match="no permission to read it"):
        read_wave(tmp_path / "a.wav")


def test_a_full_disk_is_guessed(tmp_path, monkeypatch):
    class Full:
        def __init__(self, *_, **__):
            raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(soundfile, "SoundFile", Full)
    with pytest.raises(InputError, match="is the disk full"):
        write_wave(tmp_path / "new/a.wav", noise(8000), 16_000)
    assert list(tmp_path.iterdir()) == []


def test_what_records_rest_on():
    """Iterations, trust, headroom: with others, Griffin-Lim's figures and polished clips would be others."""

    def defaults(function, *names):
        told = inspect.signature(function).parameters
        return [told[name].default for name in names]

    assert defaults(mel_to_magnitude, "n_iter", "trust") == [100, 0.3]
    assert defaults(griffin_lim, "n_iter", "seed") == [32, 0]
    assert defaults(polish, "n_iter", "headroom") == [10, 12.0]
    assert defaults(normalise_loudness, "lufs", "peak", "max_gain_db") == [-23.0, 0.9, 40.0]
    assert inspect.signature(librosa.griffinlim).parameters["momentum"].default == MOMENTUM


def test_the_inverse_begins_at_the_pseudo_inverse():
    mel = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(0))
    filters = librosa.filters.mel(sr=16_000, n_fft=1024, n_mels=64, fmin=0, fmax=8000)
    expected = np.clip(np.linalg.pinv(filters) @ np.exp(mel[0].T.numpy()), 1e-6, None)
    np.testing.assert_allclose(mel_to_magnitude(mel, n_iter=0)[0].numpy(), expected, rtol=1e-3, atol=1e-3)


def test_griffin_lim_s_phases_are_of_the_seed():
    mel = torch.randn(1, 1, 12, 64, generator=torch.Generator().manual_seed(0)) - 4
    one, same, other = (griffin_lim(mel, 1, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same) and np.abs(one - other).max() > 0.1 * np.abs(one).max()


def test_polish_is_fast_griffin_lim_from_the_vocoder_s_phases():
    """Perraudin's t = c + 0.99 (c - c before), written out with numpy's transforms."""
    rng, window = np.random.default_rng(0), np.hanning(1025)[:-1]
    wave = 0.1 * rng.standard_normal(20 * 160)
    mel = log_mel(torch.from_numpy(wave[None]).float()) + 0.5

    def spectra(x):
        return np.fft.rfft(np.lib.stride_tricks.sliding_window_view(x, 1024)[::160] * window).T

    def waves(S):
        out, weight = np.zeros((2, 20 * 160 + 864))
        for k, frame in enumerate(np.fft.irfft(S.T) * window):
            out[160 * k : 160 * k + 1024] += frame
            weight[160 * k : 160 * k + 1024] += window**2
        return out / np.maximum(weight, 1e-3)

    c = spectra(np.pad(wave, 432, mode="reflect"))
    guess = torch.from_numpy(np.abs(c)[None]).float()
    magnitude = mel_to_magnitude(mel[:, 0], n_iter=20, guess=guess)[0].double().numpy()
    t, before = c, 0
    for _ in range(3):
        c = spectra(waves(magnitude * np.exp(1j * np.angle(t))))
        t, before = c + 0.99 * (c - before), c
    expected = waves(magnitude * np.exp(1j * np.angle(t)))[432:-432]
    found = polish(torch.from_numpy(wave[None]).float(), mel, 3, headroom=float("inf"))[0].numpy()
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


def test_no_louder_at_the_edges_too():
    """Energies are means over 17 bins and 3 windows, at the edges over those that there are."""
    rng = np.random.default_rng(0)
    wave, than = rng.standard_normal((2, 1024)) * np.array([[1.0], [0.1]])
    than *= np.linspace(0.1, 3, 1024)

    def spectra(x):
        return librosa.stft(x, n_fft=256, hop_length=64, pad_mode="reflect")

    def energy(S):
        padded = np.pad(np.abs(S) ** 2, ((8, 8), (1, 1)), constant_values=np.nan)
        return np.nanmean(np.lib.stride_tricks.sliding_window_view(padded, (17, 3)), axis=(2, 3))

    gain = np.minimum(1, np.sqrt(10**0.6 * energy(spectra(than)) / energy(spectra(wave))))
    expected = librosa.istft(spectra(wave) * gain, hop_length=64, length=1024)
    found = no_louder(*(torch.from_numpy(x[None]).float() for x in (wave, than)), 6.0)[0].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_what_is_kept_has_no_offset():
    """The mean is of the second that is kept, not of the three that there were."""
    wave = np.concatenate([0.3 + 0.1 * np.sin(np.arange(16_000)), np.full(32_000, -0.5)])
    kept = to_model_rate(wave, 16_000, 1.0)
    assert abs(kept.mean()) < 1e-6 and np.abs(kept).max() == pytest.approx(0.5, abs=1e-6)


def test_loudness_of_a_sine_and_its_bounds():
    """BS.1770: a full-scale sine at 997 Hz is -3.01 LUFS. At most 40 dB are added, and no peak passes 0.9."""
    sine = np.sin(2 * np.pi * 997 * np.arange(48_000) / 48_000)
    assert np.abs(normalise_loudness(0.5 * sine, 48_000)).max() == pytest.approx(
        10 ** (-19.99 / 20), rel=0.01
    )
    np.testing.assert_allclose(normalise_loudness(6e-4 * sine, 48_000), 0.06 * sine, rtol=1e-5, atol=1e-7)
    clicks = np.full(48_000, 1e-3)
    clicks[::4800] = -0.5
    assert np.abs(normalise_loudness(clicks, 48_000, lufs=-5.0)).max() == pytest.approx(0.9)


def test_loudness_adds_up_over_channels_and_what_the_meter_gates_stays():
    """BS.1770 adds the channels' powers: two alike are 3.01 LU louder than one."""
    sine = 0.5 * np.sin(2 * np.pi * 997 * np.arange(48_000) / 48_000)
    alone, both = audio.loudness(sine, 48_000), audio.loudness(np.stack([sine, sine]), 48_000)
    assert (alone, both) == pytest.approx((-9.03, -6.02), abs=0.06) and both - alone > 3
    faint = 1e-4 * sine  # -89 LUFS
    assert audio.loudness(faint, 48_000) == -np.inf
    np.testing.assert_array_equal(normalise_loudness(faint, 48_000), faint.astype(np.float32))


def test_a_short_sound_is_as_loud_as_itself_again_and_again():
    """A tenth of a second of a tone of 1 kHz, a quarter of the meter's block; silence around it would count."""
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(4_800) / 48_000)
    assert audio.loudness(tone, 48_000) == pytest.approx(audio.loudness(np.tile(tone, 10), 48_000), abs=0.1)


def test_a_write_that_fails_leaves_the_old_sound(tmp_path, monkeypatch):
    write_wave(tmp_path / "a.wav", noise(8000), 16_000)
    before = (tmp_path / "a.wav").read_bytes()

    def full(self, frames):
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(soundfile.SoundFile, "write", full)
    with pytest.raises(InputError, match="is the disk full"):
        write_wave(tmp_path / "a.wav", noise(16_000), 16_000)
    assert (tmp_path / "a.wav").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_sound_of_a_second_and_a_half_is_written_to_its_end(tmp_path):
    """It is written second by second."""
    write_wave(tmp_path / "a.wav", noise(24_001), 16_000)
    np.testing.assert_allclose(read_wave(tmp_path / "a.wav")[0][0], noise(24_001), atol=1 / 32_767)


def test_full_scale_is_written_as_such(tmp_path):
    write_wave(tmp_path / "a.wav", np.array([1.0, -1.0, 0.5]), 16_000)
    assert (read_wave(tmp_path / "a.wav")[0][0] * 32768).tolist() == [32767, -32768, 16384]
