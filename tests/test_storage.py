"""Damaged checkpoints: each is one line that names the part, and none is loaded in part."""

import copy
import json
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from badinput import Shelf
from latentclap import FoleySystem, diffusion
from latentclap.checkpoints import SAMPLERS, Sampling, check_system, header, own_sampling, shipped
from latentclap.describe import as_text, describe
from latentclap.errors import InputError
from latentclap.files import read_json, write_json
from latentclap.latent_clap import LatentCLAP
from latentclap.models import random_system, train_tokenizer
from latentclap.profiles import load_profile
from latentclap.storage.judge import shortened
from latentclap.system import tuning_layer


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return Shelf(tmp_path_factory.mktemp("materials"))


@pytest.mark.parametrize(
    ("material", "says"),
    [
        ("cut_unet", "unet/diffusion_pytorch_model.safetensors: cut short"),
        ("text_unet", "unet/diffusion_pytorch_model.safetensors: not a safetensors file"),
        ("no_unet_file", "unet: no weights file"),
        ("other_widths", "unet: cannot be loaded (Cannot load"),
        ("missing_tensor", "unet: tensor class_embedding.bias is missing"),
        ("cut_config", "unet/config.json: not JSON"),
        ("cut_vocoder", "vocoder/model.safetensors: cut short"),
        ("cut_clap", "clap/model.safetensors: cut short"),
        ("cut_tokenizer", "tokenizer/tokenizer.json: not JSON"),
        ("no_tokenizer_file", "tokens: its vocabulary is missing"),
        ("no_scheduler", "scheduler is missing"),
        ("text_tuning", "tuning/model.safetensors: not a safetensors file"),
        ("cut_index", "latentclap.json: not JSON"),
        ("odd_frames", "frames=63 is no multiple of 8"),
        ("text_frames", "frames='many' is no number of mel frames"),
        ("text_polish", "polish='much' is no number of iterations"),
        ("text_sampling", "sampling={'steps': 'few'} is no sampler, steps and guidance_scale"),
        ("other_sampling", "sampling={'speed': 2} is no sampler, steps and guidance_scale"),
    ],
)
def test_damaged_system(shelf, material, says):
    with pytest.raises(InputError) as stop:
        FoleySystem.from_pretrained(shelf.get(material))
    assert says in str(stop.value) and "\n" not in str(stop.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beta_schedule", "linear"),
        ("beta_schedule", None),  # not told
        ("prediction_type", "v_prediction"),
        ("rescale_betas_zero_snr", True),
        ("trained_betas", [0.1] * 1000),
        ("num_train_timesteps", 0),
        ("num_train_timesteps", "1000"),
        ("beta_start", 0),
        ("beta_start", 0.5),  # beyond the end
        ("beta_end", 2.0),  # whose sound is nothing but NaN
        ("beta_end", None),
    ],
)
def test_a_schedule_that_is_not_audioldms(tmp_path, key, value):
    folder = shutil.copytree(shipped("mini"), tmp_path / "other")
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path)
    del config[key]
    write_json(path, config | ({} if value is None and key == "beta_schedule" else {key: value}))
    with pytest.raises(
        InputError, match=rf"scheduler_config\.json: .*{key}.*(is not AudioLDM's|is no|are)"
    ) as stop:
        check_system(folder)
    assert len(str(stop.value)) < 300
    # what describes it says so too
    told = describe(folder)
    assert told["refused"] == str(stop.value)
    assert as_text(told).endswith(f"\nit would not be loaded: {stop.value}")
    assert describe(shipped("mini"))["refused"] is None


def test_a_configuration_that_is_no_object(tmp_path):
    folder = shutil.copytree(shipped("mini"), tmp_path / "other")
    (folder / "unet" / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"unet/config\.json: a JSON object is needed, this is \[\]"):
        check_system(folder)


