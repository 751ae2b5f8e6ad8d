"""Job ids: 26 characters of Crockford's base 32, 48 bits of milliseconds and 80 random ones, as in github.com/ulid/spec.

They sort by the time of acceptance, and strictly ascend even if the clock stands still or goes back.
"""

from collections.abc import Callable

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RANDOM_BITS = 80
_CHARACTERS = 26

NewJobId = Callable[[float], str]
"""Given the time (Unix seconds), an id that was never given before."""


class JobIds:
    """A `NewJobId`. `random_bits(n)` gives n random bits."""

    def __init__(self, random_bits: Callable[[int], int]) -> None:
        self._random_bits = random_bits
        self._last = 0

    def __call__(self, now: float) -> str:
        """The next id."""
        stamped = int(now * 1000) << _RANDOM_BITS
        # Half of the random space is left free above, so that adding one never runs into the next millisecond.
        fresh = stamped | self._random_bits(_RANDOM_BITS - 1)
        self._last = max(self._last + 1, fresh)
        return "".join(_ALPHABET[(self._last >> shift) & 31] for shift in range(5 * (_CHARACTERS - 1), -1, -5))
