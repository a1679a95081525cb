"""Files in the original formats: what is read, refused and reported, and equality with the original's outputs."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent / "fidelity"))
import checks
import originals
import recipe

from latentclap import FoleySystem
from latentclap.cli import app
from latentclap.convert import Checkpoint, convert_audioldm, convert_clap, read_checkpoint
from latentclap.convert.audioldm import load_tokenizer
from latentclap.convert.clap import infer_clap
from latentclap.convert.unet import infer_unet
from latentclap.convert.vae import fold_weight_norm, infer_vocoder
from latentclap.errors import InputError
from latentclap.models import random_system, train_tokenizer
from latentclap.storage import checkpoint_files

run = CliRunner().invoke


def refused(*arguments):
    """Run the command line on bad input; return its message."""
    result = run(app, [str(a) for a in arguments])
    assert isinstance(result.exception, InputError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny .ckpt with its tokenizer beside it."""
    folder = tmp_path_factory.mktemp("original")
    checks.tiny_file(folder)
    train_tokenizer(["a dog bark", "rain", "a gun shot", "keyboard", "foot steps"], 400).save_pretrained(
        folder / "roberta-base"
    )
    return folder


@pytest.fixture(scope="module")
def ckpt(folder):
    return folder / "audioldm-tiny.ckpt"


@pytest.fixture(scope="module")
def state(ckpt):
    return read_checkpoint(ckpt).state


@pytest.fixture(scope="module")
def converted(folder, ckpt):
    return convert_audioldm(ckpt, tokenizer=folder / "roberta-base", ema=False, frames=64)


@pytest.fixture(scope="module")
def laion_tiny():
    return originals.laion_clap("HTSAT-tiny", checks.TINY_TEXT)


def changed(state, **entries):
    """A checkpoint with some entries replaced, or left out where the value is None."""
    out = {**state, **entries}
    return Checkpoint(Path("changed.ckpt"), {n: t for n, t in out.items() if t is not None}, [])


# ------------------------------------------------------------------------------ equality, recorded


def test_every_part_is_the_original_s(converted):
    rows = list(checks.audioldm(converted.system, "tiny"))
    assert len(rows) == 10
    assert not [r for r in rows if not r.holds]


def test_the_moving_average_is_the_original_s(folder, ckpt, converted):
    average = convert_audioldm(ckpt, tokenizer=folder / "roberta-base", frames=64)
    assert average.facts["unet_weights"] == "ema"
    assert all(r.holds for r in checks.ema(average))
    # and the two are different networks, so that taking the wrong one would be seen
    assert not all(r.holds for r in checks.ema(converted))


def test_the_inputs_matter(converted):
    """Random towers are no constants: another sound and another text move the embedding far beyond the tolerance."""
    system = converted.system
    a, b = (checks.embed_48k(system.clap, system.feature_extractor, recipe.wave(n, 480_000)) for n in "ab")
    assert (a - b).abs().max() > 1e-3
    ids = torch.from_numpy(originals.fixture("audioldm_tiny")[0]["text_ids"])
    with torch.no_grad():
        text = system.text_encoder(ids, attention_mask=(ids != 1).long()).text_embeds
    assert (text[0] - text[1]).abs().max() > 1e-2


def test_eight_heads_are_another_network(converted):
    """diffusers' own conversion leaves attention_head_dim at 8; the original has heads of 32 channels."""
    assert converted.system.unet.config.attention_head_dim == [1, 2, 3, 5]
    assert checks.eight_heads(converted.system, "tiny") > 1e-3


def test_mel_front_end():
    assert all(r.holds for r in checks.mel())


# --------------------------------------------------------------------------------------- reports


def test_report_names_everything(converted, state):
    reports = {r.part: r for r in converted.reports}
    assert list(reports) == ["unet", "vae", "vocoder", "clap", "rest"]
    assert all(r.share == 1 and not r.missing and not r.unexpected for r in reports.values())
    assert "moving average of the UNet" in reports["rest"].benign
    told = sum(len(r.matched) for r in reports.values())
    told += sum(len(names) for r in reports.values() for names in r.benign.values())
    # every entry is in one report; HTSAT's fused attention is one entry there and three of ours
    fused = sum(".attn.qkv." in name for name in state)
    ours = sum(len(r.benign.get("computed by our module, not read", [])) for r in reports.values())
    assert told - 2 * fused - ours == len(state)


