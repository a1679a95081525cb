import shutil

import numpy as np
import pytest
import torch

from latentclap import lab as lab_module
from latentclap.cache import build_cache
from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.files import read_json, write_json
from latentclap.finetune import finetune
from latentclap.lab import SYSTEMS, Lab
from latentclap.limits import check_profile
from latentclap.profiles import load_profile
from latentclap.system import FoleySystem


@pytest.fixture(scope="module")
def lab(tiny_profile, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("LATENTCLAP_RUNS", str(tmp_path_factory.mktemp("runs")))
    yield Lab(load_profile(tiny_profile), progress=False, device="cpu")
    patch.undo()


def test_data_and_cache(lab):
    cache = lab.cache("dev")
    assert cache["mean"].shape == (28, *lab.system.latent_shape)
    assert cache["E_audio"].shape == cache["E_text"].shape == (28, 512)
    assert torch.bincount(cache["label"]).tolist() == [4] * 7
    again = lab.cache("dev")
    assert all(torch.equal(again[k], cache[k]) for k in cache)


def test_a_damaged_cache_is_refused(lab, tmp_path):
    clips = lab.dataset.split("dev")[:2]
    build_cache(lab.system, clips, tmp_path, progress=False)
    shard = tmp_path / "00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="checksum differs"):
        build_cache(lab.system, clips, tmp_path, progress=False)


def test_points_are_made_once(lab):
    config = lab.config("LDM+Tuning+Latent")
    point = lab.point(config)
    stamp = (point.folder / "weights.safetensors").stat().st_mtime_ns
    again = lab.point(config)
    assert again.folder == point.folder
    assert (point.folder / "weights.safetensors").stat().st_mtime_ns == stamp
    assert not (point.folder / "checkpoint.pt").exists()
    forced = lab.point(config, force=True)
    assert (forced.folder / "weights.safetensors").stat().st_mtime_ns != stamp
    assert lab.load(point).tuning is not None
    assert lab.system.tuning is None


def test_the_baseline_is_one_run_whatever_eq_3_says(lab):
    folders = {lab.point(lab.config("LDM", weighting=w, reading=r)).folder
               for w, r in (("paper", "x0"), ("snr", "posterior"))}  # fmt: skip
    assert len(folders) == 1
    assert lab.config("LDM").lam == 0
    assert lab.config("LDM+Latent").lam == 2000
    assert lab.config("LDM+Tuning+Latent").lam == 1000


def test_generated_clips_and_scores(lab):
    waves = lab.generate(None, 2)
    assert list(waves) == list(CLASSES)
    assert waves["rain"].shape == (2, lab.system.samples)
    assert lab.generation_seconds(None, 2) > 0
    np.testing.assert_array_equal(lab.generate(None, 2)["rain"], waves["rain"])
    result = lab.fad(lab.waves("dev", 3))
    assert list(result.estimates) == list(CLASSES)
    assert result.average >= 0
    # the challenge's clips are 4 s: what a longer model makes after them is not measured
    shorter = {c: np.tile(w, 7)[:, :64000] for c, w in lab.waves("dev", 3).items()}
    longer = {c: np.pad(w, ((0, 0), (0, 20000)), constant_values=0.3) for c, w in shorter.items()}
    assert {w.shape for w in longer.values()} == {(3, 84000)}
    assert lab.fad(longer).average == lab.fad(shorter).average
    assert set(lab.similarity(waves)) == set(CLASSES)


def test_fad_in_clap_s_space(lab):
    """check_profile passed it and a notebook failed on it, after the training."""
    profile = lab.profile.override(evaluate__embedding="clap")
    check_profile(profile)
    other = Lab(profile, progress=False, device="cpu")
    result = other.fad(lab.waves("dev", 3))
    assert result.average >= 0
    assert result.name.startswith("FAD[clap-")


def test_what_fad_is_measured_by_is_part_of_a_result(lab, tmp_path):
    """A profile names statistics and weights: others under the same name give other numbers."""
    assert len(lab.content) == 2
    (tmp_path / "ref.npz").write_bytes(b"a")
    other = Lab(
        lab.profile.override(evaluate__reference=str(tmp_path / "ref.npz")), progress=False, device="cpu"
    )
    first = other.measure_id
    (tmp_path / "ref.npz").write_bytes(b"b")
    again = Lab(other.profile, progress=False, device="cpu")
    assert first and again.measure_id not in ("", first) and again.content[2] == again.measure_id


def test_the_system_s_own_encoder(lab):
    profile = lab.profile.override(model__latent_clap="")
    own = Lab(profile, progress=False, device="cpu")
    assert torch.equal(own.phi.out.weight, lab.phi.out.weight)
    assert own.checkpoint_id == lab.checkpoint_id


def test_filtered_counts_its_cost(lab):
    result = lab.filtered(None, 1)
    assert result.waves.shape == (7, lab.system.samples)
    assert all(1 <= count <= 2 for count in result.generated_count.values())
    again = lab.filtered(None, 1)
    np.testing.assert_array_equal(again.waves, result.waves)
    assert again.tries["rain"].tolist() == result.tries["rain"].tolist()


def test_a_filter_that_passes_all_changes_nothing(lab, monkeypatch):
    """What Table I's rows with and without a filter differ by is the filter."""
    monkeypatch.setattr(lab_module, "clap_score", lambda system: lambda waves, cls: np.full(len(waves), 0.9))
    profile = lab.profile.override(evaluate__candidates=1, evaluate__max_tries=1)
    passed = Lab(profile, progress=False, device="cpu").filtered(None, 2, seed=3).by_class()
    plain = lab.generate(None, 2, seed=3)
    for cls in CLASSES:
        np.testing.assert_allclose(passed[cls], plain[cls], atol=1e-3)


def test_a_gpu_compiles_where_the_profile_says_so(lab, monkeypatch):
    """Compiled clips have names of their own; the rest is tests/test_finetune.py's and a GPU's."""
    asked = []
    monkeypatch.setattr(Lab, "_compiles", True)
    monkeypatch.setattr(FoleySystem, "for_generation", lambda self: asked.append("generation") or self)
    monkeypatch.setattr(
        lab_module,
        "finetune",
        lambda *a, compile, **k: asked.append(f"finetune {compile}") or finetune(*a, **k),
    )
    plain = lab._point_folder(None) / "generated"
    before = set(plain.glob("*.safetensors"))
    lab.generate(None, 1)
    lab.filtered(None, 1)
    lab.point(lab.config("LDM", seed=5))
    assert asked == ["generation", "generation", "finetune True"]
    assert len(set(plain.glob("*.safetensors")) - before) == 1
    assert load_profile("paper").speed.compile and not load_profile("mini").speed.compile


def test_recordings_against_the_organisers_statistics_are_files(lab, tmp_path, monkeypatch):
    """Through the model's 16 kHz they would lose what VGGish hears above 8 kHz at the tool's misread rate."""
    seen = {}
    monkeypatch.setattr(lab_module, "evaluate", lambda clips, *a, **k: seen.update(clips))
    own = Lab(
        lab.profile.override(evaluate__reference=str(tmp_path / "stats.npz")), progress=False, device="cpu"
    )
    own.fad_real(2)
    assert {c: len(v) for c, v in seen.items()} == dict.fromkeys(CLASSES, 2)
    assert all(path.is_file() for paths in seen.values() for path in paths)
    lab.fad_real(2)
    assert all(isinstance(waves, np.ndarray) for waves in seen.values())


def test_dev_clips_are_not_eval_clips(lab):
    dev, evaluation = (lab.waves(s) for s in ("dev", "eval"))
    for c in CLASSES:
        assert not {w.tobytes() for w in dev[c]} & {w.tobytes() for w in evaluation[c]}


def test_four_systems():
    assert list(SYSTEMS) == ["LDM", "LDM+Tuning", "LDM+Latent", "LDM+Tuning+Latent"]


def test_results_of_other_settings_are_not_taken_for_theirs(tiny_family, tiny_profile, tmp_path, monkeypatch):
    """What a folder's JSON files say decides as much as its weights do, in whichever format these are."""
    folder = tmp_path / "system"
    shutil.copytree(tiny_family, folder)
    profile = load_profile(tiny_profile).override(
        model__system=str(folder), model__latent_clap=str(folder / "latent_clap")
    )
    seen = [Lab(profile, device="cpu").checkpoint_id]
    assert Lab(profile, device="cpu").checkpoint_id == seen[0]
    for file, key, value in (
        ("latentclap.json", "polish", 3),
        ("scheduler/scheduler_config.json", "steps_offset", 0),
        ("vae/config.json", "scaling_factor", 7.0),
        ("latent_clap/config.json", "note", "another"),
    ):
        write_json(folder / file, read_json(folder / file) | {key: value})
        seen.append(Lab(profile, device="cpu").checkpoint_id)
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"other weights")
    seen.append(Lab(profile, device="cpu").checkpoint_id)
    judged = profile.override(model__judge=str(folder / "clap"))
    seen.append(Lab(judged, device="cpu").checkpoint_id)
    monkeypatch.setattr("latentclap.lab.code_hash", lambda: "another")
    seen.append(Lab(judged, device="cpu").checkpoint_id)
    assert len(set(seen)) == len(seen)
    write_json(folder / "quality.json", {"accuracy": 1.0})  # what was measured of it changes nothing
    assert Lab(judged, device="cpu").checkpoint_id == seen[-1]
