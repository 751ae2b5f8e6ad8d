"""The part of grpc's streams that the client uses, for the type checker: its own names for them are private."""

from collections.abc import AsyncIterator, Iterator
from typing import Protocol, TypeVar

Response_co = TypeVar("Response_co", covariant=True)


class Cancellable(Protocol):
    """A call that can be hung up."""

    def cancel(self) -> object:
        """Hangs up; does nothing to a call that has ended."""


class Stream(Cancellable, Protocol[Response_co]):
    """A stream of responses, blocking."""

    def __iter__(self) -> Iterator[Response_co]: ...


class AsyncStream(Cancellable, Protocol[Response_co]):
    """A stream of responses, for asyncio."""

    def __aiter__(self) -> AsyncIterator[Response_co]: ...
