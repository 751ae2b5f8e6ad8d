"""Jobs as they are shown: live ones from their records, ended ones as they stood at their end."""

from dataclasses import dataclass

from collodion.scheduler.job import Job
from collodion.wire.jobs import Failure, JobState
from collodion.wire.to_frontend import Ended, ImageProgress, JobView, Timings


@dataclass(frozen=True, slots=True)
class Standing:
    """All that a watcher may have to be told of a job: its view, and which images failed."""

    view: JobView
    failures: tuple[tuple[int, Failure], ...]

    def ended(self) -> Ended | None:
        """The last event of its streams; None while it goes on."""
        if self.view.timings is None:
            return None
        return Ended(self.view.state, self.view.timings, self.view.failure, self.view.deadline_met)


def standing(job: Job, place: int = 0, predicted_finish: float | None = None, ended: float | None = None) -> Standing:
    """The job as it stands; `ended` is given once, at its end."""
    view = JobView(
        job=job.id,
        spec=job.spec,
        state=job.state,
        created=job.created,
        place=place,
        progress=tuple(
            ImageProgress(latent.id.image, latent.stage, latent.steps, job.spec.parameters.steps_run)
            for latent in job.latents
        ),
        images=tuple(latent.image for latent in job.latents if latent.image),
        deadline=job.deadline,
        predicted_finish=predicted_finish,
        ended=ended,
        failure=job.failure if ended is not None else None,
        timings=None if ended is None else _timings(job, ended),
        deadline_met=None if ended is None else _deadline_met(job, ended),
        promised=job.promised,
    )
    failures = tuple((latent.id.image, latent.failure) for latent in job.latents if latent.failure)
    return Standing(view, failures)


def _deadline_met(job: Job, ended: float) -> bool | None:
    if job.deadline is None:
        return None
    return job.state is JobState.FINISHED and ended <= job.deadline


def _timings(job: Job, ended: float) -> Timings:
    total = ended - job.created
    queued = total if job.begun is None else job.begun - job.created
    running = job.running_s + (ended - job.active_since if job.active else 0.0)
    return Timings(queued_s=queued, running_s=running, parked_s=max(0.0, total - queued - running), total_s=total)
