"""``latentclap publish``: what is copied, what is refused, what the card says, and that its code runs."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from latentclap import FoleySystem, cli
from latentclap.audio import read_wave
from latentclap.classes import CLASSES
from latentclap.errors import InputError
from latentclap.evaluate import EvalResult
from latentclap.fad import FadEstimate
from latentclap.files import read_json, write_json
from latentclap.generation import within_full_scale
from latentclap.lora import ADAPTER, add_adapters, save_adapter, take_adapters
from latentclap.publish import source
from latentclap.publish.card import LICENSES, TEXTS, card
from latentclap.publish.earlier import dropped
from latentclap.publish.private import check_private, forget_machine
from latentclap.publish.records import base_of, read_records
from published import FOLDER, STEM, fast, finetuned, publish

MIT = ("--license", "mit")


@pytest.fixture(scope="module")
def made(tiny_family, tmp_path_factory):
    """A run, what was published of it, and what the command said."""
    folder = tmp_path_factory.mktemp("made")
    run = finetuned(fast(tiny_family, folder / "tiny"), folder)
    said = publish(
        run, "-o", folder / "beeps", "--license", "CC-BY-4.0", "--samples", 2, "--dataset", "jane/beeps"
    )
    assert said.exit_code == 0, said.output
    return run, folder / "beeps", said.output


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run, to be spoilt."""
    return shutil.copytree(made[0], tmp_path / "run")


def readme(out):
    text = (out / "README.md").read_text(encoding="utf-8")
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    return yaml.safe_load(head), body


def below(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def refused(out, *arguments):
    """The line that a call says, which leaves nothing."""
    before = below(out.parent)
    said = publish(*arguments, "-o", out)
    assert isinstance(said.exception, InputError | OSError), said.output
    assert below(out.parent) == before
    return str(said.exception)


# --- files ------------------------------------------------------------------------------------------------------


def test_exactly_what_loads_it_is_there(made):
    run, out, said = made
    system = below(run / "system")
    samples = {f"samples/text0{t}_00{i}.flac" for t in range(2) for i in range(2)}
    assert below(out) == system | samples | {"README.md", "model_card.json"}
    for name in system:
        if name.endswith(".safetensors"):
            assert (out / name).read_bytes() == (run / "system" / name).read_bytes()
    assert "all finite, and it loads" in said
    assert sorted(p.name for p in out.parent.iterdir()) == ["beeps", FOLDER, "run", "tiny"]


def test_it_sounds_as_the_run_s_own(made):
    run, out, _ = made
    ours, theirs = (
        FoleySystem.from_pretrained(p).generate(prompts=["a beep"], seed=3) for p in (run / "system", out)
    )
    assert np.array_equal(ours, theirs)


def test_it_can_be_fine_tuned_further(made, tmp_path):
    """φ lies in it, as in a run's own system."""
    assert finetuned(made[1], tmp_path).joinpath("system").is_dir()


def test_nothing_names_the_author_s_machine(made):
    """Neither sounds nor folders, in no file of any kind: weights, texts or clips."""
    _, out, _ = made
    words = [FOLDER, STEM, str(out.parent), out.parent.parent.name, str(Path.cwd()), os.path.expanduser("~/")]
    for path in out.rglob("*"):
        if path.is_file():
            body = path.read_bytes()
            assert not [word for word in words if word.encode() in body], path


def test_configurations_forget_where_they_were_loaded(run, tmp_path):
    for name, key in (
        ("unet/config.json", "_name_or_path"),
        ("tokenizer/tokenizer_config.json", "name_or_path"),
    ):
        path = run / "system" / name
        write_json(path, read_json(path) | {key: "/Users/jane/models"})
    assert publish(run, "-o", tmp_path / "out", *MIT).exit_code == 0
    assert b"jane" not in b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*.json"))


def test_a_branch_s_own_place_and_a_header_s_notes_are_taken_out(run, tmp_path):
    system = run / "system"
    write_json(
        system / "model_index.json",
        read_json(system / "model_index.json") | {"_name_or_path": "/scratch/jane/x"},
    )
    told = read_json(system / "clap/config.json")
    told["text_config"] = {**told["text_config"], "_name_or_path": "/scratch/jane/x"}
    write_json(system / "clap/config.json", told)
    vae = system / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(vae)
    save_file(tensors, vae, metadata={"format": "pt", "ss_output_dir": "/scratch/jane/x"})
    assert publish(run, "-o", tmp_path / "out", *MIT).exit_code == 0
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or b"jane" not in path.read_bytes(), path
    ours = tmp_path / "out" / "vae" / vae.name
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_file(ours).items())
    with safe_open(ours, "pt") as opened:
        assert opened.metadata() == {"format": "pt"} and set(opened.keys()) == set(tensors)
    assert FoleySystem.from_pretrained(tmp_path / "out").samples


