"""From the wire to protobuf: jobs, events, models, tiers and offers as clients see them. Nothing is decided here.

GenerateResponse and WatchJobResponse hold the same event under the same number, so one serialized response serves both.
"""

import math

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from collodion.frontend.errors import CODES, code_number
from collodion.frontend.mailbox import Item
from collodion.v1 import generation_pb2, job_pb2, model_pb2, tier_pb2
from collodion.wire import jobs, to_frontend
from collodion.wire.artifacts import upload_sha256

STATES: dict[jobs.JobState, "job_pb2.JobState.ValueType"] = {
    state: job_pb2.JobState.Value(f"JOB_STATE_{state.name}") for state in jobs.JobState
}
STAGES: dict[jobs.Stage, "job_pb2.Stage.ValueType"] = {
    stage: job_pb2.Stage.Value(f"STAGE_{stage.name}") for stage in jobs.Stage
}
FORMATS: dict[jobs.OutputFormat, "job_pb2.OutputFormat.ValueType"] = {
    form: job_pb2.OutputFormat.Value(f"OUTPUT_FORMAT_{form.name}") for form in jobs.OutputFormat
}
SYNTAXES: dict[jobs.PromptSyntax, "job_pb2.PromptSyntax.ValueType"] = {
    syntax: job_pb2.PromptSyntax.Value(f"PROMPT_SYNTAX_{syntax.name}") for syntax in jobs.PromptSyntax
}
RESIDENCIES: dict[jobs.Residency, "model_pb2.Residency.ValueType"] = {
    residency: model_pb2.Residency.Value(f"RESIDENCY_{residency.name}") for residency in jobs.Residency
}
ADAPTER_KINDS: dict[jobs.AdapterKind, "model_pb2.AdapterKind.ValueType"] = {
    kind: model_pb2.AdapterKind.Value(f"ADAPTER_KIND_{kind.name}") for kind in jobs.AdapterKind
}
POLICIES: dict[jobs.DeadlinePolicy, "job_pb2.DeadlinePolicy.ValueType"] = {
    policy: job_pb2.DeadlinePolicy.Value(f"DEADLINE_POLICY_{policy.name}") for policy in jobs.DeadlinePolicy
}


def item(event: to_frontend.JobEvent, opaque: bytes) -> Item:
    """An event of the scheduler's, ready for any number of streams. `opaque` is a preview's picture."""
    what = event.event
    if isinstance(what, to_frontend.ImageStored):
        return Item("image", None, False, False, what.image, event.time)
    kind, key, fleeting = _handling(what)
    response = _response(event.job, event.time)
    _fill(response.event, what, opaque)
    last = isinstance(what, to_frontend.Ended)
    return Item(kind, key, fleeting, last, response.SerializeToString(), event.time)


def image_ready(
    job: str, at: float, stored: jobs.StoredImage, parameters: jobs.Parameters | None, data: bytes
) -> bytes:
    """The event that an image is stored; `data` is the whole file, or empty."""
    response = _response(job, at)
    ready = response.event.image
    ready.image.CopyFrom(image(stored))
    ready.data = data
    if parameters is not None:
        ready.parameters.CopyFrom(parameters_proto(parameters))
        ready.parameters.seed = stored.seed
        ready.parameters.images = 1
    return response.SerializeToString()


def image_chunk(job: str, at: float, index: int, offset: int, data: bytes, last: bool) -> bytes:
    """The event that carries a piece of a large image."""
    response = _response(job, at)
    chunk = response.event.image_chunk
    chunk.index, chunk.offset, chunk.data, chunk.last = index, offset, data, last
    return response.SerializeToString()


def warning(job: str, at: float, reason: str, message: str) -> bytes:
    """A warning event of the frontend's own."""
    response = _response(job, at)
    response.event.warning.reason, response.event.warning.message = reason, message
    return response.SerializeToString()


def job(view: to_frontend.JobView) -> job_pb2.Job:
    """A job as it stands."""
    spec = view.spec
    made = job_pb2.Job(
        job_id=view.job,
        state=STATES[view.state],
        parameters=parameters_proto(spec.parameters),
        tier=spec.tier,
        labels=spec.labels,
        request_id=spec.request_id,
        create_time=_timestamp(view.created),
        deadline=_timestamp(view.deadline),
        predicted_finish_time=_timestamp(view.predicted_finish),
        end_time=_timestamp(view.ended),
        place=view.place,
        progress=[
            job_pb2.ImageProgress(index=one.index, stage=STAGES[one.stage], step=one.step, steps=one.steps)
            for one in view.progress
        ],
        images=[image(stored) for stored in view.images],
        failure=_failure(view.failure) if view.failure and view.state is jobs.JobState.FAILED else None,
        timings=_timings(view.timings) if view.timings else None,
        detach=spec.detach,
        promised=view.promised,
        explanation=_explanation(view.explanation) if view.explanation else None,
    )
    if view.deadline_met is not None:
        made.deadline_met = view.deadline_met
    return made


