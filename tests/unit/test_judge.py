"""The judge of pictures: it passes what was drawn to a scene and rejects what was drawn to another."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.shapes.captions import SIZE_WORDS, caption, roughened
from models.shapes.draw import BACKGROUNDS, COLOURS, SHAPES, SIDE, Scene, Thing, draw, sample
from models.shapes.judge import look, shows

SEEDS = st.integers(0, 2**32 - 1)
BLUE_STAR = Thing("star", "blue")


def drawn(scene: Scene, seed: int = 0) -> np.ndarray:
    return draw(scene, np.random.default_rng(seed))[0]


def random_scene(seed: int) -> Scene:
    return sample(np.random.default_rng(seed), held_out=bool(seed % 2))


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_a_true_picture_of_a_single_thing_passes(seed: int) -> None:
    scene = random_scene(seed)
    scene = replace(scene, things=scene.things[:1])
    assert shows(drawn(scene, seed), scene)


def test_nearly_every_true_picture_passes() -> None:
    """Things that touch are seen as one, so a few of several things are missed."""
    scenes = [random_scene(seed) for seed in range(200)]
    assert sum(shows(drawn(scene, seed), scene) for seed, scene in enumerate(scenes)) >= 197


@pytest.mark.parametrize("size", [None, "small", "large"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_told_from_the_others_at_every_size(shape: str, size: str | None) -> None:
    (seen,) = look(drawn(Scene((Thing(shape, "green"),), size))).parts
    assert (seen.thing, seen.size) == (Thing(shape, "green"), size)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_colour_is_named_on_every_background(colour: str, background: str) -> None:
    if colour == background:
        return
    sight = look(drawn(Scene((Thing("cross", colour),), None, background)))
    assert (sight.background, [seen.thing.colour for seen in sight.parts]) == (background, [colour])


@pytest.mark.parametrize(
    "wrong",
    [
        Scene((Thing("cross", "blue"),), "large", "yellow"),
        Scene((Thing("star", "purple"),), "large", "yellow"),
        Scene((BLUE_STAR,), "small", "yellow"),
        Scene((BLUE_STAR,), "large", "red"),
        Scene((BLUE_STAR, BLUE_STAR), None, "yellow"),
        Scene((BLUE_STAR, Thing("ring", "red")), None, "yellow"),
    ],
    ids=["shape", "colour", "size", "background", "number", "a thing too many"],
)
def test_one_wrong_attribute_is_enough_to_fail(wrong: Scene) -> None:
    assert not shows(drawn(wrong), Scene((BLUE_STAR,), "large", "yellow"))


def test_colours_exchanged_between_two_things_fail() -> None:
    asked = Scene((Thing("circle", "red"), Thing("square", "blue")))
    exchanged = Scene((Thing("circle", "blue"), Thing("square", "red")))
    assert not shows(drawn(exchanged), asked)


def test_the_order_of_two_things_is_not_judged() -> None:
    asked = Scene((Thing("circle", "red"), Thing("square", "blue")))
    assert shows(drawn(replace(asked, things=asked.things[::-1])), asked)


def test_a_blob_has_no_shape() -> None:
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    picture = np.full((SIDE, SIDE, 3), 255, np.uint8)
    picture[(abs(x - 12) < 9) & (abs(y - 10 - x // 3) < 3) | (abs(x - 18) < 2)] = COLOURS["red"]
    assert not any(shows(picture, Scene((Thing(shape, "red"),))) for shape in SHAPES)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_picture_shows_nothing(background: str) -> None:
    picture = np.full((SIDE, SIDE, 3), COLOURS[background], np.uint8)
    assert look(picture).parts == ()
    assert not shows(picture, Scene((BLUE_STAR,)))


def test_noise_shows_nothing_that_was_asked_for() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    assert not any(shows(picture, random_scene(seed)) for seed in range(5))


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_a_caption_names_all_that_its_scene_states(seed: int) -> None:
    scene = random_scene(seed)
    words = caption(scene, np.random.default_rng(seed))
    stated = [word for thing in scene.things for word in (thing.shape, thing.colour)] + [scene.background or ""]
    assert all(word in words for word in stated)
    assert any(word in words for word in SIZE_WORDS[scene.size]) if scene.size else True


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_roughening_keeps_the_caption_whole(seed: int) -> None:
    words = caption(random_scene(seed), np.random.default_rng(seed))
    assert words in roughened(words, np.random.default_rng(seed))


def test_about_one_scene_in_ten_is_held_out() -> None:
    rng = np.random.default_rng(0)
    scenes = [Scene((Thing(shape, colour),), size, ground) for shape in SHAPES for colour in COLOURS
              for size in (None, "small", "large") for ground in (None, *BACKGROUNDS)]  # fmt: skip
    assert 0.07 < sum(scene.held_out for scene in scenes) / len(scenes) < 0.13
    assert not any(sample(rng, held_out=False).held_out for _ in range(200))
