"""A gRPC server that says what a test scripted, and notes what it was asked.

A stream's script is a list of steps: an event to send, an error to end with, or a function of the context to run in
between. Each call of a method takes the next script of that method; the last one is used again and again.
"""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import PIL.Image
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from collodion.v1 import generation_pb2, generation_pb2_grpc, job_pb2, model_pb2, model_pb2_grpc, tier_pb2

JOB_ID = "01JD0000000000000000000000"
BOUND_S = 20.0


@dataclass
class Error:
    """An error to end a call with."""

    code: grpc.StatusCode
    message: str = "as scripted"
    reason: str = ""
    details: tuple[Message, ...] = ()

    def abort(self, context: grpc.ServicerContext) -> None:
        if self.reason:
            status = status_pb2.Status(code=self.code.value[0], message=self.message)
            for detail in (error_details_pb2.ErrorInfo(reason=self.reason, domain="collodion"), *self.details):
                status.details.add().Pack(detail)
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(self.code, self.message)


BROKEN = Error(grpc.StatusCode.UNAVAILABLE, "the connection broke")


def retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromNanoseconds(round(seconds * 1e9))
    return info


def infeasible(retry_s: float | None = 5.0, **offer: Any) -> Error:
    """A deadline that cannot be promised, and what can be."""
    details = (retry_info(retry_s),) if retry_s is not None else ()
    message = "this deadline cannot be promised"
    counter = job_pb2.CounterOffer(**offer)
    return Error(grpc.StatusCode.RESOURCE_EXHAUSTED, message, "DEADLINE_INFEASIBLE", (*details, counter))


def png(colour: tuple[int, int, int] = (200, 30, 30), size: int = 8) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (size, size), colour).save(file, "PNG")
    return file.getvalue()


def job(images: int = 1, **fields: Any) -> job_pb2.Job:
    parameters = job_pb2.Parameters(
        model="shapes",
        prompt="a fox",
        width=8,
        height=8,
        steps=4,
        sampler="ddim",
        guidance_scale=7.5,
        seed=7,
        images=images,
        output_format=job_pb2.OUTPUT_FORMAT_PNG,
        quality=90,
    )
    return job_pb2.Job(**{"job_id": JOB_ID, "state": job_pb2.JOB_STATE_RUNNING, "parameters": parameters} | fields)


def event(**fields: Any) -> job_pb2.JobEvent:
    made = job_pb2.JobEvent(job_id=JOB_ID, **fields)
    made.event_time.FromSeconds(1_700_000_000)
    return made


def accepted(images: int = 1, **fields: Any) -> job_pb2.JobEvent:
    return event(accepted=job_pb2.Accepted(job=job(images, **fields)))


def progress(step: int, index: int = 0) -> job_pb2.JobEvent:
    return event(progress=job_pb2.Progress(index=index, step=step, steps=4))


def preview(step: int = 1, index: int = 0) -> job_pb2.JobEvent:
    return event(preview=job_pb2.Preview(index=index, step=step, mime_type="image/png", data=png(size=4)))


