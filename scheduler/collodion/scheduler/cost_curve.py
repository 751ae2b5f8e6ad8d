"""What one lane of one batch key costs on one kind of device, by batch size: learned from reports, one at a time.

1. A cost is the curve's level times the size's own share. A report moves both: the level, so that sizes that were not seen lately
   follow a device that became slower, and the share, so that each size finds its own place.
2. The more a figure rests on, the less one report moves it, down to 1 %. A level that has shifted shows as a run of errors to one side
   (a two-sided CUSUM), and is then set at once to what that run says. A share that errs to one side beyond the noise again and
   again goes as far as it errs.
3. A size that was measured elsewhere but not here (a saved profile) keeps the profile's shape, corrected by what its neighbours
   turned out to be. A size of which nothing is known follows from the shape of those that are known (`cost_shape`).
4. One wild report moves little: errors are clipped at four times the usual noise. A first call that was slow is forgotten.
5. Readers get a snapshot, made anew only when a cost has moved by more than `tolerance`, so reading is a look into a tuple.
"""

from bisect import insort
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from math import sqrt

from collodion.scheduler.cost_shape import costs, filled

_LEVEL_SETTLED = 99.0  # a figure's weight at most: 1 / (weight + 1) is what a report moves it
_SETTLED = 199.0
_LEAST_GAIN = 1.0 / (_SETTLED + 1.0)
_YOUNG_LEVEL = 4.0
_TRUSTED = 2.0  # a size of this weight blames the level and itself alike
_PROVEN = 4  # reports that make a size's share its own
_PATIENCE = 5  # such errors to one side before a proven size blames itself: by then the level had its turn
_SURPRISE = 4.0  # errors of up to twice the noise are noise
_EXACT = 0.0005**2
_GUESS_WEIGHT, _GUESS_DOUBT = 4.0, 0.1**2
_PROFILE_DOUBT = 0.02**2
_NOISE = 0.03  # of a call, before anything is known
_NOISE_WEIGHT = 1
_NOISE_MEMORY = 64
_LEAST_NOISE = 0.002
_LEAST_SPREAD, _MOST_NOISE = 0.025**2, 1.0
_CLIP = 4.0
_LEAST_CLIP = 0.25
_ALLOWED = 0.5  # CUSUM: what a run may err a call, and what it may add up to, in units of the noise
_ALARM = 10.0
_RUN = 16
_SETTLE_AFTER = 64
_SETTLE = 1e-4
_REACH = 16  # sizes in a snapshot at first
_POINTS = 512


@dataclass(slots=True, eq=False)
class _Point:
    """One batch size: seconds at level 1; `profile` is what the saved profile has, 0 if there is none.

    Before its first report its figure was worth `worth` reports at most, and fewer the more its `doubt` (a variance) is above the noise.
    `weight` is how many of its `reports` it rests on now; `last` is what the last of them took; `astray` how many
    in a row erred to one side beyond the noise, and `error` by how much the last of those.
    """

    seconds: float
    worth: float = 0.0
    doubt: float = 1.0
    profile: float = 0.0
    weight: float = 0.0
    reports: int = 0
    last: float = 0.0
    error: float = 0.0
    astray: int = 0