@pytest.mark.parametrize(
    "told",
    [
        [1, 2],
        3,
        {"a": 3},
        {"a": {"x": 1}},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}},
        {"a": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}},
    ],
)
def test_a_header_that_is_none(tmp_path, told):
    content = json.dumps(told).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(content)) + content + bytes(8))
    with pytest.raises(InputError, match=r"model\.safetensors: not a safetensors file, or a damaged one"):
        header(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tuning.bias": None}, "tuning.bias is missing"),
        ({"class_embedding.weight": None}, "class_embedding.weight is missing"),
        ({"tuning.weight": (64, 64), "tuning.bias": (64,)}, r"tuning.weight is \(64, 64\), the UNet needs"),
        ({"class_embedding.bias": (3,)}, r"class_embedding.bias is \(3,\), the UNet needs"),
    ],
)
def test_a_tuning_layer_that_does_not_fit(tmp_path, changes, says):
    system = random_system("tiny")
    system.tuning = tuning_layer(system.embed_dim)
    path = system.save_pretrained(tmp_path / "tuned", pipeline=False) / "tuning" / "model.safetensors"
    factors = load_file(path)
    for name, shape in changes.items():
        factors.pop(name) if shape is None else factors.update({name: torch.zeros(shape)})
    save_file(factors, path)
    with pytest.raises(InputError, match=rf"tuning/model\.safetensors: {says}"):
        FoleySystem.from_pretrained(tmp_path / "tuned")


def test_polish_survives(tmp_path):
    system = random_system("tiny")
    assert system.polish is None
    system.polish = 3
    again = FoleySystem.from_pretrained(system.save_pretrained(tmp_path / "polished"))
    assert again.polish == 3
    assert FoleySystem.from_pretrained("mini").polish is not None


def test_a_system_is_saved_through_a_link(tmp_path):
    system = random_system("tiny")
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk")
    for _ in range(2):  # into an empty folder, and in place of a system
        assert system.save_pretrained(link, pipeline=False) == link
    assert link.is_symlink() and (tmp_path / "disk" / "latentclap.json").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk", "link"]


@pytest.mark.parametrize("where", [".", "..", "link", "round"])
def test_where_no_system_can_be_saved_is_said_before_the_work(tmp_path, monkeypatch, where):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work" / "link").symlink_to(tmp_path / "work")
    (tmp_path / "work" / "round").symlink_to("round")
    monkeypatch.setattr(
        "latentclap.storage.saving._write_parts", lambda *_: pytest.fail("the work was begun")
    )
    with pytest.raises(InputError, match=r"working folder is there and cannot be replaced|round in circles"):
        random_system("tiny").save_pretrained(where)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["link", "round", "work"]


def test_what_lies_beside_a_system_is_not_deleted(tmp_path, monkeypatch):
    """φ, a card, notes: a system is saved in place of a system, and of nothing else."""
    system = random_system("tiny")
    folder = system.save_pretrained(tmp_path / "family")
    system.save_pretrained(folder)
    LatentCLAP(width=4).save_pretrained(folder / "latent_clap")
    (folder / "NOTES.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds other things than a system \(NOTES.txt, latent_clap\)"):
        system.save_pretrained(folder)
    assert (folder / "NOTES.txt").is_file() and LatentCLAP.from_pretrained(folder / "latent_clap")
    # where the new one cannot come, the old one stays
    kept = system.save_pretrained(tmp_path / "kept")
    real = Path.replace

    def replace(self, target):
        if Path(target).name == "kept" and not self.name.endswith("-old"):
            raise OSError("no")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="no"):
        system.save_pretrained(kept)
    assert FoleySystem.from_pretrained(kept) and sorted(p.name for p in tmp_path.iterdir()) == [
        "family",
        "kept",
    ]


def test_a_system_keeps_how_it_is_sampled(tmp_path):
    system = random_system("tiny")
    assert system.sampling == Sampling("ddim", 200, 2.0)  # the paper's (IV-B)
    system.sampling = Sampling("unipc", 3, 1.5)
    again = FoleySystem.from_pretrained(system.save_pretrained(tmp_path / "kept"))
    assert again.sampling == system.sampling
    (tmp_path / "kept" / "latentclap.json").unlink()  # as any AudioLDM checkpoint
    assert FoleySystem.from_pretrained(tmp_path / "kept").sampling == Sampling()


def test_mini_is_sampled_as_its_card_says():
    """The figures of the model card are measured with the settings of profile quick."""
    quick, own = load_profile("quick").generate, own_sampling(shipped("mini"))
    assert own == Sampling(quick.sampler, quick.steps, quick.guidance_scale)
    assert own == random_system("mini").sampling


