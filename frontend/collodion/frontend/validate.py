"""Requests as clients send them become what the scheduler accepts: every field checked, every default filled in.

1. ALL violations are told at once (INVALID_ARGUMENT), but for those inside of pictures, which are looked into last. Only a request without
   any is asked whether its model exists (NOT_FOUND), and only then whether its adapters do.
2. Bounds are those of the .proto files and of the model; 0 or unset is the default.
3. What depends on the model is checked only if the model is known.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from google.protobuf.duration_pb2 import Duration

from collodion.frontend import beginning, convert, loras
from collodion.frontend.errors import CallError, not_found
from collodion.frontend.fields import Fields, decimal, listed
from collodion.frontend.uploads import Sent
from collodion.v1 import generation_pb2, job_pb2
from collodion.wire.jobs import (
    DeadlinePolicy,
    JobSpec,
    JobState,
    ModelInfo,
    OutputFormat,
    Parameters,
    PromptSyntax,
    Reason,
    Residency,
)
from collodion.wire.to_frontend import Catalogue

Metadata = Iterable[tuple[str, str | bytes]] | None

MAX_PROMPT_CHARACTERS = 10_000
MAX_SLO_S = 30 * 86_400
MAX_PREVIEW_INTERVAL = 1_000
MAX_GUIDANCE = 100
MAX_PAGE = 1_000
_PATH = "job.parameters."
_SEED_BOUND = 2**53 - 1  # every language holds seed + images exactly
_RANDOM_SEEDS = 2**32
_FORMATS: Mapping[int, OutputFormat] = {number: form for form, number in convert.FORMATS.items()}
_STATES: Mapping[int, JobState] = {number: state for state, number in convert.STATES.items()}
_SYNTAXES: Mapping[int, PromptSyntax] = {number: syntax for syntax, number in convert.SYNTAXES.items()}
_POLICIES: Mapping[int, DeadlinePolicy] = {number: policy for policy, number in convert.POLICIES.items()}


class _Asked(NamedTuple):
    """What is being checked: the request with its id in lower case, its pictures, and the model that it names, if that is known."""

    check: Fields
    request: generation_pb2.JobRequest
    sent: Sent
    request_id: str
    info: ModelInfo | None


def delivers_inline(check: Fields, delivery: int) -> bool:
    """Whether pictures come on the stream."""
    check.choice("image_delivery", delivery, job_pb2.ImageDelivery.values())
    return delivery != job_pb2.IMAGE_DELIVERY_REFERENCE


def job_spec(
    check: Fields,
    request: generation_pb2.JobRequest,
    sent: Sent,
    metadata: Metadata,
    catalogue: Catalogue,
    max_images: int,
) -> JobSpec:
    """The job that a client wants; if a picture was sent, `beginning.begun` completes it. `check` may hold violations of fields around it.

    Raises:
        CallError: INVALID_ARGUMENT, NOT_FOUND; UNAVAILABLE if there is no model at all.
    """
    tenant = check.tenant(metadata)
    request_id = check.uuid("job.request_id", request.request_id)
    asked = _Asked(check, request, sent, request_id, _model(request.parameters.model, catalogue))
    steps = _steps(asked)
    _service(asked, catalogue, steps)
    labels = check.labels("job.labels", request.labels)
    parameters = _parameters(asked, catalogue, steps, max_images)
    check.raise_violations()
    if parameters is None:
        raise _no_model(request.parameters.model, catalogue)
    check.raise_absent()
    return JobSpec(
        parameters=parameters,
        tenant=tenant,
        tier=request.tier or catalogue.default_tier,
        slo_s=_seconds(request.slo) if request.HasField("slo") else None,
        deadline_policy=_POLICIES.get(request.deadline_policy, DeadlinePolicy.BEST_EFFORT),
        min_steps=request.min_steps or max((steps + 1) // 2, parameters.least_steps),
        detach=request.detach,
        preview_interval=request.preview_interval,
        request_id=request_id,
        labels=labels,
    )


def page_size(check: Fields, size: int) -> int:
    """How many jobs a page has."""
    check.whole("page_size", size, 0, MAX_PAGE)
    return size or 50


def job_states(check: Fields, states: Sequence[int]) -> tuple[JobState, ...]:
    """The states that are asked for, each once."""
    for index, state in enumerate(states[:100]):
        check.choice(f"states[{index}]", state, convert.STATES.values())
    return tuple(dict.fromkeys(_STATES[state] for state in states if state in _STATES))


def _model(name: str, catalogue: Catalogue) -> ModelInfo | None:
    wanted = name or catalogue.default_model
    return next((info for info, _ in catalogue.models if info.name == wanted), None)


def _no_model(name: str, catalogue: Catalogue) -> CallError:
    if not (catalogue.models or catalogue.statuses) or not name:
        return CallError(Reason.NO_WORKER, "no worker has a model ready yet")
    failed = next((one for one in catalogue.statuses if one.name == name and one.residency is Residency.FAILED), None)
    if failed is not None:
        return CallError(Reason.MODEL_UNUSABLE, failed.reason)
    known = listed(info.name for info, _ in catalogue.models)
    return not_found(Reason.MODEL_NOT_FOUND, "Model", name, f"no model {name[:200]!r}; there are: {known}")


def _steps(asked: _Asked) -> int:
    steps = asked.request.parameters.steps
    if asked.info is None:
        return steps
    asked.check.whole("job.parameters.steps", steps, 0, asked.info.max_steps)
    return steps or asked.info.default_steps


def _service(asked: _Asked, catalogue: Catalogue, steps: int) -> None:
    check, request = asked.check, asked.request
    tiers = [tier.name for tier in catalogue.tiers]
    if request.tier and request.tier not in tiers:
        check.wrong("job.tier", f"has to be one of: {listed(tiers)}")
    if request.HasField("slo"):
        _slo(check, request.slo)
    check.choice("job.deadline_policy", request.deadline_policy, job_pb2.DeadlinePolicy.values())
    if steps:
        check.whole("job.min_steps", request.min_steps, 0, steps)
    check.whole("job.preview_interval", request.preview_interval, 0, MAX_PREVIEW_INTERVAL)


def _slo(check: Fields, slo: Duration) -> None:
    well_formed = abs(slo.nanos) < 1_000_000_000 and slo.seconds * slo.nanos >= 0
    if not well_formed or not 0 < _seconds(slo) <= MAX_SLO_S:
        check.wrong("job.slo", f"has to be more than 0 and at most {MAX_SLO_S} seconds")


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _parameters(asked: _Asked, catalogue: Catalogue, steps: int, max_images: int) -> Parameters | None:
    check, given, info = asked.check, asked.request.parameters, asked.info
    check.text(f"{_PATH}prompt", given.prompt, MAX_PROMPT_CHARACTERS)
    check.text(f"{_PATH}negative_prompt", given.negative_prompt, MAX_PROMPT_CHARACTERS)
    check.choice(f"{_PATH}prompt_syntax", given.prompt_syntax, job_pb2.PromptSyntax.values())
    if info and given.prompt_syntax == job_pb2.PROMPT_SYNTAX_WEIGHTED and not info.weighted_prompts:
        check.wrong(f"{_PATH}prompt_syntax", f"model {info.name} reads prompts literally")
    prompt, named = loras.extracted(check, given, MAX_PROMPT_CHARACTERS)
    images, seed = _images_and_seed(asked, max_images)
    guidance_scale = decimal(given.guidance_scale) if given.HasField("guidance_scale") else None
    check.number(f"{_PATH}guidance_scale", guidance_scale or 0, 0, MAX_GUIDANCE)
    check.choice(f"{_PATH}output_format", given.output_format, job_pb2.OutputFormat.values())
    check.whole(f"{_PATH}quality", given.quality, 0, 100)
    step_cache = _step_cache(check, given.step_cache, info)
    beginning.check_pictures(check, given, asked.sent, info)
    if info is None:
        return None
    parameters = Parameters(
        model=info.name,
        prompt=prompt,
        negative_prompt=given.negative_prompt,
        width=_side(check, f"{_PATH}width", given.width, info, info.native_width),
        height=_side(check, f"{_PATH}height", given.height, info, info.native_height),
        steps=steps,
        sampler=_sampler(check, given.sampler, info),
        guidance_scale=info.default_guidance_scale if guidance_scale is None else guidance_scale,
        seed=seed,
        images=images,
        output_format=_FORMATS.get(given.output_format, OutputFormat.PNG),
        quality=given.quality or 90,
        loras=loras.resolved(check, named, info, catalogue.adapters),
        prompt_syntax=_SYNTAXES.get(given.prompt_syntax, PromptSyntax.PLAIN),
        init_image=beginning.NOT_STORED_YET if asked.sent.init_image else "",
        strength=beginning.strength(check, given) if asked.sent.init_image else 1.0,
        step_cache=step_cache,
    )
    beginning.check_runs_a_step(check, asked.request, parameters)
    return parameters


def _images_and_seed(asked: _Asked, max_images: int) -> tuple[int, int]:
    check, given = asked.check, asked.request.parameters
    check.whole("job.parameters.images", given.images, 0, max_images)
    images = given.images or 1
    if not given.HasField("seed"):
        # A request that is sent again has to be the same request, so its open seed follows from its id.
        return images, random.Random(asked.request_id or None).randrange(_RANDOM_SEEDS)
    check.whole("job.parameters.seed", given.seed, 0, _SEED_BOUND - min(images, max_images))
    return images, given.seed


def _step_cache(check: Fields, asked: float, info: ModelInfo | None) -> float:
    step_cache = decimal(asked) or 0.0  # -0.0 is the same request as 0
    if step_cache and info is not None and not info.step_cache:
        check.wrong(f"{_PATH}step_cache", f"model {info.name} takes none; leave it at 0")
    else:
        check.number(f"{_PATH}step_cache", step_cache, 0, 1)
    return step_cache


def _side(check: Fields, field: str, asked: int, info: ModelInfo, native: int) -> int:
    multiple = info.size_multiple
    if asked and (asked % multiple or not info.min_size <= asked <= info.max_size):
        check.wrong(
            field, f"has to be {info.min_size} to {info.max_size} pixels, a multiple of {multiple}, not {asked}"
        )
    return asked or native


def _sampler(check: Fields, asked: str, info: ModelInfo) -> str:
    sampler = asked or info.default_sampler
    refused = next((one for one in info.refused_samplers if one.name == sampler), None)
    if refused is not None:
        check.wrong("job.parameters.sampler", f"{sampler} cannot be used with {info.name}: {refused.reason}")
    elif sampler not in info.samplers:
        check.wrong("job.parameters.sampler", f"has to be one of: {listed(info.samplers)}")
    return sampler