def test_full_width_by_shapes_alone():
    """audioldm-m-full's 1,900 names and shapes as the original code makes them, without its numbers."""
    file = Checkpoint(Path("audioldm-m-full.ckpt"), originals.meta_state("m_full"), [])
    done = convert_audioldm(file, report_only=True)
    reports = {r.part: r for r in done.reports}
    assert all(r.share == 1 and not r.missing and not r.unexpected for r in reports.values())
    # facts A5, A3, A6, E
    assert reports["unet"].parameters == 415_954_568
    assert round(reports["vae"].parameters / 1e6, 3) == 55.377
    assert round(reports["vocoder"].parameters / 1e6, 3) == 55.265
    assert done.facts["clap"] == "HTSAT-base"
    assert done.facts["head_channels"] == 32
    assert (done.facts["beta_start"], done.facts["beta_end"]) == (0.0015, 0.0195)


def test_a_random_layer_is_refused(state):
    """One lost layer of 0.3% is over the 99%, and would sound plausible: it is refused all the same."""
    name = "model.diffusion_model.middle_block.0.out_layers.3.weight"
    file = changed(state, **{name: None})
    with pytest.raises(InputError, match=r"unet: 9\d\.\d\d% of .* missing mid_block.resnets.0.conv2.weight"):
        convert_audioldm(file, ema=False)


def test_another_shape_is_refused_and_named(state):
    name = "first_stage_model.decoder.conv_in.weight"
    file = changed(state, **{name: torch.zeros(1, 2, 3, 3)})
    with pytest.raises(
        InputError, match=r"vae: .* unexpected first_stage_model.decoder.conv_in.weight \(1, 2"
    ):
        convert_audioldm(file, ema=False)


def test_unknown_entries_are_told_and_many_refused(state):
    little = changed(state, **{"first_stage_model.extra.bias": torch.zeros(3)})
    reports = {r.part: r for r in convert_audioldm(little, ema=False, report_only=True).reports}
    assert reports["vae"].unexpected == ["first_stage_model.extra.bias"]
    assert 0.99 < reports["vae"].share < 1
    much = changed(state, **{"model.diffusion_model.extra.weight": torch.zeros(1000, 1000)})
    with pytest.raises(InputError, match=r"unet: 92\.\d\d% of the parameters match"):
        convert_audioldm(much, ema=False)
    over = changed(state, **{"model.diffusion_model.extra.weight": torch.zeros(200, 1000)})
    with pytest.raises(InputError, match=r"unet: 98\.\d\d% of the parameters match"):
        convert_audioldm(over, ema=False)


def test_weights_are_float32_and_the_system_s_own(state, folder):
    """Of a file in half precision too; the file is mapped into memory, and may be written anew or go away."""
    names = ("model.diffusion_model.out.2.weight", "first_stage_model.decoder.conv_out.weight")
    mine = {names[0]: state[names[0]].clone(), names[1]: state[names[1]].half()}
    system = convert_audioldm(changed(state, **mine), ema=False, tokenizer=folder / "roberta-base").system
    kept = mine[names[0]].clone()
    mine[names[0]].zero_()
    assert torch.equal(system.unet.conv_out.weight, kept)
    for part in system.parts.values():
        assert not part.training
        assert all(p.dtype == torch.float32 for p in part.parameters())


def test_original_training_extras_are_benign(state):
    file = changed(
        state,
        **{
            "first_stage_model.loss.discriminator.weight": torch.zeros(9, 9),
            "cond_stage_model.model.text_branch.embeddings.position_ids": torch.arange(514)[None],
        },
    )
    reports = convert_audioldm(file, ema=False, report_only=True).reports
    assert all(r.share == 1 and not r.unexpected for r in reports)


