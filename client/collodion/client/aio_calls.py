"""The I/O of the asyncio client: `collodion.client.calls` with `await`."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from collodion.client.channel import Connection, sending_s
from collodion.client.errors import ClientClosed, CollodionError
from collodion.client.events import Event
from collodion.client.following import Call, Following
from collodion.client.retries import Retries
from collodion.client.silence import Silence, Verdict
from collodion.client.status import from_rpc
from collodion.client.streams import AsyncStream, Cancellable
from collodion.v1 import generation_pb2, generation_pb2_grpc, job_pb2, model_pb2_grpc

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")


class AsyncCalls:
    """The channel to one server. To be made inside a running event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._closed = False
        self._channel = grpc.aio.insecure_channel(connection.server, options=connection.options)
        self.generation: generation_pb2_grpc.GenerationServiceAsyncStub = generation_pb2_grpc.GenerationServiceStub(
            self._channel
        )
        self.model: model_pb2_grpc.ModelServiceAsyncStub = model_pb2_grpc.ModelServiceStub(self._channel)

    async def close(self) -> None:
        """Ends what is under way, and the connection."""
        self._closed = True
        await self._channel.close()

    async def unary(self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]", request: Request) -> Response:
        """As `Calls.unary`."""
        retries = Retries(self._connection.retries)
        while True:
            self._check_open()
            try:
                return await method(
                    request, timeout=self._connection.answer_s(request), metadata=self._connection.metadata
                )
            except grpc.RpcError as error:
                delay_s = retries.delay_s(from_rpc(error, self._connection.server))
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
                raise ClientClosed from None
            await asyncio.sleep(delay_s)

    async def pause(self, seconds: float) -> None:
        """As `Calls.pause`."""
        await asyncio.sleep(seconds)
        self._check_open()

    async def download(
        self, request: generation_pb2.DownloadImageRequest
    ) -> tuple[generation_pb2.DownloadImageResponse, ...]:
        """As `Calls.download`."""
        retries = Retries(self._connection.retries)
        while True:
            self._check_open()
            call = self.generation.DownloadImage(request, metadata=self._connection.metadata)
            try:
                return tuple([response async for response in self._heard(call, request, _never)])
            except CollodionError as error:
                delay_s = retries.delay_s(error)
            await asyncio.sleep(delay_s)

    async def follow(self, first: Call) -> AsyncGenerator[Event, None]:
        """As `Calls.follow`."""
        following = Following(first, self._connection.retries, self._connection.reattaching)
        while not following.ended:
            try:
                async with contextlib.aclosing(self._one_call(following)) as events:
                    async for event in events:
                        yield event
                following.closed()
            except CollodionError as error:
                delay_s = following.broken(error)
            else:
                return
            await asyncio.sleep(delay_s)

    async def _one_call(self, following: Following) -> AsyncGenerator[Event, None]:
        self._check_open()
        request = following.next_call()
        call = self._open(request)
        async with contextlib.aclosing(
            self._heard(call, request, lambda: self._is_running(following.job_id))
        ) as responses:
            async for response in responses:
                for event in following.hear(response.event):
                    yield event

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed

    async def _heard(
        self, call: AsyncStream[Response], request: Message, is_running: Callable[[], Awaitable[bool]]
    ) -> AsyncGenerator[Response, None]:
        """As `Calls._heard`."""
        async with _Watchdog(call, self._connection, request, is_running) as watchdog:
            try:
                async for response in call:
                    watchdog.heard()
                    yield response
            except grpc.RpcError as error:
                raise from_rpc(error, self._connection.server) from error
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
                raise watchdog.error or ClientClosed() from None
            finally:
                call.cancel()

    def _open(self, call: Call) -> AsyncStream[generation_pb2.GenerateResponse | generation_pb2.WatchJobResponse]:
        if isinstance(call, generation_pb2.GenerateRequest):
            return self.generation.Generate(call, metadata=self._connection.metadata)
        return self.generation.WatchJob(call, metadata=self._connection.metadata)

    async def _is_running(self, job_id: str) -> bool:
        request = generation_pb2.GetJobRequest(job_id=job_id)
        with contextlib.suppress(grpc.RpcError, grpc.aio.UsageError):  # the latter from a channel closed meanwhile
            answer = await self.generation.GetJob(
                request, timeout=self._connection.timeout_s, metadata=self._connection.metadata
            )
            return answer.job.state < job_pb2.JOB_STATE_FINISHED
        return False


def _is_cancelled() -> bool:
    """Whether it is this task that is cancelled: for grpc.aio, cancelling a call and closing its channel look the same."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _never() -> bool:
    return False


class _Watchdog:
    """Cancels a call that has fallen silent; a task, because cancelling a read of grpc.aio cancels its call."""

    def __init__(
        self, call: Cancellable, connection: Connection, request: Message, is_running: Callable[[], Awaitable[bool]]
    ) -> None:
        self._call = call
        self._is_running = is_running
        self._now = asyncio.get_running_loop().time
        self._silence = Silence(connection, self._now(), sending_s(request))
        self._first_word = asyncio.Event()
        self.error: CollodionError | None = None

    async def __aenter__(self) -> "_Watchdog":
        self._task = asyncio.create_task(self._watch(), name="collodion-watchdog")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def heard(self) -> None:
        """Something came."""
        if self._silence.heard(self._now()):
            self._first_word.set()

    async def _watch(self) -> None:
        while True:
            match self._silence.verdict(self._now()):
                case Verdict.WAIT:
                    await self._pause(self._silence.left_s(self._now()))
                case Verdict.ASK if await self._is_running():
                    self._silence.asked(self._now())
                case _:
                    self.error = self._silence.error()
                    self._call.cancel()
                    return

    async def _pause(self, seconds: float | None) -> None:
        """Sleeps, but not beyond the first word. (Not with wait_for: in Python 3.11 it may swallow being cancelled.)"""
        event = asyncio.Event() if self._first_word.is_set() else self._first_word
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
