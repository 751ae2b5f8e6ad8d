"""What one lane of one batch key costs on one kind of device, by batch size: learned from reports, one at a time.

1. A cost is the curve's level times the size's own share. A report moves both: the level, so that sizes that were not seen lately
   follow a device that became slower, and the share, so that each size finds its own place.
2. The more a figure rests on, the less one report moves it, down to 2 %. A level that has shifted shows as a run of errors to one side
   (a two-sided CUSUM), and is then set at once to what that run says.
3. A size that was measured elsewhere but not here (a saved profile) keeps the profile's shape, corrected by what its neighbours
   turned out to be. A size of which nothing is known follows from the shape of those that are known.
4. One wild report moves little: errors are clipped at four times the usual noise. A first call that was slow is forgotten.
5. Readers get a snapshot, made anew only when a cost has moved by more than `tolerance`, so reading is a look into a tuple.
"""

from bisect import insort
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from collodion.scheduler.cost_shape import Shape, interpolated

_SETTLED = 49.0  # a figure's weight at most: 1 / (weight + 1) is what a report moves it
_YOUNG_LEVEL = 4.0
_TRUSTED = 2.0  # a size of this weight blames the level and itself alike
_GUESS_DOUBT = 0.1  # relative error of a guessed size
_NOISE = 0.03  # of a call, before anything is known
_NOISE_WEIGHT = 4
_NOISE_MEMORY = 64
_LEAST_NOISE = 0.002
_CLIP = 4.0
_LEAST_CLIP = 0.25
_ALLOWED = 0.5  # CUSUM: what a run may err a call, and what it may add up to, in units of the noise
_ALARM = 8.0
_RUN = 16
_SETTLE_AFTER = 64
_SETTLE = 1e-4
_REACH = 64  # sizes in a snapshot at first
_POINTS = 512


@dataclass(slots=True, eq=False)
class _Point:
    """One batch size: seconds at level 1, what they rest on, how often it was reported, and what the profile has (0: nothing)."""

    seconds: float
    weight: float
    reports: int = 0
    profile: float = 0.0