def test_the_training_code_s_file_is_read_too(state):
    """It keeps the CLAP that conditions elsewhere, and another one that ranks candidates."""
    there = {n.replace("cond_stage_model.model.", "cond_stage_models.0.model."): t for n, t in state.items()}
    file = changed(there, **{"clap.model.logit_scale_a": torch.zeros(())})
    done = convert_audioldm(Checkpoint(file.path, file.state, ["numpy.dtype"]), report_only=True)
    reports = {r.part: r for r in done.reports}
    assert all(r.share == 1 and not r.unexpected and not r.missing for r in reports.values())
    assert reports["rest"].benign["the CLAP by which the training code ranks candidates"] == [
        "clap.model.logit_scale_a"
    ]
    assert done.facts["not_run"] == ["numpy.dtype"]


def test_a_vae_without_attention_is_whole(state):
    plain = {n: None for n in state if n.startswith("first_stage_model.") and ".mid.attn_1." in n}
    assert len(plain) == 20
    reports = {r.part: r for r in convert_audioldm(changed(state, **plain), report_only=True).reports}
    assert reports["vae"].share == 1 and not reports["vae"].missing


# -------------------------------------------------------------------------------------- settings


def original_unet(channels, residual_blocks=2):
    """Names and shapes by which an original UNet is recognised; attention in all levels but the first."""
    state, block = {"input_blocks.0.0.weight": (channels[0], 8, 3, 3)}, 1
    for level, width in enumerate(channels):
        for _ in range(residual_blocks):
            state[f"input_blocks.{block}.0.out_layers.3.weight"] = (width, width, 3, 3)
            if level:
                state[f"input_blocks.{block}.1.proj_in.weight"] = (width, width, 1, 1)
            block += 1
        if level < len(channels) - 1:
            state[f"input_blocks.{block}.0.op.weight"] = (width, width, 3, 3)
            block += 1
    state |= {"out.2.weight": (8, channels[0], 3, 3), "film_emb.weight": (4 * channels[0], 512)}
    return {name: torch.empty(shape, device="meta") for name, shape in state.items()}


def test_heads_of_every_size_of_audioldm():
    """32 channels a head in S and M, 64 in L (facts A5), which no shape tells."""
    for channels, heads in (
        ([128, 256, 384, 640], [4, 8, 12, 20]),
        ([192, 384, 576, 960], [6, 12, 18, 30]),
        ([256, 512, 768, 1280], [4, 8, 12, 20]),
    ):
        config = infer_unet(original_unet(channels))
        assert config["block_out_channels"] == channels and config["attention_head_dim"] == heads
        assert config["layers_per_block"] == 2
    alone = infer_unet(original_unet([64], residual_blocks=3))
    assert (alone["layers_per_block"], alone["block_out_channels"]) == (3, [64])


