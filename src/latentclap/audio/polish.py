"""A vocoder's wave, made to agree with the log-mel it was made from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from latentclap.audio.mel import MelConfig, _window_and_matrix, mel_to_magnitude
from latentclap.errors import InputError

#: samples of the windows in which a polished wave is compared with the vocoder's, and their distance
SHORT, SHORT_HOP = 256, 64
#: bins (62.5 Hz each at 16 kHz) and windows over which their energies are averaged
SPREAD = (17, 3)
#: fast Griffin-Lim's momentum (Perraudin, Balazs, Soendergaard 2013), librosa's default
MOMENTUM = 0.99


def polish(
    wave: Tensor,
    log_mel: Tensor,
    n_iter: int = 10,
    config: MelConfig = MelConfig(),
    *,
    headroom: float = 12.0,
) -> Tensor:
    """Keep a vocoder's phases, and give it the magnitudes of the log-mel it should have sounded like.

    A small vocoder finds good phases long before it gets magnitudes right: it smears harmonics. The log-mel
    tells them, so the wave's spectrogram takes its magnitudes from there (:func:`mel_to_magnitude`, with the
    vocoder's as a guess), and a few iterations of fast Griffin-Lim, which begin at the vocoder's phases instead of
    at random ones, make neighbouring frames agree. A vocoder that keeps to its mel gains nothing by it.

    What a log-mel tells was somewhere within its window of 64 ms, and Griffin-Lim spreads it there, into the silence
    before a footstep. The vocoder knows that silence: where the wave would be louder than the vocoder's by more than
    ``headroom``, in windows of 16 ms and bands of a kilohertz, it is turned down.

    Args:
        wave: (B, frames * hop), what the vocoder made.
        log_mel: training-variant log-mels (B, 1, frames, n_mels).
        n_iter: iterations of fast Griffin-Lim; 0 only exchanges the magnitudes.
        config: the numbers of the log-mel.
        headroom: dB by which the wave may be louder than the vocoder's; inf: by any.

    Returns:
        (B, frames * hop) float32.

    Raises:
        InputError: shapes that do not belong together, n_iter < 0, or headroom < 0.
    """
    frames, samples = log_mel.shape[-2], log_mel.shape[-2] * config.hop
    if log_mel.ndim != 4 or log_mel.shape[1] != 1 or wave.shape != (len(log_mel), samples):
        raise InputError(
            f"polish takes waves (B, frames x {config.hop}) and log-mels (B, 1, frames, {config.n_mels}),"
            f" not {tuple(wave.shape)} and {tuple(log_mel.shape)}"
        )
    if n_iter < 0:
        raise InputError(f"polish: n_iter={n_iter} must not be negative")
    if not headroom >= 0:
        raise InputError(f"polish: headroom={headroom} dB must not be negative")
    pad, n_fft, hop = config.padding("training"), config.n_fft, config.hop
    window = _window_and_matrix(config, wave.device)[0]
    length = samples + 2 * pad

    def overlapped(frames_of: Tensor) -> Tensor:
        """Overlap-add: (B, n_fft, frames) -> (B, length)."""
        return F.fold(frames_of, (1, length), (1, n_fft), stride=(1, hop))[:, 0, 0]

    weight = overlapped((window**2)[None, :, None].expand(1, n_fft, frames)).clamp(min=1e-3)

    def spectra(x: Tensor) -> Tensor:
        return torch.stft(x, n_fft, hop, window=window, center=False, return_complex=True)

    def waves(S: Tensor) -> Tensor:
        # torch.istft wants a window without zeros at the ends where frames are not centred; ours is padded instead
        return overlapped(torch.fft.irfft(S, n=n_fft, dim=1) * window[None, :, None]) / weight

    def phases(S: Tensor) -> Tensor:
        return S / S.abs().clamp(min=1e-9)

    with torch.autocast(wave.device.type, enabled=False):
        heard = spectra(F.pad(wave.float(), (pad, pad), mode="reflect"))
        # a fifth of the updates: more of them change nothing that the yardstick or the STFT loss would show
        magnitude = mel_to_magnitude(log_mel[:, 0], config, n_iter=20, guess=heard.abs())
        phase = phases(heard)
        before = torch.zeros_like(phase)
        for _ in range(n_iter):
            rebuilt = spectra(waves(magnitude * phase))
            phase = phases(rebuilt - MOMENTUM / (1 + MOMENTUM) * before)
            before = rebuilt
        return no_louder(waves(magnitude * phase)[:, pad : pad + samples], wave.float(), headroom)


def no_louder(wave: Tensor, than: Tensor, headroom: float) -> Tensor:
    """Turn a wave (B, samples) down where it is louder than another by more than ``headroom`` dB, by window and band.

    Args:
        wave: float32.
        than: of the same shape.
        headroom: dB; inf gives the wave back.
    """
    if headroom == float("inf"):
        return wave
    window = torch.hann_window(SHORT, device=wave.device)

    def spectra(x: Tensor) -> Tensor:
        return torch.stft(x, SHORT, SHORT_HOP, window=window, return_complex=True)

    def energy(S: Tensor) -> Tensor:
        pad = tuple(n // 2 for n in SPREAD)
        mean = F.avg_pool2d(S.abs().square()[:, None], SPREAD, 1, pad, count_include_pad=False)
        return mean[:, 0] + 1e-10

    S = spectra(wave)
    gain = (10 ** (headroom / 10) * energy(spectra(than)) / energy(S)).sqrt().clamp(max=1.0)
    return torch.istft(S * gain, SHORT, SHORT_HOP, window=window, length=wave.shape[-1])
