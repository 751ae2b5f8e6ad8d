"""How far predictions for one batch key on one kind of device are off: the margin that they have to carry.

1. What is promised is a sum: some `HORIZON` calls in a row. Noise of single calls averages out in it, by the root of their number; drift
   and load from outside do not.
2. So sums are measured as such: what `HORIZON` calls took against what they were thought to take when the first of them began. Until there
   are enough of those, the noise of single calls and the number of reports say what to expect.
3. Learning takes bias out of the costs; what whole predictions are late by on average all the same (time between calls) is added.
"""

from math import sqrt

HORIZON = 32  # calls: a job's worth of steps

_QUANTILE = 1.25  # standard deviations
_UNKNOWN_NOISE = 0.1
_PRIOR_CALLS = 8
_MEMORY = 128  # calls
_SETTLED = 66
_YOUNG = 16  # calls that only calibrate
_PRIOR_SUMS = 4.0
_SUM_MEMORY = 8.0
_WILD = 0.03  # a sum's error counts up to this much more than three times the usual
_MOST = 0.5
_MATERIAL = 0.0005
_EXACT = 1e-6
_STALE = 0.001  # what readers get may be that much behind what was learned
_MOST_BIAS = 0.1


class Errors:
    """Errors seen so far. `margin` is relative; `bias` and `spread` those of whole predictions, for the metrics."""

    __slots__ = (
        "_actual",
        "_call_s",
        "_calls",
        "_expected",
        "_in_sum",
        "_noise",
        "_sums",
        "_variance",
        "_wholes",
        "bias",
        "margin",
        "spread",
    )

    def __init__(self) -> None:
        self._calls = 0
        self._noise = _UNKNOWN_NOISE**2
        self._call_s = 0.0
        self._in_sum = 0
        self._expected = self._actual = 0.0
        self._sums = 0.0
        self._variance = 0.0
        self._wholes = 0
        self.bias = 0.0
        self.spread = 0.0
        self.margin = _UNKNOWN_NOISE
        self.evaluate()

    def load(self, noise: float, weight: float) -> None:
        """A profile says how much single calls spread (relative); it counts as `weight` calls."""
        self._noise = noise**2
        self._calls = max(self._calls, int(weight))
        self.margin = 0.0
        self.evaluate()

    def add(self, promised: float, actual: float, noise: float) -> bool:
        """A call took `actual`, was thought to take `promised`; variance `noise`. Whether a sum is complete and a new one begins."""
        self._calls = calls = self._calls + 1
        self._call_s += (promised - self._call_s) / (calls if calls < _MEMORY else _MEMORY)
        share = promised / self._call_s  # long calls make more of a sum's error
        share = share if share < 2.0 else 2.0
        calls += _PRIOR_CALLS
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
        """Makes `margin` anew; whether it changed by more than a tenth of it and a twentieth of a per cent."""
        evidence = max(1, min(self._calls, _SETTLED))
        expected = self._noise * (1.0 / HORIZON + 1.0 / evidence)
        sums = min(self._sums, _SUM_MEMORY)
        variance = (_PRIOR_SUMS * expected + sums * self._variance) / (_PRIOR_SUMS + sums)
        late = max(0.0, min(_MOST_BIAS, self.bias)) * self._wholes / (self._wholes + 8)
        margin = min(_MOST, _QUANTILE * sqrt(variance) + late)
        if margin > _EXACT:
            margin += _STALE
        if abs(margin - self.margin) <= max(_MATERIAL, 0.1 * self.margin):
            return False
        self.margin = margin
        return True

    def _note(self, error: float, weight: float) -> None:
        usual = _QUANTILE * self.margin + 3.0 * sqrt(self._variance)
        error = min(abs(error), _WILD + usual)
        self._sums += weight
        rate = weight * max(1.0 / _SUM_MEMORY, 1.0 / (self._sums + 1.0))
        self._variance += (error * error - self._variance) * min(1.0, rate)
