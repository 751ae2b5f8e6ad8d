"""What can go wrong, by whose fault it is.

    CollodionError                  every error of this package
    ├── InvalidRequest              yours: a field is out of range; `details.violations` lists all of them
    │   ├── RequestIdReused         the `request_id` was used for another request
    │   ├── NotReady                too early: the image is not finished
    │   ├── ModelUnusable           the model's files, or an adapter's, cannot be used, or it is too large; the message says why
    │   └── NotSupported            this server cannot do that yet, or is older than this client
    ├── ClientClosed                yours: the client was closed before, or meanwhile by another thread
    ├── AccessDenied                yours: who you are, or what you may do
    ├── NotFound                    no such job, image, model or adapter; `details.resource` names it
    ├── ServerBusy                  the queue is full; `details.retry_after_s` says when to come back
    │   └── DeadlineInfeasible      the deadline cannot be promised; `offer` says what can be; never retried by itself
    ├── ServerUnavailable           the server cannot be reached, is starting or is draining; come back later
    │   └── TimedOut                it did not answer in time
    ├── ServerError                 the server's fault; trying again may or may not help
    │   └── CorruptImage            a picture's bytes are not those that the server announced
    └── JobError                    the job came to nothing; `job_id`, and in `images` what was finished before
        ├── JobFailed               at least one of its images failed; `reason` says why
        ├── JobCancelled            somebody cancelled it, or its grace ended with nobody watching
        └── JobLost                 the server forgot it: its scheduler was restarted

1. Each error carries `reason` (a stable UPPER_SNAKE_CASE word, empty where the server gave none), `code` (the gRPC
   status, None where there was no call) and `details`.
2. Nothing else leaves this package, but for TypeError on a call that does not fit a signature, and OSError on reading
   and writing files.
"""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from collodion.client.images import Image


@dataclass(frozen=True)
class Violation:
    """One field of a request that cannot be used: its path, and what is wrong with it."""

    field: str
    description: str


@dataclass(frozen=True)
class CounterOffer:
    """What could be promised instead, if it is asked for at once; each on its own, None where there is nothing to offer.

    `finish_time` is when the job would be done as it was asked for, and `slo_s` the SLO to ask for to that end, from the
    server's clock. `steps` could be done by the deadline. `tier` is the first whose own SLO (leave out yours) would do.
    """

    finish_time: datetime.datetime | None = None
    slo_s: float | None = None
    steps: int | None = None
    tier: str | None = None


@dataclass(frozen=True)
class Details:
    """What the server added to an error."""

    violations: tuple[Violation, ...] = ()
    retry_after_s: float | None = None
    resource: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    offer: CounterOffer | None = None


class CollodionError(Exception):
    """Every error of this package."""

    def __init__(
        self, message: str, *, reason: str = "", code: grpc.StatusCode | None = None, details: Details | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.details = details or Details()


class InvalidRequest(CollodionError):
    """The request cannot be served as it is; `details.violations` lists the fields, if it is about fields."""


class RequestIdReused(InvalidRequest):
    """The `request_id` was used for another request."""


class NotReady(InvalidRequest):
    """It is too early for this: the image is not finished."""


class ModelUnusable(InvalidRequest):
    """The model cannot be used: its files, or an adapter's, are broken or of a kind that is not run, or it does not fit the memory."""


class NotSupported(InvalidRequest):
    """This server cannot do that yet."""


class ClientClosed(CollodionError):
    """The client was closed before this call, or during it by another thread or task."""

    def __init__(self) -> None:
        super().__init__("the client is closed", reason="CLIENT_CLOSED")


class AccessDenied(CollodionError):
    """The server does not know who you are, or you may not do this."""


class NotFound(CollodionError):
    """There is no such job, image, model or adapter; `details.resource` names it."""


class ServerBusy(CollodionError):
    """The queue is full; `details.retry_after_s` says when to come back, None if waiting would not help."""


class DeadlineInfeasible(ServerBusy):
    """The deadline cannot be promised, and the request said `refuse`, or `degrade` and not even `min_steps` would do.

    Unlike any other ServerBusy it is not tried again by itself: a later try has a later deadline, and whether that will
    do, or one of the offers, is for you to say.
    """

    @property
    def offer(self) -> CounterOffer:
        """What could be promised instead."""
        return self.details.offer or CounterOffer()

    @property
    def retry_after_s(self) -> float | None:
        """After which wait the same request (so with a later deadline) would be promised; None: never, or not known."""
        return self.details.retry_after_s


class ServerUnavailable(CollodionError):
    """The server cannot be reached, is starting or is draining."""


class TimedOut(ServerUnavailable):
    """The server did not answer in time."""


class ServerError(CollodionError):
    """Something went wrong inside the server."""


class CorruptImage(ServerError):
    """A picture's bytes are not those that the server announced."""


class JobError(CollodionError):
    """A job came to nothing. `images` holds those of its pictures that had arrived."""

    def __init__(
        self,
        message: str,
        *,
        job_id: str,
        images: "tuple[Image, ...]" = (),
        reason: str = "",
        code: grpc.StatusCode | None = None,
    ) -> None:
        super().__init__(message, reason=reason, code=code)
        self.job_id = job_id
        self.images = images


class JobFailed(JobError):
    """At least one image of the job failed; `reason` and `code` are those of the first failure.

    HOPELESS: its deadline had come out of reach, and the server is configured to drop such jobs.
    """


class JobCancelled(JobError):
    """The job was cancelled, or its grace ended with nobody watching."""


class JobLost(JobError):
    """The server no longer knows the job: its scheduler was restarted, and jobs do not survive that yet."""
