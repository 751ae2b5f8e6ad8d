"""Where RPCs begin and end: admission while draining, parsing, counting, and errors with their details.

1. Handlers are given parsed requests and return messages, or write serialized ones; they raise CallError for whatever else.
2. A client that is gone shows as CancelledError or, in a blocked `write`, as grpc's InternalError. Neither is answered, and the first is
   never swallowed: grpc.aio would leak the RPC.
3. While draining, what asks for new work is turned away; questions about jobs and downloads are answered, since they come with the streams
   that are being finished.
4. Requests are parsed here, so that bytes which are no request get INVALID_ARGUMENT with details. They are read here, too: what grpc.aio
   reads for a handler it keeps until the stream ends, or longer, and a request with two pictures has 32 MiB. A client cannot tell.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from collodion.frontend.errors import CallError, Violation, invalid
from collodion.frontend.metrics import Metrics
from collodion.wire.jobs import Reason

Request = TypeVar("Request", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]

_NEW_WORK = {"Generate", "CreateJob", "WatchJob"}
_log = logging.getLogger(__name__)


class Gate:
    """Through which every RPC of ours comes and goes."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._draining = False
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def close(self) -> None:
        """Answers every new job and every new stream of one with UNAVAILABLE from now on."""
        self._draining = True

    async def idle(self) -> None:
        """Waits until no RPC is open."""
        await self._idle.wait()

    def unary(
        self, method: str, request: type[Request], handle: Callable[[Request, Context], Awaitable[Message]]
    ) -> Any:
        """A handler of one request and one response. Nobody but `handle` holds the request."""

        async def answer(_: object, context: Context) -> bytes:
            async def body() -> bytes:
                return (await handle(_parsed(request, await context.read()), context)).SerializeToString()

            return await self._run(method, context, body) or b""

        return grpc.stream_unary_rpc_method_handler(answer)

    def streaming(
        self, method: str, request: type[Request], handle: Callable[[Request, Context], Awaitable[None]]
    ) -> Any:
        """A handler of one request that writes any number of serialized responses to its context. Nobody but `handle` holds the request."""

        async def stream(_: object, context: Context) -> None:
            async def body() -> None:
                await handle(_parsed(request, await context.read()), context)

            await self._run(method, context, body)

        return grpc.stream_stream_rpc_method_handler(stream)

    async def _run(self, method: str, context: Context, body: Callable[[], Awaitable[bytes | None]]) -> bytes | None:
        code = grpc.StatusCode.CANCELLED
        self._entered()
        try:
            result = await self._answered(method, body)
            if isinstance(result, CallError):
                code = result.code
                # Not within the reach of the handler's own clean-up: to a reader that has stalled this may take for ever.
                await context.abort(result.code, result.message, result.trailing_metadata())
            code = grpc.StatusCode.OK
            return result
        except grpc.aio.InternalError:
            return None  # the client went away while something was being written
        finally:
            self._left()
            self._metrics.rpc_ended(method, code.name)

    async def _answered(self, method: str, body: Callable[[], Awaitable[bytes | None]]) -> bytes | CallError | None:
        try:
            if self._draining and method in _NEW_WORK:
                raise CallError(Reason.DRAINING, "this server is ending; try another, or again in a moment")
            return await body()
        except CallError as error:
            for violation in error.violations:
                self._metrics.violated(violation.field)
            return _without_frames(error)
        except grpc.aio.InternalError:
            raise
        except Exception:  # the edge of the loop: one RPC's fault ends only that RPC
            _log.exception("an RPC failed", extra={"method": method})
            return CallError(Reason.INTERNAL, "the frontend failed; its log says why")

    def _entered(self) -> None:
        self._open += 1
        self._idle.clear()

    def _left(self) -> None:
        self._open -= 1
        if not self._open:
            self._idle.set()


def _without_frames(error: CallError) -> CallError:
    """grpc.aio keeps what led to an abort until the next collection of garbage, and the frames of this one may hold pictures."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _parsed(request: type[Request], data: object) -> Request:
    if not isinstance(data, bytes):  # grpc.aio.EOF
        raise invalid([Violation("", "there is no request")])
    try:
        return request.FromString(data)
    except DecodeError as error:
        raise invalid([Violation("", f"the bytes are no {request.DESCRIPTOR.full_name}")]) from error
