"""The tree of errors: as drawn, complete, and reached from every status."""

import importlib.resources
import inspect
import re

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

import collodion.client
from collodion.client import CollodionError, Violation, errors
from collodion.client.cli.exits import Exit, as_json, exit_of, sentence
from collodion.client.status import code_of, from_rpc


def status(code: grpc.StatusCode, *details: object, metadata: tuple[object, ...] | None = None) -> grpc.RpcError:
    packed = status_pb2.Status(code=code.value[0], message="as it is")
    for detail in details:
        packed.details.add().Pack(detail)
    trailing = metadata or (("grpc-status-details-bin", packed.SerializeToString()),)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details="as it is")


def info(reason: str = "WHY") -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="collodion", metadata={"key": "value"})


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    path, drawn = [], {}
    for branches, name in re.findall(r"^    ([ │├└─]*)(\w+) {2,}", errors.__doc__ or "", re.MULTILINE):
        del path[len(branches) // 4 :]
        drawn[name] = path[-1] if path else "Exception"
        path.append(name)
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, CollodionError)]
    assert drawn == {kind.__name__: kind.__base__.__name__ for kind in classes}


def test_what_the_package_exports_is_sorted_and_complete() -> None:
    names = collodion.client.__all__
    constants = [name for name in names if name.isupper()]
    assert names == sorted(constants) + sorted(set(names) - set(constants))
    kinds = [name for name, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
    public = {name for name in vars(collodion.client) if name[0].isupper()}
    assert set(names) == public
    assert set(kinds) <= set(names)


def test_the_package_is_typed() -> None:
    assert importlib.resources.files("collodion.client").joinpath("py.typed").is_file()


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [
        ("INVALID_ARGUMENT", errors.InvalidRequest, 2),
        ("OUT_OF_RANGE", errors.InvalidRequest, 2),
        ("ALREADY_EXISTS", errors.RequestIdReused, 2),
        ("FAILED_PRECONDITION", errors.NotReady, 2),
        ("UNIMPLEMENTED", errors.NotSupported, 2),
        ("UNAUTHENTICATED", errors.AccessDenied, 2),
        ("PERMISSION_DENIED", errors.AccessDenied, 2),
        ("NOT_FOUND", errors.NotFound, 2),
        ("RESOURCE_EXHAUSTED", errors.ServerBusy, 3),
        ("UNAVAILABLE", errors.ServerUnavailable, 3),
        ("CANCELLED", errors.ServerUnavailable, 3),
        ("DEADLINE_EXCEEDED", errors.TimedOut, 3),
        ("INTERNAL", errors.ServerError, 4),
        ("UNKNOWN", errors.ServerError, 4),
        ("DATA_LOSS", errors.ServerError, 4),
        ("ABORTED", errors.ServerError, 4),
    ],
)
def test_every_status_has_its_class_and_its_exit_code(code: str, kind: type[CollodionError], exit_code: int) -> None:
    error = from_rpc(status(grpc.StatusCode[code], info()), "here:1")
    assert type(error) is kind
    assert (error.code, error.reason, error.message) == (grpc.StatusCode[code], "WHY", "as it is")
    assert exit_of(error) == exit_code


@pytest.mark.parametrize(
    ("code", "kind", "exit_code"),
    [("RESOURCE_EXHAUSTED", errors.DeadlineInfeasible, 5), ("UNAVAILABLE", errors.ServerUnavailable, 3)],
)
def test_a_deadline_that_cannot_be_promised_has_a_class_of_its_own(
    code: str, kind: type[CollodionError], exit_code: int
) -> None:
    error = from_rpc(status(grpc.StatusCode[code], info("DEADLINE_INFEASIBLE")), "here:1")
    assert type(error) is kind
    assert exit_of(error) == exit_code


def test_details_fill_the_error() -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="job.parameters.width", description="not a multiple of 8")
    bad.field_violations.add(field="job.tier", description="unknown")
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000))
    resource = error_details_pb2.ResourceInfo(resource_type="job", resource_name="01ABC")
    error = from_rpc(status(grpc.StatusCode.INVALID_ARGUMENT, info(), bad, retry, resource), "here:1")
    assert error.details == errors.Details(
        violations=(Violation("job.parameters.width", "not a multiple of 8"), Violation("job.tier", "unknown")),
        retry_after_s=2.5,
        resource="01ABC",
        metadata={"key": "value"},
    )
    assert sentence(error).splitlines() == [
        "collodion: as it is (try again in 2 s)",
        "  job.parameters.width: not a multiple of 8",
        "  job.tier: unknown",
    ]
    assert '"violations": [{"field": "job.parameters.width"' in as_json(error)


@pytest.mark.parametrize("metadata", [(("grpc-status-details-bin", b"\xff\xfe garbage"),), (("other", "x"),)])
def test_details_that_are_garbage_or_missing_leave_code_and_message(metadata: tuple[object, ...]) -> None:
    error = from_rpc(status(grpc.StatusCode.NOT_FOUND, metadata=metadata), "here:1")
    assert isinstance(error, errors.NotFound)
    assert error.details == errors.Details()
    assert "as it is" in error.message


def test_an_error_of_the_transport_names_the_server() -> None:
    error = from_rpc(status(grpc.StatusCode.UNAVAILABLE, metadata=(("a", "b"),)), "gpu7:50051")
    assert "gpu7:50051 cannot be reached" in error.message
    assert "collodion serve" in sentence(error)


def test_a_job_error_names_its_job_once() -> None:
    assert "job 01A: it burst" in sentence(errors.JobFailed("it burst", job_id="01A", reason="X"))
    assert sentence(errors.JobLost("job 01A is gone", job_id="01A")).count("01A") == 1
    assert exit_of(errors.JobFailed("it burst", job_id="01A")) is Exit.SERVER


def test_numbers_of_codes_are_known_and_others_are_unknown() -> None:
    assert code_of(5) is grpc.StatusCode.NOT_FOUND
    assert code_of(99) is grpc.StatusCode.UNKNOWN