class Curve:
    """Learned costs by batch size. `tolerance` is the relative change below which a snapshot stands.

    `changes` counts the snapshots that no longer stand; `deviation` is what the last report says of a call's relative variance.
    """

    __slots__ = (
        "_basis",
        "_basis_level",
        "_errors",
        "_high",
        "_jumps",
        "_level",
        "_level_weight",
        "_low",
        "_noise",
        "_points",
        "_profile",
        "_proven",
        "_reach",
        "_run",
        "_since",
        "_sizes",
        "_snapshot",
        "_views",
        "changes",
        "deviation",
        "tolerance",
    )

    def __init__(self) -> None:
        self.tolerance = 0.001
        self.changes = 0
        self.deviation = 0.0
        self._noise = _NOISE**2  # variance
        self._jumps = 0
        self._points: dict[int, _Point] = {}
        self._sizes: list[int] = []
        self._profile: dict[int, float] = {}
        self._proven = False
        self._level = 1.0
        self._level_weight = _YOUNG_LEVEL
        self._errors: deque[float] = deque(maxlen=_RUN)
        self._high = self._low = 0.0
        self._run = 0
        self._since = 0
        self._reach = _REACH
        self._snapshot: tuple[float, ...] | None = None
        self._views: dict[int, tuple[float, ...]] = {}
        self._basis: tuple[float, ...] = ()
        self._basis_level = 1.0

    # ------------------------------------------------------------------ reading

    @property
    def known(self) -> bool:
        """Whether there is a profile or a report."""
        return bool(self._points)

    def upto(self, size: int) -> tuple[float, ...]:
        """Seconds by batch size, entry 0 being 0. Something is `known`."""
        view = self._views.get(size)
        if view is None:
            if size > self._reach:
                self._reach = size
                self._drop()
            view = self._views[size] = self._all()[: size + 1]
        return view

    @property
    def reported(self) -> bool:
        """Whether there is a report."""
        return any(point.reports for point in self._points.values())

    def bias(self) -> float:
        """How much costlier than in the profile the reported sizes are, as a factor; 1 without a profile."""
        reported = [point for point in self._points.values() if point.reports and point.profile]
        if not reported:
            return 1.0
        return self._level * sum(point.seconds / point.profile for point in reported) / len(reported)

    def rebase(self) -> None:
        """From here on `promised` is what the costs are now."""
        self._basis = self._all()
        self._basis_level = self._level

    def promised(self, size: int) -> float | None:
        """What a batch of `size` was thought to cost at the last `rebase`, if it was known then."""
        return self._basis[size] if size < len(self._basis) else None

    def _all(self) -> tuple[float, ...]:
        if self._snapshot is None:
            level = self._level
            self._snapshot = (0.0, *[level * seconds for seconds in self._shares()])
            self._since = 0
        return self._snapshot

    def _drop(self) -> None:
        self._snapshot = None
        self._views.clear()
        self.changes += 1

    def _shares(self) -> list[float]:
        points, reach = self._points, self._reach
        known = [size for size in self._sizes if points[size].reports]
        if not self._profile:
            return costs(known, [points[size].seconds for size in known], reach)
        profile = costs(list(self._profile), list(self._profile.values()), reach)
        if not known:
            return profile
        ratios = filled(known, [points[size].seconds / points[size].profile for size in known], reach)
        return [seconds * ratio for seconds, ratio in zip(profile, ratios, strict=True)]

    # ------------------------------------------------------------------ learning

    def load(self, seconds: Mapping[int, float], weight: float) -> None:
        """Begins with a profile, before any report; each of its figures counts as `weight` reports."""
        self._sizes = sorted(seconds)
        self._profile = {size: seconds[size] for size in self._sizes}
        self._points = {size: _Point(cost, weight, _PROFILE_DOUBT, cost) for size, cost in seconds.items()}

    def lean(self, level: float) -> None:
        """Takes over what another lane showed of the device's bias, as long as this one has no report of its own."""
        if abs(level / self._level - 1.0) > self.tolerance:
            self._level = level
            self._drop()

    def learn(self, size: int, seconds: float) -> float:
        """One batch took so long (above 0). Returns what was expected."""
        point = self._points.get(size) or self._begin(size, seconds)
        share, level = point.seconds, self._level
        expected = share * level
        noise = sqrt(self._noise)
        if point.reports:
            self._note_noise((seconds - point.last) / expected)
            if point.reports == 1 and seconds < expected / 2 and not point.profile:
                return self._restart(point, seconds)  # the first call paid for the warm-up
        limit = _CLIP * noise if noise > _LEAST_CLIP / _CLIP else _LEAST_CLIP
        error = _within(limit, seconds / expected - 1.0)
        own = self._own_gain(point, error)
        known = point.reports if self._proven else point.worth + point.reports
        trust = known / (known + _TRUSTED)  # unproven among the proven, it says little of the level
        gain = trust / (self._level_weight + 1.0)
        self._level = level * (1.0 + gain * error)
        if self._level_weight < _LEVEL_SETTLED:
            self._level_weight += trust
        point.seconds = share * (1.0 + (1.0 - gain) * own * error)
        point.weight = min(_SETTLED, point.weight + 1.0, 1.0 / own)
        point.last = seconds
        point.reports += 1
        if not self._proven:
            self._proven = point.reports >= _PROVEN
        self._watch_level(seconds / (share * self._basis_level) - 1.0, noise, trust)
        self._note_change(size, point.seconds * self._level)
        return expected

    def _begin(self, size: int, seconds: float) -> _Point:
        """A size that is reported for the first time, and is in no profile."""
        point = _Point(seconds / self._level)
        if self._points:
            point = _Point(self.upto(size)[size] / self._level, _GUESS_WEIGHT, _GUESS_DOUBT)
        if self._profile:
            point.profile = costs(list(self._profile), list(self._profile.values()), size)[-1]
        if len(self._points) < _POINTS:
            self._points[size] = point
            insort(self._sizes, size)
        self._drop()
        return point

    def _restart(self, point: _Point, seconds: float) -> float:
        point.seconds, point.weight, point.reports, point.last = seconds / self._level, 1.0, 2, seconds
        self._drop()
        return seconds

    def _own_gain(self, point: _Point, error: float) -> float:
        """How far this error moves the size's own share."""
        believed = self._noise / point.doubt
        gain = 1.0 / (point.weight + 1.0 + (believed if believed < point.worth else point.worth))
        gain = gain if gain > _LEAST_GAIN else _LEAST_GAIN
        usual = _SURPRISE * (self._noise if self._noise > _EXACT else _EXACT)
        if error * error <= usual:
            point.astray = 0
            return gain
        before, point.error = point.error, error
        point.astray = point.astray + 1 if error * before > 0.0 else 1
        if point.astray < (2 if self._proven and point.reports < _PROVEN else _PATIENCE):
            return gain
        return max(gain, 1.0 - usual / min(error * error, before * before))

    def _note_noise(self, jump: float) -> None:
        # Of differences between reports of one size, so that a bias, which is learned, does not pass for noise.
        self._jumps += 1
        most = 16.0 * min(_MOST_NOISE, max(_LEAST_SPREAD, self._noise))
        square = jump * jump / 2.0
        self.deviation = square if square < most else most
        self._noise += (self.deviation - self._noise) / min(_NOISE_MEMORY, self._jumps + _NOISE_WEIGHT)

    def _watch_level(self, error: float, noise: float, trust: float) -> None:
        """Adds up how far reports are off the level of the last `rebase`; `error` is such a one."""
        self._errors.append(error)
        units = trust * _within(_CLIP, error / (noise if noise > _LEAST_NOISE else _LEAST_NOISE))
        high, low = self._high + units - _ALLOWED, self._low - units - _ALLOWED
        self._high = high = high if high > 0.0 else 0.0
        self._low = low = low if low > 0.0 else 0.0
        self._run = self._run + 1 if high or low else 0
        if high > _ALARM or low > _ALARM:
            self._shift()

    def _shift(self) -> None:
        """Sets the level to what the run says: its mean, or where most of it is clipped, its median."""
        limit = max(_LEAST_CLIP, _CLIP * sqrt(self._noise))
        run = sorted(islice(self._errors, len(self._errors) - min(self._run, _RUN), None))
        middle = run[len(run) // 2]
        mean = sum(_within(limit, error) for error in run) / len(run)
        self._level = self._basis_level * (1.0 + (mean if abs(middle) < limit else middle))
        self._level_weight = _YOUNG_LEVEL
        self._high = self._low = 0.0
        self._run = 0
        self._drop()
        self.rebase()

    def _note_change(self, size: int, cost: float) -> None:
        self._since += 1
        if self._snapshot is None or size >= len(self._snapshot):
            return
        change = abs(cost / self._snapshot[size] - 1.0)
        if change > self.tolerance or (change > _SETTLE and self._since >= _SETTLE_AFTER):
            self._drop()


def _within(limit: float, value: float) -> float:
    # Twice as fast as min and max, in what runs several times a report.
    return limit if value > limit else -limit if value < -limit else value
