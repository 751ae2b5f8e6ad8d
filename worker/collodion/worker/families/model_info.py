"""What a model offers, as clients are told; made from its configurations, without its weights."""

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from collodion.wire.jobs import ModelInfo, RefusedSampler
from collodion.worker.families.architecture import Architecture, Configs
from collodion.worker.optimize.plan import Plan
from collodion.worker.optimize.precision import name_of
from collodion.worker.optimize.wishes import Switch
from collodion.worker.registry import ModelUnusable
from collodion.worker.sampling.catalog import MAX_STEPS, SAMPLERS, SamplerRefused
from collodion.worker.sampling.counting import COUNTED_AT, line_of
from collodion.worker.sampling.probing import canonical, probe
from collodion.worker.sampling.reference import Walk, build
from collodion.worker.sampling.timetable import Timetable

_CONFIGURATIONS = 256  # of schedulers, remembered
_Samplers = tuple[dict[str, tuple[int, int]], tuple[RefusedSampler, ...]]


def describe(
    name: str,
    architecture: type[Architecture],
    configs: Configs,
    own: Mapping[str, Any],
    plan: Plan,
) -> ModelInfo:
    """Probes every sampler once, which takes about a second the first time for a scheduler's configuration.

    own: what its user says of it in a file beside it (`collodion.worker.registry.sidecars`); the rest is its architecture's. Raises
    ModelUnusable if no sampler suits, or one of the plan's sizes does not; LookupError, TypeError or ValueError if the architecture does
    not run it.
    """
    facts = architecture.facts(configs)
    steps = int(own.get("default_steps", facts.steps))
    evaluations, refused = samplers_of(steps, configs["scheduler"], facts.timetable)
    samplers = tuple(evaluations)
    if not samplers:
        raise ModelUnusable(f"none of our samplers suits the model {name}: {refused[0].reason}")
    sampler = own.get("default_sampler", facts.sampler)
    width, height = facts.native
    largest = max(width, height) * 2
    info = ModelInfo(
        name=name,
        family=architecture.family,
        native_width=width,
        native_height=height,
        min_size=_rounded(min(width, height) // 4, facts.multiple),
        max_size=_rounded(min(largest, facts.most_pixels or largest), facts.multiple),
        size_multiple=facts.multiple,
        default_steps=steps,
        max_steps=MAX_STEPS,
        default_sampler=sampler if sampler in samplers else samplers[0],
        samplers=samplers,
        refused_samplers=refused,
        default_guidance_scale=own.get("default_guidance_scale", facts.guidance_scale),
        max_prompt_tokens=facts.text_tokens,
        dtype=name_of(plan.dtype),
        license=own.get("license", ""),
        guided_rows=facts.guided_rows,
        evaluations={name: line for name, line in evaluations.items() if line != (1, 0)},
        base=facts.base,
        init_images=facts.init_images,
        masks=facts.masks,
        loras=plan.loras,
        weighted_prompts=architecture.weighted_prompts,
        step_cache=architecture.step_cache and plan.step_cache is not Switch.OFF,
    )
    _check_sizes(info, plan.sizes)
    return info


def samplers_of(steps: int, config: Mapping[str, Any], timetable: Callable[[int], Timetable]) -> _Samplers:
    """Those offered, each with its model calls as (per step, more in all), and those refused. Most models of a directory have few
    configurations of schedulers between them: each is looked into once."""
    timetables = tuple((count, timetable(count)) for count in dict.fromkeys((steps, *COUNTED_AT)))
    return _samplers(steps, canonical(config), timetables)


@functools.lru_cache(maxsize=_CONFIGURATIONS)
def _samplers(steps: int, config_json: str, timetables: tuple[tuple[int, Timetable], ...]) -> _Samplers:
    config, timetable = json.loads(config_json), dict(timetables)
    offered, refused = {}, []
    for sampler in SAMPLERS:
        try:
            probe(sampler, steps, config, timetable=timetable[steps])
            offered[sampler] = _calls(sampler, config, timetable)
        except SamplerRefused as refusal:
            refused.append(RefusedSampler(name=sampler, reason=refusal.reason))
    return offered, tuple(refused)


def _calls(sampler: str, config: Mapping[str, Any], timetable: Mapping[int, Timetable]) -> tuple[int, int]:
    """Read off the timesteps that its scheduler sets, which takes a millisecond; a probe may take hundreds."""
    scheduler = build(sampler, config)
    return line_of(sampler, lambda steps: len(Walk(sampler, steps, scheduler, timetable=timetable[steps])))


def _check_sizes(info: ModelInfo, sizes: Iterable[tuple[int, int]]) -> None:
    for size in sizes:
        if any(side % info.size_multiple or not info.min_size <= side <= info.max_size for side in size):
            sides = f"multiples of {info.size_multiple} from {info.min_size} to {info.max_size}"
            raise ModelUnusable(
                f"the model {info.name}: optimize: sizes has {size[0]}x{size[1]}, but its sides are {sides}"
            )


def _rounded(pixels: int, multiple: int) -> int:
    return max(multiple, pixels // multiple * multiple)
