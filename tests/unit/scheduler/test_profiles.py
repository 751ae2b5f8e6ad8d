"""The setting `profiles`: which files the cost model begins with, and for what."""

import dataclasses
from pathlib import Path

import pytest

from collodion.process.config import ConfigError
from collodion.process.profile import Profile, write_profiles
from collodion.scheduler.cost_model import DECODE, ENCODE, STEP, STORE, CostModel
from collodion.scheduler.profiles import prime

KEY = "sd15/512x512"
FOREIGN = Profile("h100-sd15-512", {"encode": {1: 0.01}, "step": {1: 0.026, 2: 0.032}, "decode": {1: 0.03}})
OURS = dataclasses.replace(FOREIGN, name="ours", key=KEY, device_kind="H100", store_s=0.2, spread={"step": 0.05})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "profile.json"
    write_profiles(path, [FOREIGN, OURS])
    return path


def primed(*settings: str) -> CostModel:
    model = CostModel()
    prime(model, settings)
    return model


def test_a_file_gives_every_profile_that_says_for_what_it_is(file: Path) -> None:
    model = primed(str(file))
    assert [model.seconds("H100", lane, KEY, 1) for lane in (ENCODE, DECODE, STORE)] == [0.01, 0.03, 0.2]
    assert model.seconds("other", DECODE, KEY, 1) is None
    assert 0.0 < model.margin("H100", KEY) < 0.05, "what the spread demands"


def test_a_step_is_counted_in_rows_of_which_a_guided_image_has_two(file: Path) -> None:
    model = primed(str(file))
    assert model.seconds("H100", STEP, KEY, 2) == pytest.approx(0.026)
    assert model.seconds("H100", STEP, KEY, 4) == pytest.approx(0.032)
    assert model.seconds("H100", STEP, KEY, 3) == pytest.approx(0.029)


def test_one_that_says_nothing_is_told_for_what_it_is(file: Path) -> None:
    model = primed(f"{file}:h100-sd15-512=mine/512x512")
    assert model.seconds("any", DECODE, "mine/512x512", 1) == 0.03
    assert model.margin("any", "mine/512x512") == 0.0
    model = primed(f"{file}:h100-sd15-512=mine/512x512@cpu: Intel(R) @ 2 GHz")
    assert model.seconds("any", DECODE, "mine/512x512", 1) is None
    assert model.seconds("cpu: Intel(R) @ 2 GHz", DECODE, "mine/512x512", 1) == 0.03


def test_a_path_may_hold_colons(tmp_path: Path) -> None:
    path = tmp_path / "a:b" / "profile.json"
    write_profiles(path, [FOREIGN, OURS])
    assert primed(str(path)).seconds("H100", DECODE, KEY, 1) == 0.03
    assert primed(f"{path}:ours={KEY}@X").seconds("X", DECODE, KEY, 1) == 0.03


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("{folder}/nothing.json", "No such file"),
        ("{file}:nobody=sd15/512x512", "has no profile 'nobody', but h100-sd15-512, ours"),
        ("{file}:ours=sd15", "'sd15' in .* is not MODEL/WIDTHxHEIGHT"),
        ("{foreign}", "none in .* says for which model and size it is"),
    ],
)
def test_what_cannot_be_used_is_said(file: Path, tmp_path: Path, setting: str, complaint: str) -> None:
    foreign = tmp_path / "foreign.json"
    write_profiles(foreign, [FOREIGN])
    with pytest.raises(ConfigError, match=complaint):
        primed(setting.format(file=file, folder=tmp_path, foreign=foreign))
