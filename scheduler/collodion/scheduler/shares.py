"""Fairness between tenants: who may be promised more, and whose turn it is in what promises leave.

1. What is asked and promised is counted in device seconds in the best of company, so that models and sizes compare; what runs without a
   promise in evaluations over the tier's weight.
2. While several ask, what can be promised is divided max-min fair: who asks for less than an equal share gets it, the rest is divided
   among those who ask for more. A tenant that floods (asks for much more than that, and than most) is promised no more than that. What can
   be promised is, while jobs are turned away for want of room, what was promised lately; otherwise all that the workers can do.
3. What runs without a promise runs by start-time fair queueing (Goyal, Vin, Cheng 1996): each tenant's work is tagged with the service
   that the tenant had before it, and the least tag runs first.
"""

import math
from dataclasses import dataclass

_MEMORY_S = 60.0  # how long asking and promising is remembered: the time constant of both
_FLOOD = 2.0  # times its fair share, and what half of the tenants ask for
_ROOM = 1.05  # a little more than was promised lately, so that what is promised can grow
_HELD_BACK = 0.8  # of its fair share: one that always asks is there first whenever room is made
_LEAST = 0.5  # of what the workers can do, though less was promised lately: tight deadlines leave no more
_FORGOTTEN_S = 1e-3


@dataclass(slots=True)
class _Tenant:
    asked_s: float = 0.0
    promised_s: float = 0.0
    tag: float = 0.0


class Shares:
    """What each tenant asked for and was promised lately."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Tenant] = {}
        self._at = 0.0
        self._virtual = 0.0
        self._turned_away = -math.inf

    def ask(self, tenant: str, work_s: float, now: float) -> None:
        """The tenant asks for a promise of so much device time."""
        self._decay(now)
        self._of(tenant).asked_s += work_s

    def turn_away(self, now: float) -> None:
        """A job could not be promised for want of room."""
        self._turned_away = now

    def may(self, tenant: str, work_s: float, now: float, workers: int) -> bool:
        """Whether so much may be promised to the tenant, as far as others are concerned; `workers` could do it."""
        self._decay(now)
        mine = self._of(tenant)
        if len(self._tenants) < 2 or not mine.promised_s:
            return True
        all_s = workers * _MEMORY_S
        if now < self._turned_away + _MEMORY_S:
            lately_s = sum(one.promised_s for one in self._tenants.values()) * _ROOM
            all_s = min(all_s, max(lately_s, _LEAST * all_s))
        fair_s = self._fair_s(mine, all_s)
        asked = sorted(one.asked_s for one in self._tenants.values())
        usual_s = max(fair_s, asked[(len(asked) - 1) // 2])
        return mine.asked_s <= _FLOOD * usual_s or mine.promised_s + work_s <= _HELD_BACK * fair_s

    def promise(self, tenant: str, work_s: float, now: float) -> None:
        """So much was promised to the tenant."""
        self._decay(now)
        self._of(tenant).promised_s += work_s

    def tag(self, tenant: str, work: float) -> float:
        """The place of this much unpromised work of the tenant; the least first."""
        mine = self._of(tenant)
        start = max(mine.tag, self._virtual)
        mine.tag = start + work
        return start

    def begin(self, tag: float) -> None:
        """Work with this tag begins: nobody who comes now is put before it."""
        self._virtual = max(self._virtual, tag)

    def _fair_s(self, mine: _Tenant, left_s: float) -> float:
        """What is due to one that asks for much, after the small ones have had what they ask for."""
        asked = sorted(tenant.asked_s for tenant in self._tenants.values())
        for index, amount in enumerate(asked):
            level = left_s / (len(asked) - index)
            if amount >= level:
                return level
            left_s -= amount
        return mine.asked_s + left_s

    def _of(self, tenant: str) -> _Tenant:
        return self._tenants.setdefault(tenant, _Tenant(tag=self._virtual))

    def _decay(self, now: float) -> None:
        if now - self._at < _MEMORY_S / 100:
            return
        factor = math.exp((self._at - now) / _MEMORY_S)
        self._at = now
        for name, tenant in list(self._tenants.items()):
            tenant.asked_s *= factor
            tenant.promised_s *= factor
            if tenant.asked_s < _FORGOTTEN_S:
                del self._tenants[name]
