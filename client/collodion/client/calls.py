"""The I/O of the blocking client: calls made again where that may help, jobs followed through broken connections.

`collodion.client.aio_calls` is the same with `await`; what the two have in common is in the pure modules.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from collodion.client.channel import Connection, sending_s
from collodion.client.errors import ClientClosed, CollodionError
from collodion.client.events import Event
from collodion.client.following import Call, Following
from collodion.client.retries import Retries
from collodion.client.silence import Silence, Verdict
from collodion.client.status import from_rpc
from collodion.client.streams import Cancellable, Stream
from collodion.v1 import generation_pb2, generation_pb2_grpc, job_pb2, model_pb2_grpc

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")


class Calls:
    """The channel to one server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._closed = threading.Event()
        self._channel = grpc.insecure_channel(connection.server, options=connection.options)
        self.generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self.model = model_pb2_grpc.ModelServiceStub(self._channel)

    def close(self) -> None:
        """Ends what is under way, and the connection."""
        self._closed.set()
        self._channel.close()

    def unary(self, method: "grpc.UnaryUnaryMultiCallable[Request, Response]", request: Request) -> Response:
        """The answer to one call.

        Raises:
            CollodionError: what the server said, after the retries that are due.
        """
        retries = Retries(self._connection.retries)
        while True:
            self._check_open()
            try:
                return method(request, timeout=self._connection.answer_s(request), metadata=self._connection.metadata)
            except grpc.RpcError as error:
                delay_s = retries.delay_s(from_rpc(error, self._connection.server))
            self._closed.wait(delay_s)

    def pause(self, seconds: float) -> None:
        """Waits. Raises ClientClosed."""
        self._closed.wait(seconds)
        self._check_open()

    def download(
        self, request: generation_pb2.DownloadImageRequest
    ) -> tuple[generation_pb2.DownloadImageResponse, ...]:
        """The pieces of a picture. Errors as `unary`."""
        retries = Retries(self._connection.retries)
        while True:
            self._check_open()
            call = self.generation.DownloadImage(request, metadata=self._connection.metadata)
            try:
                return tuple(self._heard(call, request, lambda: False))
            except CollodionError as error:
                delay_s = retries.delay_s(error)
            self._closed.wait(delay_s)

    def follow(self, first: Call) -> Generator[Event, None, None]:
        """The events of a job to its end, over as many calls as it takes. Closing the generator hangs up.

        Raises:
            CollodionError: what cannot be helped by calling again.
        """
        following = Following(first, self._connection.retries, self._connection.reattaching)
        while not following.ended:
            try:
                yield from self._one_call(following)
                following.closed()
            except CollodionError as error:
                delay_s = following.broken(error)
            else:
                return
            self._closed.wait(delay_s)

    def _one_call(self, following: Following) -> Iterator[Event]:
        self._check_open()
        request = following.next_call()
        call = self._open(request)
        with contextlib.closing(self._heard(call, request, lambda: self._is_running(following.job_id))) as responses:
            for response in responses:
                yield from following.hear(response.event)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise ClientClosed

    def _heard(
        self, call: Stream[Response], request: Message, is_running: Callable[[], bool]
    ) -> Generator[Response, None, None]:
        """What comes on a stream, which is cancelled when it has fallen silent, and when the generator is closed."""
        with _Watchdog(call, self._connection, request, is_running) as watchdog:
            try:
                for response in call:
                    watchdog.heard()
                    yield response
            except grpc.RpcError as error:
                raise watchdog.error or from_rpc(error, self._connection.server) from error
            finally:
                call.cancel()

    def _open(self, call: Call) -> Stream[generation_pb2.GenerateResponse | generation_pb2.WatchJobResponse]:
        if isinstance(call, generation_pb2.GenerateRequest):
            return self.generation.Generate(call, metadata=self._connection.metadata)
        return self.generation.WatchJob(call, metadata=self._connection.metadata)

    def _is_running(self, job_id: str) -> bool:
        request = generation_pb2.GetJobRequest(job_id=job_id)
        with contextlib.suppress(grpc.RpcError, ValueError):  # the latter from a channel that was closed meanwhile
            answer = self.generation.GetJob(
                request, timeout=self._connection.timeout_s, metadata=self._connection.metadata
            )
            return answer.job.state < job_pb2.JOB_STATE_FINISHED
        return False


class _Watchdog:
    """Cancels a call that has fallen silent; a thread, because grpc's blocking streams cannot wait for a while only."""

    def __init__(
        self, call: Cancellable, connection: Connection, request: Message, is_running: Callable[[], bool]
    ) -> None:
        self._call = call
        self._is_running = is_running
        self._silence = Silence(connection, time.monotonic(), sending_s(request))
        self._changed = threading.Condition()
        self._done = False
        self._thread = threading.Thread(target=self._watch, name="collodion-watchdog", daemon=True)
        self.error: CollodionError | None = None

    def __enter__(self) -> "_Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._done = True
            self._changed.notify()

    def heard(self) -> None:
        """Something came."""
        with self._changed:
            if self._silence.heard(time.monotonic()):
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._done:
                match self._silence.verdict(time.monotonic()):
                    case Verdict.WAIT:
                        self._changed.wait(self._silence.left_s(time.monotonic()))
                    case Verdict.ASK if self._answers():
                        self._silence.asked(time.monotonic())
                    case _:
                        self.error = self._silence.error()
                        self._call.cancel()
                        return

    def _answers(self) -> bool:
        # The lock is let go, so that the stream goes on meanwhile.
        self._changed.release()
        try:
            return self._is_running()
        finally:
            self._changed.acquire()
