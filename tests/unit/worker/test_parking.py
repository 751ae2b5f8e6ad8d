"""States of latents that do not run: what stays on the device, what goes to the host, and when it comes back."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collodion.wire.jobs import LatentId, Reason, Stage
from collodion.worker.config import WorkerConfig
from collodion.worker.families.simulated import Simulated
from collodion.worker.metrics import WorkerMetrics

MIB = 1 << 20
WIDTH = HEIGHT = 1024  # a quarter of a MiB each
NAMES = [LatentId(f"job{number}", 0) for number in range(8)]


class Hosted(Simulated):
    """A simulated model that insists on what the protocol promises of parked states."""

    def __init__(self):
        super().__init__(
            "simulated", WorkerConfig(simulated_step_ms=("0",), simulated_encode_ms=("0",), simulated_decode_ms=("0",))
        )
        self.spilled, self.recalled, self.on_host = [], [], set()
        self.full = False

    def spill(self, state):
        if self.full:
            raise MemoryError
        assert state not in self.on_host
        self.on_host.add(state)
        self.spilled.append(state.seed)

    def recall(self, state):
        if self.full:
            raise MemoryError
        self.on_host.remove(state)
        self.recalled.append(state.seed)

    def step(self, states):
        assert not self.on_host.intersection(states)
        return super().step(states)

    def decode(self, states):
        assert not self.on_host.intersection(states)
        return super().decode(states)


@pytest.fixture
def hosted():
    return Hosted()


def start(driver):
    """Eight latents under way."""
    for number, name in enumerate(NAMES):
        driver.order(name.job, model="simulated", steps=9, seed=number, width=WIDTH, height=HEIGHT)
    driver.wish(NAMES)
    driver.engine.round()
    return driver


def test_the_least_urgent_are_spilled_and_no_more_than_must_be(hosted, drive):
    driver = start(drive(hosted, parked_mib=1))
    driver.wish(NAMES[:1], parked=NAMES[1:6])
    driver.engine.round()
    assert hosted.spilled == [5]
    driver.wish([NAMES[2], NAMES[0]], caps=[1, 1], parked=[NAMES[3], NAMES[4], NAMES[1], NAMES[5]])
    driver.engine.round()  # in line is before parked: 0, 3, 4, 1 are left
    assert (hosted.spilled, hosted.recalled) == ([5], [])
    driver.wish([NAMES[5], NAMES[0]], caps=[1, 1], parked=[NAMES[3], NAMES[4], NAMES[1], NAMES[2]])
    driver.engine.round()
    assert (hosted.spilled, hosted.recalled) == ([5, 2], [5])


def test_who_is_parked_is_spilled_before_who_waits_in_line(hosted, drive):
    driver = start(drive(hosted, parked_mib=1))
    driver.wish(NAMES[:6], caps=[1] * 6, parked=NAMES[6:])
    driver.engine.round()
    assert hosted.spilled == [7, 6, 5]


def test_what_was_spilled_is_counted_until_it_is_back_or_gone(hosted, drive):
    driver, metrics = start(drive(hosted, parked_mib=0)), WorkerMetrics()
    metrics.show_latents(lambda: driver.outbox.held)

    def spilled():
        value = metrics.registry.get_sample_value
        return value("collodion_worker_spilled_latents"), value("collodion_worker_spilled_bytes")

    assert spilled() == (0, 0)
    driver.wish(NAMES[:5], parked=NAMES[5:])
    driver.engine.round()
    assert spilled() == (3, 3 * MIB / 4)
    driver.wish(NAMES[:6], parked=NAMES[6:7])
    driver.engine.round()
    assert spilled() == (1, MIB / 4)
    driver.wish([])
    driver.engine.round()
    assert spilled() == (0, 0)


@pytest.mark.parametrize("when", ["spill", "recall"])
def test_a_state_that_cannot_be_moved_costs_its_latent_alone(when, hosted, drive):
    driver = start(drive(hosted, parked_mib=0))
    hosted.full = when == "spill"
    driver.wish(NAMES[:7], parked=NAMES[7:])
    driver.engine.round()
    hosted.full = True
    driver.wish(NAMES)
    driver.finish()
    assert driver.latent(NAMES[7]).failure.reason is Reason.OUT_OF_MEMORY
    assert driver.latent(NAMES[7]).spilled_bytes == 0
    assert [driver.latent(name).stage for name in NAMES[:7]] == [Stage.DONE] * 7


quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def wishes(draw):
    order = draw(st.permutations(NAMES))
    running, held = sorted(draw(st.tuples(st.integers(0, 8), st.integers(0, 8))))
    return order[:running], order[running:held], draw(st.lists(st.integers(1, 8), min_size=running, max_size=running))


@settings(quick, max_examples=100)
@given(schedule=st.lists(wishes(), min_size=1, max_size=8), parked_mib=st.integers(0, 2))
def test_parked_states_never_take_more_than_their_budget(schedule, parked_mib, drive):
    hosted = Hosted()
    driver = start(drive(hosted, parked_mib=parked_mib))
    for running, parked, caps in schedule:
        driver.wish(running, parked, caps)
        driver.engine.round()
        held = driver.outbox.held.latents
        idle = [latent for latent in held if latent.stage is Stage.PARKED and latent.state is not None]
        on_device = [latent for latent in idle if latent.state not in hosted.on_host]
        assert len(on_device) * MIB / 4 <= parked_mib * MIB
        assert {latent.id for latent in held if latent.spilled_bytes} == {
            latent.id for latent in held if latent.state in hosted.on_host
        }
