"""What is published of a blind survey tells nobody whose clip is whose: neither names nor files."""

import os
import time

import numpy as np
import pytest
import soundfile

from fake_book import tone
from latentclap.audio import write_wave
from latentclap.survey import make_survey

MODELS = ("Ground Truth", "LDM+Tuning")


def folders(path, seconds=(0.6, 0.6), rate=16_000, pitch=300):
    """Two clips of each system, whose clips have lengths of their own."""
    for k, (model, length) in enumerate(zip(MODELS, seconds, strict=True)):
        for i in range(2):
            wave = tone(pitch + 200 * k + 70 * i, length, rate)
            write_wave(path / model / "rain" / f"{i}.wav", wave, rate)
    return {model: path / model for model in MODELS}


def published(made):
    return sorted((made.folder / "pages" / "clips").iterdir())


def test_who_knows_the_seed_only_cannot_draw_the_names_again(tmp_path):
    """The default is public, and so is the code that draws."""
    one = make_survey(folders(tmp_path / "a"), tmp_path / "one", items=2, progress=False)
    other = make_survey(folders(tmp_path / "b", pitch=310), tmp_path / "other", items=2, progress=False)
    assert not {path.name for path in published(one)} & {path.name for path in published(other)}


def test_files_of_a_class_are_alike_where_clips_are_not_equally_long(tmp_path):
    made = make_survey(folders(tmp_path, (0.6, 0.5)), tmp_path / "out", items=2, progress=False)
    assert {path.stat().st_size for path in published(made)} == {44 + 2 * round(0.6 * 16_000)}
    ends = [np.abs(soundfile.read(path)[0][-1000:]).max() for path in published(made)]
    assert sorted(end == 0 for end in ends) == [False, False, True, True]  # the shorter ones end in silence


@pytest.mark.parametrize("rate", [22_050, 44_100])
def test_recordings_at_another_rate_are_no_longer_than_the_rest(tmp_path, rate):
    """Resampling rounds up."""
    both = folders(tmp_path / "a", (0.7, 0.7)) | {
        "real": folders(tmp_path / "b", (0.7, 0.7), rate)["Ground Truth"]
    }
    made = make_survey(both, tmp_path / "out", items=2, seconds=0.53337, sampling_rate=16_000, progress=False)
    assert len({path.stat().st_size for path in published(made)}) == 1


def test_no_clip_is_older_than_another(tmp_path, monkeypatch):
    """By the time that it was written, and by the order in which files were."""
    from latentclap import audio

    written = []

    def slowly(path, *arguments, **options):
        time.sleep(0.02)
        written.append(path.name)
        write_wave(path, *arguments, **options)

    models = folders(tmp_path)
    monkeypatch.setattr(audio, "write_wave", slowly)
    made = make_survey(models, tmp_path / "out", items=2, progress=False)
    assert written == sorted(written) and len(written) == 4
    assert len({os.stat(path).st_mtime_ns for path in published(made)}) == 1
