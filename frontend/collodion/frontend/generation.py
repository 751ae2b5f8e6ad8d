"""GenerationService: submits, watches, cancels, fetches pictures, and lists tiers. It checks, asks the scheduler, and relays."""

from collections.abc import Callable
from typing import Any

from collodion.frontend import beginning, convert, validate
from collodion.frontend.calls import Answer, Watch
from collodion.frontend.config import Config
from collodion.frontend.errors import CallError, not_found
from collodion.frontend.fields import Fields, plausible
from collodion.frontend.images import Images
from collodion.frontend.link import Link
from collodion.frontend.metrics import Metrics
from collodion.frontend.rpc import Context, Gate
from collodion.frontend.uploads import Sent, Uploads
from collodion.v1 import generation_pb2 as pb
from collodion.wire import to_scheduler
from collodion.wire.artifacts import ArtifactMissing
from collodion.wire.jobs import JobSpec, Reason, Stage, StoredImage
from collodion.wire.to_frontend import JobAnswer, JobsAnswer, JobView

NAME = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name


class GenerationService:
    """The service's methods; errors are CallErrors."""

    def __init__(self, config: Config, link: Link, images: Images, uploads: Uploads, metrics: Metrics) -> None:
        self._config = config
        self._link = link
        self._images = images
        self._uploads = uploads
        self._metrics = metrics

    def handlers(self, gate: Gate) -> dict[str, Any]:
        """The methods as gRPC wants them."""
        return {
            "Generate": gate.streaming("Generate", pb.GenerateRequest, self.generate),
            "CreateJob": gate.unary("CreateJob", pb.CreateJobRequest, self.create_job),
            "GetJob": gate.unary("GetJob", pb.GetJobRequest, self.get_job),
            "ListJobs": gate.unary("ListJobs", pb.ListJobsRequest, self.list_jobs),
            "WatchJob": gate.streaming("WatchJob", pb.WatchJobRequest, self.watch_job),
            "CancelJob": gate.unary("CancelJob", pb.CancelJobRequest, self.cancel_job),
            "DownloadImage": gate.streaming("DownloadImage", pb.DownloadImageRequest, self.download_image),
            "ListTiers": gate.unary("ListTiers", pb.ListTiersRequest, self.list_tiers),
        }

    async def generate(self, request: pb.GenerateRequest, context: Context) -> None:
        """Submits a job and relays its events."""
        check = Fields()
        inline = validate.delivers_inline(check, request.image_delivery)
        sent, job = Sent.taken(request.job)
        del request  # with its pictures: the stream may go on for hours
        spec = await self._spec(check, job, sent, context)
        del sent
        model = ("Model", spec.parameters.model)
        watch = self._link.watch(model, lambda call: to_scheduler.SubmitJob(call, spec, watch=True))
        await self._relay(watch, inline, context)

    async def create_job(self, request: pb.CreateJobRequest, context: Context) -> pb.CreateJobResponse:
        """Submits a job."""
        sent, job = Sent.taken(request.job)
        del request
        spec = await self._spec(Fields(), job, sent, context)
        del sent
        model = ("Model", spec.parameters.model)
        answer = await self._link.ask(model, lambda call: to_scheduler.SubmitJob(call, spec, watch=False))
        return pb.CreateJobResponse(job=convert.job(_view(answer)))

    async def get_job(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        """Says how a job stands."""
        view = await self._ask_about(request.job_id, context, to_scheduler.GetJob)
        return pb.GetJobResponse(job=convert.job(view))

    async def cancel_job(self, request: pb.CancelJobRequest, context: Context) -> pb.CancelJobResponse:
        """Cancels a job."""
        view = await self._ask_about(request.job_id, context, to_scheduler.CancelJob)
        return pb.CancelJobResponse(job=convert.job(view))

    async def list_jobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        """Lists the tenant's jobs."""
        check = Fields()
        tenant = check.tenant(context.invocation_metadata())
        size = validate.page_size(check, request.page_size)
        states = validate.job_states(check, request.states)
        labels = check.labels("labels", request.labels)
        if request.page_token and not plausible(request.page_token):
            check.wrong("page_token", "has to be the next_page_token of the page before")
        check.raise_violations()
        answer = await self._link.ask(
            ("Job", ""),
            lambda call: to_scheduler.ListJobs(call, tenant, size, request.page_token, states, labels),
        )
        assert isinstance(answer, JobsAnswer)
        return pb.ListJobsResponse(jobs=[convert.job(view) for view in answer.views], next_page_token=answer.next)

    async def watch_job(self, request: pb.WatchJobRequest, context: Context) -> None:
        """Attaches to a job and relays its events."""
        check = Fields()
        inline = validate.delivers_inline(check, request.image_delivery)
        tenant = _tenant_and_job(check, request.job_id, context)
        watch = self._link.watch(
            ("Job", request.job_id), lambda call: to_scheduler.WatchJob(call, tenant, request.job_id)
        )
        await self._relay(watch, inline, context)

    async def download_image(self, request: pb.DownloadImageRequest, context: Context) -> None:
        """Sends a stored picture in pieces."""
        view = await self._ask_about(request.job_id, context, to_scheduler.GetJob)
        stored = _stored(view, request.index)
        pieces = self._images.open(stored)
        try:
            while not pieces.done:
                response = pb.DownloadImageResponse(offset=pieces.offset)
                if not pieces.offset:
                    response.image.CopyFrom(convert.image(stored))
                response.data = await pieces.read()
                await context.write(response.SerializeToString())
        except ArtifactMissing as error:
            raise _image_missing(view.job, request.index, "it was deleted after its time") from error

    async def list_tiers(self, _: pb.ListTiersRequest, __: Context) -> pb.ListTiersResponse:
        """Lists the tiers, in the order of the scheduler's configuration."""
        known = self._link.known()
        return pb.ListTiersResponse(tiers=[convert.tier(info, info.name == known.default_tier) for info in known.tiers])

    async def _spec(self, check: Fields, job: pb.JobRequest, sent: Sent, context: Context) -> JobSpec:
        """What is asked for, checked, its pictures stored. They are looked into last, since that takes time."""
        known = self._link.known()
        spec = validate.job_spec(check, job, sent, context.invocation_metadata(), known, self._config.max_images)
        if not sent.init_image:
            return spec
        info = next(info for info, _ in known.models if info.name == spec.parameters.model)
        return beginning.begun(spec, job.parameters, info, *await self._uploads.store(sent))

    async def _ask_about(self, job_id: str, context: Context, question: Callable[[int, str, str], Any]) -> JobView:
        tenant = _tenant_and_job(Fields(), job_id, context)
        return _view(await self._link.ask(("Job", job_id), lambda call: question(call, tenant, job_id)))

    async def _relay(self, watch: Watch, inline: bool, context: Context) -> None:
        """Writes the events of `watch` until its end. However it ends, the scheduler hears of it."""
        write, sent = context.write, self._metrics.events_sent
        try:
            with self._metrics.open_streams.track_inprogress():
                while True:
                    item = await watch.mailbox.take()
                    if isinstance(item.payload, StoredImage):
                        await self._images.send(write, watch.job, item.time, item.payload, watch.parameters, inline)
                    else:
                        await write(item.payload)
                        sent[item.kind].inc()
                    if item.last:
                        return
        finally:
            self._link.leave(watch)


def _tenant_and_job(check: Fields, job_id: str, context: Context) -> str:
    tenant = check.tenant(context.invocation_metadata())
    check.identifier("job_id", job_id)
    check.raise_violations()
    if not plausible(job_id):
        raise not_found(Reason.JOB_NOT_FOUND, "Job", job_id, "there is no such job")
    return tenant


def _view(answer: Answer) -> JobView:
    assert isinstance(answer, JobAnswer)
    return answer.view


def _stored(view: JobView, index: int) -> StoredImage:
    for stored in view.images:
        if stored.index == index:
            return stored
    if index >= view.spec.parameters.images:
        raise _image_missing(view.job, index, f"the job has {view.spec.parameters.images} images")
    stopped = any(one.index == index and one.stage is Stage.STOPPED for one in view.progress)
    if stopped or view.ended is not None:
        raise _image_missing(view.job, index, "it came to nothing")
    raise CallError(Reason.IMAGE_NOT_FINISHED, f"image {index} of job {view.job} is not finished")


def _image_missing(job: str, index: int, why: str) -> CallError:
    return not_found(Reason.IMAGE_NOT_FOUND, "Image", f"{job}/{index}", f"no image {index} of job {job}: {why}")
