import tomllib
from importlib.resources import files

import pytest

from latentclap import papers
from latentclap.diffusion import NoiseSchedule
from latentclap.errors import InputError
from latentclap.profiles import load_profile, names


def test_all_shipped_profiles_load():
    assert names() == ["evening", "mini", "paper", "quick"]
    for name in names():
        assert load_profile(name).name == name


def test_the_paper_s_numbers():
    """Profile paper has the settings that the paper prints."""
    paper, printed = load_profile("paper"), dict(papers.SETTINGS)
    assert len(NoiseSchedule().betas) == printed.pop("train_steps_N")
    assert printed == {
        "guidance_scale": paper.generate.guidance_scale,
        "inference_steps_N": paper.generate.steps,
        "clips_per_class": paper.evaluate.clips_per_class,
        "epochs_table_1": paper.finetune.epochs,
        "epochs_fig_3": paper.sweep.epochs,
        "learning_rate": paper.finetune.lr,
        "lam_latent": paper.finetune.lam,
        "lam_tuning_latent": paper.finetune.lam_tuning,
    }


@pytest.mark.parametrize("name", names())
def test_a_shipped_file_names_every_value(name):
    """What is left to a default is not told where the book says that every value is."""
    path = files("latentclap") / "profiles" / f"{name}.toml"
    told, known = tomllib.loads(path.read_text()), load_profile(name).as_dict()
    del known["name"]
    assert set(told) == set(known)
    for section, values in known.items():
        if section != "about":
            assert set(told[section]) == set(values), section


def test_an_encoder_that_comes_with_the_system(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[model]\nsystem = "some/folder"\nlatent_clap = ""\n')
    assert load_profile(path).model.latent_clap == "some/folder"


def test_override():
    profile = load_profile("quick").override(finetune__epochs=7, sweep__lams=[1, 2])
    assert profile.finetune.epochs == 7
    assert profile.sweep.lams == (1.0, 2.0)
    assert load_profile("quick").finetune.epochs != 7
    with pytest.raises(InputError, match=r"no value finetune\.epoch"):
        profile.override(finetune__epoch=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[finetune]\nepoch = 3", "unknown key 'epoch'"),
        ("[tuning]\nx = 3", "unknown section or key 'tuning'"),
        ('[finetune]\nepochs = "3"', "must be of type int"),
        ("[finetune]\nepochs = true", "must be of type int"),
        ("[sweep]\nlams = 3", "must be a list"),
        ("finetune = 3", "must be a table"),
        ("about = 3", "about=3: must be of type str"),
        ("[finetune", "not valid TOML"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_profile(path)


def test_own_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[finetune]\nlr = 1\n")
    profile = load_profile(str(path))
    assert profile.name == "mine"
    assert profile.finetune.lr == 1.0


def test_unknown_profile():
    with pytest.raises(InputError, match="there are evening, mini, paper, quick"):
        load_profile("quik")


def test_a_byte_order_mark_is_no_error(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbfabout = 'x'\n")
    assert load_profile(tmp_path / "mine.toml").about == "x"