@pytest.mark.parametrize(
    "sampling", ["fast", [1], {"steps": 0}, {"steps": True}, {"guidance_scale": -1}, {"sampler": "ddimm"}]
)
def test_sampling_that_is_none(tmp_path, sampling):
    write_json(tmp_path / "latentclap.json", {"sampling": sampling})
    with pytest.raises(InputError, match=r"latentclap\.json: sampling="):
        own_sampling(tmp_path)
    assert set(SAMPLERS) == set(diffusion.SAMPLERS)


def test_what_is_given_goes_before_the_systems_own():
    own = Sampling("dpmsolver++", 12, 5.0)
    assert own.but() == own
    assert own.but(steps=7, guidance_scale=0.0) == Sampling("dpmsolver++", 7, 0.0)
    # twelve steps are this sampler's: DDIM needs more
    assert own.but("ddim") == Sampling("ddim", 200, 5.0)
    assert own.but("ddim", 50, 2) == Sampling("ddim", 50, 2)


def test_a_whole_one_still_loads(shelf):
    assert FoleySystem.from_pretrained(shelf.get("tiny_model")).frames == 64


def test_damaged_latent_clap(tmp_path):
    LatentCLAP(width=4).save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"width": 4', '"width": 8'))
    with pytest.raises(InputError, match="do not fit each other"):
        LatentCLAP.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"breadth": 4}')
    with pytest.raises(InputError, match="do not fit each other"):
        LatentCLAP.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_text("no weights")
    with pytest.raises(InputError, match="damaged"):
        LatentCLAP.from_pretrained(tmp_path)


def foreign(folder, **changes):
    """The ClapModel of the tiny system with other sizes, and other weights."""
    from transformers import ClapModel

    clap = random_system("tiny").clap
    config = copy.deepcopy(clap.config)
    for name, value in changes.items():
        setattr(config.text_config, name, value)
    torch.manual_seed(1)
    ClapModel(config).save_pretrained(folder)
    random_system("tiny").feature_extractor.save_pretrained(folder)
    return folder


def test_a_judge_beside_a_shared_text_tower(tmp_path):
    """A folder without text_encoder/ once could not be given a judge, and was told to have no clap/."""
    folder = random_system("tiny").save_pretrained(tmp_path / "system", pipeline=False)
    assert not (folder / "text_encoder").exists()
    own = FoleySystem.from_pretrained(folder)
    judged = FoleySystem.from_pretrained(folder, judge=foreign(tmp_path / "judge"))
    assert torch.equal(own.encode_text(["rain"]), judged.encode_text(["rain"]))
    assert not torch.equal(own.encode_text(["rain"], judge=True), judged.encode_text(["rain"], judge=True))
    shutil.rmtree(folder / "clap")
    with pytest.raises(InputError, match=r"neither text_encoder/ nor clap/"):
        FoleySystem.from_pretrained(folder, judge=tmp_path / "judge")


def test_mini_takes_a_judge(mini, tmp_path):
    judged = FoleySystem.from_pretrained("mini", judge=foreign(tmp_path / "judge"))
    assert torch.equal(judged.encode_text(["rain"]), mini.encode_text(["rain"]))
    # the tiny text tower has other words than mini's: audio can be judged, texts cannot
    wave = np.zeros((1, 16_000), dtype=np.float32)
    assert judged.encode_audio(wave).shape == (1, 512)
    with pytest.raises(InputError, match=r"judging CLAP knows \d+ words, the conditioning one 946"):
        judged.similarity(wave, ["rain"])


@pytest.mark.parametrize("place", ["own", "system"])
def test_a_judge_reads_texts_by_its_own_tokenizer(tmp_path, place):
    """Numbers of another's words once gave similarities of nothing."""
    words = train_tokenizer(["rain on a roof", "a gun shot", "foot steps", "a dog"] * 3, 320)
    judge = foreign(tmp_path / "clap", vocab_size=len(words))
    words.save_pretrained(judge if place == "own" else tmp_path / "tokenizer")
    system = FoleySystem.from_pretrained(
        random_system("tiny").save_pretrained(tmp_path / "system"), judge=judge
    )
    assert len(system.judge_tokenizer) == len(words) != len(system.tokenizer)
    ids = words(["rain"], return_tensors="pt", padding="max_length", max_length=64)
    E = system.clap.get_text_features(**{k: ids[k] for k in ("input_ids", "attention_mask")}).pooler_output
    torch.testing.assert_close(
        system.encode_text(["rain"], judge=True), torch.nn.functional.normalize(E, dim=-1)
    )
    again = FoleySystem.from_pretrained(system.save_pretrained(tmp_path / "again"))
    assert torch.equal(again.encode_text(["rain"], judge=True), system.encode_text(["rain"], judge=True))
    assert torch.equal(again.encode_text(["rain"]), system.encode_text(["rain"]))


