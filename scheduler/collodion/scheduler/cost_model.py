"""What batches cost, on each kind of device and for each batch key, and how far predictions from that are off.

1. Pure: no clock, no file. It learns from reports (`learn`), may begin from a saved profile (`load`), and what was never measured for a
   lane and key on a kind of device is None, never a guess from another; who wants a guess asks for one (`most_at_other_sizes`).
2. `curve` is what planners read: a tuple, the same one until `version` rises.
3. What cannot be a measurement is ignored; memory is bounded: what was not reported for longest makes room.

The parts: `cost_curve` learns one lane, `cost_shape` fills its gaps, `cost_error` makes the margin.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from collodion.scheduler.cost_curve import Curve
from collodion.scheduler.cost_error import Allowance, Errors

STEP = "step"
ENCODE = "encode"
DECODE = "decode"
STORE = "store"

LANES = (STEP, ENCODE, DECODE, STORE)

_SIZE = re.compile(r"/\d+x\d+(?:\+|$)")
_KEYS = 1024
_READ = 16_384  # answers kept while nothing changes: predictions ask the same again and again
_LARGEST = 4096
_LONGEST_S = 86_400.0
_LEAST_S = 1e-9
_UNKNOWN = Allowance(relative=0.15)
_EVALUATE_EVERY = 8


@dataclass(frozen=True, slots=True)
class _Prior:
    """What a profile says of one batch key."""

    lanes: Mapping[str, Mapping[int, float]]
    noise: float
    weight: float


class _Costs:
    """One batch key on one kind of device."""

    __slots__ = ("calls", "curves", "errors")

    def __init__(self, prior: _Prior | None) -> None:
        self.calls = 0
        self.curves: dict[str, Curve] = {}
        self.errors = Errors()
        if prior is not None:
            costs = sorted((prior.lanes.get(STEP) or {1: 0.0}).values())
            self.errors.load(prior.noise, prior.weight, costs[len(costs) // 2])
            for lane, seconds in prior.lanes.items():
                self.curves[lane] = Curve()
                self.curves[lane].load(seconds, prior.weight)
                self.curves[lane].rebase()


class CostModel:
    """All that is known of costs. Seconds; sizes are rows (step), jobs (encode), latents (decode), or 1 (store)."""

    def __init__(self) -> None:
        self.version = 0
        self._costs: OrderedDict[tuple[str, str], _Costs] = OrderedDict()
        self._priors: dict[tuple[str, str], _Prior] = {}
        self._read: dict[tuple[str, str, str, int], float | None] = {}
        self._version_read = 0

    def seconds(self, device: str, lane: str, key: str, size: int) -> float | None:
        """What a batch of `size` takes, without margin; None if nothing is known of this lane and key on that device."""
        if self._version_read != self.version or len(self._read) > _READ:
            self._version_read, self._read = self.version, {}
        asked = device, lane, key, size
        if asked not in self._read:
            curve = self._curve(device, lane, key)
            self._read[asked] = curve.upto(size)[size] if curve is not None and 0 < size <= _LARGEST else None
        return self._read[asked]

    def curve(self, device: str, lane: str, key: str, upto: int) -> tuple[float, ...] | None:
        """The same for every size up to `upto`; entry 0 is 0. The same object as before while nothing material changed."""
        curve = self._curve(device, lane, key)
        return curve.upto(min(upto, _LARGEST)) if curve is not None else None

    def most_at_other_sizes(self, device: str, lane: str, key: str, upto: int) -> tuple[float, ...] | None:
        """The same of whichever other key of this model costs most: a guess, for a lane that hardly depends on the size."""
        every = dict.fromkeys(known for kind, known in (*self._costs, *self._priors) if kind in ("", device))
        others = [other for other in every if _model_of(other) == _model_of(key)]
        curves = [curve for other in others if (curve := self.curve(device, lane, other, upto)) is not None]
        return max(curves, key=sum, default=None)

    def allowance(self, device: str, key: str) -> Allowance:
        """What predictions for this key have to carry on top, by how far ahead they look. The same object until `version` rises."""
        costs = self._found(device, key)
        return costs.errors.allowance if costs is not None else _UNKNOWN

    def margin(self, device: str, key: str) -> float:
        """What that comes to for a job's worth of calls, relative, for example 0.03."""
        costs = self._found(device, key)
        return costs.errors.margin if costs is not None else _UNKNOWN.relative

    def errors(self) -> Iterator[tuple[str, str, Errors]]:
        """Device, key and errors of predictions, of all that was reported lately; for metrics."""
        return ((device, key, costs.errors) for (device, key), costs in self._costs.items())

    def load(
        self, device: str, key: str, lanes: Mapping[str, Mapping[int, float]], noise: float = 0.0, weight: float = 24.0
    ) -> None:
        """Begins anew for this key from a profile: seconds (above 0) by size for each lane.

        Args:
            device: empty for every kind of device that has no profile of its own.
            noise: how much single calls spread, relative; 0 for exact costs, whose margin is 0 until reports say otherwise.
            weight: as how many reports of its size each figure counts at most; as fewer, the less noise reports have.
        """
        self._priors[device, key] = _Prior(lanes, noise, weight)
        for known in [each for each in self._costs if each[1] == key and device in ("", each[0])]:
            del self._costs[known]
        self.version += 1

    def learn(self, device: str, lane: str, key: str, size: int, seconds: float) -> None:
        """One batch took so long. What cannot be a measurement is ignored."""
        if not (1 <= size <= _LARGEST and 0.0 <= seconds <= _LONGEST_S):  # so written, it refuses NaN too
            return
        seconds = max(seconds, _LEAST_S)
        costs = self._of(device, key)
        curve = costs.curves.get(lane)
        if curve is None:
            curve = costs.curves[lane] = Curve()
        changes = curve.changes
        expected = curve.learn(size, seconds)
        if curve.changes != changes:
            self.version += 1
        if lane != STORE:
            self._note(costs, curve, size, expected, seconds)

    def predicted(self, device: str, key: str, expected_s: float, actual_s: float) -> None:
        """A promise came true: the time it had left when it was made, as predicted and as it was.

        Only the costs' errors belong here, not what was decided since: `expected_s` is what the batches that really ran were thought
        to take when the promise was made.
        """
        if 0.0 < expected_s <= _LONGEST_S and 0.0 <= actual_s <= _LONGEST_S:
            errors = self._of(device, key).errors
            errors.predicted(expected_s, actual_s)
            if errors.evaluate():
                self.version += 1

    def _note(self, costs: _Costs, curve: Curve, size: int, expected: float, seconds: float) -> None:
        promised = curve.promised(size)
        if costs.errors.add(expected if promised is None else promised, seconds, curve.deviation):
            self._rebase(costs, curve)
        costs.calls += 1
        if costs.calls % _EVALUATE_EVERY == 0 and costs.errors.evaluate():
            self.version += 1
            for each in costs.curves.values():
                each.tolerance = min(0.01, max(0.001, costs.errors.margin / 2))

    def _rebase(self, costs: _Costs, reported: Curve) -> None:
        bias = reported.bias()
        for each in costs.curves.values():
            if not each.reported:
                each.lean(bias)
                self.version += 1
            each.rebase()

    def _curve(self, device: str, lane: str, key: str) -> Curve | None:
        costs = self._found(device, key)
        curve = costs.curves.get(lane) if costs is not None else None
        return curve if curve is not None and curve.known else None

    def _found(self, device: str, key: str) -> _Costs | None:
        costs = self._costs.get((device, key))
        if costs is None and ((device, key) in self._priors or ("", key) in self._priors):
            costs = self._of(device, key)
        return costs

    def _of(self, device: str, key: str) -> _Costs:
        costs = self._costs.get((device, key))
        if costs is None:
            costs = _Costs(self._priors.get((device, key)) or self._priors.get(("", key)))
            self._costs[device, key] = costs
            if len(self._costs) > _KEYS:
                self._costs.popitem(last=False)
        else:
            self._costs.move_to_end((device, key))
        return costs


def _model_of(key: str) -> str:
    """See `Parameters.batch_key`; what models and adapters are called may have slashes in it."""
    return _SIZE.split(key, maxsplit=1)[0]
