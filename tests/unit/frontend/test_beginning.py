"""Requests that begin from a picture: what they may say, and at which size they are drawn."""

import math

import grpc
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collodion.frontend import convert
from collodion.frontend.beginning import begun, fitting
from collodion.frontend.uploads import Upload
from collodion.v1 import job_pb2
from tests.unit.frontend.asking import ARTIST, CATALOGUE, MODEL, parameters, refused, spec, violations

PICTURE = b"any bytes: what is in them is looked into later"
DEGRADE = job_pb2.DEADLINE_POLICY_DEGRADE


def wrong(job=None, **fields) -> dict[str, str]:
    error = refused(parameters={"model": "artist", **fields}, **(job or {}))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    return violations(error)


def test_a_picture_to_begin_from_has_a_default_strength() -> None:
    made = parameters(model="artist", init_image=PICTURE, steps=20)
    assert (made.strength, made.steps_run) == (0.8, 16)
    assert parameters(model="artist", steps=20).strength == 1.0


@pytest.mark.parametrize(("steps", "strength", "run"), [(10, 0.7, 7), (50, 0.1, 5), (20, 1.0, 20), (3, 0.34, 1)])
def test_a_strength_leaves_as_many_steps_as_diffusers_would(steps, strength, run) -> None:
    made = parameters(model="artist", init_image=PICTURE, steps=steps, strength=strength)
    assert made.strength == strength  # though it came as a number of 32 bits
    assert made.steps_run == int(steps * strength) == run


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.001, math.nan, math.inf])
def test_a_strength_out_of_its_range_is_named(strength) -> None:
    assert list(wrong(init_image=PICTURE, strength=strength)) == ["strength"]


def test_at_least_one_step_has_to_be_left_to_run() -> None:
    said = wrong(init_image=PICTURE, strength=0.1, steps=9)
    assert said == {"strength": "leaves none of 9 steps to run; ask for at least 10 steps, or for more strength"}
    assert parameters(model="artist", init_image=PICTURE, strength=0.1, steps=10).steps_run == 1


def test_of_the_fewest_steps_that_may_be_granted_one_has_to_be_left_too() -> None:
    asked = {"model": "artist", "init_image": PICTURE, "strength": 0.1, "steps": 12}
    job = {"deadline_policy": DEGRADE, "min_steps": 9}
    assert violations(refused(parameters=asked, **job)).keys() == {"job.min_steps"}
    assert spec(parameters=asked, min_steps=9).min_steps == 9  # only DEGRADE leaves out steps
    assert spec(parameters=asked, deadline_policy=DEGRADE, min_steps=10).min_steps == 10
    assert spec(parameters=asked, deadline_policy=DEGRADE).min_steps == 10
    assert spec(parameters={**asked, "strength": 0.9}, deadline_policy=DEGRADE).min_steps == 6


@pytest.mark.parametrize("field", ["init_image", "mask_image"])
def test_a_picture_that_is_too_long_is_told_by_its_size(field) -> None:
    asked = {"init_image": PICTURE, field: bytes(16 * 1024 * 1024 + 200_000)}
    assert wrong(**asked) == {field: "has 16.2 MiB; at most 16"}


def test_what_belongs_to_a_picture_needs_one() -> None:
    assert wrong(mask_image=PICTURE, strength=0.5) == {"mask_image": "needs init_image", "strength": "needs init_image"}


def test_an_echo_is_not_a_picture() -> None:
    said = wrong(init_image_sha256="5e1f", mask_image_sha256="5e1f")
    assert said["init_image_sha256"] == "is set by the server; send the picture itself, as init_image"
    assert said.keys() == {"init_image_sha256", "mask_image_sha256"}


