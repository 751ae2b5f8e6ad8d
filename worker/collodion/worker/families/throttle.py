"""When decoding may go on beside the steps, so that these take no more than a bound longer on the average.

Decoding is cut into pieces. A step that takes t seconds beside a piece, and t0 alone, is slowed by s = t / t0 - 1. If s were known, a
piece might run for the share bound / s of the time. But s is not known exactly, and no two pieces are alike. So delay is paid for out of
an account, exactly, and what was learned says only what the next piece will cost:

    every step                  account += bound · t0          at most a price is saved up
    every step beside a piece   account -= t - t0
    a piece may begin when      account >= price = s · L       L: seconds (t0) of steps that a piece is beside; s, L of pieces so far

Over any number of steps the delay is then at most bound · (their time alone), and what one piece cost more than foreseen. While there are
steps a piece may always begin at some time, so that decoding goes on, though maybe not fast enough: who has too much to decode does not
ask.

No clock and no torch: whoever steps says how long steps took.
"""

from collections.abc import Hashable

_NEW = 0.25  # weight of what was seen last in an average
_KEYS = 256  # kinds of step that are remembered


class Throttle:
    """bound: 0.1 lets steps take 10 % longer on the average."""

    def __init__(self, bound: float) -> None:
        assert bound > 0
        self.bound = bound
        self._alone: dict[Hashable, float] = {}
        self._account = 0.0
        self._price: float | None = None
        self._under_way = False
        self._paid = self._beside = 0.0  # delay, and seconds of steps alone, since the piece began
        self.slowdown: float | None = None

    @property
    def may_begin(self) -> bool:
        """Whether the next piece may begin now. The first may once a step was seen alone, to learn what it costs."""
        if self._under_way or not self._alone:
            return False
        return self._account >= (0.0 if self._price is None else self._price)

    def begin(self) -> None:
        """A piece begins: because it may, or because it has to."""
        self._under_way = True

    def stepped(self, key: Hashable, seconds: float, beside: bool) -> None:
        """A step took so long on the device. key: what makes steps take equally long. beside: whether any of it ran beside a piece."""
        if not beside:
            self._learn(key, seconds)
        alone = self._alone.get(key)
        if alone is None:  # a kind of step that was never seen alone: nobody knows what it would have taken
            return
        self._account += self.bound * alone
        if beside:
            self._account -= seconds - alone
            self._paid += seconds - alone
            self._beside += alone
        if self._price is not None:
            self._account = min(self._account, self._price)

    def end(self) -> None:
        """The piece is over, and all steps beside it were told."""
        self._under_way = False
        if self._beside:
            self.slowdown = _average(self.slowdown, self._paid / self._beside)
            self._price = _average(self._price, max(0.0, self._paid))
        self._paid = self._beside = 0.0

    def _learn(self, key: Hashable, seconds: float) -> None:
        self._alone[key] = _average(self._alone.pop(key, None), seconds)
        if len(self._alone) > _KEYS:
            del self._alone[next(iter(self._alone))]


def _average(before: float | None, now: float) -> float:
    return now if before is None else (1 - _NEW) * before + _NEW * now
