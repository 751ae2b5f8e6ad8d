"""What happens to a job from its acceptance to its end, and who is told.

1. Every change of a job or a latent after its acceptance is made here: first the record, then the indexes, then the events.
2. A job is acknowledged when it is durable; before that nobody is told of it and none of it runs.
3. Progress of an image ascends, but for one case: when its worker is lost it waits again and begins at zero.
"""

import logging
from collections.abc import Callable

from collodion.scheduler.book import JobBook
from collodion.scheduler.dispatch import Dispatch
from collodion.scheduler.events import Outbox, Persist, TellFrontend
from collodion.scheduler.job import LOSSES_ALLOWED, Job, Latent
from collodion.scheduler.prediction import Prediction
from collodion.scheduler.timers import Timers
from collodion.scheduler.transitions import JOB_ENDS, LATENT_ENDS, LATENT_TRANSITIONS
from collodion.scheduler.views import Standing, standing
from collodion.scheduler.watchers import Watchers
from collodion.wire.jobs import Failure, JobState, Reason, Stage
from collodion.wire.to_frontend import (
    ImageFailed,
    ImageStored,
    JobAnswer,
    Progressed,
    Refused,
    StageChanged,
    Warned,
)
from collodion.wire.to_scheduler import LatentReport

_WARNINGS_TOLD = 32

_log = logging.getLogger(__name__)


