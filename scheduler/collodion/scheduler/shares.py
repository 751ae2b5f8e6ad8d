"""Fairness between tenants: who may be promised more, and whose turn it is in what promises leave.

1. Service is counted in device seconds in the best of company, so that models and sizes compare.
2. While several ask, what was promised lately is divided max-min fair: who asked for less than an equal share got it, the rest is divided
   among those who asked for more. A tenant that floods (asks for more than twice its fair share) is promised no more than that.
3. What runs without a promise runs by start-time fair queueing (Goyal, Vin, Cheng 1996): each tenant's work is tagged with the service
   that the tenant had before it, and the least tag runs first.
"""

import math
from dataclasses import dataclass

_MEMORY_S = 30.0  # how long asking and promising is remembered: the time constant of both
_FLOOD = 2.0  # times its fair share
_ROOM = 1.05  # a little more than was promised lately, so that what is promised can grow
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

    def ask(self, tenant: str, work_s: float, now: float) -> None:
        """The tenant asks for a promise of so much device time."""
        self._decay(now)
        self._of(tenant).asked_s += work_s

    def may(self, tenant: str, work_s: float, now: float) -> bool:
        """Whether so much may be promised to the tenant, as far as others are concerned."""
        self._decay(now)
        mine = self._of(tenant)
        if len(self._tenants) < 2 or not mine.promised_s:
            return True
        fair = self._fair_s(mine)
        return mine.asked_s <= _FLOOD * fair or mine.promised_s + work_s <= fair

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

    def _fair_s(self, mine: _Tenant) -> float:
        """What one that asks for much is due of all that was promised lately, by filling up the small ones first."""
        left = sum(tenant.promised_s for tenant in self._tenants.values()) * _ROOM
        asked = sorted(tenant.asked_s for tenant in self._tenants.values())
        for index, amount in enumerate(asked):
            level = left / (len(asked) - index)
            if amount >= level:
                return level
            left -= amount
        return max(mine.asked_s, left)

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
            if tenant.asked_s < _FORGOTTEN_S and tenant.tag <= self._virtual:
                del self._tenants[name]