def test_another_vocoder_is_refused(state):
    """Its upsampling rates would have to be guessed from its kernels."""
    prefix = "first_stage_model.vocoder."
    own = fold_weight_norm({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
    assert infer_vocoder(own)["upsample_rates"] == [5, 4, 2, 2, 2]
    assert infer_vocoder(own)["sampling_rate"] == 16_000
    a, b, _ = own["ups.0.weight"].shape
    with pytest.raises(InputError, match=r"upsampling kernels \(12, 16, 8, 4, 4\): only AudioLDM's 16 kHz"):
        infer_vocoder(own | {"ups.0.weight": torch.zeros(a, b, 12)})


def test_the_file_s_scale_factor_wins(state, folder):
    words = folder / "roberta-base"
    done = convert_audioldm(changed(state), ema=False, tokenizer=words, scale_factor=0.18215)
    assert done.system.vae.config.scaling_factor == pytest.approx(recipe.SCALE_FACTOR, rel=1e-6)
    assert "was not used" in done.facts["notes"][0]
    without = changed(state, scale_factor=None)
    with pytest.raises(InputError, match="--scale-factor"):
        convert_audioldm(without, ema=False, tokenizer=words)
    given = convert_audioldm(without, ema=False, scale_factor=0.9, report_only=True)
    assert given.facts["scale_factor"] == 0.9
    for wrong in (0.0, -1.0, torch.nan):
        with pytest.raises(InputError, match="must be positive"):
            convert_audioldm(changed(state, scale_factor=torch.tensor(wrong)), report_only=True)


def test_schedule_must_be_audioldm_s(state):
    with pytest.raises(InputError, match="not linear in their square root"):
        convert_audioldm(changed(state, betas=torch.linspace(0.0015, 0.0195, 1000)), report_only=True)
    nearly = state["betas"].clone()
    nearly[500] += 1e-5
    with pytest.raises(InputError, match="not linear in their square root"):
        convert_audioldm(changed(state, betas=nearly), report_only=True)
    facts = convert_audioldm(changed(state, betas=None), report_only=True).facts
    assert [facts[k] for k in ("num_train_timesteps", "beta_start", "beta_end")] == [1000, 0.0015, 0.0195]


def test_the_file_s_own_schedule_is_taken(state, folder):
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 400, dtype=torch.float64) ** 2
    done = convert_audioldm(changed(state, betas=betas.float()), ema=False, tokenizer=folder / "roberta-base")
    config = done.system.scheduler.config
    assert (config.num_train_timesteps, config.beta_start, config.beta_end) == (400, 0.00085, 0.012)
    torch.testing.assert_close(done.system.scheduler.betas.double(), betas, rtol=1e-5, atol=0)
    # latents go well beyond 1, and diffusers' own default would cut them off in every step
    assert config.clip_sample is False


def test_moving_average_must_be_there(state):
    plain = changed({n: t for n, t in state.items() if not n.startswith("model_ema.")})
    assert convert_audioldm(plain, report_only=True).facts["unet_weights"] == "training"
    with pytest.raises(InputError, match="--no-ema"):
        convert_audioldm(plain, ema=True, report_only=True)
    # a part of one is none
    part = changed(state, **{"model_ema.diffusion_modelout2weight": None})
    assert convert_audioldm(part, report_only=True).facts["unet_weights"] == "training"
    with pytest.raises(InputError, match=r"no moving average of 1 of the UNet's \d+ entries; say --no-ema"):
        convert_audioldm(part, ema=True, report_only=True)


def test_heads_must_divide(state):
    with pytest.raises(InputError, match="heads of 48 channels do not divide 64"):
        convert_audioldm(changed(state), head_channels=48, report_only=True)
    done = convert_audioldm(changed(state), head_channels=16, report_only=True)
    assert done.facts["head_channels"] == 16


def test_tokenizer_must_fit(state, tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer at 'nowhere'.*--tokenizer"):
        convert_audioldm(changed(state), ema=False, tokenizer="nowhere")
    words = ["".join(letters) for letters in itertools.product("bdgkpt", "aeiou", "lmnrs")]
    large = train_tokenizer(words, 450)
    assert len(large) > 400
    large.save_pretrained(tmp_path / "words")
    with pytest.raises(InputError, match="the text tower 400"):
        convert_audioldm(changed(state), ema=False, tokenizer=tmp_path / "words")
    # RoBERTa's own has exactly as many as its tower
    assert len(load_tokenizer(tmp_path / "words", len(large))) == len(large)
    # and a folder without a vocabulary gives one of a few special tokens, without a word
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    with pytest.raises(InputError, match=r"has only \d+ tokens"):
        load_tokenizer(tmp_path / "empty", 400)


def test_texts_are_cut_where_the_tower_s_positions_end(state, folder, tmp_path):
    """RoBERTa counts positions from 2; a tokenizer that tells no length, or a longer one, would run over."""
    positions = state["cond_stage_model.model.text_branch.embeddings.position_embeddings.weight"].shape[0]
    for told, kept in ((10**30, positions - 2), (positions - 1, positions - 2), (64, 64)):
        words = load_tokenizer(folder / "roberta-base", 400)
        words.model_max_length = told
        words.save_pretrained(tmp_path / "words")
        system = convert_audioldm(changed(state), ema=False, tokenizer=tmp_path / "words").system
        assert system.tokenizer.model_max_length == kept


@pytest.mark.parametrize("modern", [False, True])
def test_weight_norm_is_folded(modern):
    layer = torch.nn.Conv1d(3, 5, 7)
    make = torch.nn.utils.parametrizations.weight_norm if modern else torch.nn.utils.weight_norm
    make(layer)
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(1.5)
        layer(torch.zeros(1, 3, 9))  # the older spelling computes the weight here
    state = {f"conv_pre.{n}": t.detach() for n, t in layer.state_dict().items()}
    folded = fold_weight_norm(state)
    assert sorted(folded) == ["conv_pre.bias", "conv_pre.weight"]
    torch.testing.assert_close(folded["conv_pre.weight"], layer.weight.detach())
    # one factor without the other stays as it is, to be told as unexpected
    lone = {n: t for n, t in state.items() if not n.endswith(("weight_v", "original1"))}
    assert fold_weight_norm(lone).keys() == lone.keys() and len(lone) == 2


# ------------------------------------------------------------------------------------ hostile files


class Payload:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def test_nothing_in_a_file_is_run(tmp_path):
    touched, path = tmp_path / "touched", tmp_path / "hostile.ckpt"
    command = ["touch", str(touched)]
    torch.save({"state_dict": {"x": torch.zeros(2)}, "hook": Payload(subprocess.check_output, command)}, path)
    torch.load(path, weights_only=False)
    assert touched.exists()  # the file does what it is meant to
    touched.unlink()
    assert read_checkpoint(path).inert == [
        "commands.check_output"
    ]  # the name that pickle's protocol 2 writes
    assert not touched.exists()
    for payload in (Payload(os.system, f"touch {touched}"), Payload(Path.touch, touched)):
        torch.save({"state_dict": {"x": torch.zeros(2)}, "hook": payload}, path)
        with pytest.raises(InputError, match=r"weights only, it asks for (posix.system|code) to be run"):
            read_checkpoint(path)
        assert not touched.exists()


def test_what_is_no_checkpoint(tmp_path):
    for look in (read_checkpoint, checkpoint_files, FoleySystem.from_pretrained):
        with pytest.raises(InputError, match=r"absent.ckpt: no such checkpoint"):
            look(tmp_path / "absent.ckpt")
    path = tmp_path / "text.ckpt"
    path.write_text("hello")
    with pytest.raises(InputError, match=r"cannot be read as weights only \(not a file of torch\)$"):
        read_checkpoint(path)
    for content, message in [([1, 2], "holds a list"), ({"state_dict": {"a": 1}}, "no tensors in it")]:
        torch.save(content, path)
        with pytest.raises(InputError, match=message):
            read_checkpoint(path)
    torch.save({"state_dict": {"layer.weight": torch.zeros(2)}}, path)
    assert "neither an AudioLDM checkpoint" in refused("info", path)
    torch.save({"model.diffusion_model.x": torch.zeros(2)}, path)
    assert "FiLM conditioning" in refused("convert", path, tmp_path / "out", "--scale-factor", 1)
    assert not (tmp_path / "out").exists()


def test_what_a_file_is_and_what_is_under_a_name():
    """One entry of its kind is enough, beside any others; a prefix is at a name's beginning."""

    def holding(*names):
        return Checkpoint(Path("x.pt"), {name: torch.zeros(1) for name in names}, [])

    assert holding("epoch", "model.diffusion_model.a").kind == "audioldm"
    for name in ("text_branch.a", "audio_branch.a"):
        assert holding("logit_scale_a", name).kind == "clap"
    for names, told in (("abcd", "a, b, c"), ("", "nothing")):
        with pytest.raises(InputError, match=f"it holds {told}$"):
            holding(*names).kind  # noqa: B018
    assert list(holding("a.b.c", "b.c", "ab.c").under("b.")) == ["c"]


def test_where_tensors_lie_in_a_file(tmp_path):
    """In any dictionary, or below "state_dict"; only the first "module." is that of several GPUs."""
    path = tmp_path / "a.pt"
    torch.save({"module.net.module.a": torch.ones(1), "epoch": 3}, path)
    read = read_checkpoint(str(path))
    assert read.path == path and list(read.state) == ["net.module.a"]
    torch.save({"state_dict": [1, 2], "a": torch.ones(1)}, path)
    with pytest.raises(InputError, match="not a state dict"):
        read_checkpoint(path)


def test_classes_are_told_in_order(tmp_path):
    functions = [
        subprocess.run,
        subprocess.call,
        subprocess.getoutput,
        subprocess.check_call,
        subprocess.list2cmdline,
    ]
    hooks = [Payload(function, "x") for function in functions]
    torch.save({"state_dict": {"x": torch.zeros(2)}, "hooks": hooks}, tmp_path / "a.pt")
    inert = read_checkpoint(tmp_path / "a.pt").inert
    assert len(inert) == len(hooks) and inert == sorted(inert)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", r"\(RuntimeError\)"),
        ("one\ntwo", r"\(one\)"),
        ("Weights only load failed: switch it off", r"\(not a file of torch\)"),
        (200 * "x" + "\n", f"\\({120 * 'x'}\\)"),
    ],
)
def test_a_refusal_is_one_short_line(tmp_path, monkeypatch, said, told):
    def load(*_, **__):
        raise RuntimeError(said)

    (tmp_path / "a.pt").write_bytes(b"?")
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(InputError, match=f"a.pt: cannot be read as weights only {told}$"):
        read_checkpoint(tmp_path / "a.pt")


