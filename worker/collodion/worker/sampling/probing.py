"""`probe`: the table of a sampler, made from the unmodified diffusers scheduler, checked against it, and kept.

A table is handed out only after it has drawn what the scheduler draws and computed what it computes, on random data, in
float32, call by call to the end. That is what finds a step that is not linear, whatever the reason. Probing takes
milliseconds (KDPM2 a quarter of a second; LMS, which integrates numerically, 15 ms a step) and belongs off the
device thread.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import torch

from collodion.worker.sampling.catalog import MAX_STEPS, SamplerRefused
from collodion.worker.sampling.noise import NoiseSource
from collodion.worker.sampling.realise import realise
from collodion.worker.sampling.reference import Config, Walk, build
from collodion.worker.sampling.response import measure
from collodion.worker.sampling.table import SamplerTable
from collodion.worker.sampling.timetable import OWN, Timetable
from collodion.worker.sampling.trajectory import Trajectory
from collodion.worker.sampling.update import advance

CACHED_TABLES: Final = 1024
"""Tables kept, the least recently used leaving first; 1 to 30 kB each."""

CHECK_SHAPE: Final = (4, 4, 4)
CHECK_SEED: Final = 20261120
CHECK_TOLERANCE: Final = 1e-4

_Key = tuple[str, int, str, int, Timetable]
_cache: OrderedDict[_Key, SamplerTable] = OrderedDict()
_lock = threading.Lock()


def probe(
    name: str, steps: int, scheduler_config: Config, skipped: int = 0, timetable: Timetable = OWN
) -> SamplerTable:
    """The table of sampler `name` with that many steps for the model with this scheduler configuration.

    skipped: how many of the steps a latent is spared that begins from a picture; the table has the rest. timetable: what the model's
    pipeline would say to the scheduler beside the number of steps. Safe to call from any thread; asking again is a look-up.
    Raises `SamplerRefused` where this sampler cannot be reproduced exactly, or cannot honour the model's noise schedule or the
    number of steps.
    """
    key = (name, steps, canonical(scheduler_config), skipped, timetable)
    with _lock:
        if (known := _cache.get(key)) is not None:
            _cache.move_to_end(key)
            return known
    table = build_table(name, steps, scheduler_config, skipped, timetable)
    with _lock:
        table = _cache.setdefault(key, table)
        _cache.move_to_end(key)
        while len(_cache) > CACHED_TABLES:
            _cache.popitem(last=False)
    return table


def canonical(config: Mapping[str, Any]) -> str:
    """The same text for configurations that say the same."""
    return json.dumps(dict(config), sort_keys=True, default=lambda array: array.tolist())


@torch.no_grad()
def build_table(
    name: str, steps: int, scheduler_config: Config, skipped: int = 0, timetable: Timetable = OWN
) -> SamplerTable:
    """As `probe`, without the cache."""
    if not 1 <= steps <= MAX_STEPS:
        raise SamplerRefused(f"steps must be 1 to {MAX_STEPS}, not {steps}")
    if not 0 <= skipped < steps:
        raise SamplerRefused(
            f"with {skipped} of {steps} steps skipped there is none to run; ask for more strength or steps"
        )
    scheduler = build(name, scheduler_config)
    walk = Walk(name, steps, scheduler, skipped, timetable)
    response = measure(walk)
    table = SamplerTable(
        name=name,
        steps=walk.steps,
        timesteps=tuple(walk.timesteps.tolist()),
        input_scales=response.input_scales,
        step_of=tuple(walk.step_of(call) for call in range(len(walk))),
        matrices=realise(response),
        init_noise_sigma=walk.init_noise_sigma,
        draws=response.draws,
        levels=response.levels,
    )
    _check(table, Walk(name, steps, scheduler, skipped, timetable), picture=bool(skipped))
    return table


def _check(table: SamplerTable, walk: Walk, picture: bool) -> None:
    """Runs table and scheduler side by side, from a picture or from noise. Raises `SamplerRefused` where they differ."""
    generator = torch.Generator().manual_seed(CHECK_SEED)
    outputs = torch.Generator().manual_seed(CHECK_SEED + 1)
    source = NoiseSource(CHECK_SEED, CHECK_SHAPE)
    noise = torch.randn((1, *CHECK_SHAPE), generator=generator)
    clean = torch.randn((1, *CHECK_SHAPE), generator=outputs) if picture else None
    x = noise * walk.init_noise_sigma if clean is None else walk.mix(0, clean, noise)
    row = Trajectory.begin_from(table, source, source.draw("model"), None if clean is None else clean[0])
    for call in range(len(walk)):
        e = torch.randn((1, *CHECK_SHAPE), generator=outputs)
        scaled = walk.scale(call, x)
        _check_close(table, call, table.input_scales[call] * row.latent, scaled[0])
        x = walk.step(call, x, e, generator)
        advance([row], e)
        _check_close(table, call, row.latent, x[0])


def _check_close(table: SamplerTable, call: int, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    error = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6))
    if not error <= CHECK_TOLERANCE:
        reason = (
            f"{table.name} cannot be reproduced exactly for this model: at model call {call + 1} of {len(table)} its table"
            f" is off by {error:.1g} of the latent. Either an option of the scheduler is not linear, or the scheduler loses that"
            " much to rounding itself"
        )
        raise SamplerRefused(reason)