@pytest.mark.parametrize("place", ["/Users/jürgen lä/models", "C:\\Users\\jürgen"])
@pytest.mark.parametrize(
    "name", ["unet/config.json", "README.md", "unet/diffusion_pytorch_model.safetensors"]
)
def test_a_place_with_letters_of_its_own_is_found(made, tmp_path, place, name):
    """JSON has such letters in another form, and so has a header that holds JSON."""
    out = shutil.copytree(made[1], tmp_path / "out")
    if name.endswith(".json"):
        write_json(out / name, read_json(out / name) | {"note": f"trained in {place}"})
    elif name.endswith(".md"):
        (out / name).write_text(f"trained in {place}", encoding="utf-8")
    else:
        told = json.dumps({"rank": 2, "from": f"trained in {place}"})
        save_file(load_file(out / name), out / name, metadata={"latentclap": told})
    with pytest.raises(InputError, match="a place of this machine"):
        check_private(out, [place])


@pytest.mark.parametrize(
    "place", ["/scratch/x", "~/models/x", "~jane/x", "D:\\x", "\\\\server\\x", "file:///x"]
)
def test_a_setting_that_is_a_place_of_any_machine_is_refused(made, tmp_path, place):
    """A system that came from a cluster names the cluster's folders, which nobody here can know."""
    out = shutil.copytree(made[1], tmp_path / "out")
    write_json(out / "vae" / "config.json", read_json(out / "vae" / "config.json") | {"a": [{"b": place}]})
    with pytest.raises(InputError, match=r"vae/config\.json names .*, a place of this machine or of another"):
        check_private(out, [])


@pytest.mark.parametrize("content", [b"", b"no weights", (10).to_bytes(8, "little") + b"{} and more"])
def test_a_damaged_header_is_told_in_words(run, tmp_path, content):
    (run / "system" / "clap" / "model.safetensors").write_bytes(content)
    told = refused(tmp_path / "out", run, *MIT)
    assert "clap/model.safetensors: not a safetensors file, or a damaged one" in told
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a safetensors file, or a damaged one"):
        forget_machine(tmp_path)