def test_a_file_cut_short(ckpt, tmp_path):
    short = tmp_path / "short.ckpt"
    with open(ckpt, "rb") as whole:
        short.write_bytes(whole.read(5_000_000))
    with pytest.raises(InputError, match="cannot be read as weights only"):
        read_checkpoint(short)


def test_the_older_file_format(tmp_path):
    path = tmp_path / "old.pt"
    torch.save({"module.a": torch.arange(3.0)}, path, _use_new_zipfile_serialization=False)
    assert read_checkpoint(path).state["a"].tolist() == [0, 1, 2]


def test_nothing_in_a_file_of_the_older_format_is_run(tmp_path):
    touched, path = tmp_path / "touched", tmp_path / "old.pt"
    content = {"a": torch.zeros(2), "hook": Payload(subprocess.check_output, ["touch", str(touched)])}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    torch.load(path, weights_only=False)
    assert touched.exists()  # the file does what it is meant to
    touched.unlink()
    with pytest.raises(InputError, match="cannot be read as weights only"):
        read_checkpoint(path)
    assert not touched.exists()


# ------------------------------------------------------------------------------------ command line


def test_info_and_convert(folder, ckpt, tmp_path, monkeypatch):
    told = run(app, ["info", str(ckpt)]).output
    assert "unet weights: ema" in told and "100.00%" in told and "HTSAT-tiny" in told
    read = json.loads(run(app, ["info", str(ckpt), "--json"]).output)
    assert [p["part"] for p in read["parts"]] == ["unet", "vae", "vocoder", "clap", "rest"]
    out = tmp_path / "system"
    result = run(
        app, ["convert", str(ckpt), str(out), "--tokenizer", str(folder / "roberta-base"), "--frames", "64"]
    )
    assert result.exception is None, result.exception
    assert json.loads((out / "load_report.json").read_text())["unet_weights"] == "ema"
    assert checkpoint_files(ckpt) == [ckpt]
    # a part may be a link to another system's, and decides as much
    (tmp_path / "elsewhere").mkdir()
    (out / "unet").rename(tmp_path / "elsewhere/unet")
    (out / "unet").symlink_to(tmp_path / "elsewhere/unet", target_is_directory=True)
    found = checkpoint_files(out)
    assert {*out.rglob("*.safetensors"), out / "latentclap.json", out / "vae" / "config.json"} <= {*found}
    assert any(path.is_relative_to(out / "unet") for path in found)
    system = FoleySystem.from_pretrained(out)
    direct = FoleySystem.from_pretrained(ckpt)  # with the tokenizer beside it
    assert (system.frames, direct.frames) == (64, 1024)
    for name, part in system.parts.items():
        ours = part.state_dict()
        assert all(torch.equal(ours[n], t) for n, t in direct.parts[name].state_dict().items()), name
    waves = system.generate(["rain"], 1, steps=2)
    assert waves.shape == (1, 64 * 160)
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "thesis.txt").write_text("years of work")
    assert "holds other things" in refused("convert", ckpt, thesis)
    monkeypatch.chdir(out)
    monkeypatch.setattr("latentclap.convert.command.read_checkpoint", lambda _: pytest.fail("work was begun"))
    assert "working folder is there and cannot be replaced" in refused("convert", ckpt, ".")
    assert (out / "load_report.json").is_file()


