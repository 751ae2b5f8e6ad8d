"""Storms that Hypothesis draws: fleets, requests, and what becomes of those who asked."""

from collections.abc import Sequence

from hypothesis import strategies as st
from stormy_world import Ask, Happening, Storm

from collodion.scheduler.plans import TRANSIT_S
from collodion.wire.jobs import DeadlinePolicy
from simulation.instance import Device, KeyCosts, Request, standalone_s

KEYS = ("m/512x512", "m/768x768", "n/512x512")
STEADY = ((0.0005, 0.0005),)
"""Every message takes as long as every other."""
ANY_DELAY = ((0.0, 0.0), (0.0005, 0.0005), (0.0, TRANSIT_S), (TRANSIT_S, TRANSIT_S))
REFUSE = (DeadlinePolicy.REFUSE,)
_GAPS_S = (0.0, 0.0, 0.0017, 0.01, 0.05, 0.2, 1.0)
_BASES_S = (0.005, 0.02, 0.05)
_SCALES = (1.05, 1.3, 2.0, 3.0, 6.0, 12.0)
_STAYING = ("stay", "stay", "stay", "stay", "cancel", "leave", "come_back")


@st.composite
def storms(
    draw: st.DrawFn,
    *,
    workers: int = 4,
    wishes: Sequence[DeadlinePolicy] = tuple(DeadlinePolicy),
    delays: Sequence[tuple[float, float]] = ANY_DELAY,
    leaving: bool = False,
    deaths: bool = False,
    tenants: int = 3,
    most: int = 14,
) -> Storm:
    """`leaving`: clients cancel, hang up and come back; `deaths`: a worker dies."""
    keys = KEYS[: draw(st.integers(1, len(KEYS)))]
    devices = draw(_fleets(keys, 2 if deaths else 1, workers))
    now, asks = 0.5, []
    for _ in range(draw(st.integers(1, most))):
        now += draw(st.sampled_from(_GAPS_S))
        asks.append(draw(_asks(now, keys, devices, wishes, tenants)))
    happenings = [each for index, ask in enumerate(asks) if leaving for each in draw(_partings(index, ask))]
    if deaths:
        moment, victim = draw(st.floats(0.4, now + 1.0)), draw(st.integers(0, len(devices) - 1))
        happenings.append(Happening(moment, "death", victim))
    settings = {
        "patience_s": draw(st.sampled_from((0.5, 60.0))),
        "admission_window_s": draw(st.sampled_from((0.0, 0.002))),
        "grace_s": draw(st.sampled_from((0.3, 10.0))),
    }
    delay_s, store_s = draw(st.sampled_from(delays)), draw(st.sampled_from((0.0, 0.03)))
    return Storm(devices, tuple(asks), tuple(happenings), delay_s, store_s, settings)


@st.composite
def _fleets(draw: st.DrawFn, keys: Sequence[str], least: int, most: int) -> tuple[Device, ...]:
    base_s = draw(st.sampled_from(_BASES_S))
    costs = {key: draw(_costs(base_s * (1.0 + 0.7 * index))) for index, key in enumerate(keys)}
    fleet = []
    for index in range(draw(st.integers(least, most))):
        slower, batch = draw(st.sampled_from((1.0, 1.0, 2.3))), draw(st.sampled_from((1, 2, 4, 8)))
        encode, decode = draw(st.sampled_from((1, 2, 8))), draw(st.sampled_from((1, 2, 4)))
        resident = draw(st.sampled_from((3, 8, 256)))
        scaled = {key: each.scaled(slower) for key, each in costs.items()}
        # Devices of one kind are primed with what one of them can batch.
        fleet.append(
            Device(f"d{index}", f"kind {slower}/{batch}/{encode}/{decode}", scaled, batch, encode, decode, resident)
        )
    return tuple(fleet)


@st.composite
def _costs(draw: st.DrawFn, base_s: float) -> KeyCosts:
    """A batch costs at least as much as a smaller one; what one more costs goes up and down."""
    more = st.sampled_from((0.0, 0.05, 0.3, 0.6, 1.0))

    def table(first_s: float, least: int, most: int) -> tuple[float, ...]:
        seconds = [first_s]
        for share in draw(st.lists(more, min_size=least - 1, max_size=most - 1)):
            seconds.append(seconds[-1] + share * first_s)
        return tuple(seconds)

    encode_s, decode_s = draw(st.floats(0.1, 1.0)) * base_s, draw(st.floats(0.5, 3.0)) * base_s
    return KeyCosts(table(encode_s, 1, 4), table(base_s, 2, 8), table(decode_s, 1, 4))


@st.composite
def _asks(
    draw: st.DrawFn,
    now: float,
    keys: Sequence[str],
    devices: Sequence[Device],
    wishes: Sequence[DeadlinePolicy],
    tenants: int,
) -> Ask:
    key, steps = draw(st.sampled_from(keys)), draw(st.sampled_from((1, 2, 4, 10, 25, 40)))
    images = draw(st.sampled_from((1, 1, 2, 3, 8)))
    slo_s = standalone_s(key, steps, images, devices) * draw(st.sampled_from(_SCALES))
    tier = draw(st.sampled_from(("interactive", "standard", "batch")))
    given = draw(st.booleans()) or len(wishes) == 1
    deadline = now + slo_s if given else float("inf")
    tenant = f"tenant {draw(st.integers(1, tenants))}"
    request = Request(now, deadline, key, steps, images, 1.0, tenant, tier)
    return Ask(request, draw(st.sampled_from(wishes)), draw(st.sampled_from((1, steps))), draw(st.booleans()), given)


@st.composite
def _partings(draw: st.DrawFn, index: int, ask: Ask) -> list[Happening]:
    how = draw(st.sampled_from(_STAYING if ask.watched else _STAYING[:5]))
    if how == "stay":
        return []
    moment = ask.request.release + draw(st.floats(0.0, 1.0)) * min(ask.request.slo_s or 2.0, 2.0)
    if how == "cancel":
        return [Happening(moment, "cancel", index)]
    left = Happening(moment, "leave", index)
    return [left] if how == "leave" else [left, Happening(moment + draw(st.floats(0.0, 3.0)), "come_back", index)]
