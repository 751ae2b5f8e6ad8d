"""What a plan predicts comes true: nothing is later than was said, and no more than three transits earlier.

Two, since a worker that has just become idle begins as soon as an order comes, and one for the last report. On one worker: what is taken
from one worker's line for another's is finished at another time than was said.
"""

from hypothesis import given, settings
from storms import REFUSE, storms
from stormy_world import CLOCK_S, Storm, StormyWorld

from collodion.scheduler.events import Event, FrontendSaid
from collodion.scheduler.plans import TRANSIT_S
from collodion.wire.to_scheduler import SubmitJob


@settings(max_examples=60, deadline=None, derandomize=True)
@given(storms(workers=1, wishes=REFUSE))
def test_every_job_is_finished_when_the_last_arrival_left_it_to_be(storm: Storm) -> None:
    world = StormyWorld(storm)
    predicted: dict[str, float] = {}

    def look(event: Event) -> None:
        arrived = isinstance(event, FrontendSaid) and isinstance(event.message, SubmitJob)
        for job in world.core.book.live.values():
            finish = world.policy.finish(job) if job.promised else None
            if finish is not None and (arrived or storm.settings["admission_window_s"] or job.id not in predicted):
                predicted[job.id] = finish

    world.listeners.append(look)
    world.run()
    for fate in world.fates:
        if fate.promised_at is not None:
            assert fate.view is not None
            assert fate.view.ended is not None
            error_s = fate.view.ended - predicted[fate.job]
            assert -3 * TRANSIT_S - CLOCK_S <= error_s <= CLOCK_S
