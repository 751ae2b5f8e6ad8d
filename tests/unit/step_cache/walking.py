"""Latents that walk: a few evaluations of a tiny model in which each latent moves on by a little of its output."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import tiny_models
import torch

from collodion.wire.jobs import PromptSyntax
from collodion.worker.families.architecture import Architecture, Rows, Texts, collate, length
from collodion.worker.families.catalog import architecture_of
from collodion.worker.step_cache.reuse import CachedLatent, Reuse, StepCache

EVALUATIONS = 8
Around = Callable[[Sequence[int]], AbstractContextManager[object]]


def alone(_: Sequence[int]) -> AbstractContextManager[object]:
    """Nothing is applied to anybody."""
    return nullcontext()


def architecture_around(pipeline: Any) -> Architecture:
    kind = architecture_of(type(pipeline).__name__)
    assert kind is not None
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return kind(pipeline)


@cache
def architecture(name: str) -> Architecture:
    """A tiny model, always with the same weights."""
    torch.manual_seed(0)
    return architecture_around(tiny_models.MODELS[name]())


def texts_of(model: Architecture, prompts: Sequence[str]) -> list[Texts]:
    """Of a prompt and perhaps a negative one."""
    read = model.read(prompts, PromptSyntax.PLAIN, {}, ())
    return model.encode_prompts(read, lambda *_: nullcontext(), 0)


@dataclass
class Walker:
    """A latent. threshold: of its step cache. stride: how far it walks at each evaluation. evaluations: when it is finished."""

    prompts: tuple[str, ...]
    seed: int = 0
    threshold: float = 0.0
    stride: float = 0.05
    evaluations: int = EVALUATIONS
    size: tuple[int, int] = (64, 64)
    done: int = 0
    latent: torch.Tensor = field(init=False)
    texts: list[Texts] = field(init=False)
    reuse: Reuse | None = None
    reused: list[bool] = field(default_factory=list)
    outputs: list[torch.Tensor] = field(default_factory=list)

    def begin(self, model: Architecture) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        channels, *sides = model.latent_shape(*self.size)
        latent = torch.randn(channels + (5 if model.sees_masks else 0), *sides, generator=generator)
        self.latent = latent.to(model.denoiser.device, model.denoiser.dtype)
        self.texts = texts_of(model, self.prompts)

    @property
    def timestep(self) -> float:
        return 900.0 - 10.0 * self.done


def call_of(walkers: Sequence[Walker], padding: int = 0) -> tuple[Rows, list[tuple[int, ...]]]:
    """Their model call, as a step batch lays it out, and where each one's rows are."""
    texts = [walker.texts for walker in walkers]
    guided = [number for number, ours in enumerate(texts) if len(ours) > 1]
    order = [*range(len(walkers)), *guided]
    each = [*(ours[0] for ours in texts), *(texts[number][1] for number in guided)]
    size = len(order) + padding
    latents = torch.stack([walkers[number].latent for number in order] + [walkers[0].latent] * padding)
    times = torch.tensor([walkers[number].timestep for number in order] + [1.0] * padding)
    guidance = torch.full((size,), 3.5, device=latents.device)
    rows = Rows(latents, times.to(latents.device), collate(each, size), guidance, tuple(map(length, each)))
    places = {number: len(walkers) + place for place, number in enumerate(guided)}
    return rows, [(number, places[number]) if number in places else (number,) for number in range(len(walkers))]


def step(cache: StepCache, walkers: Sequence[Walker], around: Around = alone, padding: int = 0) -> None:
    """One evaluation of all of them."""
    rows, places = call_of(walkers, padding)
    latents = [
        CachedLatent(place, walker.threshold, walker.reuse, walker.done < walker.evaluations - 1)
        for walker, place in zip(walkers, places, strict=True)
    ]
    outputs, kept = cache.predict(rows, latents, around)
    for walker, place, reuse in zip(walkers, places, kept, strict=True):
        output = outputs[list(place)]
        walker.outputs.append(output)
        channels = output.shape[1]
        walker.latent = walker.latent.clone()
        walker.latent[:channels] -= walker.stride * output[0]
        walker.reused.append(reuse is not None and reuse.in_a_row > 0)
        walker.reuse = reuse
        walker.done += 1


def walk(
    model: Architecture,
    walkers: Sequence[Walker],
    around: Callable[[Sequence[Walker]], Around] = lambda _: alone,
    padding: int = 0,
    **options: Any,
) -> None:
    """To the end of each; those that are finished leave. padding: rows of no latent in every call."""
    cache = StepCache(model, **options)
    for walker in walkers:
        walker.begin(model)
    with torch.inference_mode():
        while running := [walker for walker in walkers if walker.done < walker.evaluations]:
            step(cache, running, around(running), padding)


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
