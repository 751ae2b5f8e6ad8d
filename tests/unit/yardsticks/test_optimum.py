"""The exact optimum: what CP-SAT finds, beside what trying everything finds."""

import random

import pytest
from exhaustive import KEY, instance_of, most_on_time

from simulation.instance import Device, Instance, KeyCosts, Request
from yardsticks.optimum import optimum_of
from yardsticks.simple import simple_bound
from yardsticks.timed import timed_bound
from yardsticks.windows import groups_of, windows_of

COSTS = KeyCosts(encode=(0.2, 0.2), step=(1.0, 1.25, 1.7), decode=(0.5, 0.7))
LIMIT_S = 60.0


def drawn(seed: int, jobs: int = 4, online: bool = True) -> Instance:
    """Jobs that hinder each other, on a device whose costs need not be monotone."""
    chance = random.Random(seed)
    step = [chance.uniform(0.8, 1.2)]
    step += [step[0] * chance.uniform(0.9, 1.4), step[0] * chance.uniform(1.2, 2.2)]
    one = chance.uniform(0.2, 0.8)
    costs = KeyCosts(encode=(0.1, 0.1), step=tuple(step), decode=(one, one * chance.uniform(1.2, 1.8)))
    requests = []
    for _ in range(jobs):
        release = chance.uniform(0.0, 4.0) if online else 0.0
        evaluations = chance.randint(1, 4)
        alone = 0.1 + evaluations * step[0] + one
        deadline = release + alone * chance.uniform(1.05, 2.0)
        requests.append(Request(release, deadline, KEY, evaluations, weight=float(chance.randint(1, 2))))
    return instance_of(requests, costs)


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_it_is_what_trying_everything_finds(seed: int, online: bool) -> None:
    instance = drawn(seed, online=online)
    found = optimum_of(instance, LIMIT_S)
    assert found.proven
    assert found.worth == most_on_time(instance)


@pytest.mark.parametrize("seed", range(20, 26))
def test_no_linear_programme_is_below_it(seed: int) -> None:
    instance = drawn(seed)
    groups = groups_of(instance.devices)
    windows, weights = windows_of(instance, groups), [each.weight for each in instance.requests]
    timed = timed_bound(windows, groups, weights)
    coarse = timed_bound(windows, groups, weights, budget=len(windows))
    assert most_on_time(instance) <= timed <= coarse + 1e-4
    assert coarse <= simple_bound(windows, groups, weights) + 1e-4


def test_jobs_that_ride_together_are_found() -> None:
    together = [Request(0.0, 0.2 + 2 * 1.7 + 0.5 + 0.7, KEY, 2) for _ in range(3)]
    assert optimum_of(instance_of(together, COSTS), LIMIT_S).worth == 3


def test_a_moment_less_is_a_job_less() -> None:
    together = [Request(0.0, 0.2 + 2 * 1.7 + 0.5 + 0.7 - 0.01, KEY, 2) for _ in range(3)]
    found = optimum_of(instance_of(together, COSTS), LIMIT_S)
    assert found.proven
    assert found.worth == 2


def test_all_images_of_a_job_count_to_its_end() -> None:
    # Both images share every batch, and their decode is one.
    alone = 0.2 + 2 * 1.25 + 0.7
    assert optimum_of(instance_of([Request(0.0, alone, KEY, 2, images=2)], COSTS), LIMIT_S).worth == 1
    assert optimum_of(instance_of([Request(0.0, alone - 0.01, KEY, 2, images=2)], COSTS), LIMIT_S).worth == 0


def test_the_heavier_job_is_preferred() -> None:
    hurried = [Request(0.0, 2.8, KEY, 2, weight=1.0), Request(0.0, 2.8, KEY, 2, weight=3.0)]
    found = optimum_of(instance_of(hurried, COSTS), LIMIT_S)
    assert (found.worth, found.jobs) == (3.0, (1,))


def test_a_later_job_is_foreseen() -> None:
    # The early one alone would be possible, and would make the heavy one that is still to come late.
    requests = [Request(0.0, 4.3, KEY, 3), Request(1.0, 3.8, KEY, 2, weight=2.0)]
    instance = instance_of(requests, COSTS, max_batch=1)
    assert optimum_of(instance, LIMIT_S).worth == most_on_time(instance) == 2.0


def test_without_time_for_the_solver_the_optimum_stays_open() -> None:
    found = optimum_of(drawn(3, jobs=6), 0.0)
    assert found.worth <= found.most
    assert found.judged > 0


def test_several_devices_are_refused() -> None:
    instance = instance_of([Request(0.0, 9.0, KEY, 1)], COSTS)
    twins = Instance(instance.requests, (instance.devices[0], Device("other", "kind", {KEY: COSTS}, 3)))
    with pytest.raises(ValueError, match="one device"):
        optimum_of(twins, LIMIT_S)
