"""gRPC's errors as ours: the status code chooses the class (a few reasons one of their own), the details fill it."""

from collections.abc import Sequence

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from collodion.client import errors
from collodion.client.convert import seconds_of, time_of
from collodion.client.errors import CollodionError, CounterOffer, Details, Violation
from collodion.v1 import job_pb2

_DETAILS = "grpc-status-details-bin"

_CLASSES: dict[grpc.StatusCode, type[CollodionError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequest,
    grpc.StatusCode.ALREADY_EXISTS: errors.RequestIdReused,
    grpc.StatusCode.FAILED_PRECONDITION: errors.NotReady,
    grpc.StatusCode.UNIMPLEMENTED: errors.NotSupported,
    grpc.StatusCode.UNAUTHENTICATED: errors.AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: errors.AccessDenied,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ServerBusy,
    grpc.StatusCode.UNAVAILABLE: errors.ServerUnavailable,
    # A call that we cancelled never reaches this table, so this is a server that dropped the call as it went down.
    grpc.StatusCode.CANCELLED: errors.ServerUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.TimedOut,
}
_BY_REASON: dict[tuple[grpc.StatusCode, str], type[CollodionError]] = {
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "DEADLINE_INFEASIBLE"): errors.DeadlineInfeasible,
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "MODEL_TOO_LARGE"): errors.ModelUnusable,
    (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_UNUSABLE"): errors.ModelUnusable,
    (grpc.StatusCode.FAILED_PRECONDITION, "ADAPTER_UNUSABLE"): errors.ModelUnusable,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def from_rpc(error: grpc.RpcError, server: str) -> CollodionError:
    """The error of a call to `server` that failed, of grpc or of grpc.aio."""
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError), "a call that failed has a status"
    code, message = error.code(), error.details() or ""
    reason, details = _details(tuple(error.trailing_metadata() or ()))
    kind = _BY_REASON.get((code, reason)) or _CLASSES.get(code, errors.ServerError)
    if not reason:  # not a word of our server's: the transport's
        message = _of_transport(code, message, server)
    return kind(message, reason=reason, code=code, details=details)


def code_of(number: int) -> grpc.StatusCode:
    """The status code with this number (google.rpc.Code); UNKNOWN if there is none."""
    return _CODES.get(number, grpc.StatusCode.UNKNOWN)


def _of_transport(code: grpc.StatusCode, message: str, server: str) -> str:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the server at {server} did not answer in time"
    if _CLASSES.get(code) is errors.ServerUnavailable:
        return f"the server at {server} cannot be reached: {message}"
    return f"the server at {server} answered {code.name}: {message}"


def _details(trailing_metadata: Sequence[tuple[str, str | bytes]]) -> tuple[str, Details]:
    packed = dict(trailing_metadata).get(_DETAILS)
    if not isinstance(packed, bytes):
        return "", Details()
    try:
        return _unpacked(status_pb2.Status.FromString(packed))
    except DecodeError:  # a proxy's, perhaps; the code and the message still say enough
        return "", Details()


def _unpacked(status: status_pb2.Status) -> tuple[str, Details]:
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    bad = error_details_pb2.BadRequest()
    resource = error_details_pb2.ResourceInfo()
    offer = job_pb2.CounterOffer()
    waits = offers = False
    for detail in status.details:
        waits |= detail.Is(retry.DESCRIPTOR)
        offers |= detail.Is(offer.DESCRIPTOR)
        for message in (info, retry, bad, resource, offer):
            detail.Unpack(message)  # does nothing if it is of another type
    return info.reason, Details(
        violations=tuple(Violation(v.field, v.description) for v in bad.field_violations),
        retry_after_s=retry.retry_delay.ToNanoseconds() / 1e9 if waits else None,
        resource=resource.resource_name,
        metadata=dict(info.metadata),
        offer=_offer(offer) if offers else None,
    )


def _offer(message: job_pb2.CounterOffer) -> CounterOffer:
    return CounterOffer(
        finish_time=time_of(message, "finish_time"),
        slo_s=seconds_of(message.slo) if message.HasField("slo") else None,
        steps=message.steps or None,
        tier=message.tier or None,
    )
