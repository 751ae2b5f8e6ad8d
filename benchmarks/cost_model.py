"""What the scheduler's cost model makes of noise, bias and drift: how far its costs are off, what it allows for, and what of that is kept.

Reports come as from one worker, thirty evaluations to a decode, batch sizes on a random walk. At every seventh call the sums of the next
calls are predicted; one is kept if it takes no longer than the prediction and its allowance. These sums have nothing to spare besides.

    python benchmarks/cost_model.py --profile ../shared/data/profiles/sd15-stage-latency.json:h100-sd15-512 --json result.json
"""

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
from collodion.process.profile import read_profiles
from collodion.scheduler.cost_model import DECODE, STEP, CostModel

DEVICE, KEY = "device", "model/512x512"
AHEAD = (10, 32, 100)
LINE = "{what:44s} off {off:5.2f} %  allowed {allowed}  kept {kept}  {us:4.1f} us a report"

Lanes = dict[str, dict[int, float]]


@dataclass(frozen=True)
class Condition:
    """What calls really take, as a factor of the profile's cost; `profiled`: the model begins with the profile."""

    what: str
    noise: float = 0.0
    factor: Callable[[int], float] = lambda _: 1.0
    profiled: bool = True


CONDITIONS = (
    Condition("exact"),
    Condition("exact, no profile", profiled=False),
    Condition("3 % noise a call", 0.03),
    Condition("10 % noise a call", 0.1),
    Condition("10 % noise, no profile", 0.1, profiled=False),
    Condition("10 % bias", 0.0, lambda _: 1.1),
    Condition("10 % bias, 10 % noise", 0.1, lambda _: 1.1),
    Condition("30 % slower over 3,000 calls, 3 % noise", 0.03, lambda call: 1.0 + 0.3 * call / 3000),
    Condition("15 % up and down every 300 calls, 3 % noise", 0.03, lambda call: 1.0 + 0.15 * (call // 300 % 2)),
    Condition("10 % sine of 630 calls, 3 % noise", 0.03, lambda call: 1.0 + 0.1 * math.sin(call / 100)),
)


def main() -> None:
    """Prints a line for each condition, then all figures."""
    parser = common.parser(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--profile", metavar="FILE:NAME", help="costs to begin with (default: 15 ms and 9 ms an image)")
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--young", type=int, default=100, help="calls before sums are predicted (default: 100)")
    parser.add_argument("--seed", type=int, nargs="+", default=list(range(6)))
    arguments = parser.parse_args()
    lanes = _lanes(arguments.profile)
    figures = {}
    for condition in CONDITIONS:
        figures[condition.what] = figure = _measured(condition, lanes, arguments)
        columns = {name: " ".join(f"{figure[name][n]:5.1f}" for n in AHEAD) for name in ("allowed", "kept")}
        print(LINE.format(what=condition.what, off=figure["off"], us=figure["us_a_report"], **columns), flush=True)
    common.report("cost_model", {"ahead": AHEAD, "calls": arguments.calls, "conditions": figures}, arguments.json)


def _lanes(where: str | None) -> Lanes:
    if where is None:
        return {STEP: {b: 0.015 + 0.009 * b for b in range(1, 16)}, DECODE: {b: 0.01 + 0.016 * b for b in range(1, 5)}}
    path, _, name = where.rpartition(":")
    profile = read_profiles(Path(path))[name]
    return {lane: dict(profile.lanes[lane]) for lane in (STEP, DECODE)}


def _measured(condition: Condition, lanes: Lanes, arguments: argparse.Namespace) -> dict[str, Any]:
    """In per cent: what costs are off by (root mean square), what sums are allowed, how many are kept, by calls ahead."""
    off: list[float] = []
    allowed: dict[int, list[float]] = {ahead: [] for ahead in AHEAD}
    kept: dict[int, list[bool]] = {ahead: [] for ahead in AHEAD}
    spent = 0.0
    for seed in arguments.seed:
        model, calls = CostModel(), list(_calls(condition, lanes, arguments.calls, seed))
        if condition.profiled:
            model.load(DEVICE, KEY, lanes)
        for number, (lane, size, seconds) in enumerate(calls):
            if number >= arguments.young and number % 7 == 0:
                true = lanes[lane][size] * condition.factor(number)
                off.append((model.seconds(DEVICE, lane, KEY, size) or 0.0) / true - 1.0)
                for ahead in AHEAD:
                    _predict(model, calls[number : number + ahead], allowed[ahead], kept[ahead], ahead)
            began = time.perf_counter()
            model.learn(DEVICE, lane, KEY, size, seconds)
            spent += time.perf_counter() - began
    return {
        "off": 100 * math.sqrt(statistics.fmean(error * error for error in off)),
        "allowed": {ahead: 100 * statistics.fmean(shares) for ahead, shares in allowed.items()},
        "kept": {ahead: 100 * statistics.fmean(answers) for ahead, answers in kept.items()},
        "us_a_report": 1e6 * spent / (arguments.calls * len(arguments.seed)),
    }


def _calls(condition: Condition, lanes: Lanes, count: int, seed: int) -> Iterator[tuple[str, int, float]]:
    """Lane, size and seconds of each call."""
    rng = random.Random(seed)
    size, most = min(8, max(lanes[STEP])), {lane: max(costs) for lane, costs in lanes.items()}
    for number in range(count):
        if rng.random() < 0.2:
            size = max(1, min(most[STEP], size + rng.choice((-2, -1, 1, 2))))
        lane, batch = (DECODE, min(4, size)) if number % 31 == 30 else (STEP, size)
        noise = max(0.1, rng.gauss(1.0, condition.noise))
        yield lane, batch, lanes[lane][batch] * condition.factor(number) * noise


def _predict(
    model: CostModel, calls: list[tuple[str, int, float]], allowed: list[float], kept: list[bool], ahead: int
) -> None:
    if len(calls) < ahead:
        return
    predicted = sum(model.seconds(DEVICE, lane, KEY, size) or 0.0 for lane, size, _ in calls)
    allowance = model.allowance(DEVICE, KEY).seconds(predicted)
    allowed.append(allowance / predicted if predicted else 0.0)
    kept.append(sum(seconds for *_, seconds in calls) <= predicted + allowance + 1e-9)


if __name__ == "__main__":
    main()
