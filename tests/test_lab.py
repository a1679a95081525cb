import dataclasses
import shutil
from types import SimpleNamespace as Namespace

import numpy as np
import pytest
import torch

from latentclap.book.settings import settings_beside
from latentclap.cache import build_cache
from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.files import read_json, write_json
from latentclap.finetune import FinetuneConfig, finetune
from latentclap.lab import SYSTEMS, Lab
from latentclap.lab import bench as bench_module
from latentclap.lab import clips as clips_module
from latentclap.lab import points as points_module
from latentclap.lab import scores as scores_module
from latentclap.lab.points import _relevant
from latentclap.limits import check_profile
from latentclap.profiles import load_profile
from latentclap.system import FoleySystem


@pytest.fixture(scope="module")
def lab(tiny_profile, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("LATENTCLAP_RUNS", str(tmp_path_factory.mktemp("runs")))
    yield Lab(load_profile(tiny_profile), progress=False, device="cpu")
    patch.undo()


class Told:
    """A system whose clips tell what they were asked for: class and seed and number of the first, added up."""

    sampling_rate = 16_000

    def generate(self, classes, n, *, seed, first, **options):
        starts = [1000 * CLASSES.index(c) + 100 * seed + first for c in classes]
        return np.array([[s + i] * 4 for s in starts for i in range(n)], dtype=np.float32)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A lab without weights or clips: what its folders depend on, and who is asked for what."""
    monkeypatch.setenv("LATENTCLAP_RUNS", str(tmp_path))
    made = Lab(load_profile("quick"), progress=False, device="cpu")
    made.__dict__ |= {"system": Told(), "data_id": "data", "checkpoint_id": "weights", "phi": "phi"}
    monkeypatch.setattr(Lab, "waves", lambda self, split, n=None: (split, n))
    return made


def test_clips_are_those_asked_for(bench):
    """Each class its own, and no others' under another seed, first number, count or order."""
    plain = bench.generate(None, 2)
    assert {c: w[:, 0].tolist() for c, w in plain.items()} == {
        c: [1000.0 * i, 1000.0 * i + 1] for i, c in enumerate(CLASSES)
    }
    rain = CLASSES.index("rain")
    for options, value in (({"seed": 3}, 300), ({"first": 7}, 7), ({"classes": ("rain", "keyboard")}, 0)):
        assert bench.generate(None, 2, **options)["rain"][0, 0] == 1000 * rain + value
    assert bench.generate(None, 3)["rain"].shape == (3, 4)
    bench.__dict__["system"] = None  # all of these are there now
    assert bench.generate(None, 2, first=7)["rain"][0, 0] == 1000 * rain + 7
    bench.__dict__["checkpoint_id"] = "other weights"
    with pytest.raises(AttributeError):
        bench.generate(None, 2, first=7)


def test_filtered_clips_are_those_of_the_filter_and_the_seed(bench, monkeypatch):
    asked = []
    monkeypatch.setattr(
        clips_module, "clap_score", lambda system: lambda waves, cls: np.full(len(waves), 0.9)
    )
    real = clips_module.filter_generate
    monkeypatch.setattr(
        clips_module, "filter_generate", lambda *a, **k: asked.append(k["seed"]) or real(*a, **k)
    )
    bench.filtered(None, 1)
    bench.filtered(None, 1, seed=2)
    assert bench.filtered(None, 1, seed=2).waves[0, 0] == 200 and asked == [0, 2]
    for change in ({"evaluate__candidates": 2}, {"evaluate__max_tries": 1}, {"evaluate__postfilter": "yuan"}):
        bench.profile = load_profile("quick").override(**change)
        bench.filtered(None, 1)
    assert asked == [0, 2, 0, 0, 0]


def test_a_filter_that_passes_all_gives_the_plain_clips(bench, monkeypatch):
    monkeypatch.setattr(
        clips_module, "clap_score", lambda system: lambda waves, cls: np.full(len(waves), 0.9)
    )
    bench.profile = load_profile("quick").override(evaluate__candidates=1, evaluate__max_tries=1)
    passed, plain = bench.filtered(None, 2, seed=3).by_class(), bench.generate(None, 2, seed=3)
    assert all(np.array_equal(passed[cls], plain[cls]) for cls in CLASSES)


def test_points_and_caches_are_of_their_data_and_weights(bench, monkeypatch):
    trained, encoded = [], []
    monkeypatch.setattr(Lab, "_train", lambda self, config, folder, tensorboard: trained.append(folder) or
                        write_json(folder / "summary.json", {"seconds": 1.0, "step": 1}))  # fmt: skip
    monkeypatch.setattr(
        bench_module, "build_cache", lambda system, clips, folder, **k: encoded.append((clips, folder))
    )
    bench.__dict__["dataset"] = Namespace(split=lambda split: split)
    for name in (None, "data_id", "checkpoint_id"):
        bench.__dict__ |= {name: "another"} if name else {}
        bench.point(bench.config("LDM"))
        bench.cache("dev")
    bench.cache("eval")
    assert len(set(trained)) == 3 and len({folder for _, folder in encoded}) == 4
    assert [clips for clips, _ in encoded] == ["dev", "dev", "dev", "eval"]


@pytest.mark.parametrize("lam", [0.0, 5.0])
def test_whatever_changes_training_makes_another_point(lam):
    """λ = 0 leaves eq. 3's options without effect; how often is saved never has any."""
    plain = FinetuneConfig(lam=lam)
    changes = {
        "tuning": True, "epochs": 7, "batch_size": 3, "lr": 1e-4, "grad_clip": 0.5, "ema_decay": 0.9, "drop": 0.2,
        "seed": 4, "grad_accum": 2, "lam": 6.0, "lora_rank": 8,
    }  # fmt: skip
    of_eq_3 = {"weighting": "snr", "reading": "ddim", "reduction": "sum", "normalize": True, "clamp": 2.0}
    for name, value in changes.items():
        assert _relevant(dataclasses.replace(plain, **{name: value})) != _relevant(plain), name
    for name, value in of_eq_3.items():
        assert (_relevant(dataclasses.replace(plain, **{name: value})) != _relevant(plain)) == (lam > 0), name
    assert _relevant(dataclasses.replace(plain, checkpoint_seconds=9.0)) == _relevant(plain)
    fields = {f.name for f in dataclasses.fields(FinetuneConfig)}
    assert fields == {*changes, *of_eq_3, "checkpoint_seconds"}


def test_a_point_is_scored_on_held_out_clips_with_its_own_weights(bench, monkeypatch):
    point, seen = Namespace(folder=bench.root / "point"), {}
    monkeypatch.setattr(Lab, "point", lambda self, config, force=False: point)
    monkeypatch.setattr(Lab, "load", lambda self, p: ("system of", p))
    monkeypatch.setattr(Lab, "cache", lambda self, split: split)
    monkeypatch.setattr(Lab, "generate", lambda self, p, n, seed: (p, n, seed))
    monkeypatch.setattr(Lab, "fad", lambda self, clips, seed: seen.update(clips=clips, seed=seed) or
                        Namespace(average=3.0, name="FAD"))  # fmt: skip
    monkeypatch.setattr(scores_module, "heldout_losses", lambda *a, **k: seen.update(losses=a) or "losses")
    monkeypatch.setattr(scores_module, "summarise", lambda losses: {"ddpm": losses})
    scores = bench.score_point(FinetuneConfig(seed=5), clips_per_class=9)
    assert seen["losses"] == (("system of", point), "phi", "eval")
    assert (seen["clips"], seen["seed"]) == ((point, 9, 5), 5)
    assert scores == {"ddpm": "losses", "fad": 3.0, "fad_name": "FAD"}


def test_fad_s_reference_is_the_evaluation_side(bench, monkeypatch):
    monkeypatch.setattr(Lab, "_evaluate", lambda self, clips, seed: (clips, self.reference))
    assert bench.fad_real(3) == (("dev", 3), ("eval", None))


def test_data_and_cache(lab):
    cache = lab.cache("dev")
    assert cache["mean"].shape == (28, *lab.system.latent_shape)
    assert cache["E_audio"].shape == cache["E_text"].shape == (28, 512)
    assert torch.bincount(cache["label"]).tolist() == [4] * 7
    again = lab.cache("dev")
    assert all(torch.equal(again[k], cache[k]) for k in cache)


def test_a_page_with_settings_of_its_own_shows_those(lab):
    plain = settings_beside(lab)
    own = settings_beside(lab, {"epochs": 7, "λ without tuning layer": 10.0})
    assert own.iloc[:, 1]["epochs"] == "7" and own.iloc[:, 1]["λ without tuning layer"] == "10"
    assert own.iloc[:, [0, 2]].equals(plain.iloc[:, [0, 2]]) and len(own) == len(plain)
    assert own.drop(["epochs", "λ without tuning layer"]).equals(
        plain.drop(["epochs", "λ without tuning layer"])
    )
    with pytest.raises(KeyError):
        settings_beside(lab, {"epoch": 7})


def test_what_the_paper_does_not_tell_is_not_given(lab):
    """Its tables have one figure of each system, of how many trainings they do not say."""
    table = settings_beside(lab)
    assert table.loc["trainings of each system", "paper"] == "not given"
    unsaid = table["paper"] == "not given"
    assert (table.loc[unsaid, "section"] == "").all() and (table.loc[~unsaid, "section"] != "").all()


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
    monkeypatch.setattr(
        clips_module, "clap_score", lambda system: lambda waves, cls: np.full(len(waves), 0.9)
    )
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
        points_module,
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
    monkeypatch.setattr(scores_module, "evaluate", lambda clips, *a, **k: seen.update(clips))
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
    monkeypatch.setattr("latentclap.lab.bench.code_hash", lambda: "another")
    seen.append(Lab(judged, device="cpu").checkpoint_id)
    assert len(set(seen)) == len(seen)
    write_json(folder / "quality.json", {"accuracy": 1.0})  # what was measured of it changes nothing
    assert Lab(judged, device="cpu").checkpoint_id == seen[-1]