def parameters_proto(parameters: jobs.Parameters) -> job_pb2.Parameters:
    """What determines the pictures, every default filled in. For pictures that clients sent stand their SHA-256."""
    return job_pb2.Parameters(
        model=parameters.model,
        prompt=parameters.prompt,
        negative_prompt=parameters.negative_prompt,
        width=parameters.width,
        height=parameters.height,
        steps=parameters.steps,
        sampler=parameters.sampler,
        guidance_scale=parameters.guidance_scale,
        seed=parameters.seed,
        images=parameters.images,
        loras=[job_pb2.Lora(name=lora.name, scale=lora.scale) for lora in parameters.loras],
        prompt_syntax=SYNTAXES[parameters.prompt_syntax],
        strength=parameters.strength if parameters.init_image else None,
        init_image_sha256=upload_sha256(parameters.init_image),
        mask_image_sha256=upload_sha256(parameters.mask_image),
        output_format=FORMATS[parameters.output_format],
        quality=parameters.quality,
        step_cache=parameters.step_cache,
    )


def image(stored: jobs.StoredImage) -> job_pb2.Image:
    """A stored picture; its key in the store stays inside."""
    return job_pb2.Image(
        index=stored.index,
        seed=stored.seed,
        mime_type=stored.mime_type,
        width=stored.width,
        height=stored.height,
        size_bytes=stored.size_bytes,
        sha256=stored.sha256,
    )


def model(
    info: jobs.ModelInfo, workers: int, is_default: bool, status: jobs.ModelStatus | None = None
) -> model_pb2.Model:
    """A model that can be asked for."""
    return model_pb2.Model(
        name=info.name,
        family=info.family,
        is_default=is_default,
        native_width=info.native_width,
        native_height=info.native_height,
        min_size=info.min_size,
        max_size=info.max_size,
        size_multiple=info.size_multiple,
        default_steps=info.default_steps,
        max_steps=info.max_steps,
        default_sampler=info.default_sampler,
        samplers=info.samplers,
        refused_samplers=[model_pb2.RefusedSampler(name=one.name, reason=one.reason) for one in info.refused_samplers],
        default_guidance_scale=info.default_guidance_scale,
        max_prompt_tokens=info.max_prompt_tokens,
        workers=workers,
        dtype=info.dtype,
        license=info.license,
        status=model_status(status) if status is not None else None,
        base=info.base,
        init_images=info.init_images,
        masks=info.masks,
        loras=info.loras,
        weighted_prompts=info.weighted_prompts,
        step_cache=info.step_cache,
    )


def model_status(status: jobs.ModelStatus) -> model_pb2.ModelStatus:
    """Where a model is."""
    return model_pb2.ModelStatus(
        residency=RESIDENCIES[status.residency],
        size_bytes=status.size_bytes,
        progress=status.progress,
        failure=status.reason,
        pinned=status.pinned,
        load_seconds=status.load_s or 0.0,
        optimizations=[
            model_pb2.Optimization(name=one.name, value=one.value, detail=one.detail) for one in status.optimizations
        ],
    )


def adapter(info: jobs.AdapterInfo) -> model_pb2.Adapter:
    """An adapter that can be asked for."""
    return model_pb2.Adapter(name=info.name, kind=ADAPTER_KINDS[info.kind], base=info.base, size_bytes=info.size_bytes)


def tier(info: to_frontend.TierInfo, is_default: bool) -> tier_pb2.Tier:
    """A class of service that can be asked for."""
    made = tier_pb2.Tier(name=info.name, is_default=is_default, weight=info.weight)
    if info.slo_s is not None:
        made.slo.CopyFrom(_duration(info.slo_s))
    elif info.slo_scale is not None:
        made.slo_scale = info.slo_scale
    return made


