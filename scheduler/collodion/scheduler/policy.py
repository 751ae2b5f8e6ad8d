"""Policies: which latents a worker is to run next.

1. A policy sees the worker with what it holds, the latents that wait, the cost model and the time, and changes none of them.
   What it chooses from the backlog is placed on the worker, and stays there.
2. A choice is a line: the worker goes through it by the rule of `Membership`. It takes at most min(worker.room, share) from the backlog.
3. It is asked again after every change that concerns the worker, and at `wake`.
4. A policy that plans ahead is told what its plans have to know of (`serve`, `observe`, `forget`, `lose`), and puts them in order in
   `prepare`, before it is asked. The others inherit from `Unplanned`.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from collodion.scheduler.backlog import Backlog
from collodion.scheduler.cost_model import CostModel
from collodion.scheduler.fleet import Worker
from collodion.scheduler.job import Job, Latent, Rank
from collodion.wire.jobs import LatentId


@dataclass(frozen=True, slots=True)
class Choice:
    """The line, most urgent first, and the size of the step batch while each of it leads (empty: no bound but the worker's).

    `after` is the boundary from which it holds, as a membership says it. `wake` (Unix seconds) is when time alone may change it.
    `hopeless` are jobs that are to be dropped: then the rest does not count.
    """

    running: tuple[Latent, ...] = ()
    caps: tuple[int, ...] = ()
    after: tuple[LatentId, int] | None = None
    wake: float | None = None
    hopeless: tuple[Job, ...] = ()


@dataclass(frozen=True, slots=True)
class Situation:
    """What all policies may look at besides the worker; `now` is Unix seconds."""

    backlog: Backlog
    costs: CostModel
    now: float


class Policy(Protocol):
    """One rule of choosing."""

    def rank(self, latent: Latent) -> Rank:
        """Its place among latents that wait or are held, least first; asked when it begins to wait, and may not change then."""

    def concerns(self, worker: Worker, latent: Latent) -> bool:
        """Whether this waiting latent may change the worker's choice. Asked of every worker at every arrival: O(1)."""

    def choose(self, worker: Worker, situation: Situation, share: int) -> Choice:
        """The worker's line; `share` is what it may take of the backlog without robbing its peers."""

    def prepare(self, now: float) -> list[Worker]:
        """Puts its plans in order; the workers that are to be decided anew for it."""

    def serve(self, worker: Worker, now: float) -> None:
        """The worker takes latents of other models than before."""

    def observe(self, worker: Worker, stepped: Collection[LatentId], boundary: float, now: float) -> None:
        """The worker reported how far it had stepped these latents, by this boundary, in the line that it was sent last."""

    def forget(self, latent: Latent, now: float) -> None:
        """The latent ended, is set aside, or lost its worker."""

    def lose(self, worker: Worker) -> None:
        """The worker is gone."""

    def start_over(self, jobs: Iterable[Job]) -> None:
        """After a defect: these are the unfinished jobs, and all that was derived from them is void."""

    def finish(self, job: Job) -> float | None:
        """When the job will be finished (Unix seconds), if that is planned."""

    def busy_until(self, job: Job, now: float) -> float:
        """Until when all workers that could run the job are busy with what is planned (Unix seconds)."""


class Unplanned:
    """What a policy that does not plan ahead has to say of plans."""

    def prepare(self, now: float) -> list[Worker]:  # noqa: ARG002 - the protocol's
        """Nothing to put in order."""
        return []

    def serve(self, worker: Worker, now: float) -> None:
        """Nothing to promise."""

    def observe(self, worker: Worker, stepped: Collection[LatentId], boundary: float, now: float) -> None:
        """Nothing to compare with."""

    def forget(self, latent: Latent, now: float) -> None:
        """It was in no plan."""

    def lose(self, worker: Worker) -> None:
        """It had no plan."""

    def start_over(self, jobs: Iterable[Job]) -> None:
        """Nothing was derived."""

    def finish(self, job: Job) -> float | None:  # noqa: ARG002 - the protocol's
        """Nothing is planned."""
        return None

    def busy_until(self, job: Job, now: float) -> float:  # noqa: ARG002 - the protocol's
        """Nothing is planned."""
        return now
