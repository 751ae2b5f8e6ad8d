"""Models that come and go on a worker by a scheduler's wish, over the real sockets."""

from typing import Any

import pytest

from collodion.wire.jobs import LatentId, Residency, Stage
from collodion.wire.to_scheduler import WorkerState
from collodion.wire.to_worker import ResidencyWish

SETTINGS = {
    "models": ("a=simulated",),
    "on_demand": ("b=simulated", "broken=simulated"),
    "simulated_load_ms": ("50", "broken:raise"),
    "simulated_model_mib": ("8",),
    "model_mib": 16,
    "beat_s": 60.0,  # what is told, is told because it changed
}


@pytest.fixture
def wishing(scheduler: Any, start_worker: Any) -> Any:
    start_worker(**SETTINGS)
    scheduler.hello()
    scheduler.beat()
    scheduler.hear(lambda message: getattr(message, "scheduler", "") == scheduler.incarnation)
    numbers = iter(range(1, 100))

    def wish(*models: str, **fields: Any) -> int:
        number = next(numbers)
        said = {"scheduler": scheduler.incarnation, "worker": scheduler.worker, **fields}
        scheduler.router.send(scheduler.peer, ResidencyWish(number=number, models=models, **said))
        return number

    return wish


def stands(scheduler: Any, **where: Residency) -> WorkerState:
    """Waits for a state in which these models are there."""

    def is_it(message: Any) -> bool:
        if not isinstance(message, WorkerState):
            return False
        return where.items() <= {status.name: status.residency for status in message.statuses}.items()

    state = scheduler.hear(is_it)
    assert isinstance(state, WorkerState)
    return state


def test_a_worker_tells_what_it_has_what_it_could_have_and_how_much_fits(scheduler: Any, start_worker: Any) -> None:
    start_worker(**SETTINGS)
    state = scheduler.hello()
    assert [model.name for model in state.models] == ["a", "b", "broken"]
    assert state.model_bytes == 16 << 20
    assert [(one.name, one.residency, one.pinned, one.size_bytes) for one in state.statuses] == [
        ("a", Residency.RESIDENT, True, 8 << 20),
        ("b", Residency.ON_DISK, False, 8 << 20),
        ("broken", Residency.ON_DISK, False, 8 << 20),
    ]


def test_a_wish_is_carried_out_and_told_at_once(scheduler: Any, wishing: Any) -> None:
    number = wishing("a", "b")
    stands(scheduler, b=Residency.LOADING)
    state = stands(scheduler, b=Residency.RESIDENT)
    assert state.wished == number
    status = next(one for one in state.statuses if one.name == "b")
    assert status.load_s is not None
    assert status.load_s >= 0.05
    wishing("b")
    stands(scheduler, a=Residency.ON_DISK, b=Residency.RESIDENT)


def test_latents_of_two_models_are_drawn_and_none_of_a_model_before_it_is_there(
    scheduler: Any, wishing: Any, order: Any
) -> None:
    jobs = {"warm": "a", "cold": "b"}
    names = {job: LatentId(job, 0) for job in jobs}
    orders = tuple(order(job=job, model=model) for job, model in jobs.items())
    scheduler.wish(running=(names["cold"], names["warm"]), orders=orders)
    scheduler.latent(names["warm"], Stage.DONE)
    wishing("a", "b")
    scheduler.latent(names["cold"], Stage.DONE)


def test_a_model_that_cannot_be_loaded_is_told_with_its_reason_and_the_worker_goes_on(
    scheduler: Any, wishing: Any, order: Any
) -> None:
    wishing("a", "broken", "b")
    state = stands(scheduler, broken=Residency.FAILED)
    assert "told to fail" in next(one for one in state.statuses if one.name == "broken").reason
    stands(scheduler, b=Residency.RESIDENT)
    wish = scheduler.wish(running=(LatentId("job", 0),), orders=(order(model="b"),))
    scheduler.applied(wish.number)
    scheduler.latent(LatentId("job", 0), Stage.DONE)


def test_a_wish_for_another_worker_is_none(scheduler: Any, wishing: Any) -> None:
    wishing("b", worker="another")
    number = wishing("a", "b")
    assert stands(scheduler, b=Residency.RESIDENT, a=Residency.RESIDENT).wished == number