class Curve:
    """Learned costs by batch size. `tolerance` is the relative change below which a snapshot stands."""

    __slots__ = (
        "_basis",
        "_errors",
        "_high",
        "_last",
        "_level",
        "_level_weight",
        "_low",
        "_points",
        "_profile",
        "_profile_level",
        "_reach",
        "_run",
        "_since",
        "_sizes",
        "_snapshot",
        "_views",
        "calls",
        "changes",
        "deviation",
        "noise",
        "tolerance",
    )

    def __init__(self) -> None:
        self.tolerance = 0.001
        self.calls = 0
        self.changes = 0  # of what readers get
        self.noise = _NOISE**2  # variance of one call, relative
        self.deviation = 0.0  # what the last call says of that variance
        self._points: dict[int, _Point] = {}
        self._sizes: list[int] = []
        self._profile: Shape | None = None
        self._level = 1.0
        self._level_weight = _YOUNG_LEVEL
        self._last = 0.0
        self._errors: deque[float] = deque(maxlen=_RUN)
        self._high = self._low = 0.0
        self._run = 0
        self._since = 0
        self._reach = _REACH
        self._snapshot: tuple[float, ...] | None = None
        self._basis: tuple[float, ...] = ()
        self._views: dict[int, tuple[float, ...]] = {}

    # ------------------------------------------------------------------ reading

    @property
    def known(self) -> bool:
        """Whether there is a profile or a report."""
        return bool(self._points)

    def at(self, size: int) -> float:
        """Seconds of a batch of `size` (1 or more); something is known."""
        return self.upto(size)[size]

    def upto(self, size: int) -> tuple[float, ...]:
        """Seconds by batch size, entry 0 being 0."""
        view = self._views.get(size)
        if view is None:
            if size > self._reach:
                self._reach = size
                self._drop()
            view = self._views[size] = self._all()[: size + 1]
        return view

    def rebase(self) -> None:
        """From here on `promised` is what the costs are now."""
        self._basis = self._all()

    def promised(self, size: int) -> float | None:
        """What a batch of `size` was thought to cost at the last `rebase`, if it was known then."""
        return self._basis[size] if size < len(self._basis) else None

    def _drop(self) -> None:
        self._snapshot = None
        self.changes += 1

    def _all(self) -> tuple[float, ...]:
        if self._snapshot is None:
            self._snapshot = (0.0, *self._costs())
            self._views.clear()
            self._since = 0
        return self._snapshot

    def _costs(self) -> list[float]:
        level, sizes = self._level, range(1, self._reach + 1)
        known = [size for size in self._sizes if self._points[size].reports]
        if self._profile is None:
            shape = Shape(known, [self._points[size].seconds for size in known])
            return [level * shape.at(size) for size in sizes]
        profile = self._profile
        if not known:
            return [level * profile.at(size) for size in sizes]
        ratios = [self._points[size].seconds / self._points[size].profile for size in known]
        return [level * profile.at(size) * interpolated(known, ratios, size) for size in sizes]

    # ------------------------------------------------------------------ learning

    def load(self, seconds: Mapping[int, float], weight: float) -> None:
        """Begins anew from a profile; each of its figures counts as `weight` reports."""
        self.__init__()  # type: ignore[misc]
        self._sizes = sorted(seconds)
        self._profile = Shape(self._sizes, [seconds[size] for size in self._sizes])
        self._points = {size: _Point(cost, weight, profile=cost) for size, cost in seconds.items()}

    def learn(self, size: int, seconds: float) -> float:
        """One batch took so long (above 0). Returns what was expected."""
        self.calls += 1
        point = self._points.get(size) or self._begin(size, seconds)
        expected = point.seconds * self._level
        error = seconds / expected - 1.0
        point.reports += 1
        if error < -0.5 and point.reports == 2 and not point.profile:
            point.seconds, point.weight = seconds / self._level, 1.0  # the first call paid for the warm-up
            self._drop()
            return seconds
        error = self._clipped(error)
        self._note_noise(error)
        trust = point.weight / (point.weight + _TRUSTED)
        gain = trust / (self._level_weight + 1.0)
        self._level *= 1.0 + gain * error
        self._level_weight = min(_SETTLED, self._level_weight + trust)
        point.seconds *= 1.0 + (1.0 - gain) * error / (point.weight + 1.0)
        point.weight = min(_SETTLED, point.weight + 1.0)
        self._watch_level(point, size, seconds, trust)
        self._note_change(size, point.seconds * self._level)
        return expected

    def _begin(self, size: int, seconds: float) -> _Point:
        """A size that is reported for the first time, and is in no profile."""
        point = _Point(seconds / self._level, 0.0)
        if self._points:
            # The noisier the reports, the more a guess is worth beside one of them.
            point = _Point(self.at(size) / self._level, min(4.0, self.noise / _GUESS_DOUBT**2))
            point.profile = self._profile.at(size) if self._profile else 0.0
        if len(self._points) < _POINTS:
            self._points[size] = point
            insort(self._sizes, size)
        self._drop()
        return point

    def _clipped(self, error: float) -> float:
        limit = max(_LEAST_CLIP, _CLIP * float(self.noise**0.5))
        if self.calls <= _NOISE_WEIGHT:
            return error
        return max(-limit, min(limit, error))

    def _note_noise(self, error: float) -> None:
        # Of differences between errors in a row, so that a bias, which is learned, does not pass for noise.
        self.deviation = min((error - self._last) ** 2 / 2.0, max(0.01, 16.0 * self.noise))
        self._last = error
        self.noise += (self.deviation - self.noise) * max(1.0 / _NOISE_MEMORY, 1.0 / (self.calls + _NOISE_WEIGHT))

    def _watch_level(self, point: _Point, size: int, seconds: float, trust: float) -> None:
        promised = self._basis[size] if size < len(self._basis) else seconds
        error = self._clipped(seconds / promised - 1.0)
        units = error / max(_LEAST_NOISE, self.noise**0.5)
        units = trust * max(-_CLIP, min(_CLIP, units))
        self._errors.append(error)
        self._high = max(0.0, self._high + units - _ALLOWED)
        self._low = max(0.0, self._low - units - _ALLOWED)
        self._run = self._run + 1 if self._high or self._low else 0
        if self._high > _ALARM or self._low > _ALARM:
            count = min(self._run, _RUN)
            run = list(self._errors)[-count:]
            self._shift(promised * (1.0 + sum(run) / count) / (point.seconds * self._level), count)

    def _shift(self, factor: float, count: int) -> None:
        self._level *= factor
        self._level_weight = float(count)
        self._high = self._low = 0.0
        self._run = 0
        self._drop()
        self.rebase()

    def _note_change(self, size: int, cost: float) -> None:
        self._since += 1
        if self._snapshot is None:
            return
        change = abs(cost / self._snapshot[size] - 1.0) if size < len(self._snapshot) else 0.0
        if change > self.tolerance or (self._since >= _SETTLE_AFTER and change > _SETTLE):
            self._drop()
