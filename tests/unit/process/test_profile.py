"""Files of profiles: what is read is what was written, and what is wrong is said."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collodion.process.config import ConfigError
from collodion.process.profile import Profile, read_profiles, write_profiles

PUBLISHED = {
    "about": "Somebody else's.",
    "unit": "ms",
    "profiles": {
        "h100-sd15-512": {"clip": [10.7, 11.1], "unet": [26.4, 31.9, 41.3], "vae": [26.0, 44.0], "safety": [40.0]}
    },
}
OURS = Profile(
    name="gpu-sd15-512",
    lanes={"encode": {1: 0.0107}, "step": {1: 0.0264, 4: 0.0496}, "decode": {1: 0.026, 2: 0.044}},
    key="sd15/512x512",
    device_kind="GPU",
    rows=2,
    store_s=0.05,
    spread={"step": 0.02},
    versions={"torch": "2.13"},
)


def written(folder: Path, said: Any) -> Path:
    path = folder / "profile.json"
    path.write_text(said if isinstance(said, str) else json.dumps(said))
    return path


def test_a_published_file_is_read_batch_by_batch(tmp_path: Path) -> None:
    (profile,) = read_profiles(written(tmp_path, PUBLISHED)).values()
    assert profile.name == "h100-sd15-512"
    assert profile.lanes["step"] == pytest.approx({1: 0.0264, 2: 0.0319, 3: 0.0413})
    assert profile.lanes["encode"] == pytest.approx({1: 0.0107, 2: 0.0111})
    assert set(profile.lanes) == {"encode", "step", "decode"}
    assert (profile.key, profile.device_kind, profile.rows, profile.store_s) == ("", "", 2, None)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "made" / "profile.json"
    write_profiles(path, [OURS])
    assert read_profiles(path) == {OURS.name: OURS}


def test_between_measured_batches_a_file_is_filled_so_that_others_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    write_profiles(path, [OURS])
    entry = json.loads(path.read_text())["profiles"][OURS.name]
    assert entry["unet"] == pytest.approx([26.4, 34.1333, 41.8667, 49.6])
    assert entry["measured"] == {"unet": [1, 4]}


def test_what_else_is_in_the_file_stays(tmp_path: Path) -> None:
    path = written(tmp_path, PUBLISHED)
    write_profiles(path, [OURS])
    said = json.loads(path.read_text())
    assert said["about"] == "Somebody else's."
    assert said["profiles"]["h100-sd15-512"] == PUBLISHED["profiles"]["h100-sd15-512"]  # type: ignore[index]
    assert list(read_profiles(path)) == ["h100-sd15-512", OURS.name]


def test_a_file_that_is_not_one_of_profiles_is_not_overwritten(tmp_path: Path) -> None:
    path = written(tmp_path, "dear diary")
    with pytest.raises(ConfigError):
        write_profiles(path, [OURS])
    assert path.read_text() == "dear diary"
    assert list(tmp_path.iterdir()) == [path]


@given(
    lanes=st.fixed_dictionaries(
        {"step": st.dictionaries(st.integers(1, 64), st.floats(1e-6, 100), min_size=1)},
        optional={"encode": st.dictionaries(st.integers(1, 8), st.floats(1e-6, 100), min_size=1)},
    )
)
def test_every_measurement_comes_back(tmp_path_factory: pytest.TempPathFactory, lanes: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("profile") / "profile.json"
    write_profiles(path, [Profile("p", lanes)])
    read = read_profiles(path)["p"].lanes
    assert set(read) == set(lanes)
    for lane, costs in lanes.items():
        assert read[lane] == pytest.approx(costs, rel=1e-5)


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("{", "is not JSON"),
        ("[]", "is no file of profiles"),
        ({"unit": "ms"}, "is no file of profiles"),
        ({"unit": "ms", "profiles": {}}, "is no file of profiles"),
        ({"unit": "s", "profiles": {"p": {"unet": [1]}}}, 'the unit has to be ms, and is "s"'),
        ({"profiles": {"p": {"unet": [1]}}}, "the unit has to be ms, and is null"),
        ({"unit": "ms", "profiles": {"p": []}}, "profile p is not an object"),
        ({"unit": "ms", "profiles": {"p": {"vae": [1]}}}, "profile p lacks the list `unet`"),
        ({"unit": "ms", "profiles": {"p": {"unet": []}}}, "unet is not a list of 1 to 4096 numbers"),
        ({"unit": "ms", "profiles": {"p": {"unet": {"1": 2}}}}, "unet is not a list"),
        ({"unit": "ms", "profiles": {"p": {"unet": [1, 0]}}}, "unet at batch 2: 0 is not a number of milliseconds"),
        ({"unit": "ms", "profiles": {"p": {"unet": [-1]}}}, "unet at batch 1: -1"),
        ({"unit": "ms", "profiles": {"p": {"unet": [True]}}}, "unet at batch 1: true"),
        ({"unit": "ms", "profiles": {"p": {"unet": ["1"]}}}, 'unet at batch 1: "1"'),
        ('{"unit": "ms", "profiles": {"p": {"unet": [NaN]}}}', "unet at batch 1: NaN"),
        ('{"unit": "ms", "profiles": {"p": {"unet": [1e300]}}}', "unet at batch 1: 1e+300"),
        ({"unit": "ms", "profiles": {"p": {"unet": [1], "key": "sd15"}}}, "key 'sd15' is not MODEL/WIDTHxHEIGHT"),
        ({"unit": "ms", "profiles": {"p": {"unet": [1], "key": 5}}}, "key 5 is not text"),
        ({"unit": "ms", "profiles": {"p": {"unet": [1], "rows": 3}}}, "rows 3 is neither 1 nor 2"),
        ({"unit": "ms", "profiles": {"p": {"unet": [1], "store": -1}}}, "store: -1"),
        ({"unit": "ms", "profiles": {"p": {"unet": [1], "measured": {"unet": [2]}}}}, "measured unet"),
        ({"unit": "ms", "profiles": {"p": {"unet": [1], "measured": {"unet": [[1]]}}}}, "measured unet"),
        ({"unit": "ms", "profiles": {"p": {"unet": [1], "measured": []}}}, "measured is not an object"),
        ({"unit": "ms", "profiles": {"p": {"unet": [1], "spread": {"unet": 2}}}}, "spread unet = 2"),
        ({"unit": "ms", "profiles": {"p": {"unet": [1], "spread": {"cake": 0}}}}, "spread cake = 0"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(tmp_path: Path, said: Any, complaint: str) -> None:
    path = written(tmp_path, said)
    with pytest.raises(ConfigError) as caught:
        read_profiles(path)
    assert str(caught.value).startswith(str(path))
    assert complaint in str(caught.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_profiles(tmp_path / "nothing.json")