class Lifecycle:
    """Moves jobs and latents, and tells their watchers."""

    def __init__(
        self, book: JobBook, watchers: Watchers, dispatch: Dispatch, prediction: Prediction, outbox: Outbox
    ) -> None:
        self._book = book
        self._watchers = watchers
        self._dispatch = dispatch
        self._prediction = prediction
        self._outbox = outbox
        self.graces = Timers()

    def standing(self, job_id: str, now: float) -> Standing | None:
        """How a job stands, unfinished or ended; None if there is no such job."""
        job = self._book.live.get(job_id)
        return self._standing(job, now) if job else self._book.ended.get(job_id)

    # -------------------------------------------------------------- acceptance

    def accept(self, job: Job, warning: tuple[str, str] | None = None) -> None:
        """A job that is in the book is accepted; it goes on when it is persisted."""
        job.accepted = True
        if warning is not None:
            job.warned.add(warning)
        self._outbox.add(Persist(standing(job).view, job.promise, warning[0] if warning is not None else ""))

    def refuse(self, job: Job, refused: Callable[[int], Refused]) -> None:
        """A job that is in the book, and was told to nobody, is refused; `refused` makes the answer to a call."""
        for peer, call in job.answers_due:
            self._outbox.add(TellFrontend(peer, refused(call)))
        for watcher in self._watchers.of_job(job.id):
            self._outbox.add(TellFrontend(watcher.peer, refused(watcher.number)))
            self._watchers.remove(watcher)
        self._book.remove(job)
        _log.info("refused a job", extra={"job": job.id, "tenant": job.spec.tenant, "tier": job.spec.tier})

    def give_up(self, job: Job, now: float) -> None:
        """The job cannot meet its deadline any more, and the policy drops such jobs."""
        self.fail(job, Failure(Reason.HOPELESS, "it could not meet its deadline any more"), now)

    def fail_waiting(self, model: str, reason: str, now: float) -> None:
        """Nobody can draw with this model: the jobs that wait for it fail."""
        for job in list(self._book.live.values()):
            waits = any(latent.ticket for latent in job.latents)
            if job.spec.parameters.model == model and waits:
                self.fail(job, Failure(Reason.MODEL_UNUSABLE, reason), now)

    def fail(self, job: Job, failure: Failure, now: float) -> None:
        """The job's unfinished images fail."""
        for latent in list(job.unfinished()):
            if not latent.ended:
                self._stop(latent, failure, now)

    def acknowledge(self, job_id: str, now: float) -> None:
        """The job is durable: those who wait for it are answered, and its latents wait for workers."""
        job = self._book.live.get(job_id)
        if job is None or job.acknowledged:
            return
        job.acknowledged = True
        _log.info("accepted a job", extra={"job": job.id, "tenant": job.spec.tenant, "tier": job.spec.tier})
        shown = self._standing(job, now)
        for peer, call in job.answers_due:
            self._outbox.add(TellFrontend(peer, JobAnswer(call, shown.view)))
        job.answers_due.clear()
        for watcher in self._watchers.of_job(job.id):
            self._watchers.update(watcher, shown, now)
        for warning in job.warned:
            self._watchers.tell(job.id, Warned(*warning), now)
        for latent in job.latents:
            self._line_up(latent)

    # -------------------------------------------------------------- watched or not

    def unwatched(self, job_id: str, grace_s: float, now: float) -> None:
        """A watcher left; the last one of a job that is not detached parks it."""
        job = self._book.live.get(job_id)
        if job is None or job.spec.detach or self._watchers.watched(job_id):
            return
        if job.state is not JobState.PARKED:
            job.parked_until = now + grace_s
            self.graces.add(job.parked_until, job.id)
            self._book.enter(job, JobState.PARKED)
            job.promised = False  # a promise is kept to who waits for it
            for latent in job.latents:
                self._dispatch.set_aside(latent, now)
            _log.info("parked a job", extra={"job": job.id, "grace_s": grace_s})

    def watched(self, job_id: str) -> None:
        """A watcher came: a parked job goes on."""
        job = self._book.live.get(job_id)
        if job is None or job.state is not JobState.PARKED:
            return
        job.parked_until = None
        self._book.enter(job, job.due_state())
        for latent in job.unfinished():
            if latent.worker is None:
                self._line_up(latent)
            self._dispatch.concern_holder(latent)
        _log.info("resumed a job", extra={"job": job.id})

    def end_graces(self, now: float) -> None:
        """Cancels the parked jobs to which nobody came back."""
        for when, job_id in self.graces.due(now):
            job = self._book.live.get(job_id)
            if job is not None and job.state is JobState.PARKED and job.parked_until == when:
                self.cancel(job, "its client hung up and did not come back in time", now)

    # -------------------------------------------------------------- what a worker says

    def progress(self, latent: Latent, report: LatentReport, now: float) -> None:
        """A latent is further, on the worker that holds it. What would lead back is ignored."""
        for warning in report.warnings:
            self._warn(latent.job, warning, now)
        stage = report.stage
        if stage in LATENT_ENDS:
            self._progress_steps(latent, report, now)
            self._end_latent(latent, report, now)
        elif report.evaluations < latent.evaluations:
            return
        elif stage is latent.stage:
            self._progress_steps(latent, report, now)
        elif (latent.stage, stage) in LATENT_TRANSITIONS and stage is not Stage.WAITING:
            behind = stage in (Stage.PARKED, Stage.DECODING)
            if behind:
                self._progress_steps(latent, report, now)
            self._enter(latent, stage, now)
            if not behind:
                self._progress_steps(latent, report, now)

    def lose(self, latent: Latent, by_death: bool, now: float) -> None:
        """Its worker is gone: it begins anew elsewhere, unless it seems to be what kills workers."""
        latent.worker, latent.since = None, 0
        self._dispatch.set_aside(latent, now)
        latent.evaluations = latent.steps = latent.previewed = 0
        latent.losses += by_death
        if latent.losses > LOSSES_ALLOWED:
            failure = Failure(Reason.WORKER_LOST_REPEATEDLY, f"{latent.losses} workers died while they ran this image")
            self._stop(latent, failure, now)
            return
        self._enter(latent, Stage.WAITING, now)
        self._line_up(latent)

    def _progress_steps(self, latent: Latent, report: LatentReport, now: float) -> None:
        latent.evaluations = max(latent.evaluations, report.evaluations)
        job = latent.job
        to_do = job.spec.parameters.steps_run
        steps = min(report.steps, to_do)
        if steps > latent.steps:
            latent.steps = steps
            if job.id in self._watchers:
                finish = self._prediction.finish(job, now)
                self._watchers.tell(job.id, Progressed(latent.id.image, steps, to_do, finish), now)

    def _enter(self, latent: Latent, stage: Stage, now: float) -> None:
        if stage is latent.stage:
            return
        latent.enter(stage, now)
        job = latent.job
        self._watchers.tell(job.id, StageChanged(latent.id.image, stage), now)
        due = job.due_state()
        if job.state is not JobState.PARKED and due not in JOB_ENDS and due is not job.state:
            self._book.enter(job, due)

    def _end_latent(self, latent: Latent, report: LatentReport, now: float) -> None:
        image = report.image
        if report.stage is Stage.DONE and image is not None and image.index == latent.id.image:
            latent.image = image
            latent.steps = latent.job.spec.parameters.steps_run
            self._dispatch.withdraw(latent, now)
            self._enter(latent, Stage.DONE, now)
            self._watchers.tell(latent.job.id, ImageStored(image), now)
            self._end_if_over(latent.job, now)
        else:
            absent = Failure(Reason.WORKER_ERROR, "the worker said that it ended, but not how")
            self._stop(latent, report.failure or absent, now)

    def _stop(self, latent: Latent, failure: Failure, now: float) -> None:
        latent.failure = failure
        latent.job.failure = latent.job.failure or failure
        self._dispatch.withdraw(latent, now)
        self._enter(latent, Stage.STOPPED, now)
        _log.warning(
            "an image failed", extra={"job": latent.id.job, "image": latent.id.image, "reason": failure.reason}
        )
        self._watchers.tell(latent.job.id, ImageFailed(latent.id.image, failure), now)
        self._end_if_over(latent.job, now)

    def _warn(self, job: Job, warning: tuple[str, str], now: float) -> None:
        if warning not in job.warned and len(job.warned) < _WARNINGS_TOLD:
            job.warned.add(warning)
            self._watchers.tell(job.id, Warned(*warning), now)

    # -------------------------------------------------------------- the end

    def cancel(self, job: Job, why: str, now: float) -> None:
        """Ends a job now, whatever it was doing."""
        for latent in job.unfinished():
            self._dispatch.withdraw(latent, now)
            latent.enter(Stage.STOPPED, now)
        job.failure = Failure(Reason.CANCELLED, why)
        self._end(job, JobState.CANCELLED, now)

    def _end_if_over(self, job: Job, now: float) -> None:
        if (due := job.due_state()) in JOB_ENDS:
            self._end(job, due, now)

    def _end(self, job: Job, state: JobState, now: float) -> None:
        self._book.enter(job, state)
        self._close(job, now)

    def _close(self, job: Job, now: float) -> None:
        last = standing(job, ended=now)
        self._book.close(job, last)
        for peer, call in job.answers_due:
            self._outbox.add(TellFrontend(peer, JobAnswer(call, last.view)))
        self._outbox.add(Persist(last.view, job.promise))
        self._watchers.end(job.id, last, now)
        _log.info(
            "a job ended", extra={"job": job.id, "state": job.state.value, "seconds": round(now - job.created, 3)}
        )
        job.latents = ()  # each names its job: in a circle they would wait for a full garbage collection

    def mend(self, grace_s: float, now: float) -> None:
        """Makes what is derived from the latents' records anew, and ends what a defect of ours left half ended."""
        self._dispatch.start_over(self._book.live.values())
        for job in list(self._book.live.values()):
            for latent in job.unfinished():
                latent.ticket = 0
                self._put_back(latent, now)
            if job.state in JOB_ENDS:
                self._close(job, now)
                continue
            self._end_if_over(job, now)
            self.unwatched(job.id, grace_s, now)
            if job.parked_until is not None:
                self.graces.add(job.parked_until, job.id)

    def _put_back(self, latent: Latent, now: float) -> None:
        if self._dispatch.hold(latent):
            return
        if latent.stage is not Stage.WAITING:
            self.lose(latent, by_death=False, now=now)
        else:
            latent.worker = None
            self._line_up(latent)

    def _line_up(self, latent: Latent) -> None:
        """It waits for a worker, unless its job is not durable yet or set aside."""
        if latent.job.acknowledged and latent.job.state is not JobState.PARKED:
            self._dispatch.enqueue(latent)

    def _standing(self, job: Job, now: float) -> Standing:
        return standing(job, self._book.place(job), self._prediction.finish(job, now))
