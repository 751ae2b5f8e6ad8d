"""The baselines: what other servers do, on the same workers, so that every claim is measured beside them.

`fifo` and `edf` choose at every step and only differ in the order; with `drop` they fail a job that cannot meet its deadline any more,
which is most of what deadlines are worth in overload. `static` runs whole requests.
"""

import itertools

from collodion.scheduler.backlog import Backlog
from collodion.scheduler.cost_model import DECODE, STEP
from collodion.scheduler.fleet import Worker
from collodion.scheduler.job import Latent, Rank
from collodion.scheduler.planning import NEVER
from collodion.scheduler.policy import Choice, Situation, Unplanned
from collodion.wire.jobs import Stage


class InOrder(Unplanned):
    """Step-level: the batch key of the first latent, and all of that key in order, as many again waiting in line behind them.

    The order is age, or with `by_deadline` the earliest deadline. With `drop`, a job is hopeless when an image of it that would be chosen
    could not be finished in time even alone.
    """

    def __init__(self, by_deadline: bool = False, drop: bool = False) -> None:
        self._by_deadline = by_deadline
        self._drop = drop

    def rank(self, latent: Latent) -> Rank:
        """Its age, or its deadline and then its age."""
        first = 0.0
        if self._by_deadline:
            first = NEVER if latent.job.deadline is None else latent.job.deadline
        return first, latent.id.job, latent.id.image

    def concerns(self, worker: Worker, latent: Latent) -> bool:
        """If it may join the line, or is before all of it."""
        if worker.cap < 1 or worker.room < 1:
            return False
        if not worker.running or latent.rank < worker.running[0].rank:
            return True
        if worker.running[0].key != latent.key:
            return False
        return len(worker.running) < 2 * worker.cap or latent.rank < worker.running[-1].rank

    def choose(self, worker: Worker, situation: Situation, share: int) -> Choice:
        """See the class."""
        held = worker.runnable()
        takes = min(worker.room, share, worker.cap)
        waiting = situation.backlog.head(worker.takes) if takes > 0 else None
        heads = [*held[:1], *([waiting] if waiting else [])]
        if not heads:
            return Choice()
        first = min(heads, key=_rank)
        if first.suspect and _decodes(worker):
            return Choice()  # should it kill the worker, it is to be plain that it was this one
        line = self._line(worker, situation.backlog, first, _of_key(held, first.key), takes)
        if self._drop:
            batch = min(worker.cap, len(line))
            hopeless = next(
                (latent.job for latent in reversed(line) if _is_hopeless(latent, batch, worker, situation)), None
            )
            if hopeless is not None:
                return Choice(hopeless=(hopeless,))
        return Choice(line, (worker.cap,) * len(line))

    def _line(
        self, worker: Worker, backlog: Backlog, first: Latent, mine: list[Latent], takes: int
    ) -> tuple[Latent, ...]:
        newcomers = backlog.first_for(worker.takes, first, min(takes, 1))
        if newcomers:
            # Only those that will be chosen are taken out: with a full line that is none, whatever waits.
            ahead = sum(latent.rank < newcomers[0].rank for latent in mine)
            newcomers = backlog.first_for(worker.takes, first, min(takes, 2 * worker.cap - ahead))
        return tuple(sorted([*mine, *newcomers], key=_rank)[: 2 * worker.cap])


class Static(Unplanned):
    """Whole-request batches: what most servers do, and the baseline to be measured against.

    A batch of waiting jobs of one key starts on an idle worker when `size` latents wait or the oldest waited `timeout_s`. Then
    it is closed: nobody joins until all its latents are done. A job goes into a batch with all its images, or in parts of the
    worker's `cap` if it has more than that.
    """

    def __init__(self, size: int, timeout_s: float) -> None:
        self._size = size
        self._timeout_s = timeout_s

    def rank(self, latent: Latent) -> Rank:
        """Its age."""
        return 0.0, latent.id.job, latent.id.image

    def concerns(self, worker: Worker, latent: Latent) -> bool:  # noqa: ARG002 - the protocol's
        """If the worker is idle."""
        return not worker.running and worker.cap > 0 and worker.room > 0

    def choose(self, worker: Worker, situation: Situation, share: int) -> Choice:  # noqa: ARG002 - a request is whole
        """See the class; a whole request is not divided by `share`."""
        held = worker.runnable()
        if held:
            return Choice(tuple(_of_key(held, held[0].key)[: worker.cap]))
        # Latents of jobs that were set aside do not keep a batch closed: they may never come back.
        if _decodes(worker):
            return Choice()
        return self._start(worker, situation)

    def _start(self, worker: Worker, situation: Situation) -> Choice:
        ready: Latent | None = None
        wake: float | None = None
        full = min(self._size, worker.cap)
        for model in worker.takes:
            for _, count, oldest in situation.backlog.keys(model):
                due = oldest.job.created + self._timeout_s
                if count < full and situation.now < due:
                    wake = due if wake is None else min(wake, due)
                elif ready is None or oldest.rank < ready.rank:
                    ready = oldest
        return Choice(self._requests(worker, ready, situation.backlog), wake=wake) if ready else Choice(wake=wake)

    def _requests(self, worker: Worker, oldest: Latent, backlog: Backlog) -> tuple[Latent, ...]:
        """Whole jobs of one key, by age, as many as fit the batch; of the first as much as fits the worker."""
        most = min(worker.cap, worker.room)
        fit = min(self._size, most)
        waiting = backlog.first(oldest.model, oldest.key, most + 1)
        batch: list[Latent] = []
        for _, group in itertools.groupby(waiting, key=lambda latent: latent.id.job):
            images = list(group)
            if batch and len(batch) + len(images) > fit:
                break
            batch += images[:most]
        return tuple(batch)


def _rank(latent: Latent) -> Rank:
    return latent.rank


def _decodes(worker: Worker) -> bool:
    return any(latent.stage is Stage.DECODING for latent in worker.held.values())


def _of_key(latents: list[Latent], key: str) -> list[Latent]:
    return [latent for latent in latents if latent.key == key]


def _is_hopeless(latent: Latent, batch: int, worker: Worker, situation: Situation) -> bool:
    job, costs, device = latent.job, situation.costs, worker.device_kind
    if job.deadline is None:
        return False
    step = costs.seconds(device, STEP, job.key, batch * job.rows) or 0.0
    decode = costs.seconds(device, DECODE, job.key, 1) or 0.0
    return situation.now + latent.evaluations_left * step + decode > job.deadline
