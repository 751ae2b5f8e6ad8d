"""How far predictions for one batch key on one kind of device are off: the allowance that they have to carry.

1. What is promised is a sum of calls. Noise of single calls averages out in it: it grows with the root of the time ahead. What the costs
   themselves are off by, and drift, grow with the time. An allowance has a term for each, added as standard deviations are.
2. So sums are measured as such: what `HORIZON` calls took against what they were thought to take when the first of them began. Until
   there are enough of those, the noise of single calls and the number of reports say what to expect.
3. Learning takes bias out of the costs; what whole predictions are late by on average all the same (time between calls) is added.
"""

from dataclasses import dataclass
from math import sqrt

HORIZON = 32  # calls: a job's worth of steps

# Simulated, 10 % noise a call: 97.5 % of promises kept at 1.25, 98.4 % at 1.6, 98.7 % at 2, 99.1 % at 2.5, with no fewer jobs on time.
_QUANTILE = 2.5
_UNKNOWN_NOISE = 0.05
_UNKNOWN_CALLS = 8  # that this guess counts for
_MEMORY = 128  # calls
_SETTLED = 66  # reports that a cost rests on at most, in effect
_YOUNG = 16  # calls that only calibrate
_PRIOR_SUMS = 4.0
_SUM_MEMORY = 8.0
_WILD = 0.03  # a sum's error counts up to this much more than three times the usual
_MOST = 0.5
_MOST_BIAS = 0.1
_STALE = 0.001  # what readers get may be that much behind what was learned
_EXACT = 1e-6
_MATERIAL = 0.0005


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a prediction has to carry on top: `plain`·T + √((`relative`·T)² + `root_s`·T) seconds for one of T seconds ahead."""

    plain: float = 0.0
    relative: float = 0.0
    root_s: float = 0.0

    def seconds(self, ahead_s: float) -> float:
        """For something that is predicted so many seconds (0 or more) ahead."""
        return self.plain * ahead_s + sqrt((self.relative * self.relative * ahead_s + self.root_s) * ahead_s)


class Errors:
    """Errors seen so far, and the `allowance` that they call for.

    `margin` is what the allowance comes to for HORIZON calls, relative; `bias` and `spread` are those of whole predictions.
    """

    __slots__ = (
        "_actual",
        "_call_s",
        "_calls",
        "_expected",
        "_in_sum",
        "_noise",
        "_prior",
        "_sums",
        "_trusted",
        "_variance",
        "_wholes",
        "allowance",
        "bias",
        "margin",
        "spread",
    )

    def __init__(self) -> None:
        self._calls = 0
        self._prior = _UNKNOWN_CALLS
        self._trusted = 0
        self._noise = _UNKNOWN_NOISE**2
        self._call_s = 0.0
        self._in_sum = 0
        self._expected = self._actual = 0.0
        self._sums = 0.0
        self._variance = 0.0
        self._wholes = 0
        self.bias = 0.0
        self.spread = 0.0
        self.allowance = Allowance()
        self.margin = 0.0
        self.evaluate()

    def load(self, noise: float, weight: float, call_s: float) -> None:
        """A profile says how much single calls spread (relative), counts as `weight` calls, and a call takes `call_s` or so."""
        self._noise = noise**2
        self._prior = self._trusted = int(weight)
        self._call_s = call_s
        self.evaluate()

    def add(self, promised: float, actual: float, noise: float) -> bool:
        """A call took `actual`, was thought to take `promised`; variance `noise`. Whether a sum is complete and a new one begins."""
        self._calls = calls = self._calls + 1
        self._call_s += (promised - self._call_s) / (calls if calls < _MEMORY else _MEMORY)
        share = promised / self._call_s  # long calls make more of a sum's error
        share = share if share < 2.0 else 2.0
        calls += self._prior
        self._noise += (share * share * noise - self._noise) / (calls if calls < _MEMORY else _MEMORY)
        if self._calls <= _YOUNG:
            return self._calls == _YOUNG
        self._in_sum += 1
        self._expected += promised
        self._actual += actual
        if self._in_sum < HORIZON:
            return False
        self._note(self._actual / self._expected - 1.0, 1.0)
        self._in_sum = 0
        self._expected = self._actual = 0.0
        return True

    def predicted(self, expected_s: float, actual_s: float) -> None:
        """A whole prediction came true, or not."""
        error = max(-_MOST, min(_MOST, actual_s / expected_s - 1.0))
        self._wholes += 1
        rate = max(1.0 / 64, 1.0 / self._wholes)
        self.bias += (error - self.bias) * rate
        self.spread = sqrt(self.spread**2 + ((error - self.bias) ** 2 - self.spread**2) * rate)
        if self._call_s:
            self._note(error - self.bias, min(1.0, expected_s / (HORIZON * self._call_s)))

    def evaluate(self) -> bool:
        """Makes the allowance anew; whether its margin changed by more than a tenth of it and a twentieth of a per cent."""
        evidence = max(1, min(self._calls + self._trusted, _SETTLED))
        averaged = self._noise / HORIZON
        sums = min(self._sums, _SUM_MEMORY)
        variance = (_PRIOR_SUMS * (averaged + self._noise / evidence) + sums * self._variance) / (_PRIOR_SUMS + sums)
        averaged = min(averaged, variance)
        late = max(0.0, min(_MOST_BIAS, self.bias)) * self._wholes / (self._wholes + 8)
        quantile = min(_QUANTILE, _MOST / sqrt(variance)) if variance else 0.0
        margin = quantile * sqrt(variance) + late
        stale = _STALE if margin > _EXACT else 0.0
        if abs(margin + stale - self.margin) <= max(_MATERIAL, 0.1 * self.margin):
            return False
        self.margin = margin + stale
        self.allowance = Allowance(
            plain=late + stale,
            relative=quantile * sqrt(variance - averaged),
            root_s=quantile**2 * averaged * HORIZON * self._call_s,
        )
        return True

    def _note(self, error: float, weight: float) -> None:
        error = min(abs(error), _WILD + 3.0 * sqrt(self._variance))
        self._sums += weight
        rate = weight * max(1.0 / _SUM_MEMORY, 1.0 / (self._sums + 1.0))
        self._variance += (error * error - self._variance) * min(1.0, rate)