def test_a_model_says_what_it_does_not_take() -> None:
    asked = {"init_image": PICTURE, "mask_image": PICTURE}
    assert violations(refused(parameters=asked)) == {"init_image": "model shapes begins from noise only"}
    unmasked = msgspec.structs.replace(ARTIST, masks=False)
    catalogue = msgspec.structs.replace(CATALOGUE, models=((unmasked, 1),))
    error = refused(catalogue=catalogue, parameters={"model": "artist", **asked})
    assert violations(error) == {"mask_image": "model artist takes no masks"}


def test_all_of_it_is_told_at_once() -> None:
    asked = {"strength": 7, "steps": 99, "loras": [{}], "quality": 101, "init_image": bytes(17 * 1024 * 1024)}
    assert wrong(**asked).keys() == {"strength", "steps", "loras[0].name", "quality", "init_image"}


# ------------------------------------------------------------ once the pictures are stored


def test_a_job_begins_from_what_is_stored_and_the_echo_says_its_sha256() -> None:
    asked = job_pb2.Parameters(model="artist", init_image=PICTURE, mask_image=PICTURE, strength=0.7)
    made = begun(
        spec(parameters=asked), asked, ARTIST, Upload("uploads/a.png", 256, 128), Upload("uploads/m.png", 8, 8)
    )
    assert (made.parameters.init_image, made.parameters.mask_image) == ("uploads/a.png", "uploads/m.png")
    assert (made.parameters.width, made.parameters.height) == (256, 128)
    echoed = convert.parameters_proto(made.parameters)
    assert (echoed.init_image, echoed.init_image_sha256, echoed.mask_image_sha256) == (b"", "a", "m")
    assert echoed.strength == pytest.approx(0.7)
    assert echoed.HasField("strength")


def test_a_job_without_a_picture_echoes_no_strength() -> None:
    echoed = convert.parameters_proto(parameters())
    assert not echoed.HasField("strength")
    assert echoed.init_image_sha256 == ""


@pytest.mark.parametrize(
    ("picture", "given", "size"),
    [
        ((256, 128), (0, 0), (256, 128)),  # its own
        ((250, 131), (0, 0), (248, 128)),  # rounded
        ((4000, 3000), (0, 0), (512, 384)),  # made smaller in its proportions
        ((32, 48), (0, 0), (64, 96)),  # made larger
        ((1000, 10), (0, 0), (512, 64)),  # as near as can be
        ((10, 1000), (0, 0), (64, 512)),
        ((1, 1), (0, 0), (64, 64)),
        ((1000, 500), (256, 0), (256, 128)),  # one side decides the other
        ((1000, 500), (0, 256), (512, 256)),
        ((1000, 500), (0, 400), (512, 400)),
        ((1000, 500), (64, 512), (64, 512)),
    ],
)
def test_without_a_size_of_its_own_a_request_is_drawn_at_the_pictures(picture, given, size) -> None:
    assert fitting(picture, MODEL, *given) == size


@given(
    picture=st.tuples(st.integers(1, 10**5), st.integers(1, 10**5)),
    given=st.tuples(st.sampled_from([0, 64, 128, 512]), st.sampled_from([0, 64, 128, 512])),
    bounds=st.tuples(st.integers(1, 100), st.integers(200, 2048), st.sampled_from([1, 8, 16, 64])),
)
def test_any_picture_is_drawn_at_a_size_that_the_model_can_draw(picture, given, bounds) -> None:
    least, most, multiple = bounds
    info = msgspec.structs.replace(MODEL, min_size=least, max_size=most, size_multiple=multiple)
    for asked, side in zip(given, fitting(picture, info, *given), strict=True):
        assert side == asked or (least <= side <= most and side % multiple == 0)


@given(picture=st.tuples(st.integers(100, 5_000), st.integers(100, 5_000)))
def test_a_picture_keeps_its_proportions_where_the_bounds_allow_it(picture) -> None:
    across, down = picture
    width, height = fitting(picture, MODEL)
    if min(width, height) > 64:
        assert abs(width / height - across / down) < 0.1 * across / down