def test_a_judge_with_too_many_words(tmp_path):
    words = train_tokenizer(["rain on a roof", "a gun shot", "foot steps", "a dog"] * 3, 320)
    judge = foreign(tmp_path / "judge", vocab_size=len(words) - 1)
    words.save_pretrained(judge)
    folder = random_system("tiny").save_pretrained(tmp_path / "system")
    with pytest.raises(InputError, match=r"judge: its tokenizer has \d+ tokens, the text tower \d+"):
        FoleySystem.from_pretrained(folder, judge=judge)


@pytest.mark.parametrize(
    ("part", "tensor"),
    [("clap", "audio_model.audio_encoder.batch_norm.running_mean"), ("vocoder", "mean")],
)
def test_missing_statistics(tmp_path, part, tensor):
    """Batch-norm statistics that a file lacked once became 0 and 1; so did what a vocoder normalises with."""
    folder = random_system("tiny").save_pretrained(tmp_path / "system", pipeline=False)
    path = folder / part / "model.safetensors"
    tensors = load_file(path)
    del tensors[tensor]
    save_file(tensors, path, metadata={"format": "pt"})
    if part == "vocoder":
        FoleySystem.from_pretrained(folder)  # AudioLDM's does not normalise
        config = (folder / "vocoder" / "config.json").read_text()
        assert '"normalize_before": false' in config
        config = config.replace('"normalize_before": false', '"normalize_before": true')
        (folder / "vocoder" / "config.json").write_text(config)
    with pytest.raises(InputError, match=rf"{part}: tensor {tensor} is missing"):
        FoleySystem.from_pretrained(folder)


def test_computed_tables_may_be_missing(tmp_path):
    folder = random_system("tiny").save_pretrained(tmp_path / "system", pipeline=False)
    path = folder / "clap" / "model.safetensors"
    tensors = load_file(path)
    kept = {k: v for k, v in tensors.items() if not k.endswith(("num_batches_tracked", "position_index"))}
    assert len(kept) < len(tensors)
    save_file(kept, path, metadata={"format": "pt"})
    FoleySystem.from_pretrained(folder)


def test_an_index_with_a_misspelt_setting(tmp_path):
    """It was passed over, and AudioLDM's own value taken."""
    folder = shutil.copytree(shipped("mini"), tmp_path / "other")
    write_json(folder / "latentclap.json", {"frame": 416})
    with pytest.raises(
        InputError, match=r"latentclap\.json: 'frame' is no setting of a system; there are frames"
    ):
        check_system(folder)
    write_json(folder / "latentclap.json", {"frames": 416, "tuning": True})
    with pytest.raises(
        InputError, match="other is to have a tuning layer, and tuning is missing; copy or download"
    ):
        check_system(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model_card.json", {"corpus": ["x"]}),
        ("vocoder/config.json", {"upsample_rates": "ab"}),
        ("vocoder/config.json", {"sampling_rate": 0}),
        ("unet/config.json", {"architectures": 3}),
        ("vae/config.json", {"block_out_channels": 3}),
    ],
)
def test_a_description_of_what_has_another_form(tmp_path, file, content):
    folder = shutil.copytree(shipped("mini"), tmp_path / "other")
    write_json(folder / file, content)
    with pytest.raises(
        InputError, match=r"other: a configuration or the model card is of another form \("
    ) as stop:
        describe(folder)
    assert "\n" not in str(stop.value)


@pytest.mark.parametrize(("own", "longest"), [(10**30, 512), (512, 512), (77, 77)])
def test_texts_are_no_longer_than_roberta_s_positions(own, longest):
    """514 of them, of which the first two are not for words."""
    clap = SimpleNamespace(config=SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=514)))
    assert shortened(SimpleNamespace(model_max_length=own), clap).model_max_length == longest