def test_every_option_of_convert_arrives(folder, state, tmp_path):
    file = originals.write_ckpt(tmp_path / "bare.ckpt", changed(state, scale_factor=None).state)
    # such a file can be looked at; converting it needs the number
    assert "100.00%" in run(app, ["info", str(file)]).output
    out, words = tmp_path / "system", str(folder / "roberta-base")
    assert "--scale-factor" in refused("convert", file, out, "--tokenizer", words)
    options = ("--no-ema", "--scale-factor", "0.5", "--head-channels", "16", "--half")
    result = run(app, ["convert", str(file), str(out), "--tokenizer", words, *options])
    assert result.exception is None, result.exception
    told = json.loads((out / "load_report.json").read_text())
    assert (told["unet_weights"], told["scale_factor"], told["head_channels"]) == ("training", 0.5, 16)
    assert json.loads((out / "vae" / "config.json").read_text())["scaling_factor"] == 0.5
    with safe_open(next((out / "unet").glob("*.safetensors")), "pt") as weights:
        assert weights.get_tensor("conv_in.weight").dtype == torch.float16
    # as any folder that one makes: it was a temporary one, which are for their owner alone
    assert out.stat().st_mode & 0o777 == 0o755


def test_a_laion_file_judges(laion_tiny, tmp_path):
    path = originals.laion_file(tmp_path / "630k.pt", laion_tiny, position_ids=True)
    assert "HTSAT-tiny" in run(app, ["info", str(path)]).output
    (tmp_path / "disk").mkdir()
    (tmp_path / "judge").symlink_to(tmp_path / "disk")
    result = run(app, ["convert", str(path), str(tmp_path / "judge")])
    assert result.exception is None, result.exception
    assert (tmp_path / "disk" / "load_report.json").is_file()
    # the same command replaces it, and nothing else with it
    assert run(app, ["convert", str(path), str(tmp_path / "judge")]).exception is None
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
    assert run(app, ["convert", str(path), str(tmp_path / "half"), "--half"]).exception is None
    assert (tmp_path / "half").stat().st_mode & 0o777 == 0o755  # as a system's
    with safe_open(tmp_path / "half" / "model.safetensors", "pt") as weights:
        assert weights.get_tensor("text_projection.linear1.weight").dtype == torch.float16
    (tmp_path / "disk" / "notes.txt").write_text("mine")
    assert "judge holds other things than a converted checkpoint (notes.txt)" in refused(
        "convert", path, tmp_path / "judge"
    )
    assert (tmp_path / "disk" / "notes.txt").is_file()
    random_system("tiny").save_pretrained(tmp_path / "system")
    waves = recipe.wave("judged", 16_000)[None]
    embeddings = []
    for judge in (path, tmp_path / "judge"):
        system = FoleySystem.from_pretrained(tmp_path / "system", judge=judge)
        embeddings.append(system.encode_audio(waves))
    assert embeddings[0].shape == (1, 512)
    # the same numbers; kernels round by how a tensor lies in memory
    torch.testing.assert_close(*embeddings, rtol=0, atol=1e-6)
    # texts need the tokenizer of its words, which a file finds beside it
    assert system.clap.config.text_config.vocab_size != len(system.tokenizer)
    with pytest.raises(InputError, match="its tokenizer was not found"):
        system.similarity(waves, ["rain"])
    train_tokenizer(["a dog bark", "rain", "a gun shot", "keyboard", "foot steps"], 400).save_pretrained(
        tmp_path / "roberta-base"
    )
    system = FoleySystem.from_pretrained(tmp_path / "system", judge=path)
    assert system.judge_tokenizer.vocab_size != system.tokenizer.vocab_size
    assert -1 <= system.similarity(waves, ["rain"])[0] <= 1