def test_a_note_of_another_program_under_our_name_stays(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors", metadata={"latentclap": "a text"})
    forget_machine(tmp_path)
    with safe_open(tmp_path / "x.safetensors", "pt") as opened:
        assert opened.metadata() == {"latentclap": "a text"}


def test_a_class_of_audioset_is_no_place(made, tmp_path):
    """Classifiers name their classes so; it has the form of a place."""
    out = shutil.copytree(made[1], tmp_path / "out")
    told = read_json(out / "clap" / "config.json")
    write_json(out / "clap" / "config.json", told | {"id2label": {"0": "/m/06mb1", "1": "/t/dd00038"}})
    check_private(out, [])
    write_json(out / "clap" / "config.json", told | {"from": "/m/jane/models"})
    with pytest.raises(InputError, match="names /m/jane/models"):
        check_private(out, [])


def test_the_shipped_system_names_no_place(mini, tmp_path):
    mini.save_pretrained(tmp_path / "mini")
    check_private(tmp_path / "mini", [])


@pytest.mark.parametrize("name", ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"])
def test_a_place_that_is_left_somewhere_is_refused(made, tmp_path, name):
    out = shutil.copytree(made[1], tmp_path / "out")
    check_private(out, ["/Users/jane"])
    if name.endswith(".json"):
        write_json(out / name, read_json(out / name) | {"trained_in": "/Users/jane/runs"})
    else:
        save_file(load_file(out / name), out / name, metadata={"from": "/Users/jane/runs"})
    with pytest.raises(InputError, match=rf"{name} names /Users/jane, a place of this machine"):
        check_private(out, ["/Users/jane"])


def test_what_nobody_needs_is_left_out_and_told(run, tmp_path):
    system = run / "system"
    (system / "notes.txt").write_text("mine")
    (system / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (system / "unet" / "optimizer.pt").write_bytes(b"a pickle")
    (system / "samples").mkdir()
    (system / "samples" / "x.wav").write_bytes(b"x")
    said = publish(run, "-o", tmp_path / "out", *MIT)
    assert said.exit_code == 0, said.output
    assert "left out, 4 files that nobody needs to load it: notes.txt, samples/x.wav, unet/" in said.output
    assert {p.suffix for p in (tmp_path / "out").rglob("*") if p.is_file()} == {
        ".json",
        ".md",
        ".safetensors",
    }


def test_the_record_has_every_file_s_digest(made):
    told = read_json(made[1] / "model_card.json")
    from latentclap.files import file_sha256

    assert told["files"].keys() == below(made[1]) - {"README.md", "model_card.json"}
    for name, file in told["files"].items():
        path = made[1] / name
        assert file == {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    assert told["record"]["values"]["epochs"] == 2


def test_info_says_what_it_is(made):
    from latentclap.describe import describe

    told = describe(made[1])
    assert told["refused"] is None
    assert told["model_card"].startswith(
        "A text-to-sound latent diffusion system of AudioLDM's kind, fine-tuned"
    )


# --- what is refused --------------------------------------------------------------------------------------------


def spoil(run, kind):
    unet = run / "system" / "unet" / "diffusion_pytorch_model.safetensors"
    phi = run / "system" / "latent_clap" / "model.safetensors"
    if kind == "nan":
        tensors = load_file(unet)
        tensors["conv_in.bias"][0] = torch.nan
        save_file(tensors, unet, metadata={"format": "pt"})
    elif kind == "infinite phi":
        tensors = load_file(phi)
        next(v for k, v in sorted(tensors.items()) if v.is_floating_point()).view(-1)[0] = torch.inf
        save_file(tensors, phi)
    elif kind == "lacking":
        tensors = load_file(unet)
        tensors.pop("conv_in.bias")
        save_file(tensors, unet, metadata={"format": "pt"})
    elif kind == "cut":
        unet.write_bytes(unet.read_bytes()[:-100])
    elif kind == "pickle":
        torch.save(load_file(unet), unet.with_suffix(".bin"))
        unet.unlink()
    elif kind == "index":
        (run / "system" / "model_index.json").unlink()
    elif kind == "pipeline":
        shutil.rmtree(run / "system" / "text_encoder")
    elif kind == "record":
        write_json(run / "finetune.json", {"model": 3})
    elif kind == "unfinished":
        shutil.rmtree(run / "system")
    return run


SPOILT = {
    "nan": r"unet/diffusion_pytorch_model\.safetensors: conv_in\.bias has numbers that are not finite",
    "infinite phi": r"latent_clap/model\.safetensors: .* has numbers that are not finite",
    "lacking": r"tensor conv_in\.bias is missing",
    "cut": r"cut short; copy or download it again",
    "pickle": r"unet/diffusion_pytorch_model\.bin: only safetensors are published",
    "index": r"no model_index\.json, so that diffusers does not open it",
    "pipeline": r"diffusers does not open it",
    "record": r"finetune\.json: a record of the run is of another form",
    "unfinished": r"its fine-tuning is not finished: the same latentclap finetune goes on",
}


@pytest.mark.parametrize("kind", SPOILT)
def test_what_is_not_whole_is_refused(run, tmp_path, kind):
    assert re.search(SPOILT[kind], refused(tmp_path / "out", spoil(run, kind), *MIT))


def test_a_place_that_is_taken_is_refused(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert "holds other things than what latentclap publish writes" in refused(tmp_path / "mine", run, *MIT)
    (tmp_path / "mine" / "model_card.json").write_text("{}")  # as the shipped weights have one
    assert "holds other things than latentclap publish writes" in refused(tmp_path / "mine", run, *MIT)
    for out in (run / "system" / "public", run / "system"):
        assert re.search(r"lie in one another|holds other things", refused(out, run, *MIT))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--license", "free"), r"--license free: give one of apache-2\.0, mit, "),
        (("--license", "other"), r"--license other needs its text: --license-file FILE"),
        ((*MIT, "--license-file", "absent.txt"), r"--license-file absent\.txt: no such file"),
        ((*MIT, "--samples", "-1"), r"--samples -1: at least 0"),
        ((*MIT, "--private"), r"--private goes with --push OWNER/NAME"),
        ((*MIT, "--overwrite"), r"--overwrite goes with --push OWNER/NAME"),
        ((*MIT, "--dataset", "beeps"), r"--dataset beeps: give its name on the hub, OWNER/NAME"),
        ((*MIT, "--base-model", "/models/big"), r"--base-model /models/big: give its name on the hub"),
        ((*MIT, "--evaluation", "absent.json"), r"--evaluation absent\.json: no such file"),
        ((*MIT, "--push", "doors"), r"--push doors: give OWNER/NAME"),
        ((*MIT, "--push", "jane/"), r"--push jane/: give OWNER/NAME"),
        ((*MIT, "--push", "jane/doors/more"), r"--push jane/doors/more: give OWNER/NAME"),
        ((*MIT, "--push", "jane/my doors"), r"--push jane/my doors: letters, digits"),
        ((*MIT, "--push", "jane/-doors"), r"--push jane/-doors: letters, digits"),
    ],
)
def test_wrong_options(made, tmp_path, options, says):
    assert re.search(says, refused(tmp_path / "out", made[0], *options))


def test_what_is_no_system(tmp_path):
    assert "no such folder" in refused(tmp_path / "out", tmp_path / "absent", *MIT)
    (tmp_path / "weights.pt").write_bytes(b"x")
    assert "files that run code when they are opened" in refused(
        tmp_path / "out", tmp_path / "weights.pt", *MIT
    )
    (tmp_path / "empty").mkdir()
    assert "no system (unet/, vae/, ...)" in refused(tmp_path / "out", tmp_path / "empty", *MIT)
    write_json(tmp_path / "empty" / "provenance.json", {})
    assert "run it again with -p save_system True" in refused(tmp_path / "out", tmp_path / "empty", *MIT)
    assert source.ADAPTER == ADAPTER


# --- the card ---------------------------------------------------------------------------------------------------


def test_the_front_matter(made):
    head, _ = readme(made[1])
    assert head == {
        "library_name": "diffusers",
        "license": "cc-by-4.0",
        "pipeline_tag": "text-to-audio",
        "datasets": ["jane/beeps"],
        "tags": [
            "foley",
            "sound-effects",
            "text-to-audio",
            "latent-diffusion",
            "audioldm",
            "latentclap",
            "latent-clap-loss",
        ],
    }


def test_the_card_says_what_the_records_say(made):
    run, out, _ = made
    record, trained = read_json(run / "finetune.json"), read_json(run / "summary.json")
    _, body = readme(out)
    # the base is a folder, whose name is not told
    assert (
        "fine-tuned from a model of the author's own with the Latent CLAP loss, λ = 2000: mono clips of"
        in body
    )
    assert (
        "latentclap finetune SOUNDS -o OUT --model FOLDER --epochs 2 --lr 0.001 --batch-size 5 --hold-out 0.2"
        " --listen 0 --device cpu\n```\n\nAs it was typed; words in capitals are" in body
    )
    assert "| λ of eq. 4 | 2000 |" in body and "| learning rate of Adam | 0.001 |" in body
    assert f"| optimiser steps | {trained['step']} |" in body
    assert f"| commit of latentclap | {trained['commit']} |" in body
    assert f"torch {trained['versions']['torch']}" in body
    assert (
        "10 sounds trained it, and 2 more were held out and only measured. They were encoded as 10 clips"
        in body
    )
    assert (
        "- `a hiss`, 5 clips\n- `a beep`, 5 clips" in body
        or "- `a beep`, 5 clips\n- `a hiss`, 5 clips" in body
    )
    for name, key in (("eq. 1", "ddpm"), ("eq. 3", "lclap")):
        loss = record["held_out_losses"][key]
        told = f"| {name} on held-out sounds | {loss['before']:.4g} | {loss['after']:.4g} | {loss['ci'][0]:+.2g} to "
        assert told in body
    assert "Fréchet audio distance: not measured." in body
    assert "Losses on held-out sounds: not measured." not in body
    assert "sampled with its `latentclap.json`'s settings: dpmsolver++, 2 steps, guidance 2." in body
    assert "eprint = {2403.12182}" in body


def test_a_system_without_records(made, tmp_path):
    alone = shutil.copytree(made[0] / "system", tmp_path / "alone")
    said = publish(alone, "-o", tmp_path / "out", *MIT, "--base-model", "cvssp/audioldm-m-full")
    assert said.exit_code == 0, said.output
    head, body = readme(tmp_path / "out")
    assert (head["base_model"], head["base_model_relation"]) == ("cvssp/audioldm-m-full", "finetune")
    assert "latent-clap-loss" not in head["tags"]
    assert "No record of its training was found beside it." in body
    assert "Losses on held-out sounds: not measured." in body
    assert "Not recorded. Whose the sounds are" in body
    assert "do not list the texts" in body
    assert "made from cvssp/audioldm-m-full, whose licence goes on holding: CC BY-NC-SA 4.0" in body
    assert "warning: cvssp/audioldm-m-full has the licence CC BY-NC-SA 4.0" in said.output


def test_the_system_of_a_run_has_the_run_s_records(made, tmp_path):
    assert publish(made[0] / "system", "-o", tmp_path / "out", *MIT).exit_code == 0
    assert readme(tmp_path / "out")[1].split("## How", 1)[1] != ""
    assert "By `latentclap finetune`" in readme(tmp_path / "out")[1]


def test_another_licence_brings_its_text(made, tmp_path):
    (tmp_path / "terms.txt").write_text("ask me")
    options = ("--license", "other", "--license-file", tmp_path / "terms.txt")
    assert publish(made[0], "-o", tmp_path / "out", *options).exit_code == 0
    head, body = readme(tmp_path / "out")
    assert (head["license"], head["license_link"]) == ("other", "LICENSE")
    assert "As the author chose: in the file [LICENSE](LICENSE)" in body
    assert (tmp_path / "out" / "LICENSE").read_text() == "ask me"
    assert len(set(LICENSES)) == len(LICENSES)


def evaluation(path, fads):
    counts = {"n_clips": 20, "n_windows": 20, "n_ref_clips": 30, "n_ref_windows": 30}
    how = {"bootstrap_bias": 0.0, "level": 0.95, "method": "centred"}
    estimates = {cls: FadEstimate(fad, fad - 1, fad + 1, **how, **counts) for cls, fad in fads.items()}
    EvalResult("FAD[judge, n=20 clips a class]", estimates).save(path)
    return path


def test_figures_of_evaluate_are_told(run, tmp_path):
    evaluation(run / "fad.json", {"rain": 3.25})
    other = evaluation(tmp_path / "more.json", {"dog_bark": 7.5})
    assert publish(run, "-o", tmp_path / "out", *MIT, "--evaluation", other).exit_code == 0
    _, body = readme(tmp_path / "out")
    assert "| rain | 3.250 | 2.250 to 4.250 |" in body and "| dog_bark | 7.500 | 6.500 to 8.500 |" in body
    assert "FAD[judge, n=20 clips a class]. FADs of other embeddings" in body
    assert "not measured." not in body.split("## Measured")[1].split("##")[0]
    write_json(tmp_path / "wrong.json", {"fad": 3})
    wrong = refused(tmp_path / "other", run, *MIT, "--evaluation", tmp_path / "wrong.json")
    assert "not what latentclap evaluate --json writes" in wrong
    write_json(run / "fad.json", read_json(run / "fad.json") | {"average": "much"})
    assert "fad.json: not what latentclap evaluate --json writes" in refused(tmp_path / "other", run, *MIT)


def test_an_edited_card_is_kept(made, tmp_path):
    out = shutil.copytree(made[1], tmp_path / "beeps")
    assert publish(made[0], "-o", out, *MIT).exit_code == 0
    assert readme(out)[0]["license"] == "mit"  # nobody had edited it
    with open(out / "README.md", "a", encoding="utf-8") as stream:
        stream.write("\nRecorded by me, in a field.\n")
    edited = (out / "README.md").read_bytes()
    for _ in range(2):
        said = publish(made[0], "-o", out, "--license", "apache-2.0")
        assert "README.md was edited and is kept as it is" in said.output
        assert (out / "README.md").read_bytes() == edited
    (out / "README.md").unlink()
    assert publish(made[0], "-o", out, *MIT).exit_code == 0
    assert "in a field" not in readme(out)[1]


def test_the_header_of_a_card_beside_the_system_is_not_dropped_without_a_word(made, tmp_path):
    system = Path(shutil.copytree(made[0] / "system", tmp_path / "beeps"))
    header = "---\nlicense: mit\ntitle: Beeps of mine\ntags: [birds]\n---\n# Beeps\n"
    (system / "README.md").write_text(header)
    said = publish(system, "-o", tmp_path / "out", *MIT)
    assert said.exit_code == 0, said.output
    line = f"README.md in {system} has a header of its own, which is not taken over: "
    assert f"{line}title: Beeps of mine, tags: ['birds']" in said.output.splitlines()
    (tmp_path / "out/README.md").write_text(header)  # by hand: it is kept
    again = publish(system, "-o", tmp_path / "out", *MIT)
    assert "README.md was edited and is kept" in again.output and "not taken over" not in again.output
    assert (tmp_path / "out/README.md").read_text() == header


@pytest.mark.parametrize(
    "text", ["", "# Beeps\n", "---\n[\n---\n", "---\n- a\n---\n", "---\nlicense: mit\n---\n", "---\n"]
)
def test_headers_that_say_nothing_else(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    assert dropped(tmp_path, "---\nlicense: mit\ntags: [foley]\n---\n# T\n") == []
    (tmp_path / "adapters.safetensors").write_bytes(b"")
    (tmp_path / "README.md").write_text("---\r\ntitle: |\r\n  two\r\n  lines\r\n---\r\n")
    (line,) = dropped(tmp_path / "adapters.safetensors", "# no header\n")
    assert line.endswith("not taken over: title: two lines")


def test_what_was_added_to_the_folder_stays(made, tmp_path):
    """Pictures for the card, and a clone's own folder; what the command wrote itself is made anew."""
    out = shutil.copytree(made[1], tmp_path / "beeps")
    (out / "demo").mkdir()
    (out / "demo" / "äh.wav").write_bytes(b"x")
    (out / ".git").mkdir()
    (out / ".git" / "HEAD").write_text("x")
    for name in ("picture.png", "unet/stray.txt"):
        (out / name).write_bytes(b"mine")
    with open(out / "README.md", "a", encoding="utf-8") as stream:
        stream.write("![](picture.png)\n")
    for _ in range(2):
        said = publish(made[0], "-o", out, *MIT)
        assert said.exit_code == 0, said.output
        assert "kept, 3 files that you added: demo/äh.wav, picture.png, unet/stray.txt" in said.output
        assert "warning: README.md says license: cc-by-4.0, and --license mit differs" in said.output
        assert "warning: README.md links to samples/text00_000.flac, which is not there" in said.output
        assert (out / "picture.png").read_bytes() == b"mine" and (out / ".git" / "HEAD").is_file()
        assert not (out / "samples").exists()
        assert read_json(out / "model_card.json")["added"] == [
            "demo/äh.wav", "picture.png", "unet/stray.txt"
        ]  # fmt: skip
    (out / "weights.pt").write_bytes(b"x")
    said = publish(made[0], "-o", out, *MIT)
    assert "weights.pt: files that can run code when they are opened" in str(said.exception)
    assert (out / "weights.pt").is_file() and (out / "picture.png").is_file()


def test_a_folder_s_name_may_have_any_letters(made, tmp_path):
    assert publish(made[0], "-o", tmp_path / "Türen öffnen", *MIT).exit_code == 0
    _, body = readme(tmp_path / "Türen öffnen")
    assert "--model 'Türen öffnen' --prompt" in body and '.from_pretrained("Türen öffnen")' in body


@pytest.mark.parametrize(
    ("license", "says"), [("mit", "allows more"), ("cc-by-nc-4.0", "is another one"), ("cc-by-nc-sa-4.0", "")]
)
def test_a_base_s_licence_goes_on_holding(made, tmp_path, license, says):
    options = ("--license", license, "--base-model", "cvssp/audioldm-m-full", "--dry-run")
    said = publish(made[0] / "system", "-o", tmp_path / "out", *options)
    assert said.exit_code == 0 and (f"--license {license} {says}" in said.output) == bool(says)
    assert bool(says) == ("warning: cvssp/audioldm-m-full has the licence" in said.output)


def test_a_signal_leaves_nothing_half(made, tmp_path):
    """SIGTERM in the midst of the work, in a process of its own."""
    (tmp_path / "public").mkdir()
    code = (
        "import os, signal, sys\nfrom latentclap.publish import prepare\n"
        "def killed(*_):\n    os.kill(os.getpid(), signal.SIGTERM)\n    raise AssertionError\n"
        "prepare.card = killed\nfrom latentclap.cli import main\nmain()"
    )
    words = ["publish", made[0], "-o", tmp_path / "public" / "out", *MIT, "--device", "cpu"]
    ran = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True)
    assert ran.returncode == 130 and "stopped; " in ran.stderr, ran.stderr
    assert not list((tmp_path / "public").iterdir())


def test_texts_of_any_kind_make_a_card(made):
    """Many, long, with what Markdown, a shell and Python read in another way."""
    told = read_json(made[1] / "model_card.json")
    texts = ['a "big" `bang` | $HOME', "two\nlines", "雨 🌧", *(f"sound {i}" for i in range(30))]
    told["record"]["data"]["texts"] = dict.fromkeys(texts, 1)
    body = card(told | {"title": "x", "pushed": False})
    assert '- `` a "big" `bang` | $HOME ``, 1 clip\n- `two lines`, 1 clip\n- `雨 🌧`, 1 clip' in body
    assert f"- and {33 - TEXTS} texts more" in body
    assert """--prompt 'a "big" `bang` | $HOME' -n 8""" in body
    for code in blocks(body, "python"):
        compile(code, "card", "exec")


# --- its code runs ----------------------------------------------------------------------------------------------


def blocks(body, language):
    return re.findall(rf"```{language}\n(.*?)```", body, re.S)


def runs(code, folder, language="python", **more):
    """Run what a card prints, in a folder; the audio it wrote."""
    (folder / "clip.wav").unlink(missing_ok=True)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **more}
    call = [sys.executable, "-c", code] if language == "python" else ["bash", "-euc", code]
    done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]
    return read_wave(folder / "clip.wav") if language == "python" else done.stdout


def command(body):
    """The card's first command, with the module in place of the installed script."""
    call = f"{sys.executable} -m latentclap.cli"
    return blocks(body, "bash")[0].replace("latentclap generate", f"{call} generate --device cpu")


@pytest.mark.slow
def test_the_card_s_code_runs(made):
    """Where the folder lies, as it is printed: in a terminal, with latentclap, and with diffusers alone."""
    _, out, _ = made
    _, body = readme(out)
    system = FoleySystem.from_pretrained(out)
    text = next(iter(read_json(out / "model_card.json")["record"]["data"]["texts"]))
    assert runs(command(body), out.parent, "bash").startswith("8 clips")
    shutil.rmtree(out.parent / "clips")
    ours, theirs = blocks(body, "python")
    wave, rate = runs(ours, out.parent)
    assert rate == system.sampling_rate
    expected = system.generate(prompts=[text], n=2, seed=0)[0]
    assert np.abs(wave[0] - within_full_scale(expected)).max() < 1e-3
    assert "latentclap" not in theirs
    wave, rate = runs(theirs, out.parent)
    assert rate == system.sampling_rate and abs(wave.shape[1] - system.samples) <= system.mel.hop
    assert np.isfinite(wave).all() and wave.std() > 0
    (out.parent / "clip.wav").unlink()


@pytest.mark.slow
def test_the_card_s_command_makes_the_same_weights(made, tmp_path):
    """With the author's folders in the place of the words in capitals, as whoever has the sounds would type it."""
    run, out, _ = made
    _, body = readme(out)
    (typed,) = [block for block in blocks(body, "bash") if "finetune" in block]
    words = typed.replace("SOUNDS", str(out.parent / FOLDER)).replace("OUT", str(tmp_path / "again"))
    words = shlex.split(words.replace("FOLDER", str(out.parent / "tiny")))
    said = CliRunner().invoke(cli.app, [*words[1:], "--workers", "0", "-q"])
    assert said.exit_code == 0, said.output
    name = "system/unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()
    told, ours = read_json(tmp_path / "again" / "finetune.json"), read_json(run / "finetune.json")
    assert told["held_out_losses"] == ours["held_out_losses"] and told["sounds"] == ours["sounds"]


def test_a_run_says_how_it_was_typed(made):
    run, out, _ = made
    record = read_json(run / "finetune.json")
    assert record["asked"]["hold_out"] == 0.2 and record["asked"]["device"] == "cpu"
    assert "seed" not in record["asked"]  # it had its default
    typed = shlex.split(record["command"])
    assert typed[:3] == ["latentclap", "finetune", str(out.parent / FOLDER)]
    assert typed[typed.index("--hold-out") + 1] == "0.2" and "-q" in typed


@pytest.mark.parametrize("by", ["asked", "changes"])
def test_the_card_s_command_has_every_digit(run, by):
    """Rounded to six digits it would be another training."""
    record = read_json(run / "finetune.json")
    record.pop("asked", None)
    write_json(run / "finetune.json", record | {by: {"lam": 1234.5678, "lr": 3e-06, "hold_out": 0.1}})
    words = shlex.split(read_records(run)["command"])
    assert [words[words.index(f"--{option}") + 1] for option in ("lam", "lr", "hold-out")] == [
        "1234.5678",
        "3e-06",
        "0.1",
    ]


def test_samples_are_the_first_by_seed(made):
    _, out, _ = made
    _, body = readme(out)
    system = FoleySystem.from_pretrained(out)
    told = read_json(out / "model_card.json")["samples"]
    assert "The first 2 clips of each text by seed (`--seed 0`, dpmsolver++, 2 steps, guidance 2)" in body
    for text, files in told.items():
        waves = system.generate(prompts=[text], n=2, seed=0)
        for wave, file in zip(waves, files, strict=True):
            assert f"]({file})" in body
            heard, rate = read_wave(out / file)
            assert rate == system.sampling_rate
            assert np.abs(heard[0] - within_full_scale(wave)).max() < 1e-3


def test_a_dry_run_lists_and_leaves_nothing(made, tmp_path):
    run, out, _ = made
    said = publish(
        run, "-o", tmp_path / "deep" / "beeps", *MIT, "--samples", 1, "--dry-run", "--push", "jane/beeps"
    )
    assert said.exit_code == 0, said.output
    assert below(tmp_path) == set() and not list(tmp_path.iterdir())
    listed = re.findall(r"^ *[\d.]+ [kMG]?B  (\S+)$", said.output, re.M)
    assert set(listed) == {name for name in below(out) if not name.startswith("samples/")}
    assert "would be written: " in said.output and "samples/, which a dry run does not make" in said.output
    assert "would be pushed to jane/beeps on the hub, where a public repository would be made" in said.output


# --- adapters ---------------------------------------------------------------------------------------------------


def adapter(base, path):
    """Adapters of a system that do something."""
    import copy

    unet = add_adapters(copy.deepcopy(base.unet), 2, seed=1)
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if ".lora_B." in name:
                p.copy_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
    save_adapter(path, take_adapters(unet), base)
    return path


@pytest.mark.slow
def test_adapters_are_published_with_their_base(mini, tmp_path):
    file = adapter(mini, tmp_path / "work" / ADAPTER)
    said = publish(file, "-o", tmp_path / "small", *MIT)
    assert said.exit_code == 0, said.output
    assert below(tmp_path / "small") == {ADAPTER, "README.md", "model_card.json"}
    head, body = readme(tmp_path / "small")
    assert "lora" in head["tags"] and "base_model" not in head  # mini is on no hub
    assert (
        "LoRA adapters for mini, a text-to-sound latent diffusion system of AudioLDM's kind: mono clips of"
        in body
    )
    ours, theirs = blocks(body, "python")
    wave, _ = runs(ours, tmp_path)
    expected = mini.with_lora(file).generate(prompts=["This is a sound of rain."], n=2, seed=0)[0]
    assert np.abs(wave[0] - within_full_scale(expected)).max() < 1e-3
    wave, _ = runs(theirs, tmp_path)
    assert wave.std() > 0
    assert runs(command(body).replace("-n 8", "-n 1"), tmp_path, "bash").startswith("1 clip")


def test_adapters_of_other_weights_are_refused(mini, tiny, tmp_path):
    file = adapter(tiny, tmp_path / "work" / ADAPTER)
    assert "name it with --base-model" in refused(tmp_path / "out", file, *MIT)
    assert "trained on other weights than those of mini" in refused(
        tmp_path / "out", file, *MIT, "--base-model", "mini"
    )
    base = tiny.save_pretrained(tmp_path / "base")
    assert publish(tmp_path / "work", "-o", tmp_path / "out", *MIT, "--base-model", base).exit_code == 0
    _, body = readme(tmp_path / "out")
    assert "--model BASE --lora out" in body and str(tmp_path) not in body
    secret = tiny.save_pretrained(tmp_path / "janes_base")
    theirs = adapter(FoleySystem.from_pretrained(secret), tmp_path / "theirs" / ADAPTER)
    assert b"janes_base" in theirs.read_bytes()
    said = publish(theirs, "-o", tmp_path / "small", *MIT, "--base-model", secret)
    assert said.exit_code == 0, said.output
    assert b"janes_base" not in (tmp_path / "small" / ADAPTER).read_bytes()
    assert b"base_digest" in (tmp_path / "small" / ADAPTER).read_bytes()


def test_a_run_of_adapters_gives_either(tiny_family, tmp_path):
    run = finetuned(fast(tiny_family, tmp_path / "tiny"), tmp_path, "--lora-rank", 2, "--tuning")
    said = publish(run, "-o", tmp_path / "whole", *MIT)
    assert (
        said.exit_code == 0
        and f"its adapters alone: latentclap publish {run / ADAPTER} -o OTHER" in said.output
    )
    assert "| rank of LoRA adapters | 2 |" in readme(tmp_path / "whole")[1]
    assert (
        "Its tuning layer is folded into the UNet that the pipeline opens." in readme(tmp_path / "whole")[1]
    )
    said = publish(run / ADAPTER, "-o", tmp_path / "small", *MIT)
    assert said.exit_code == 0, said.output
    _, body = readme(tmp_path / "small")
    assert "diffusers alone cannot load it: beside the adapters a tuning layer" in body
    assert "--tuning --epochs 2 --lr 0.001 --lora-rank 2 --batch-size 5" in body


# --- records of other commands ----------------------------------------------------------------------------------


def test_records_of_a_training_file(configured, tmp_path):
    from latentclap.launch import Launch, complete
    from latentclap.train import processes
    from latentclap.trainfile import TrainFile

    _, write = configured
    file = TrainFile.read(write("published", lam=500.0, epochs=1, batch_size=4))
    complete(Launch(file, processes(), minutes=0, quiet=True))
    told = read_records(file.folder)
    assert (told["by"], told["steps"], told["data"]) == ("latentclap.train", 3, {"clips": 12})
    assert (told["values"]["lam"], told["base"]) == (500.0, {"name": "a model of the author's own"})
    assert publish(file.folder, "-o", tmp_path / "out", *MIT).exit_code == 0
    assert "12 clips trained it." in readme(tmp_path / "out")[1]


def test_records_of_the_notebook(tmp_path, monkeypatch):
    from latentclap.runs import start

    monkeypatch.setenv("LATENTCLAP_RUNS", str(tmp_path))
    namespace = {"lam": 500.0, "epochs": 0, "seed": 2, "data_dir": "/Users/jane/dcase", "__annotations__": {
        "lam": float, "epochs": int, "seed": int, "data_dir": str}}  # fmt: skip
    run = start("03_finetune", namespace)
    metrics = {"before_ddpm": 0.5, "after_ddpm": 0.25, "similarity_before": 0.1, "similarity_after": 0.2}
    run.save_metrics(metrics, clips=77, clips_per_class=3)
    told = read_records(run.folder)
    assert told["by"] == "notebook 03_finetune" and told["base"]["name"] == "mini"
    assert told["values"]["lam"] == 500.0 and told["values"]["epochs"] == run.profile.finetune.epochs
    assert told["command"].endswith("-p profile quick -p lam 500.0 -p epochs 0 -p seed 2")
    assert told["data"]["clips"] == 77 and len(told["data"]["texts"]) == len(CLASSES)
    assert told["data"]["set"] == "recordings in DCASE's layout"
    assert [(row["before"], row["after"]) for row in told["figures"]] == [(0.5, 0.25), (0.1, 0.2)]
    assert "jane" not in json.dumps(told)


def test_what_is_told_of_a_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "model").mkdir(parents=True)
    own = {"name": "a model of the author's own"}
    assert base_of("") == {}
    assert base_of("mini")["name"] == "mini" and "hub" not in base_of("mini")
    assert base_of("cvssp/audioldm-m-full")["licence"].startswith("CC BY-NC-SA 4.0")
    assert base_of("/Users/jane/checkpoints/audioldm-m-full") == base_of("cvssp/audioldm-m-full")
    assert base_of("someone/model") == {"name": "someone/model", "hub": "someone/model"}
    assert base_of("mine/model") == base_of("/Users/jane/runs/doors/system") == own
