"""The asyncio client: `collodion.client.client` with `await`. One belongs to the event loop that it was made in."""

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Self, Unpack

from collodion.client import pictures, requests
from collodion.client.aio_calls import AsyncCalls
from collodion.client.assembling import downloaded
from collodion.client.base import BaseClient
from collodion.client.channel import Connection
from collodion.client.events import Event, Preview, Progress
from collodion.client.images import Image
from collodion.client.jobs import Explanation, Job, JobState
from collodion.client.loading import Awaited
from collodion.client.models import Adapter, Model
from collodion.client.requests import JobOptions
from collodion.client.result import Callbacks, Gathering, Generation
from collodion.client.tiers import Tier
from collodion.v1 import generation_pb2, model_pb2


class AsyncClient(BaseClient):
    """The asyncio client; its arguments are those of `BaseClient`."""

    def _connect(self, connection: Connection) -> None:
        self._calls = AsyncCalls(connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends what is under way, and the connection."""
        await self._calls.close()

    async def generate(
        self,
        prompt: str,
        *,
        on_progress: Callable[[Progress], object] | None = None,
        on_preview: Callable[[Preview], object] | None = None,
        on_image: Callable[[Image], object] | None = None,
        on_event: Callable[[Event], object] | None = None,
        **options: Unpack[JobOptions],
    ) -> Generation:
        """Draws pictures and waits for them.

        A connection that breaks is made again, and the job goes on where it was. An exception in the meantime, also
        KeyboardInterrupt and one out of a callback, hangs up: the server parks the job and cancels it after its grace
        (10 s), unless it is `detach`ed. With `on_preview`, a preview is asked for at every step unless
        `preview_interval` says otherwise.

        Raises:
            DeadlineInfeasible: the deadline cannot be promised, and `deadline_policy` does not let that pass.
            JobFailed: an image failed. JobCancelled: somebody cancelled the job. JobLost: the server's scheduler was
                restarted; the job is not submitted again by itself, see `collodion.client.following`. Each holds the
                pictures that had arrived.
        """
        callbacks = Callbacks(on_progress, on_preview, on_image, on_event)
        gathering = Gathering(callbacks)
        async with contextlib.aclosing(self.stream(prompt, **callbacks.options(options))) as events:
            async for event in events:
                gathering.take(event)
        return gathering.result()

    async def stream(self, prompt: str, **options: Unpack[JobOptions]) -> AsyncGenerator[Event, None]:
        """Submits a job and iterates its events, as `generate`; a job that failed ends with a `Failed` event, not
        with an exception.

        Closing the generator hangs up.
        """
        request = requests.generate(prompt, await pictures.read(options))
        async with contextlib.aclosing(self._calls.follow(request)) as events:
            async for event in events:
                yield event

    async def submit(self, prompt: str, **options: Unpack[JobOptions]) -> Job:
        """Submits a job that runs on with nobody watching. `promised` and `parameters.steps` of what it returns say what
        was granted. Raises DeadlineInfeasible as `generate`."""
        request = requests.create(prompt, await pictures.read(options))
        answer = await self._calls.unary(self._calls.generation.CreateJob, request)
        return Job.of(answer.job)

    def watch(self, job_id: str) -> AsyncGenerator[Event, None]:
        """Attaches to a job and iterates its events: its present state, the pictures that it has, and what happens
        then.

        Closing the generator hangs up, if nobody else watches and the job is not detached.

        Raises:
            NotFound: there is no such job.
        """
        return self._calls.follow(requests.watch(job_id))

    async def get(self, job_id: str) -> Job:
        """The job as it stands.

        Raises:
            NotFound: there is no such job.
        """
        answer = await self._calls.unary(
            self._calls.generation.GetJob, requests.made(generation_pb2.GetJobRequest, job_id=job_id)
        )
        return Job.of(answer.job)

    async def why(self, job_id: str) -> Explanation | None:
        """Why a job is not finished sooner, and what would help; None if it has ended.

        Raises:
            NotFound: there is no such job.
        """
        return (await self.get(job_id)).explanation

    async def list(
        self, *, states: Iterable[JobState] = (), labels: Mapping[str, str] | None = None, page_size: int = 0
    ) -> AsyncIterator[Job]:
        """The tenant's jobs, newest first, fetched by the page as they are reached; no states and labels mean all."""
        states, token, more = tuple(states), "", True
        while more:
            request = requests.page(states, labels or {}, page_size, token)
            answer = await self._calls.unary(self._calls.generation.ListJobs, request)
            for job in answer.jobs:
                yield Job.of(job)
            token = answer.next_page_token
            more = bool(token)

    async def cancel(self, job_id: str) -> Job:
        """Cancels a job now; one that ended stays as it is. Returns it as it stands afterwards.

        Raises:
            NotFound: there is no such job.
        """
        answer = await self._calls.unary(
            self._calls.generation.CancelJob, requests.made(generation_pb2.CancelJobRequest, job_id=job_id)
        )
        return Job.of(answer.job)

    async def download(self, job_id: str, index: int = 0) -> Image:
        """A stored picture of a job.

        Raises:
            NotFound: there is no such job or image, or it was deleted after its time.
            NotReady: it is not finished.
            CorruptImage: it did not arrive as it is stored.
        """
        parameters = (await self.get(job_id)).parameters.alone(index)
        pieces = await self._calls.download(
            requests.made(generation_pb2.DownloadImageRequest, job_id=job_id, index=index)
        )
        return downloaded(job_id, parameters, pieces)

    async def models(self) -> tuple[Model, ...]:
        """The models that the server can draw with, by name."""
        answer = await self._calls.unary(self._calls.model.ListModels, model_pb2.ListModelsRequest())
        return tuple(map(Model.of, answer.models))

    async def model(self, name: str) -> Model:
        """One model.

        Raises:
            NotFound: there is none of this name.
        """
        answer = await self._calls.unary(
            self._calls.model.GetModel, requests.made(model_pb2.GetModelRequest, name=name)
        )
        return Model.of(answer.model)

    async def load_model(
        self,
        name: str,
        *,
        wait: bool = True,
        timeout_s: float | None = None,
        on_progress: Callable[[Model], object] | None = None,
    ) -> Model:
        """Has a model loaded, and kept in memory until `unload_model`, or until the server's scheduler is restarted.

        Args:
            wait: until it is in memory, but no longer than `timeout_s`; with None as long as it takes. Else it returns at once.
            on_progress: is given the model whenever it was looked at; `status.progress` is 0 to 1.

        Raises:
            NotFound: there is none of this name. ModelUnusable: it cannot be loaded, does not fit beside what is pinned, or was unloaded
                meanwhile.
            TimedOut: it is not in memory after `timeout_s`.
        """
        awaited = Awaited(timeout_s, time.monotonic())
        answer = await self._calls.unary(
            self._calls.model.LoadModel, requests.made(model_pb2.LoadModelRequest, name=name)
        )
        model = Model.of(answer.model)
        while wait and (pause_s := awaited.pause_s(model, time.monotonic())) is not None:
            if on_progress is not None:
                on_progress(model)
            await self._calls.pause(pause_s)
            model = await self.model(name)
        return model

    async def unload_model(self, name: str) -> Model:
        """Gives a model's memory back once nothing runs on it. A later request loads it again.

        Raises:
            NotFound: there is none of this name.
        """
        request = requests.made(model_pb2.UnloadModelRequest, name=name)
        answer = await self._calls.unary(self._calls.model.UnloadModel, request)
        return Model.of(answer.model)

    async def adapters(self) -> tuple[Adapter, ...]:
        """The LoRAs, other adapters and embeddings that requests may name, by name."""
        answer = await self._calls.unary(self._calls.model.ListAdapters, model_pb2.ListAdaptersRequest())
        return tuple(map(Adapter.of, answer.adapters))

    async def tiers(self) -> tuple[Tier, ...]:
        """The classes of service that a job may ask for, in the server's order."""
        answer = await self._calls.unary(self._calls.generation.ListTiers, generation_pb2.ListTiersRequest())
        return tuple(map(Tier.of, answer.tiers))
