"""``latentclap finetune``: a folder of one's own sounds in, a system, held-out losses and a page out."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from latentclap import FoleySystem, cli, launch
from latentclap.audio import read_wave, write_wave
from latentclap.checkpoints import shipped
from latentclap.errors import InputError
from latentclap.files import read_json, write_json
from latentclap.latent_clap import LatentCLAP
from latentclap.lora import ADAPTER
from latentclap.measure import heldout_losses
from latentclap.own import heldout, page, parts
from latentclap.own.comparison import write_page
from latentclap.own.files import write_files
from latentclap.own.run import Own
from latentclap.own.sounds import find_sounds, made_by_models

RATE = 22_050


def write_sounds(folder, count=12, seconds=0.4):
    """Beeps and hisses in turn, each with a text beside it."""
    rng = np.random.default_rng(0)
    for i in range(count):
        time = np.arange(int(seconds * RATE)) / RATE
        beep = np.sin(2 * np.pi * (400 + 50 * i) * time)
        wave = beep if i % 2 else rng.uniform(-1, 1, len(time))
        write_wave(folder / f"take_{i:02d}.wav", (0.5 * wave).astype(np.float32), RATE)
        (folder / f"take_{i:02d}.txt").write_text("a beep" if i % 2 else "a hiss")
    return folder


@pytest.fixture
def sounds(tmp_path):
    return write_sounds(tmp_path / "sounds")


def run(*arguments):
    return CliRunner().invoke(
        cli.app, ["finetune", *map(str, arguments), "-q", "--device", "cpu", "--workers", "0"]
    )


@pytest.fixture(scope="module")
def family(tiny_family, tmp_path_factory):
    """The tiny family, which by itself is sampled in two steps."""
    folder = shutil.copytree(tiny_family, tmp_path_factory.mktemp("family") / "tiny")
    told = read_json(folder / "latentclap.json")
    write_json(
        folder / "latentclap.json",
        told | {"sampling": {"sampler": "ddim", "steps": 2, "guidance_scale": 2.0}},
    )
    return folder


@pytest.fixture(scope="module")
def tuned(family, tmp_path_factory):
    """A finished run, its output, and its sounds."""
    folder = tmp_path_factory.mktemp("own")
    write_sounds(folder / "sounds")
    options = (folder / "sounds", "-o", folder / "out", "--model", family, "--epochs", 2, "--lr", 1e-3)
    options = (*options, "--batch-size", 5, "--hold-out", 0.2, "--listen", 1)
    said = run(*options)
    assert said.exit_code == 0, said.output
    return folder, options, said.output


# --- sounds -----------------------------------------------------------------------------------------------------


def test_each_caption_gives_its_share_of_held_out_sounds(sounds):
    found = find_sounds(sounds, 0.34)
    assert (found.layout, len(found.train), len(found.held_out)) == ("captions", 8, 4)
    assert sorted(item.caption for item in found.held_out) == ["a beep", "a beep", "a hiss", "a hiss"]
    assert not {item.key for item in found.train} & {item.key for item in found.held_out}
    assert find_sounds(sounds, 0.34).held_out == found.held_out
    assert sorted(found.captions) == ["a beep", "a hiss"]


def test_which_sounds_are_held_out_is_not_their_order(tmp_path):
    """Takes are numbered by time: every k-th of them would be the same moment of every session."""
    found = find_sounds(write_sounds(tmp_path / "many", 80), 0.1)
    places = sorted(int(item.key[-2:]) for item in found.held_out)
    assert len(places) == 8
    assert len(set(np.diff(places))) > 2


def test_few_sounds_are_all_trained_on(sounds):
    assert find_sounds(sounds, 0.05).held_out == ()
    assert find_sounds(sounds, 0).held_out == ()
    with pytest.raises(InputError, match=r"--hold-out 0\.7: a share of the sounds"):
        find_sounds(sounds, 0.7)


def test_unusable_sounds_are_never_held_out(sounds):
    for path in sorted(sounds.glob("*.txt"))[:6]:
        path.unlink()
    found = find_sounds(sounds, 0.5)
    assert (len(found.usable), len(found.held_out)) == (3, 3)
    assert len([item for item in found.train if item.problem]) == 6
    assert len([item for part in found.parts("train") for item in part.clips]) == 9
    assert [item for part in found.parts("held_out") for item in part.clips] == list(found.held_out)


def test_the_digest_tells_changed_sounds(sounds):
    before = find_sounds(sounds).digest
    assert find_sounds(sounds).digest == before
    (sounds / "take_03.txt").write_text("a low beep")
    assert find_sounds(sounds).digest != before


def test_clips_that_a_model_made_are_told_of(sounds, family, tmp_path):
    """A folder of recordings into which somebody generated: they would be learnt as recordings."""
    assert made_by_models(find_sounds(sounds)) == (0, "")
    options = ("-o", tmp_path / "out", "--model", family, "--dry-run")
    assert "warning" not in run(sounds, *options).output
    mixed = shutil.copytree(sounds, tmp_path / "mixed")
    recordings = len(list(mixed.rglob("*.wav")))
    for name in ("more/rain/rain_000.wav", "more/rain/rain_001.wav"):
        (mixed / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(next(sounds.rglob("*.wav")), mixed / name)
        (mixed / name).with_suffix(".txt").write_text("rain")
    (mixed / "more/generation.json").write_text("{}")
    found = find_sounds(mixed)
    assert made_by_models(found) == (2, str(mixed / "more"))
    assert len(found.train) + len(found.held_out) == recordings + 2
    said = run(mixed, *options).output
    assert f"warning: 2 sounds in {mixed}/more were made by a model, as generation.json there says" in said


def test_both_sides_of_a_set_in_dcase_layout(tmp_path):
    for side, count in (("dev", 3), ("eval", 2)):
        for i in range(count):
            write_sounds(
                tmp_path / "set" / side / "rain", 1, seconds=0.6 + 0.1 * i + 0.01 * count
            )  # no two of them alike
            (tmp_path / "set" / side / "rain" / "take_00.wav").rename(
                tmp_path / "set" / side / "rain" / f"{side}_{i}.wav"
            )
    found = find_sounds(tmp_path / "set", 0)
    assert {item.key.split("/")[0] for item in found.train} == {"dev"}  # eval stays for evaluation
    shutil.rmtree(tmp_path / "set" / "eval")
    (tmp_path / "set" / "dev").rename(tmp_path / "plain")
    assert len(find_sounds(tmp_path / "plain", 0).train) == 3


# --- a whole run ------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_system_that_generates(tuned, family):
    folder, _, said = tuned
    system = FoleySystem.from_pretrained(folder / "out" / "system")
    base = FoleySystem.from_pretrained(family)
    moved = [
        not torch.equal(a, b) for a, b in zip(system.unet.parameters(), base.unet.parameters(), strict=True)
    ]
    assert any(moved)
    assert (
        "10 sounds to train on, 2 held out; 12 captions from files beside the sounds (2 different), such as"
        in said
    )
    assert "10 clips, 2 epochs: 4 steps of 5 clips, λ = 2000, learning rate 0.001" in said
    assert f"latentclap generate --model {folder / 'out' / 'system'} --prompt" in said


def test_held_out_losses_are_those_of_the_two_systems(tuned, family):
    folder, _, said = tuned
    record = read_json(folder / "out" / "finetune.json")
    assert record["finished"] and record["clips"] == 10 and record["steps"] == 4
    losses = record["held_out_losses"]
    assert set(losses) == {"ddpm", "lclap"}
    from latentclap.cache import ShardedCache

    cache = ShardedCache(folder / "out" / "latents" / "held_out").load()
    phi = LatentCLAP.from_pretrained(family / "latent_clap")
    for side, system in (("before", family), ("after", folder / "out" / "system")):
        expected = heldout_losses(FoleySystem.from_pretrained(system), phi, cache, levels=heldout.LEVELS)
        assert losses["ddpm"][side] == pytest.approx(np.mean(expected["ddpm"]), rel=1e-5)
    assert losses["ddpm"]["sounds"] == 2
    assert re.search(r"held out, 2 sounds: eq\. 1 [\d.]+ -> [\d.]+, \S+ \[\S+, \S+\]; eq\. 3 ", said)


def test_the_page_plays_own_sounds_before_and_after(tuned):
    folder, _, said = tuned
    index = folder / "out" / "listen" / "index.html"
    assert f"to hear it before and after: {index}" in said
    # not among the sounds that it learnt from, where the next fine-tuning would find them
    assert said.rstrip().endswith(f"-n 8 -o {folder}/out-clips")
    assert read_json(folder / "out/finetune.json")["command"].startswith(
        f"latentclap finetune {folder}/sounds -o"
    )
    text = index.read_text(encoding="utf-8")
    files = re.findall(r'<audio [^>]*src="([^"]+)"', text)
    assert len(files) == 2 * 3
    waves = [read_wave(index.parent / file)[0] for file in files]
    assert all(len(wave) for wave in waves)
    assert all(
        np.abs(waves[i]).max() > 0.1 for i in (0, 3)
    )  # one's own; the tiny system makes next to nothing
    heads = re.findall(r'scope="col">(?:<span[^>]*>\d</span> )?(\w+)', text)
    assert heads == ["Yours", "Before", "After"]
    assert not re.search(r"https?://", text)  # it asks no other machine


def test_the_same_command_finds_all_done(tuned, monkeypatch):
    _, options, said = tuned
    monkeypatch.setattr(Own, "encode", lambda *a, **k: pytest.fail("it is done"))
    again = run(*options)
    assert again.exit_code == 0
    assert again.output.splitlines()[-3:] == said.splitlines()[-3:]


def test_what_is_said_can_be_pasted_into_a_shell(tuned, tmp_path, capsys):
    import shlex
    from dataclasses import replace

    from latentclap.own.telling import say_result

    folder, _, _ = tuned
    found = find_sounds(folder / "sounds")
    text = 'a "$HOME" `hiss`'
    found = replace(found, train=tuple(replace(item, caption=text) for item in found.train))
    own = Own(found, tmp_path / "my doors")
    say_result(own, {"training": {"lora_rank": 0}})
    words = shlex.split(capsys.readouterr().out)
    assert words[3] == str(tmp_path / "my doors" / "system") and words[5] == text


def test_a_result_in_the_folder_where_one_is_has_its_clips_beside_it(tuned, tmp_path, capsys, monkeypatch):
    """``-o .`` ended in a traceback, after hours of training."""
    import shlex

    from latentclap.own.telling import say_result

    folder, _, _ = tuned
    (tmp_path / "doors").mkdir()
    monkeypatch.chdir(tmp_path / "doors")
    for out, clips in ((Path("."), "../doors-clips"), (Path(".."), f"../../{tmp_path.name}-clips")):
        say_result(Own(find_sounds(folder / "sounds"), out), {"training": {"lora_rank": 0}})
        assert shlex.split(capsys.readouterr().out)[-1] == clips


def test_the_page_plays_no_sound_that_was_not_trained_on(tuned, tmp_path):
    folder, _, _ = tuned
    own = Own(find_sounds(folder / "sounds", 0), tmp_path / "out", listen=1)
    made = {side: {t: np.full((1, 8000), 0.1, np.float32) for t in own.texts} for side in ("Before", "After")}
    index = write_page(own, made, 16_000, own.config(12), {"take_03", "take_04"})
    cells = read_json(index.parent / "listen.json")["cells"]
    assert {cell["caption"] for cell in cells if cell["column"] == "Yours"} == {"take_03", "take_04"}
    assert "on 2 sounds of" in index.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (["--epochs", 3], "epochs differ"),
        (["--lam", 5], "lam differ"),
        (["--crops", 2], "crops differ"),
        (["--hold-out", 0], "sounds differ"),
        (["--model", "mini"], "model differ"),
    ],
)
def test_a_folder_holds_one_run(tuned, change, what):
    folder, options, _ = tuned
    before = (folder / "out" / "finetune.json").read_bytes()
    said = CliRunner().invoke(
        cli.app, ["finetune", *map(str, options), *map(str, change), "-q", "--device", "cpu"]
    )
    assert isinstance(said.exception, InputError)
    assert f"holds another run ({what}): use another folder" in str(said.exception)
    assert (folder / "out" / "finetune.json").read_bytes() == before


def test_changed_sounds_are_another_run_before_anything_is_encoded(tuned, tmp_path):
    folder, options, _ = tuned
    shutil.copytree(folder / "out", tmp_path / "out")
    shutil.copytree(folder / "sounds", tmp_path / "sounds")
    moved = [tmp_path / "sounds", "-o", tmp_path / "out", *options[3:]]
    assert run(*moved).exit_code == 0
    (tmp_path / "sounds" / "take_00.txt").write_text("a short hiss")
    entries = sorted((tmp_path / "out" / "latents").rglob("*.json"))
    held = [path.read_bytes() for path in entries]
    assert "(sounds differ)" in str(run(*moved).exception)
    assert [path.read_bytes() for path in entries] == held


def test_what_it_makes_never_lies_among_the_sounds(sounds, family, tmp_path):
    """The second call would list the page's clips as sounds of one's own."""
    shutil.copytree(sounds, tmp_path / "inner" / "sounds")
    for folder, out in ((sounds, sounds / "out"), (sounds, sounds), (tmp_path, tmp_path / "inner" / "out")):
        said = run(folder, "-o", out, "--model", family)
        assert "choose a folder beside it" in str(said.exception)
        assert not (out / "finetune.json").exists()


def test_a_result_has_not_the_name_of_its_model(sounds, tmp_path, monkeypatch):
    """-o mini: the next call would take the folder for the model."""
    monkeypatch.chdir(tmp_path)
    assert "--out mini has the name of --model" in str(run(sounds, "-o", "mini").exception)


def test_one_call_at_a_time_works_in_a_folder(sounds, family, tmp_path):
    from latentclap.locks import locked

    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out" / ".finetune.lock"):
        said = run(sounds, "-o", tmp_path / "out", "--model", family)
    assert "another latentclap finetune works there" in str(said.exception)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".finetune.lock"]


def test_what_another_call_finished_meanwhile_is_not_done_again(tuned, tmp_path, monkeypatch):
    folder, options, _ = tuned
    whole = Own.system

    def meanwhile(self, name=""):
        shutil.copytree(folder / "out", tmp_path / "out")
        return whole(self, name)

    monkeypatch.setattr(Own, "system", meanwhile)
    monkeypatch.setattr(
        "latentclap.own.comparison.compare", lambda *_, **__: pytest.fail("it was compared again")
    )
    said = run(options[0], "-o", tmp_path / "out", *options[3:])
    assert said.exit_code == 0 and "to hear it before and after" in said.output, said.exception


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("[1, 2]", "finetune.json: not what a training writes there"),
        ('{"sounds": [], "changes": 3}', "holds another run (sounds, "),
    ],
)
def test_a_record_that_was_edited_is_told_in_one_line(tuned, tmp_path, told, message):
    """Any JSON may lie there: it ended in a traceback."""
    folder, options, _ = tuned
    shutil.copytree(folder / "out", tmp_path / "out")
    (tmp_path / "out" / "finetune.json").write_text(told)
    said = run(options[0], "-o", tmp_path / "out", *options[3:])
    assert isinstance(said.exception, InputError) and message in str(said.exception)


def test_what_was_measured_stays_while_another_page_is_made(tuned, tmp_path):
    folder, options, _ = tuned
    shutil.copytree(folder / "out", tmp_path / "out")
    before = read_json(tmp_path / "out" / "finetune.json")
    assert {"commit", "device", "versions"} <= before.keys()
    options = (options[0], "-o", tmp_path / "out", *options[3:], "--listen", 2)
    assert run(*options, "--prepare").exit_code == 0
    assert read_json(tmp_path / "out" / "finetune.json") == before


def test_a_page_that_was_killed_makes_no_clip_again(sounds, family, tmp_path, monkeypatch):
    options = (sounds, "-o", tmp_path / "out", "--model", family, "--epochs", 1, "--lr", 1e-3)
    options = (*options, "--batch-size", 5, "--hold-out", 0.2, "--listen", 1)
    whole, measure = FoleySystem.generate, heldout.measure
    calls, losses = [], []

    def generate(self, **given):
        calls.append(given["prompts"][0])
        if len(calls) == 4:  # of two texts before, and after
            raise KeyboardInterrupt
        return whole(self, **given)

    monkeypatch.setattr(FoleySystem, "generate", generate)
    monkeypatch.setattr(heldout, "measure", lambda *a, **k: losses.append(1) or measure(*a, **k))
    stopped = run(*options)
    assert stopped.exit_code != 0 and len(calls) == 4 and len(losses) == 2
    out = tmp_path / "out"
    assert sorted(path.name for path in (out / ".parts").iterdir()) == [
        "after_00.npz", "after_losses.npz", "before_00.npz", "before_01.npz", "before_losses.npz", "plan.json",
    ]  # fmt: skip
    (out / ".parts/before_01.npz").write_bytes(b"PK")  # a disk that lost some of it
    done = run(*options)
    assert done.exit_code == 0, done.exception
    assert calls[4:] == [calls[1], calls[3]] and len(losses) == 2
    assert not (out / ".parts").exists()
    # as if it had never been stopped
    fresh = run(*options[:2], tmp_path / "fresh", *options[3:])
    assert fresh.exit_code == 0 and len(calls) == 10
    names = sorted(path.name for path in (out / "listen").rglob("*.mp3"))
    assert names and names == sorted(path.name for path in (tmp_path / "fresh/listen").rglob("*.mp3"))
    for name in names:
        (one,), (other,) = ((folder / "listen").rglob(name) for folder in (out, tmp_path / "fresh"))
        assert one.read_bytes() == other.read_bytes(), name
    ours, theirs = (read_json(f / "finetune.json")["held_out_losses"] for f in (out, tmp_path / "fresh"))
    assert ours == theirs


def test_parts_are_of_one_plan(tmp_path):
    def three():
        return {"a": np.arange(3)}

    def never():
        raise AssertionError

    assert parts.Parts(tmp_path / "p", {"x": (1, 2)}).get("n", three)["a"].tolist() == [0, 1, 2]
    kept = parts.Parts(tmp_path / "p", {"x": (1, 2)})
    assert kept.get("n", never)["a"].tolist() == [0, 1, 2]
    assert kept.get("n", lambda: {"a": np.ones(1)}, lambda told: len(told["a"]) == 1)["a"].tolist() == [1]
    with pytest.raises(AssertionError):
        parts.Parts(tmp_path / "p", {"x": (1, 3)}).get("n", never)


def test_a_fine_tuned_system_is_fine_tuned_further(tuned, tmp_path):
    """φ belongs to its VAE and CLAP, which are those of the system it was made of."""
    folder, _, _ = tuned
    options = (folder / "sounds", "-o", tmp_path / "out", "--model", folder / "out" / "system")
    said = run(*options, "--epochs", 1, "--lr", 1e-3, "--batch-size", 5, "--listen", 0)
    assert said.exit_code == 0, said.output
    assert "lclap" in read_json(tmp_path / "out" / "finetune.json")["held_out_losses"]
    assert not list((tmp_path / "out" / "system").glob(".*"))


def test_what_was_made_of_mini_is_trained_as_mini_is(sounds, tmp_path):
    made = tmp_path / "made" / "system"
    shutil.copytree(shipped("mini") / "unet", made / "unet")
    own = Own(find_sounds(sounds), tmp_path / "out", str(made), phi="phi")
    assert (own.base, own.config(54).lr) == ("mini", 3e-4)
    told = read_json(made / "unet" / "config.json")
    write_json(made / "unet" / "config.json", told | {"_name_or_path": "there"})
    assert own.base == "mini"
    write_json(made / "unet" / "config.json", told | {"layers_per_block": 7})
    assert (own.base, own.config(54).lr) == ("", 3e-6)


def test_a_dry_run_writes_nothing(sounds, family, tmp_path):
    said = run(sounds, "-o", tmp_path / "out", "--model", family, "--dry-run")
    assert said.exit_code == 0
    assert "11 sounds to train on, 1 held out" in said.output
    assert "fine-tuned with λ = " in said.output and " clips a step; " in said.output
    assert not (tmp_path / "out").exists()
    few = run(sounds, "-o", tmp_path / "out", "--model", family, "--dry-run", "--hold-out", 0.05)
    assert "12 sounds to train on, 0 held out (of fewer than 20 none is)" in few.output


def test_a_dry_run_looks_at_the_model(sounds, family, tmp_path):
    options = (sounds, "-o", tmp_path / "out", "--dry-run")
    for name in ("nonsense", "checkpoints/nonsense", tmp_path / "nonsense", sounds):
        said = run(*options, "--model", name, "--lam", 0)
        assert isinstance(said.exception, InputError), name
    assert isinstance(run(*options, "--model", family, "--phi", tmp_path / "no").exception, InputError)
    assert isinstance(run(*options, "--precision", "int8").exception, InputError)
    assert run(*options, "--model", "of/nobody", "--lam", 0).exit_code == 0  # a hub is not asked


def test_prepared_it_is_trained_elsewhere_and_heard_here(sounds, family, tmp_path):
    options = (sounds, "-o", tmp_path / "out", "--model", family, "--epochs", 1, "--listen", 1)
    said = run(*options, "--prepare")
    assert said.exit_code == 0, said.output
    train_file = tmp_path / "out" / "train.toml"
    assert f"accelerate launch -m latentclap.train {train_file}" in said.output
    assert not (tmp_path / "out" / "system").exists()
    trained = CliRunner().invoke(launch.app, [str(train_file), "-q"])
    assert trained.exit_code == 0, trained.output
    said = run(*options)
    assert "is finished (step 1)" in said.output
    assert (tmp_path / "out" / "listen" / "index.html").is_file()


def test_a_stopped_training_goes_on(sounds, family, tmp_path):
    options = (sounds, "-o", tmp_path / "out", "--model", family, "--epochs", 2, "--listen", 0)
    options = (*options, "--batch-size", 4)
    said = run(*options, "--minutes", 1e-9)
    assert "the same command goes on" in said.output
    assert not read_json(tmp_path / "out" / "finetune.json")["finished"]
    said = run(*options)
    assert said.exit_code == 0
    assert read_json(tmp_path / "out" / "finetune.json")["finished"]
    assert not (tmp_path / "out" / "listen").exists()


def test_without_an_encoder_eq_3_needs_one_and_eq_1_does_not(sounds, tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "model")
    options = (sounds, "-o", tmp_path / "out", "--model", tmp_path / "model", "--epochs", 1, "--listen", 0)
    said = run(*options)
    assert "comes without a Latent CLAP encoder: --phi names one" in str(said.exception)
    assert not (tmp_path / "out").exists()
    said = run(*options, "--lam", 0)
    assert said.exit_code == 0, said.output
    assert set(read_json(tmp_path / "out" / "finetune.json")["held_out_losses"]) == {"ddpm"}
    assert "eq. 3" not in said.output.splitlines()[-2]


def test_adapters_are_left_beside_the_system(sounds, family, tmp_path):
    out = tmp_path / "out"
    options = (sounds, "-o", out, "--model", family, "--epochs", 1, "--listen", 0, "--lora-rank", 2)
    said = run(*options)
    assert "adapters do not move at the paper's learning rate" in str(said.exception)
    assert not out.exists()
    said = run(*options, "--lr", 1e-2)
    assert said.exit_code == 0, said.output
    assert f"for latentclap generate --model {family} --lora {out}" in said.output
    base = FoleySystem.from_pretrained(family)
    ours, theirs = (
        base.with_lora(out).unet.state_dict(),
        FoleySystem.from_pretrained(out / "system").unet.state_dict(),
    )
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
    assert not all(torch.equal(value, theirs[name]) for name, value in base.unet.state_dict().items())


def test_heldout_losses_without_an_encoder(tiny, phi_free_cache):
    told = heldout_losses(tiny, None, phi_free_cache, levels=4)
    assert np.isfinite(told["ddpm"]).all()
    assert np.isnan(told["clap"]).all()


@pytest.fixture
def phi_free_cache(tiny_cache):
    return {name: value[:3] for name, value in tiny_cache.items()}


# --- arithmetic -------------------------------------------------------------------------------------------------


def test_the_interval_is_students_over_sounds():
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(0)
    before, after = rng.normal(1, 0.1, 9), rng.normal(0.9, 0.1, 9)
    sounds = list("aabbccdde")
    told = heldout.paired(before, after, sounds)
    means = [np.mean([(after - before)[i] for i in range(9) if sounds[i] == name]) for name in "abcde"]
    expected = ttest_1samp(means, 0).confidence_interval(0.95)
    assert told["ci"] == pytest.approx([expected.low, expected.high])
    assert told["change"] == pytest.approx(np.mean(means))
    assert told["after"] - told["before"] == pytest.approx(told["change"])
    assert heldout.paired(before[:2], after[:2], "aa")["ci"] is None


def test_of_many_held_out_clips_each_sound_gives_its_first():
    few = list("aabbbc")
    assert heldout.chosen(few) == [0, 1, 2, 3, 4, 5]
    assert heldout.chosen(few, 4) == [0, 1, 2, 5]  # the second of the first sound before the third of another
    assert heldout.chosen(few, 3) == [0, 2, 5]
    many = [f"{i:04d}" for i in range(1000) for _ in range(8)]
    rows = heldout.chosen(many)
    assert len(rows) == heldout.MOST and len({many[i] for i in rows}) == heldout.MOST
    assert {i % 8 for i in rows} == {0} and max(np.diff(rows)) <= 5 * 8
    assert heldout.chosen([]) == []
    # in the middle of as many equal parts: neither the first takes nor the last are preferred
    assert heldout.chosen([str(i) for i in range(1000)], 4) == [125, 375, 625, 875]


def test_crops_are_of_the_sound_that_they_were_cut_from(monkeypatch):
    """By the last "#": a file's own name may hold one, and of one crop a sound a name is the sound's."""
    keys = {"a": ["take#2.wav#0", "take#2.wav#1"], "b": ["rain.wav#0"]}
    monkeypatch.setattr(heldout, "entry_of", lambda folder, name: {"keys": keys[name]})
    cache = SimpleNamespace(manifest={"shards": [{"name": "a"}, {"name": "b"}]}, folder=None)
    assert heldout.sounds_of(cache, 2) == ["take#2.wav", "take#2.wav", "rain.wav"]
    assert heldout.sounds_of(cache, 1) == ["take#2.wav#0", "take#2.wav#1", "rain.wav#0"]


def test_parts_of_the_held_out_clips_give_what_each_gives_alone(tuned, family, monkeypatch):
    from latentclap.cache import ShardedCache

    folder, _, _ = tuned
    cache, system = ShardedCache(folder / "out" / "latents" / "train"), FoleySystem.from_pretrained(family)
    monkeypatch.setattr(heldout, "PART", 3)
    told = heldout.measure(system, None, cache, [0, 2, 4, 5])
    assert set(told) == {"ddpm"} and told["ddpm"].shape == (4,)
    last = heldout_losses(system, None, cache.batch([5]), levels=heldout.LEVELS, seed=1)
    assert told["ddpm"][3] == pytest.approx(np.mean(last["ddpm"]), rel=1e-5)


def test_learning_by_heart_is_warned_of_where_it_is_beyond_chance(tuned, capsys):
    from latentclap.own.telling import say_result

    folder, _, _ = tuned
    own = Own(find_sounds(folder / "sounds"), folder / "out")
    loss = {"sounds": 4, "before": 0.1, "after": 0.2, "change": 0.1}
    training = {"training": {"lora_rank": 0}}
    say_result(own, training | {"held_out_losses": {"ddpm": loss | {"ci": [-0.01, 0.2]}}})
    assert "warning" not in capsys.readouterr().err
    say_result(own, training | {"held_out_losses": {"ddpm": loss | {"ci": [0.01, 0.2]}}})
    assert "warning: eq. 1 went up on sounds that it was not trained on" in capsys.readouterr().err


def test_adapters_that_were_moved_away_are_not_told_of(tuned, tmp_path, capsys):
    """Where the command is given again, for another page, say."""
    from latentclap.own.telling import say_result

    own = Own(find_sounds(tuned[0] / "sounds"), tmp_path)
    for there in (False, True):
        if there:
            (tmp_path / ADAPTER).write_bytes(bytes(2_000_000))
        say_result(own, {"training": {"lora_rank": 2}})
        assert ("its adapters, 2.0 MB, for latentclap generate" in capsys.readouterr().out) is there


def test_a_shipped_model_takes_some_500_steps_by_itself(sounds, tmp_path):
    own = Own(find_sounds(sounds), tmp_path / "out", changes={"seed": 3})
    config = own.config(54)
    assert 500 <= config.epochs * 54 // config.batch_size < 508
    assert (config.seed, config.lam, config.lr) == (3, 2000.0, 3e-4)
    assert Own(own.sounds, tmp_path, changes={"epochs": 2, "tuning": True}).config(54).epochs == 2
    assert Own(own.sounds, tmp_path, changes={"tuning": True}).config(54).lam == 1000.0
    assert Own(own.sounds, tmp_path, changes={"lora_rank": 4}).config(54).lr == 1e-3
    other = Own(own.sounds, tmp_path, "somewhere/else", phi="phi").config(54)
    assert (other.epochs, other.lr, other.batch_size) == (500, 3e-6, 16)


def test_the_configuration_says_every_value(sounds, family, tmp_path):
    own = Own(find_sounds(sounds), tmp_path / 'o "ut 🎵', str(family), changes={"epochs": 7, "tuning": True})
    config = own.config(10)
    file = launch.TrainFile.read(write_files(own, config))
    from latentclap.profiles import load_profile

    profile = load_profile(file.profile)
    assert launch.finetune_config(profile, file.changes) == config
    assert profile.model.system == str(family.resolve())
    assert file.cache == (own.out / "latents" / "train").resolve()
    assert file.folder == own.out.resolve()


def test_a_text_is_a_text_on_the_page(tmp_path):
    """A caption is somebody's own words: no HTML, and none of Markdown's."""
    text = '<b>bold</b> & "loud"'
    made = {
        "Before": {text: np.full((1, 8000), 0.1, np.float32)},
        "After": {text: np.full((1, 8000), 0.2, np.float32)},
    }
    index = page.listening_page(tmp_path / "listen", [text], {text: []}, made, 16_000, ["1 < 2"])
    told = index.read_text(encoding="utf-8")
    assert "<b>bold" not in told and "&lt;b&gt;bold&lt;/b&gt; &amp; &quot;loud&quot; (1)" in told
    assert "<p>1 &lt; 2</p>" in told
    assert json.dumps(text)[1:-1] not in told


def test_a_run_with_one_held_out_sound_or_none_is_told_in_the_book(tuned):
    from latentclap.book.own import _losses

    folder, _, _ = tuned
    told = read_json(folder / "out" / "finetune.json") | {"seconds": 1.0}
    loss = told["held_out_losses"]["ddpm"]
    told["held_out_losses"] = {"ddpm": loss | {"change": 0.5, "ci": None}}
    assert "| +0.5 |" in _losses(told)
    told["held_out_losses"] = {}
    assert "|" not in _losses(told)


# --- in the book ------------------------------------------------------------------------------------------------


def test_a_run_is_kept_for_the_book(tuned, tmp_path):
    from latentclap.book.own import keep_own, own_page

    folder, _, _ = tuned
    kept = keep_own(folder / "out", tmp_path / "kept")
    assert len(list(kept.glob("*.mp3"))) == len(list(kept.glob("*.png"))) == 6
    text = (kept / "own.json").read_text()
    assert str(folder) not in text  # no path of the machine that made it
    out = own_page(kept, tmp_path / "book/generated/own.md", tmp_path / "book/_static")
    told = out.read_text(encoding="utf-8")
    files = re.findall(r'<audio [^>]*src="([^"]+)"', told)
    assert len(files) == 6 and all((tmp_path / "book" / file).is_file() for file in files)
    assert "4 steps of 5 clips, λ = 2000" in told and "| eq. 3 |" in told and "Two sounds" not in told
    assert keep_own(folder / "out", kept) == kept  # kept again
    with pytest.raises(InputError, match="not a finished run of latentclap finetune"):
        keep_own(tmp_path, tmp_path / "other")
    with pytest.raises(InputError, match="holds other things"):
        keep_own(folder / "out", tmp_path)
    (kept / "00_00_after.png").unlink()
    with pytest.raises(InputError, match=r"00_00_after\.mp3 or its picture is missing"):
        own_page(kept, out, tmp_path / "book/_static")
    with pytest.raises(InputError, match=r"no own\.json"):
        own_page(tmp_path, out)


def test_example_sounds_are_the_same_again(tmp_path):
    import subprocess
    import sys
    from pathlib import Path

    script = Path(__file__).parents[1] / "data_scripts" / "example_sounds.py"
    for name in ("a", "b"):
        subprocess.run([sys.executable, script, tmp_path / name, "-n", "2"], check=True, capture_output=True)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 8
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    found = find_sounds(tmp_path / "a", 0)
    assert sorted(found.captions) == ["a laser gun zapping", "bubbles rising in a tank"]
    wave = read_wave(tmp_path / "a" / "zap_000.wav")[0]
    assert np.abs(wave).max() == pytest.approx(0.7, abs=1e-3)