def image_info(index: int = 0, data: bytes = b"", **fields: Any) -> job_pb2.Image:
    known = {
        "index": index,
        "seed": 7 + index,
        "mime_type": "image/png",
        "width": 8,
        "height": 8,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return job_pb2.Image(**known | fields)


def image(index: int = 0, data: bytes | None = None, *, inline: bool = True, **fields: Any) -> job_pb2.JobEvent:
    data = png() if data is None else data
    parameters = job(1).parameters
    parameters.seed = 7 + index
    ready = job_pb2.ImageReady(image=image_info(index, data, **fields), parameters=parameters)
    if inline:
        ready.data = data
    return event(image=ready)


def chunks(data: bytes, index: int = 0, size: int = 20) -> list[job_pb2.JobEvent]:
    offsets = range(0, len(data), size)
    return [
        event(
            image_chunk=job_pb2.ImageChunk(
                index=index, offset=offset, data=data[offset : offset + size], last=offset == offsets[-1]
            )
        )
        for offset in offsets
    ]


def finished(deadline_met: bool = True) -> job_pb2.JobEvent:
    timings = job_pb2.Timings()
    timings.total.FromMilliseconds(1500)
    return event(finished=job_pb2.Finished(timings=timings, deadline_met=deadline_met))


def failed() -> job_pb2.JobEvent:
    failure = job_pb2.Failure(code=13, reason="NON_FINITE_LATENT", message="it went to infinity")
    return event(failed=job_pb2.Failed(failure=failure))


def cancelled() -> job_pb2.JobEvent:
    return event(cancelled=job_pb2.Cancelled(message="cancelled by a client"))


def until_hung_up(context: grpc.ServicerContext) -> None:
    """A step: says nothing until the client hangs up."""
    gone = threading.Event()
    if context.add_callback(gone.set):
        assert gone.wait(BOUND_S), "the client was to hang up"


Step = job_pb2.JobEvent | Error | Callable[[grpc.ServicerContext], object]


class FakeServer(generation_pb2_grpc.GenerationServiceServicer, model_pb2_grpc.ModelServiceServicer):
    """Listens on a free port of loopback. A context manager."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[Any]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, Any]] = []
        self.options: list[tuple[str, int]] = []
        self._lock = threading.Lock()
        self._port = 0
        self._server: grpc.Server | None = None

    def __enter__(self) -> "FakeServer":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0), *self.options])
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(self, self._server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        self._server.start()

    def stop(self) -> None:
        """Drops every connection."""
        if self._server is not None:
            assert self._server.stop(None).wait(BOUND_S)
            self._server = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def script(self, method: str, *scripts: Any) -> None:
        self.scripts[method] = list(scripts)

    def asked(self, method: str) -> list[Any]:
        """The requests that came to a method."""
        return [request for name, request in self.calls if name == method]

    def _next(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            self.calls.append((method, request))
            self.metadata.append(dict(context.invocation_metadata()))
            scripts = self.scripts.get(method) or [Error(grpc.StatusCode.UNIMPLEMENTED, f"no script for {method}")]
            return scripts.pop(0) if len(scripts) > 1 else scripts[0]

    def _unary(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        answer = self._next(method, request, context)
        if callable(answer):
            answer = answer(context)
        if isinstance(answer, Error):
            answer.abort(context)
        return answer

    def _stream(self, method: str, request: Any, context: grpc.ServicerContext, wrap: Callable[..., Any]) -> Any:
        for step in self._next(method, request, context):
            if isinstance(step, Error):
                step.abort(context)
            elif isinstance(step, Message):
                yield wrap(event=step) if isinstance(step, job_pb2.JobEvent) else step
            else:
                step(context)

    def Generate(self, request: Any, context: Any) -> Iterator[Any]:
        return self._stream("Generate", request, context, generation_pb2.GenerateResponse)

    def WatchJob(self, request: Any, context: Any) -> Iterator[Any]:
        return self._stream("WatchJob", request, context, generation_pb2.WatchJobResponse)

    def DownloadImage(self, request: Any, context: Any) -> Iterator[Any]:
        return self._stream("DownloadImage", request, context, generation_pb2.DownloadImageResponse)

    def CreateJob(self, request: Any, context: Any) -> Any:
        return self._unary("CreateJob", request, context)

    def GetJob(self, request: Any, context: Any) -> Any:
        return self._unary("GetJob", request, context)

    def ListJobs(self, request: Any, context: Any) -> Any:
        return self._unary("ListJobs", request, context)

    def CancelJob(self, request: Any, context: Any) -> Any:
        return self._unary("CancelJob", request, context)

    def ListTiers(self, request: Any, context: Any) -> Any:
        return self._unary("ListTiers", request, context)

    def ListModels(self, request: Any, context: Any) -> Any:
        return self._unary("ListModels", request, context)

    def GetModel(self, request: Any, context: Any) -> Any:
        return self._unary("GetModel", request, context)

    def LoadModel(self, request: Any, context: Any) -> Any:
        return self._unary("LoadModel", request, context)

    def UnloadModel(self, request: Any, context: Any) -> Any:
        return self._unary("UnloadModel", request, context)

    def ListAdapters(self, request: Any, context: Any) -> Any:
        return self._unary("ListAdapters", request, context)


def model(name: str = "shapes", **fields: Any) -> model_pb2.Model:
    known = {
        "name": name,
        "family": "stable-diffusion",
        "is_default": name == "shapes",
        "native_width": 64,
        "native_height": 64,
        "default_steps": 20,
        "samplers": ["ddim", "euler"],
        "workers": 1,
        "refused_samplers": [model_pb2.RefusedSampler(name="tcd", reason="needs distillation")],
    }
    return model_pb2.Model(**known | fields)


def placed(residency: "model_pb2.Residency.ValueType", progress: float = 0.0, failure: str = "") -> model_pb2.Model:
    """The model `shapes`, where it is."""
    status = model_pb2.ModelStatus(
        residency=residency, progress=progress, failure=failure, size_bytes=3 << 20, pinned=True, load_seconds=0.1
    )
    return model(status=status)


def tiers() -> generation_pb2.ListTiersResponse:
    """One tier of each kind."""
    return generation_pb2.ListTiersResponse(
        tiers=[
            tier_pb2.Tier(name="interactive", slo_scale=2.5, weight=4),
            tier_pb2.Tier(name="standard", slo={"seconds": 90}, weight=1, is_default=True),
            tier_pb2.Tier(name="batch", weight=0.25),
        ]
    )
