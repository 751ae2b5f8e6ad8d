"""Storms from seeds: fleets, requests, and what becomes of those who asked.

Drawn by `random`, whose draws are independent: Hypothesis chooses seeds. That found more, by far, than to let it choose every number.
"""

import dataclasses
import random
from collections.abc import Sequence

from hypothesis import strategies as st
from stormy_world import Ask, Happening, Storm

from collodion.scheduler.plans import TRANSIT_S
from collodion.wire.jobs import DeadlinePolicy
from simulation.instance import Device, KeyCosts, Request, standalone_s, work_s

STEADY = ((0.0005, 0.0005),)
"""Every message takes as long as every other."""
ANY_DELAY = ((0.0, 0.0), (0.0005, 0.0005), (0.0, TRANSIT_S), (TRANSIT_S, TRANSIT_S))
REFUSE = (DeadlinePolicy.REFUSE,)
_WISHES = (REFUSE, (DeadlinePolicy.BEST_EFFORT,), tuple(DeadlinePolicy))
_KEYS = ("m/512x512", "m/768x768", "n/512x512")
_MANY_MODELS = ("m/512x512", "n/512x512", "o/512x512", "m/768x768")
_SCALES = (1.05, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0)


def storms(
    *,
    workers: int = 4,
    wishes: Sequence[DeadlinePolicy] = (),
    delays: Sequence[tuple[float, float]] = ANY_DELAY,
    leaving: bool = False,
    deaths: bool = False,
    tenants: int = 3,
    models: bool = False,
) -> st.SearchStrategy[Storm]:
    """Up to `workers` of them. `leaving`: clients cancel, hang up and come back; `deaths`: a worker dies. Without `wishes` any. `models`:
    there are more than the workers have room for."""

    def storm(seed: int) -> Storm:
        chance = random.Random(seed)
        keys = _MANY_MODELS[: chance.choice((2, 3, 4))] if models else _KEYS[: chance.choice((1, 1, 2, 3))]
        devices = _fleet(chance, keys, chance.randint(2 if deaths else 1, workers))
        if models:
            devices = tuple(_crowded(chance, device) for device in devices)
        names = [f"tenant {index}" for index in range(chance.randint(1, tenants))]
        asks = _asks(chance, keys, devices, wishes or chance.choice(_WISHES), names)
        happenings = [each for index, ask in enumerate(asks) if leaving for each in _partings(chance, index, ask)]
        if deaths:
            moment = chance.uniform(0.4, asks[-1].request.release + 1.0)
            happenings.append(Happening(moment, "death", chance.randrange(len(devices))))
        settings = {
            "patience_s": chance.choice((0.5, 5.0, 60.0)),
            "admission_window_s": chance.choice((0.0, 0.002)),
            "grace_s": chance.choice((1.0, 10.0)),
        }
        if models:
            settings |= {"turn_s": chance.choice((0.0, 0.2, 2.0)), "copy_loads": chance.choice((0.5, 4.0))}
        return Storm(
            devices, tuple(asks), tuple(happenings), chance.choice(delays), chance.choice((0.0, 0.0, 0.03)), settings
        )

    return st.integers(0, 2**32).map(storm)


def _fleet(chance: random.Random, keys: Sequence[str], count: int) -> tuple[Device, ...]:
    base_s = chance.choice((0.005, 0.02, 0.05))
    costs = {key: _costs(chance, base_s * (1.0 + 0.7 * index)) for index, key in enumerate(keys)}
    fleet = []
    for index in range(count):
        slower, batch = chance.choice((1.0, 1.0, 2.3)), chance.choice((1, 2, 4, 8))
        encode, decode, resident = chance.choice((1, 2, 8)), chance.choice((1, 2, 4)), chance.choice((3, 8, 256))
        scaled = {key: each.scaled(slower) for key, each in costs.items()}
        # Devices of one kind are primed with what one of them can batch.
        kind = f"kind {slower}/{batch}/{encode}/{decode}"
        fleet.append(Device(f"d{index}", kind, scaled, batch, encode, decode, resident))
    return tuple(fleet)


def _crowded(chance: random.Random, device: Device) -> Device:
    """The device with room for some of its models at a time; each of them alone has room."""
    names = sorted({key.split("/")[0] for key in device.costs})
    sizes = {name: chance.choice((5, 10, 10)) for name in names}
    room = chance.choice((10, 15, 20))
    chance.shuffle(names)
    taken, resident = 0, set()
    for name in names:
        if taken + sizes[name] <= room and chance.random() < 0.7:
            taken += sizes[name]
            resident.add(name)
    return dataclasses.replace(
        device,
        model_bytes=room,
        model_sizes=sizes,
        on_disk=frozenset(names) - resident,
        load_s=chance.choice((0.001, 0.05, 0.5)),
    )


def _costs(chance: random.Random, base_s: float) -> KeyCosts:
    """A batch costs at least as much as a smaller one; what one more costs goes up and down."""

    def table(first_s: float, most: int) -> tuple[float, ...]:
        seconds = [first_s]
        for _ in range(1, most):
            seconds.append(seconds[-1] + first_s * chance.choice((0.0, 0.05, 0.3, 0.6, 1.0)))
        return tuple(seconds)

    encode_s, decode_s = chance.uniform(0.1, 1.0) * base_s, chance.uniform(0.5, 3.0) * base_s
    return KeyCosts(table(encode_s, 4), table(base_s, chance.randint(2, 8)), table(decode_s, 4))


def _asks(
    chance: random.Random,
    keys: Sequence[str],
    devices: Sequence[Device],
    wishes: Sequence[DeadlinePolicy],
    tenants: Sequence[str],
) -> list[Ask]:
    load, bursts = chance.choice((0.5, 1.0, 2.0, 5.0)), chance.choice((0.0, 0.0, 0.7))
    now, asks = 0.5, []
    for _ in range(chance.randint(2, 25)):
        key, steps = chance.choice(keys), chance.choice((1, 2, 4, 10, 10, 25, 40))
        images = chance.choice((1, 1, 1, 2, 3, 8))
        slo_s = standalone_s(key, steps, images, devices) * chance.choice(_SCALES)
        tier = chance.choice(("interactive", "standard", "standard", "batch"))
        given = wishes == REFUSE or chance.random() < (0.4 if tier == "batch" else 0.8)
        deadline = now + slo_s if given else float("inf")
        request = Request(now, deadline, key, steps, images, 1.0, chance.choice(tenants), tier)
        least = chance.choice((1, 1, max(1, steps // 2)))
        asks.append(Ask(request, chance.choice(wishes), least, chance.random() < 0.5, given))
        if chance.random() >= bursts:
            work = min(work_s(key, steps, images, device) for device in devices)
            now += chance.expovariate(load * len(devices) / work)
    return asks


def _partings(chance: random.Random, index: int, ask: Ask) -> list[Happening]:
    moment = ask.request.release + chance.random() * min(ask.request.slo_s or 2.0, 2.0)
    if chance.random() < 0.15:
        return [Happening(moment, "cancel", index)]
    if not ask.watched or chance.random() < 0.7:
        return []
    left = Happening(moment, "leave", index)
    back = Happening(moment + chance.uniform(0.0, 3.0), "come_back", index)
    return [left, back] if chance.random() < 0.7 else [left]
