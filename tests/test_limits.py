import dataclasses
import typing

import pytest

from latentclap import limits
from latentclap.errors import InputError
from latentclap.limits import BETWEEN, FILLED, NAMED, NUMBERS, check_profile, check_values
from latentclap.profiles import Profile, load_profile, names


def fields():
    for section, kind in typing.get_type_hints(Profile).items():
        if dataclasses.is_dataclass(kind):
            yield from ((f"{section}.{key}", hint) for key, hint in typing.get_type_hints(kind).items())


@pytest.mark.parametrize("name", names())
def test_shipped_profiles_pass(name):
    check_profile(load_profile(name))


def test_every_number_and_list_of_a_profile_has_a_limit():
    numbers = {name for name, hint in fields() if hint in (int, float, tuple[int, ...], tuple[float, ...])}
    assert numbers == {name for name in {*NUMBERS, *BETWEEN} if "." in name}
    lists = {name for name, hint in fields() if typing.get_origin(hint) is tuple}
    assert lists == set(FILLED)
    assert set(NAMED) == set(limits._names())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"generate__steps": 5000}, "generate.steps=5000: must be from 1 to 1000"),
        ({"finetune__lr": float("nan")}, "finetune.lr=nan: must be between 0 and 1"),
        ({"data__dev_fraction": 1.0}, "data.dev_fraction=1: must be between 0 and 1"),
        ({"finetune__batch_size": 0}, "finetune.batch_size=0: must be 1 or more"),
        ({"finetune__lam": float("inf")}, "finetune.lam=inf: must be 0 or more"),
        ({"latent_clap__noise_levels": [0, 1000]}, "noise_levels=1000"),
        ({"sweep__seeds": []}, "sweep.seeds is empty"),
        ({"sweep__weightings": ["papr"]}, "sweep.weightings: unknown weighting 'papr'"),
        ({"sweep__readings": ["x0", "x1"]}, "sweep.readings='x1': there are x0"),
        ({"evaluate__seeds": [0, 1, 0]}, "evaluate.seeds: 0 stands there twice"),
        ({"evaluate__clips_per_class": 1}, "evaluate.clips_per_class=1: must be 2 or more"),
        ({"evaluate__embedding": "vggish-dcase"}, "needs evaluate.vggish"),
        ({"evaluate__embedding": "openl4"}, "there are mel-statistics"),
        ({"generate__sampler": "euler"}, "there are ddim"),
    ],
)
def test_bad_values(change, says):
    with pytest.raises(InputError, match=r"^profile quick: ") as stop:
        check_profile(load_profile("quick").override(**change))
    assert says in str(stop.value)


def test_parameters_of_notebooks():
    check_values({"lam": -1.0, "epochs": 0, "seeds": [], "weighting": "step:50", "force": True}, "parameter ")
    for values, says in [
        ({"epochs": -1}, "parameter epochs=-1: must be 0 or more"),
        ({"seeds": [3, 3]}, "parameter seeds: 3 stands there twice"),
        ({"clips_per_class": 1}, "parameter clips_per_class=1: one clip has no interval"),
        ({"lam": float("nan")}, "parameter lam=nan: must be a finite number"),
        ({"reduction": "max"}, "parameter reduction='max': there are mean, sum"),
        ({"weightings": ["step:no"]}, "parameter weightings: weighting 'step:no'"),
    ]:
        with pytest.raises(InputError) as stop:
            check_values(values, "parameter ")
        assert str(stop.value).startswith(says)
