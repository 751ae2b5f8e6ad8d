"""Fairness between tenants: who asks for little gets it whatever others ask, a flood is held to its share, and nobody pays for its past.

Capacity is one device second a second; requests take a tenth of one. So what `may` says is looked at without any scheduling.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from collodion.scheduler.shares import Shares

_UNIT_S = 0.1
_QUEUE_S = 2.0  # of promised work that may be waiting
quick = settings(max_examples=25, deadline=None, derandomize=True)


@dataclass
class Market:
    """Tenants ask at a steady rate (device seconds a second), in an order that the seed shuffles, and get what `may` and the room allow."""

    seed: int = 0
    now: float = 1_000.0
    shares: Shares = field(default_factory=Shares)
    room_s: float = _QUEUE_S

    def open(self, rates: Mapping[str, float], seconds: float) -> dict[str, float]:
        """The share of what it asked for that each got, over the last half of the time."""
        chance = random.Random(self.seed)
        asked, got = dict.fromkeys(rates, 0), dict.fromkeys(rates, 0)
        owed = {tenant: chance.random() * _UNIT_S for tenant in rates}
        for tick in range(int(seconds / _UNIT_S)):
            self.now += _UNIT_S
            self.room_s = min(_QUEUE_S, self.room_s + _UNIT_S)
            asking = []
            for tenant, rate in rates.items():
                owed[tenant] += rate * _UNIT_S
                asking += [tenant] * int(owed[tenant] / _UNIT_S)
                owed[tenant] %= _UNIT_S
            chance.shuffle(asking)
            for tenant in asking:
                granted = self._ask(tenant)
                if tick >= seconds / _UNIT_S / 2:
                    asked[tenant] += 1
                    got[tenant] += granted
        return {tenant: got[tenant] / max(1, asked[tenant]) for tenant in rates}

    def _ask(self, tenant: str) -> bool:
        self.shares.ask(tenant, _UNIT_S, self.now)
        if not self.shares.may(tenant, _UNIT_S, self.now, workers=1):
            return False
        if self.room_s < _UNIT_S:
            self.shares.turn_away(self.now)
            return False
        self.room_s -= _UNIT_S
        self.shares.promise(tenant, _UNIT_S, self.now)
        return True


@quick
@given(
    others=st.lists(st.floats(0.02, 0.15), min_size=1, max_size=5),
    flood=st.floats(4.0, 12.0),
    seed=st.integers(0, 1000),
)
def test_a_flood_takes_nothing_from_those_who_ask_for_less_than_their_share(
    others: list[float], flood: float, seed: int
) -> None:
    rates = {f"tenant {index}": rate for index, rate in enumerate(others)}
    got = Market(seed).open(rates | {"flood": flood}, 120.0)
    assert all(got[tenant] >= 0.9 for tenant in rates)  # one of few asks is already 4 %


@quick
@given(count=st.integers(2, 5), flood=st.floats(4.0, 12.0), seed=st.integers(0, 1000))
def test_a_flood_gets_no_more_than_its_share_while_others_want_theirs(count: int, flood: float, seed: int) -> None:
    fair = 1.0 / (count + 1)
    rates = {f"tenant {index}": fair for index in range(count)}
    got = Market(seed).open(rates | {"flood": flood}, 120.0)
    assert got["flood"] * flood <= 1.1 * fair
    assert all(got[tenant] >= 0.9 for tenant in rates)


@quick
@given(rate=st.floats(0.1, 12.0), seed=st.integers(0, 1000))
def test_who_is_alone_gets_all_there_is(rate: float, seed: int) -> None:
    got = Market(seed).open({"alone": rate}, 60.0)
    assert got["alone"] * rate >= 0.95 * min(rate, 1.0)


@quick
@given(flood=st.floats(2.0, 12.0), silence_s=st.floats(240.0, 1000.0), seed=st.integers(0, 1000))
def test_a_flood_that_has_ceased_is_forgotten(flood: float, silence_s: float, seed: int) -> None:
    market = Market(seed)
    market.open({"little": 0.1, "flood": flood}, 120.0)
    market.now += silence_s
    got = market.open({"little": 0.1, "flood": 0.8}, 60.0)
    assert got["flood"] >= 0.97
    assert got["little"] >= 0.97


@quick
@given(
    works=st.lists(st.lists(st.floats(1.0, 50.0), min_size=12, max_size=12), min_size=2, max_size=4),
    late=st.integers(0, 8),
)
def test_unpromised_work_of_tenants_that_always_have_some_is_served_alike(works: list[list[float]], late: int) -> None:
    """By start-time fair queueing two that always wait differ by no more than the largest work of each; lateness is not made up for."""
    shares = Shares()
    tenants = [f"tenant {index}" for index in range(len(works))]
    waiting: list[tuple[float, str, float]] = []
    served = dict.fromkeys(tenants, 0.0)
    at_coming = dict(served)

    def queue_all(tenant: str, work: list[float]) -> None:
        waiting.extend((shares.tag(tenant, each), tenant, each) for each in work)
        at_coming.update(served)

    for tenant, work in zip(tenants[1:], works[1:], strict=True):
        queue_all(tenant, work)
    for turn in range(late + 6):
        if turn == late:
            queue_all(tenants[0], works[0])
        waiting.sort()
        tag, tenant, work_s = waiting.pop(0)
        shares.begin(tag)
        served[tenant] += work_s
        present = {one for _, one, _ in waiting}
        if turn >= late and present == set(tenants):
            since = [served[one] - at_coming[one] for one in tenants]
            assert max(since) - min(since) <= 2 * max(map(max, works))
