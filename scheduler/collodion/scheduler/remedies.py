"""What would let a job finish sooner: only what is true now and can be computed now, the most helpful first.

1. What could be promised is found as admission finds it: a job asked for anew, with fewer steps or in another tier, is tried in the lines.
2. That costs time, and explanations are not worth much of it: each second has a budget of latents that may be played forward for them.
3. Nobody's job is changed or moved for it.
"""

import math
from collections.abc import Iterable, Sequence

import msgspec

from collodion.scheduler.admission import slo_of
from collodion.scheduler.fleet import Fleet, Worker
from collodion.scheduler.job import Job, new_job
from collodion.scheduler.planner import Planner
from collodion.scheduler.planning import NEVER, KeyCosts, Play, Position, Task
from collodion.scheduler.plans import TRANSIT_S, WorkerCosts
from collodion.scheduler.slack import Slack
from collodion.scheduler.wording import counted, span
from collodion.wire.to_frontend import TierInfo

_BUDGET = 2_000
"""Latents that may be played forward in a second to explain: about 0.02 s of it."""
_STEPS_TRIED = 6
_WORTH_SAYING = 0.1  # of the time to the end: what saves less is no remedy


class Remedies:
    """Finds them. `slack` is the policy if it makes promises."""

    def __init__(
        self, tiers: Sequence[TierInfo], fleet: Fleet, planner: Planner, costs: CostModelOf, slack: Slack | None
    ) -> None:
        self._tiers = tiers
        self._fleet = fleet
        self._planner = planner
        self._costs = costs
        self._slack = slack
        self._spent = 0
        self._second = 0.0

    def of(self, job: Job, finish: float | None, now: float) -> tuple[str, ...]:
        """For a job that a worker could run; `finish` is when it is predicted to be finished (Unix seconds)."""
        begun = any(latent.evaluations for latent in job.latents)
        found = [self._fewer_steps(job, finish, now), self._tier(job, now)] if not begun else []
        return tuple(remedy for remedy in (*found, self._alone(job, finish, begun, now)) if remedy)