def counter_offer(offer: to_frontend.CounterOffer, now: float) -> job_pb2.CounterOffer:
    """What could be promised instead; `now` is when this is answered, in Unix seconds."""
    slo_s = None if offer.finish is None else max(0.0, offer.finish - now)
    return job_pb2.CounterOffer(
        finish_time=_timestamp(offer.finish),
        slo=None if slo_s is None else _duration(slo_s),
        steps=offer.steps or 0,
        tier=offer.tier or "",
    )


def _response(job_id: str, at: float) -> generation_pb2.GenerateResponse:
    response = generation_pb2.GenerateResponse()
    event = response.event  # field by field: twice as fast as messages made by keywords, and every event comes this way
    event.job_id = job_id
    _set(event.event_time, at)
    return response


def _handling(what: to_frontend.Event) -> tuple[str, tuple[str, int | str] | None, bool]:
    """Kind, coalescing key, and whether a slow reader may miss it at any time."""
    match what:
        case to_frontend.Progressed(index=index):
            return "progress", ("progress", index), True
        case to_frontend.Previewed(index=index):
            return "preview", ("preview", index), True
        case to_frontend.StageChanged(index=index):
            return "stage", ("stage", index), False
        case to_frontend.Warned(reason=reason):
            return "warning", ("warning", reason), False
        case to_frontend.Accepted():
            return "accepted", None, False
        case to_frontend.ImageFailed():
            return "image_failed", None, False
        case _:
            return "ended", None, False


def _fill(event: job_pb2.JobEvent, what: to_frontend.Event, opaque: bytes) -> None:
    match what:
        case to_frontend.Progressed(index=index, step=step, steps=steps, predicted_finish=predicted):
            progress = event.progress
            progress.index, progress.step, progress.steps = index, step, steps
            if predicted is not None:
                _set(progress.predicted_finish_time, predicted)
        case to_frontend.Previewed(index=index, step=step, mime_type=mime_type):
            event.preview.CopyFrom(job_pb2.Preview(index=index, step=step, mime_type=mime_type, data=opaque))
        case to_frontend.StageChanged(index=index, stage=stage):
            event.stage.CopyFrom(job_pb2.StageChanged(index=index, stage=STAGES[stage]))
        case to_frontend.Warned(reason=reason, message=message):
            event.warning.CopyFrom(job_pb2.Warning(reason=reason, message=message))
        case to_frontend.Accepted(view=view):
            event.accepted.job.CopyFrom(job(view))
        case to_frontend.ImageFailed(index=index, failure=failure):
            event.image_failed.CopyFrom(job_pb2.ImageFailed(index=index, failure=_failure(failure)))
        case to_frontend.Ended():
            _fill_end(event, what)


def _fill_end(event: job_pb2.JobEvent, ended: to_frontend.Ended) -> None:
    timings = _timings(ended.timings)
    if ended.state is jobs.JobState.FINISHED:
        event.finished.timings.CopyFrom(timings)
        if ended.deadline_met is not None:
            event.finished.deadline_met = ended.deadline_met
    elif ended.state is jobs.JobState.FAILED:
        event.failed.timings.CopyFrom(timings)
        if ended.failure is not None:
            event.failed.failure.CopyFrom(_failure(ended.failure))
    else:
        event.cancelled.timings.CopyFrom(timings)
        event.cancelled.message = ended.failure.message if ended.failure is not None else ""


def _failure(failure: jobs.Failure) -> job_pb2.Failure:
    code = CODES.get(failure.reason, StatusCode.INTERNAL)
    return job_pb2.Failure(code=code_number(code), reason=failure.reason.value, message=failure.message)


def _explanation(explanation: to_frontend.Explanation) -> job_pb2.Explanation:
    return job_pb2.Explanation(summary=explanation.summary, remedies=explanation.remedies)


def _timings(timings: to_frontend.Timings) -> job_pb2.Timings:
    return job_pb2.Timings(
        queued=_duration(timings.queued_s),
        running=_duration(timings.running_s),
        parked=_duration(timings.parked_s),
        total=_duration(timings.total_s),
    )


def _duration(seconds: float) -> Duration:
    whole = math.trunc(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def _timestamp(unix_s: float | None) -> Timestamp | None:
    if unix_s is None:
        return None
    moment = Timestamp()
    _set(moment, unix_s)
    return moment


def _set(moment: Timestamp, unix_s: float) -> None:
    whole = math.floor(unix_s)
    moment.seconds, moment.nanos = whole, min(int((unix_s - whole) * 1e9), 999_999_999)
