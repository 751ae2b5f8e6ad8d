"""How an RPC ends when not with OK: google.rpc.Status with details, in one exception type.

1. ErrorInfo on every error; RetryInfo on whatever is worth another try; BadRequest with all violations; ResourceInfo on NOT_FOUND;
   CounterOffer on DEADLINE_INFEASIBLE.
2. The whole status fits gRPC's default bound on metadata (8 KiB, of which percent-encoding triples the message and base64 makes the
   details a third longer): what a caller sent is never echoed at length, and violations beyond the room there is are counted, not listed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as Proto
from google.rpc import error_details_pb2, status_pb2

from collodion.wire.jobs import Reason

DOMAIN = "collodion"
_DETAILS_KEY = "grpc-status-details-bin"
_RETRY_S = 1.0  # where nobody named a better moment: one beat of the scheduler
_VIOLATIONS_BYTES = 3_000
_MESSAGE_BYTES = 500

CODES: Mapping[Reason, grpc.StatusCode] = {
    Reason.INVALID_FIELDS: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.JOB_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.MODEL_UNUSABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.MODEL_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.ADAPTER_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.ADAPTER_UNUSABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.UPLOAD_LOST: grpc.StatusCode.DATA_LOSS,
    Reason.IMAGE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.IMAGE_NOT_FINISHED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.REQUEST_ID_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    Reason.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DEADLINE_INFEASIBLE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.HOPELESS: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.NOT_IMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    Reason.SCHEDULER_UNREACHABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.SCHEDULER_RESTARTED: grpc.StatusCode.UNAVAILABLE,
    Reason.NO_WORKER: grpc.StatusCode.UNAVAILABLE,
    Reason.DRAINING: grpc.StatusCode.UNAVAILABLE,
    Reason.CANCELLED: grpc.StatusCode.CANCELLED,
}
_MAY_NEVER_HELP = {Reason.DEADLINE_INFEASIBLE, Reason.MODEL_TOO_LARGE}
"""To wait and try again, unless somebody said when."""
_RETRIED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


class Violation(NamedTuple):
    """A field that is out of its range: its path as `job.parameters.width`, and what would be right."""

    field: str
    description: str


class CallError(Exception):
    """This RPC ends with an error. `details` are google.rpc messages beside ErrorInfo, RetryInfo and BadRequest."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *details: Proto,
        violations: Sequence[Violation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = CODES.get(reason, grpc.StatusCode.INTERNAL)
        self.message = _shortened(message, _MESSAGE_BYTES)
        self.violations = tuple(violations)
        self._details = details
        self._retry_after_s = retry_after_s

    def status(self) -> status_pb2.Status:
        """As google.rpc.Status."""
        status = status_pb2.Status(code=code_number(self.code), message=self.message)
        for detail in (self._error_info(), *self._retry_info(), *self._bad_request(), *self._details):
            status.details.add().Pack(detail)
        return status

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The status as gRPC carries it."""
        return ((_DETAILS_KEY, self.status().SerializeToString()),)

    def _error_info(self) -> Proto:
        info: Proto = error_details_pb2.ErrorInfo(reason=self.reason.value, domain=DOMAIN)
        return info

    def _retry_info(self) -> tuple[Proto, ...]:
        retry_after_s = self._retry_after_s
        if retry_after_s is None and self.reason not in _MAY_NEVER_HELP:
            retry_after_s = _RETRY_S
        if self.code not in _RETRIED or retry_after_s is None:
            return ()
        delay = Duration()
        delay.FromNanoseconds(round(retry_after_s * 1e9))
        return (error_details_pb2.RetryInfo(retry_delay=delay),)

    def _bad_request(self) -> tuple[Proto, ...]:
        if not self.violations:
            return ()
        bad = error_details_pb2.BadRequest()
        for listed, (field, description) in enumerate(self.violations):
            if bad.ByteSize() > _VIOLATIONS_BYTES:
                bad.field_violations.add(description=f"and {len(self.violations) - listed} more violations")
                break
            bad.field_violations.add(field=_shortened(field, 120), description=_shortened(description, 300))
        return (bad,)


def code_number(code: grpc.StatusCode) -> int:
    """The google.rpc.Code of a gRPC status code."""
    number: int = code.value[0]
    return number


def invalid(violations: Iterable[Violation]) -> CallError:
    """INVALID_ARGUMENT with every violation."""
    listed = list(violations)
    fields = ", ".join(violation.field for violation in listed)
    return CallError(Reason.INVALID_FIELDS, f"out of range: {fields}", violations=listed)


def not_found(reason: Reason, kind: str, name: str, message: str) -> CallError:
    """NOT_FOUND; `kind` is the type of the resource, `name` what was asked for."""
    resource = error_details_pb2.ResourceInfo(
        resource_type=f"collodion.v1.{kind}", resource_name=_shortened(name, 200), description=_shortened(message, 200)
    )
    return CallError(reason, message, resource)


def refused(
    reason: Reason, message: str, retry_after_s: float | None, resource: tuple[str, str], *details: Proto
) -> CallError:
    """What the scheduler said; `resource` is the kind and name of what the call was about, for NOT_FOUND."""
    if CODES.get(reason) is grpc.StatusCode.NOT_FOUND:
        return not_found(reason, *resource, message)
    if reason is Reason.INVALID_FIELDS:
        return CallError(reason, message, violations=[Violation("", message)])
    return CallError(reason, message, *details, retry_after_s=retry_after_s)


def unreachable(message: str) -> CallError:
    """UNAVAILABLE: the scheduler does not answer."""
    return CallError(Reason.SCHEDULER_UNREACHABLE, message)


def _shortened(text: str, most_bytes: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= most_bytes else encoded[: most_bytes - 3].decode(errors="ignore") + "…"
