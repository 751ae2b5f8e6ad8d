"""Wordings of a scene.

Rules of this file: a caption names every attribute that its scene states and no other; every word comes from the tables here.
`roughened` adds what people type besides, so that the model learns to pass over it.
"""

import string

import numpy as np

from models.shapes.draw import Scene, Thing

SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "large": ("large", "large", "big", "huge")}
COUNT_WORDS = {2: ("two", "two", "2"), 3: ("three", "three", "3")}
OPENINGS = ("", "", "", "", "a picture of ", "a drawing of ", "an image of ")
GROUNDS = (
    " on a {} background",
    " on a {} background",
    " on a {} background",
    " on {}",
    ", {} background",
    " in front of a {} background",
)
REQUESTS = ("please draw ", "draw me ", "show me ", "a photo of ", "i want to see ")
ENDINGS = (".", "!", "?", " please", ", please", ", high quality", ", 4k", ", detailed", ", simple", " :)")
JOINTS = (" and ", " and ", " next to ", " beside ", " with ", ", ")


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def _with_article(words: str, rng: np.random.Generator) -> str:
    article = "an" if words[0] in "aeiou" else "a"
    return f"{_pick(rng, (article, article, article, 'one', 'the'))} {words}"


def _one(thing: Thing, size: str | None, rng: np.random.Generator) -> str:
    words = f"{thing.colour} {thing.shape}"
    if size is not None:
        words = f"{_pick(rng, SIZE_WORDS[size])} {words}"
    return words if rng.random() < 0.15 else _with_article(words, rng)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A lower-case wording of the scene, drawn from a few thousand."""
    first = scene.things[0]
    if scene.kind == "several":
        many = len(scene.things)
        subject = f"{_pick(rng, COUNT_WORDS[many])} {first.colour} {_plural(first.shape)}"
    else:
        subject = _pick(rng, JOINTS).join(_one(thing, scene.size, rng) for thing in scene.things)
    ground = "" if scene.background is None else _pick(rng, GROUNDS).format(scene.background)
    return _pick(rng, OPENINGS) + subject + ground


def _babble(rng: np.random.Generator) -> str:
    letters = rng.choice(list(string.ascii_lowercase + string.digits), int(rng.integers(1, 7)))
    return "".join(letters)


def roughened(words: str, rng: np.random.Generator) -> str:
    """The caption, three times in ten with a request before it, punctuation after it, or up to three meaningless words."""
    if rng.random() > 0.3:
        return words
    before = _pick(rng, REQUESTS) if rng.random() < 0.3 else ""
    after = _pick(rng, ENDINGS) if rng.random() < 0.6 else ""
    noise = [_babble(rng) for _ in range(int(rng.integers(4)))] if rng.random() < 0.5 else []
    return " ".join([before + words + after, *noise])
