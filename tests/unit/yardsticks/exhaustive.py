"""The optimum of a very small instance by trying everything: what the solver is compared with.

A state is, for each job of one image, how much of it is left: its decode, its evaluations, its encode. Every batch that the device
may run leads to another state, and of two ways into a state the earlier one is enough, as a device can always wait. Nothing is
relaxed here, and nothing clever is done.
"""

import itertools
from collections.abc import Iterator

from simulation.instance import Device, Instance, KeyCosts, Request, seconds

State = tuple[int, ...]

KEY = "m/64x64"


def most_on_time(instance: Instance) -> float:
    """The weights of the best selection of jobs."""
    jobs = range(len(instance.requests))
    every = itertools.chain.from_iterable(itertools.combinations(jobs, count) for count in range(len(jobs) + 1))
    worths = ((sum(instance.requests[job].weight for job in chosen), chosen) for chosen in every)
    return next(worth for worth, chosen in sorted(worths, reverse=True) if possible(instance, chosen))


def possible(instance: Instance, chosen: tuple[int, ...]) -> bool:
    """Whether all of these can be on time on the first device."""
    (device,), requests = instance.devices, [instance.requests[job] for job in chosen]
    # The number of batches that a job is yet to be in: 1 means its decode, all of them mean that it is not encoded.
    start = tuple(request.evaluations + 2 for request in requests)
    soonest: dict[State, float] = {start: 0.0}
    for state in sorted(_below(start), key=sum, reverse=True):
        if state not in soonest:
            continue
        for batch, cost in _batches(state, requests, device):
            begins = max([soonest[state], *(requests[place].release for place in batch)])
            ends = begins + cost
            if any(state[place] == 1 and ends > requests[place].deadline + 1e-9 for place in batch):
                continue
            after = tuple(left - (place in batch) for place, left in enumerate(state))
            soonest[after] = min(ends, soonest.get(after, ends))
    return tuple(0 for _ in start) in soonest


def _below(start: State) -> Iterator[State]:
    return itertools.product(*(range(left + 1) for left in start))


def _batches(state: State, requests: list[Request], device: Device) -> Iterator[tuple[tuple[int, ...], float]]:
    costs = device.costs[KEY]
    lanes: list[list[int]] = [[], [], []]
    for place, left in enumerate(state):
        if left:
            lanes[0 if left == requests[place].evaluations + 2 else 2 if left == 1 else 1].append(place)
    bounds = device.encode_batch, device.max_batch, device.decode_batch
    for members, table, most in zip(lanes, (costs.encode, costs.step, costs.decode), bounds, strict=True):
        for count in range(1, min(most, len(members)) + 1):
            for batch in itertools.combinations(members, count):
                yield batch, seconds(table, count)


def instance_of(requests: list[Request], costs: KeyCosts, max_batch: int = 3) -> Instance:
    """On one device that encodes and decodes two at a time."""
    ordered = tuple(sorted(requests, key=lambda request: request.release))
    return Instance(ordered, (Device("device", "kind", {KEY: costs}, max_batch, encode_batch=2, decode_batch=2),))
