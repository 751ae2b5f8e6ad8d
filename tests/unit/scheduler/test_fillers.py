"""What runs without a promise: it does not starve while promises can spare the time, and no worker is idle for no reason."""

from hypothesis import given, settings
from hypothesis import strategies as st
from storms import STEADY, storms
from stormy_world import Ask, Storm, StormyWorld, weather

from collodion.scheduler.events import Event
from collodion.scheduler.fleet import Worker
from collodion.wire.jobs import DeadlinePolicy, Stage
from simulation.instance import Device, KeyCosts, Request

_SMALL, _LARGE = "m/512x512", "m/768x768"
_COSTS = {
    _SMALL: KeyCosts((0.01,), (0.02, 0.024, 0.028, 0.034), (0.02, 0.03)),
    _LARGE: KeyCosts((0.02,), (0.04, 0.07, 0.1, 0.13), (0.04, 0.08)),
}
_DEVICE = Device("d0", "kind", _COSTS, 4, 4, 2)
_PATIENCE_S = 1.0
quick = settings(max_examples=20, deadline=None, derandomize=True)


@quick
@given(storms(delays=STEADY, leaving=True))
def test_a_worker_is_idle_beside_work_only_by_decision(storm: Storm) -> None:
    """Then jobs were turned away lately, and it is asked again when that is over, or when what waits loses its patience."""
    world = StormyWorld(storm)

    def look(_: Event) -> None:
        for worker in world.core.fleet.workers.values():
            if _is_idle(worker) and _could_run(world, worker):
                assert worker.wake is not None
                assert world.now <= worker.wake <= world.now + storm.config().patience_s
                assert world.policy.fillers.busy(world.now)

    world.listeners.append(look)
    world.run()


def _is_idle(worker: Worker) -> bool:
    return not worker.running and all(latent.stage is not Stage.DECODING for latent in worker.held.values())


def _could_run(world: StormyWorld, worker: Worker) -> bool:
    waits = worker.room > 0 and world.core.dispatch.backlog.head(worker.takes) is not None
    return waits or any(latent.runnable for latent in worker.held.values())


@quick
@given(
    gaps_s=st.lists(st.sampled_from((0.12, 0.15, 0.2)), min_size=60, max_size=60),
    slo_s=st.sampled_from((4.0, 8.0)),
    images=st.integers(1, 4),
    steps=st.integers(1, 20),
)
def test_unpromised_work_ends_soon_after_its_patience_if_promises_can_spare_the_time(
    gaps_s: list[float], slo_s: float, images: int, steps: int
) -> None:
    """The stream takes at least as long as the worker has, and each of its jobs could wait for seconds."""
    asks = []
    now = 0.5
    for gap_s in gaps_s:
        now += gap_s
        asks.append(Ask(Request(now, now + slo_s, _SMALL, 15)))
    waits = Ask(Request(1.0, float("inf"), _SMALL, steps, images, tier="batch"), DeadlinePolicy.BEST_EFFORT)
    at = next(index for index, ask in enumerate(asks) if ask.request.release > 1.0)
    world = weather(Storm((_DEVICE,), (*asks[:at], waits, *asks[at:]), settings={"patience_s": _PATIENCE_S}))
    assert not any(fate.view is not None and fate.broken for fate in world.fates)
    view = world.fates[at].view
    assert view is not None
    assert view.ended is not None
    alone_s = 0.01 + images * (steps * 0.034 + 0.03)
    assert view.ended - view.created <= _PATIENCE_S + alone_s + 2.0