# -------------------------------------------------------------------------------------- LAION files


@pytest.mark.parametrize(("position_ids", "prefix"), [(True, "module."), (False, ""), (False, "module.")])
def test_laion_spellings(laion_tiny, tmp_path, position_ids, prefix):
    path = originals.laion_file(tmp_path / "clap.pt", laion_tiny, position_ids=position_ids, prefix=prefix)
    file = read_checkpoint(path)
    assert any("numpy" in name for name in file.inert)
    done = convert_clap(file)
    assert done.report.share == 1 and not done.report.unexpected and not done.report.missing
    ids = torch.tensor([[0, 5, 2]])
    with torch.no_grad():
        theirs = laion_tiny.get_text_embedding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        ours = done.model.get_text_features(input_ids=ids, attention_mask=torch.ones_like(ids)).pooler_output
    torch.testing.assert_close(torch.nn.functional.normalize(ours, dim=-1), theirs, rtol=0, atol=1e-5)


def test_fusion_and_broken_claps_are_refused(laion_tiny):
    state = dict(laion_tiny.state_dict())
    fused = Checkpoint(
        Path("fused.pt"), {**state, "audio_branch.patch_embed.mel_conv2d.weight": torch.zeros(1)}, []
    )
    with pytest.raises(InputError, match="feature fusion"):
        convert_clap(fused)
    fused.state.pop("audio_branch.patch_embed.mel_conv2d.weight")
    fused.state["audio_branch.patch_embed.fusion_model.local_att.0.weight"] = torch.zeros(1)
    with pytest.raises(InputError, match="feature fusion"):
        convert_clap(fused)
    other = Checkpoint(Path("other.pt"), {**state, "audio_branch.norm.weight": torch.zeros(96)}, [])
    with pytest.raises(InputError, match=r"not a LAION-CLAP.*audio_branch\.norm\.weight"):
        convert_clap(other)
    for name in ("text_projection.2.weight", "audio_branch.norm.weight"):
        broken = Checkpoint(Path("broken.pt"), {n: t for n, t in state.items() if n != name}, [])
        with pytest.raises(InputError, match=f"not a LAION-CLAP.*{name}"):
            convert_clap(broken)
    part = Checkpoint(
        Path("part.pt"), {n: t for n, t in state.items() if "layers.2.blocks.3.mlp.fc1.weight" not in n}, []
    )
    with pytest.raises(
        InputError, match=r"part.pt: clap: 9\d\.\d+% of the parameters match .1 entries missing"
    ):
        convert_clap(part)


def test_what_no_output_of_the_towers_tells(laion_tiny):
    """Each tower's own scale, and attention heads of 64 channels in a text tower of another width."""
    state = dict(laion_tiny.state_dict())
    state |= {"logit_scale_a": torch.tensor(1.0), "logit_scale_t": torch.tensor(2.0)}
    model = convert_clap(Checkpoint(Path("clap.pt"), state, [])).model
    assert (model.logit_scale_a.item(), model.logit_scale_t.item()) == (1.0, 2.0)
    wide = {"text_branch.embeddings.word_embeddings.weight": torch.empty(400, 1024, device="meta")}
    config = infer_clap(state | wide)
    assert (model.config.text_config.num_attention_heads, config.text_config.num_attention_heads) == (12, 16)
    assert not model.training


@pytest.mark.parametrize("amodel", ["HTSAT-tiny", "HTSAT-base"])
def test_both_towers_are_laion_clap_s(amodel):
    rows = list(checks.laion(amodel))
    assert len(rows) == 4
    assert not [r for r in rows if not r.holds]
